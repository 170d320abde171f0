"""One scene of a dataset as the benchmarks use it: the frames a model sees, and what only evaluation may know.

The frames are spread evenly over those with a finite pose. Poses, depth and boxes of the dataset never reach the model
outside the settings ``proposals`` and those of ``TOLD``; ``raw`` uses the first pose to register what came out.

A prediction lives in the level frame of the first camera (docs/method.md, section 0), a benchmark's boxes in the
dataset's aligned frame. The two are joined at the first camera that the model saw: its true pose says where the world
of the reconstruction stands, and nothing is fitted, neither a scale nor a rotation. A least-squares alignment of all
camera centres (Umeyama) would take a part of the model's own error in scale, drift and gravity out of the boxes, and it
is not determined for a camera that only turns. Whatever the model gets wrong stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.datasets.layout import DataRoot
from vidllm.datasets.scannet import ScanNetScene
from vidllm.evaluation.reconstruction_metrics import depth_on_frames
from vidllm.geometry.boxes import box_corners
from vidllm.geometry.gravity import scene_from_world
from vidllm.io.frames import Frames
from vidllm.model.outputs import Features, Geometry
from vidllm.model.priors import KnownCameras
from vidllm.model.processing import Processor
from vidllm.scene import Scene, VidLLM
from vidllm.training.joint import true_geometry
from vidllm.training.losses import normalise

#: Settings in which a model is told more than the video: its geometry, or its cameras.
TOLD = ("oracle-geometry", "given-poses")
#: Our corners in the order of ScanRefer's evaluators: the upper face, then the lower one, clockwise seen from above.
_ORDER = [6, 5, 4, 7, 2, 1, 0, 3]

Transform = Float[np.ndarray, "4 4"]


def aligned_from_scene(aligned_from_first: Transform, scene_from_world: Transform) -> Transform:
    """The rigid motion from the scene frame of a reconstruction to the aligned frame of its dataset.

    ``aligned_from_first`` is the true pose of the first camera seen (aligned-from-camera), ``scene_from_world`` the
    reconstruction's own levelling of that camera's frame.
    """
    moved: np.ndarray = aligned_from_first.astype(np.float64) @ np.linalg.inv(scene_from_world.astype(np.float64))
    return moved


def moved_points(transform: Transform, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Points (..., 3) after a 4x4 transform, float64."""
    return np.asarray(points.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3])


def oriented_corners(box: Sequence[float] | np.ndarray, transform: Transform | None = None) -> Float[np.ndarray, "8 3"]:
    """Corners of a box (centre, size, yaw), moved by ``transform`` where one is given, upper face first."""
    corners = box_corners(torch.tensor([float(number) for number in box], dtype=torch.float64))[_ORDER].numpy()
    return corners if transform is None else moved_points(transform, corners)


def aligned_corners(box: Sequence[float] | np.ndarray) -> Float[np.ndarray, "8 3"]:
    """Corners of an axis-aligned box (centre, size), upper face first."""
    return oriented_corners([*box[:6], 0.0])


def in_scene(box: Sequence[float] | np.ndarray, to_aligned: Transform) -> list[float]:
    """An axis-aligned box (centre, size) of the aligned frame as (centre, size, yaw) in the scene frame.

    Its yaw is the heading of the aligned x axis there; should the two disagree about gravity, the tilt is left out.
    """
    back = np.linalg.inv(to_aligned)
    centre = moved_points(back, np.asarray(box[:3], np.float64))
    return [*centre.tolist(), *(float(side) for side in box[3:6]), math.atan2(back[1, 0], back[0, 0])]


def object_boxes(scene: ScanNetScene) -> dict[int, np.ndarray]:
    """Centre and size (6,) of every annotated object in the aligned frame, by its id."""
    return {i.object_id: np.array(i.box, np.float64) for i in scene.instances if i.box is not None}


def object_corners(
    boxes: Mapping[int, np.ndarray], scene: str, object_id: int, what: str
) -> Float[np.ndarray, "8 3"]:
    """The corners of a scene's annotated object; ValueError naming the entry ``what`` when it is not in ``boxes``."""
    box = boxes.get(object_id)
    if box is None:
        raise ValueError(
            f"{what}: {scene} has no object {object_id} with a box; are annotations and scans one release?"
        )
    return aligned_corners(box)


def box_reader(data: DataRoot) -> Callable[[str, int, str], np.ndarray]:
    """Corners of annotated objects by (scene, object id, entry's name), each scan read once."""
    boxes_of = cache(lambda scene: object_boxes(data.scene(scene)))
    return lambda scene, object_id, what: object_corners(boxes_of(scene), scene, object_id, what)


class Recording:
    """The frames of a scene that are shown, and their ground truth. Lengths in metres.

    ``count`` frames (None: the model's own number) are spread evenly over those with a finite pose.
    """

    def __init__(self, source: ScanNetScene, processor: Processor, count: int | None = None) -> None:
        images = processor.image_processor
        self.source = source
        self.numbers = [int(n) for n in source.uniform_frames(images.num_frames if count is None else count)]
        self.frames: Frames = images.read([*self.pictures()], len(self.numbers))

    def pictures(self) -> Iterator[np.ndarray]:
        """The pictures of the frames as they are, RGB uint8 (H0,W0,3)."""
        return map(self.source.colour, self.numbers)

    @cached_property
    def aligned_from_camera(self) -> Float[np.ndarray, "F 4 4"]:
        """True poses in the dataset's aligned frame, float64."""
        return np.stack([self.source.axis_alignment @ self.source.pose(n) for n in self.numbers])

    @cached_property
    def depth_m(self) -> Float[np.ndarray, "F H W"]:
        """True depth at each pixel of the processed frames, nearest, 0 = none."""
        size = self.frames.original_size
        maps = (self.source.depth_on_colour(n, size)[None] for n in self.numbers)
        return np.concatenate([depth_on_frames(one, self.frames) for one in maps]).astype(np.float32)

    @cached_property
    def extrinsics(self) -> Float[np.ndarray, "F 4 4"]:
        """True camera-from-world, the world being the first camera, float64."""
        return np.linalg.inv(self.aligned_from_camera) @ self.aligned_from_camera[:1]

    @cached_property
    def intrinsics(self) -> Float[np.ndarray, "F 3 3"]:
        """True K in pixels of the processed frames, pixel centres at +0.5."""
        one = self.frames.affine.numpy() @ self.source.colour_intrinsics
        return np.repeat(one[None], len(self.numbers), axis=0)

    @property
    def up(self) -> Float[Tensor, " 3"]:
        """Against gravity in the first camera's frame, float32: the aligned frame's z axis."""
        return torch.from_numpy(self.aligned_from_camera[0, 2, :3].copy()).float()

    def geometry(self, device: torch.device) -> Geometry:
        """The ground truth in place of a reconstruction."""
        arrays = (self.depth_m, self.extrinsics, self.intrinsics)
        depth, extrinsics, intrinsics = (torch.from_numpy(a).float()[None].to(device) for a in arrays)
        return true_geometry(normalise(depth, extrinsics, intrinsics), self.up[None].to(device))

    def aligned_from_level(self) -> Float[np.ndarray, "4 4"]:
        """Aligned frame from the level frame of the first camera with true gravity (for the mean box)."""
        return aligned_from_scene(self.aligned_from_camera[0], scene_from_world(self.up.double()).numpy())


@dataclass(frozen=True)
class Placed:
    """A scene to ask, and the motion that takes its frame to the dataset's aligned one."""

    scene: Scene
    to_aligned: np.ndarray


class EvaluationScene:
    """Everything a benchmark may ask about one scene, made when it is asked for; encoded once for all columns."""

    def __init__(self, data: DataRoot, scene_id: str, model: VidLLM, count: int | None = None) -> None:
        self.data, self.scene_id, self.model, self._count = data, scene_id, model, count
        self.source = data.scene(scene_id)
        self._geometries: dict[str, Geometry] = {}
        self._placed: dict[tuple[str, bool], Placed] = {}

    @cached_property
    def recording(self) -> Recording:
        """The frames and their ground truth."""
        return Recording(self.source, self.model.processor, self._count)

    @cached_property
    def _images(self) -> Tensor:
        """The frames (1,F,3,H,W) as the model takes them."""
        parameter = next(self.model.model.parameters())
        return self.recording.frames.images[None].to(parameter.device, parameter.dtype)

    @cached_property
    @torch.inference_mode()
    def _features(self) -> Features:
        return self.model.model.encode(self._images)

    @torch.inference_mode()
    def _geometry(self, setting: str) -> Geometry:
        """The true geometry, or the model's, which is told the true cameras in the setting ``given-poses``."""
        if setting not in self._geometries:
            network, truth, known = self.model.model, self.recording, None
            if setting == "oracle-geometry":
                return truth.geometry(self._images.device)
            if setting == "given-poses":
                intrinsics, extrinsics = (
                    torch.from_numpy(a).float()[None] for a in (truth.intrinsics, truth.extrinsics)
                )
                known = KnownCameras(truth.frames.images[None], intrinsics, extrinsics, metric=True, up=truth.up[None])
            self._geometries[setting] = network.encode_scene(
                self._images, cameras=known, refine=self.model.refine, features=self._features
            ).geometry
        return self._geometries[setting]

    def placed(self, setting: str, positions: bool = True) -> Placed:
        """The scene from the video alone, or with what ``setting`` tells of the truth; 2D without ``positions``.

        2D: the language model reads the same pooled patches and is not told where they are.
        """
        key = (setting if setting in TOLD else "raw", positions)
        if key not in self._placed:
            self._placed[key] = self._place(*key)
        return self._placed[key]

    @torch.inference_mode()
    def _place(self, setting: str, positions: bool) -> Placed:
        network, recording, geometry = self.model.model, self.recording, self._geometry(setting)
        prefix = network.build_visual_tokens(self._features, geometry, embed_positions=positions)
        scene = Scene(network, self.model.processor, recording.frames, geometry, prefix)
        if scene.in_words is not None:
            own = scene.in_words.scene
            own.data = replace(own.data, originals=recording.pictures)
            scene.in_words = replace(scene.in_words, metres=positions)
        level = scene.scene_from_world.double().numpy()
        return Placed(scene, aligned_from_scene(recording.aligned_from_camera[0], level))

    @cached_property
    def objects(self) -> dict[int, np.ndarray]:
        """Centre and size (6,) of every annotated object in the aligned frame, by its id."""
        return object_boxes(self.source)

    @cached_property
    def proposals(self) -> np.ndarray:
        """Mask3D's boxes (M, 6), centre and size in the aligned frame; ValueError when they are not there."""
        found = self.data.proposals(self.scene_id)
        if found is None:
            raise ValueError(f"{self.data.root}: no {self.scene_id}.mask.npz; fetch the proposals, or --proposals gt")
        boxes = found.boxes(self.source.aligned_vertices())
        return boxes[np.isfinite(boxes).all(1)]

    def candidates(self, source: str) -> tuple[np.ndarray, tuple[int, ...] | None]:
        """The boxes (M, 6) to choose from, ``mask3d``'s or ``gt``, and the ids of annotated objects (None: Mask3D)."""
        if source == "mask3d":
            return self.proposals, None
        return np.array(list(self.objects.values())).reshape(-1, 6), tuple(self.objects)
