"""Cameras from feature matching, for videos whose frames do not agree after refinement (docs/refinement.md).

pycolmap (BSD, the extra ``sfm``) extracts and matches SIFT features and solves for cameras, one lens and points, up to
scale. The learned depth gives the metric scale: the median over the frames of the ratio of learned and triangulated
depth. The depth map of each frame is scaled to its points by one factor.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vidllm.geometry.cameras import relative_to_first
from vidllm.geometry.gravity import scene_from_world
from vidllm.io.frames import Frames
from vidllm.io.video import load_frames
from vidllm.model.outputs import Geometry
from vidllm.reconstruction import Scene

INSTALL = "registration by features needs pycolmap: pip install 'vidllm[sfm]'"
SIDE = 480  # pixels of the shorter side of pictures that features are sought in, at most about so many
NEIGHBOURS = 8  # frames that each is matched with, before and after it
PEAK = 0.002  # of SIFT; looser than usual, as what follows is: rooms have little texture
MAPPER = {"init_min_tri_angle": 2.0, "init_min_num_inliers": 40, "abs_pose_min_num_inliers": 15}
LEAST = 0.5  # share of the frames that must be registered
FEW = 8  # points of a frame below which its depth keeps its scale


@dataclass(frozen=True)
class SparseModel:
    """n registered frames: their indices; camera-from-world (n,4,4); K (3,3) in pixels of the pictures; for each frame
    the visible points (k,3): u, v and depth. Lengths are up to scale.
    """

    numbers: list[int]
    extrinsics: Tensor
    intrinsics: Tensor
    points: list[Tensor]


def is_installed() -> bool:
    """Whether pycolmap is installed."""
    return importlib.util.find_spec("pycolmap") is not None


def registered(scene: Scene, source: Any) -> Scene | None:
    """The scene with cameras from feature matching in the pictures of ``source``, from which it was made.

    Frames that cannot be registered are left out; None if these are more than half. ValueError without pycolmap.
    """
    if not is_installed():
        raise ValueError(INSTALL)
    frames = scene.frames
    side = min(SIDE, *frames.original_size)
    pictures = load_frames(source, frames.indices.tolist(), shorter_side=side)
    model = sparse_model((pictures.images.permute(0, 2, 3, 1) * 255).round().byte().numpy())
    if model is None or len(model.numbers) < max(2, LEAST * len(frames)):
        return None
    to_processed = frames.affine.float() @ torch.linalg.inv(pictures.affine.float())
    return scene.replaced(_part(frames, model.numbers), placed(scene.geometry, model, to_processed))


def placed(geometry: Geometry, model: SparseModel, to_processed: Float[Tensor, "3 3"]) -> Geometry:
    """The registered frames of a learned geometry (a batch of one) with the cameras of the sparse model, in metres.

    ``to_processed`` maps pixels of the pictures to those of the depth maps.
    """
    at = model.numbers
    depth, logs = geometry.depth_m[0, at].float().cpu(), []
    for one, seen in zip(depth, model.points, strict=True):
        uv = seen[:, :2] @ to_processed[:2, :2].T + to_processed[:2, 2]
        column, row = (uv[:, i].long().clamp(0, one.shape[1 - i] - 1) for i in (0, 1))
        ratio = one[row, column].log() - seen[:, 2].log()
        ratio = ratio[ratio.isfinite()]
        logs.append(ratio.median() if len(ratio) >= FEW else torch.tensor(torch.nan))
    each = torch.stack(logs)
    metres = each.nanmedian().nan_to_num()
    first = relative_to_first(model.extrinsics[None].float())[:, :, :3]
    first[..., 3] *= metres.exp()
    up = geometry.up.cpu().float() @ geometry.extrinsics[:, at[0], :, :3].cpu().float()[0].T
    scale, images = geometry.scale, geometry.scale.per_image
    if images.shape[1] == geometry.depth_m.shape[1]:
        scale = replace(scale, per_image=images[:, at])
    return Geometry(
        extrinsics=first, intrinsics=(to_processed @ model.intrinsics.float()).expand(1, len(at), 3, 3),
        depth_m=(depth * (metres - each).nan_to_num().exp()[:, None, None])[None],
        confidence=geometry.confidence[:, at].cpu(), metric_depth_m=None, scale=scale, up=up,
        scene_from_world=scene_from_world(up), registration="sfm",
    )  # fmt: skip


def sparse_model(pictures: np.ndarray) -> SparseModel | None:
    """The model that pycolmap reconstructs from ordered pictures (F,H,W,3), 0 to 255; None if it finds none."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder, database = Path(name) / "pictures", Path(name) / "database.db"
        folder.mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"{number:06d}.png")
        usual = {"num_threads": torch.get_num_threads()}
        reader, extraction, matching, pairing, options = (
            _with(kind(), settings)
            for kind, settings in (
                (pycolmap.ImageReaderOptions, {"camera_model": "SIMPLE_PINHOLE"}),
                (pycolmap.FeatureExtractionOptions, {**usual, "sift": {"peak_threshold": PEAK}}),
                (pycolmap.FeatureMatchingOptions, usual),
                (pycolmap.SequentialPairingOptions, {"overlap": NEIGHBOURS, "loop_detection": False}),
                (pycolmap.IncrementalPipelineOptions, {**usual, "random_seed": 0, "mapper": MAPPER}),
            )
        )
        pycolmap.extract_features(database, folder, camera_mode=pycolmap.CameraMode.SINGLE, reader_options=reader,
                                  extraction_options=extraction, device=pycolmap.Device.cpu)  # fmt: skip
        pycolmap.match_sequential(database, matching_options=matching, pairing_options=pairing,
                                  device=pycolmap.Device.cpu)  # fmt: skip
        found = pycolmap.incremental_mapping(database, folder, Path(name) / "models", options)
    models = sorted(found.values(), key=lambda one: one.num_reg_images())
    return _read(models[-1]) if models else None


def _with(options: Any, settings: dict[str, Any]) -> Any:
    """Options of pycolmap with these settings."""
    options.mergedict(settings)
    return options


def _read(model: Any) -> SparseModel:
    """A model of pycolmap."""
    images = sorted((model.image(number) for number in model.reg_image_ids()), key=lambda image: str(image.name))
    extrinsics, points = [], []
    for image in images:
        pose = image.cam_from_world()
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3] = torch.from_numpy(np.array(pose.matrix()))
        seen = [(point.xy, model.point3D(point.point3D_id).xyz) for point in image.points2D if point.has_point3D()]
        uv, xyz = (torch.from_numpy(np.array([pair[i] for pair in seen])).reshape(len(seen), -1) for i in (0, 1))
        z = (xyz @ matrix[2, :3] + matrix[2, 3]) if len(seen) else torch.zeros(0, dtype=torch.float64)
        ahead = z > 0
        points.append(torch.cat([uv[ahead, :2], z[ahead, None]], -1).float() if len(seen) else torch.zeros(0, 3))
        extrinsics.append(matrix)
    intrinsics = torch.from_numpy(np.array(next(iter(model.cameras.values())).calibration_matrix()))
    numbers = [int(Path(image.name).stem) for image in images]
    return SparseModel(numbers, torch.stack(extrinsics), intrinsics, points)


def _part(frames: Frames, numbers: Sequence[int]) -> Frames:
    """Some of the frames."""
    at = list(numbers)
    return replace(frames, images=frames.images[at], timestamps_s=frames.timestamps_s[at], indices=frames.indices[at],
                   names=tuple(frames.names[i] for i in at))  # fmt: skip
