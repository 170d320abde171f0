"""One ScanNet scene as distributed (Dai et al., CVPR 2017), read only as far as it is asked.

    SCENE/SCENE.sens, or color/ depth/ pose/ intrinsic/, or posed_images/SCENE/   frames (scannet_frames.py)
    SCENE/SCENE.txt                                 axisAlignment, sizes and intrinsics
    SCENE/SCENE_vh_clean_2.ply                      the mesh          (scannet_mesh.py)
    SCENE/SCENE_vh_clean_2.0.010000.segs.json       its segments
    SCENE/SCENE.aggregation.json                    its objects

Poses are in the frame of the mesh; ``axis_alignment`` leads to the aligned frame, z up and walls along the axes, in
which every box is given. Images have pixel centres at +0.5.
"""

from __future__ import annotations

import math
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidllm.datasets.scannet_frames import FolderFrames, FrameSource, colour_pictures
from vidllm.datasets.scannet_mesh import (
    Instance,
    make_instances,
    read_groups,
    read_label_map,
    read_mesh,
    read_segments,
)
from vidllm.datasets.sens import SensFile
from vidllm.io.cameras.depth import nearest_depth
from vidllm.io.cameras.matrices import half_centres
from vidllm.io.files import has_file, read_text
from vidllm.io.frames import sampled_indices

_ROTATION_TOLERANCE = 1e-3  # the files give six decimals
LABEL_MAP = "scannetv2-labels.combined.tsv"


class ScanNetScene:
    """A scene's folder, ``scans/SCENE``, or ``posed_images/SCENE`` alone; ValueError for no such folder.

    ``posed_images/SCENE`` is by default looked for beside ``scans``, the label map up to three folders above.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        posed_images: str | Path | None = None,
        labels: str | Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.scene_id = self.folder.absolute().name
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder; expected a scene such as scans/scene0000_00")
        self._posed = Path(posed_images) if posed_images else self._beside(f"posed_images/{self.scene_id}")
        self._labels = Path(labels) if labels else self._beside(LABEL_MAP)

    def _beside(self, name: str) -> Path | None:
        above = list(self.folder.absolute().parents)[:3]
        return next((parent / name for parent in above if (parent / name).exists()), None)

    def file(self, ending: str) -> Path:
        """The path of one of the scene's files, which need not exist."""
        return self.folder / f"{self.scene_id}{ending}"

    @cached_property
    def source(self) -> FrameSource:
        """The recording, else an export; ValueError when there are no frames."""
        sens = self.file(".sens")
        if has_file(sens):
            return SensFile(sens)
        for place in (self.folder, self._posed):
            if place is not None and colour_pictures(place):
                return FolderFrames(place)
        raise ValueError(f"{self.folder}: no frames ({sens.name}, color/ or posed_images/{self.scene_id}); fetch the "
                         "recording with ScanNet's download script")  # fmt: skip

    def __len__(self) -> int:
        """The number of frames, those without a pose included."""
        return len(self.source.names)

    def colour(self, frame: int, least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """The colour picture of a frame, perhaps smaller where it will be resized to ``least`` (H, W)."""
        return self.source.colour(frame, least)

    def depth_m(self, frame: int) -> Float[np.ndarray, "h w"]:
        """Depth in its own size, metres along the optical axis, 0 = none."""
        return self.source.depth_m(frame)

    def pose(self, frame: int) -> Float[np.ndarray, "4 4"]:
        """World-from-camera in the frame of the mesh, metres, OpenCV axes; infinite or NaN where tracking was lost."""
        return self.source.pose(frame)

    @cached_property
    def posed(self) -> Int[np.ndarray, " P"]:
        """The frames whose pose is finite."""
        finite = [np.isfinite(self.pose(frame)).all() for frame in range(len(self))]
        return np.flatnonzero(np.asarray(finite, bool))

    def uniform_frames(self, count: int | None) -> Int[np.ndarray, " F"]:
        """`count` frames spread evenly over those with a finite pose, fewer when there are fewer; None: all.

        ValueError where no frame has a finite pose.
        """
        if not len(self.posed):
            raise ValueError(f"{self.source.where}: none of its {len(self)} frames has a finite pose; leave it out")
        return self.posed[sampled_indices(len(self.posed), count)]

    @cached_property
    def colour_intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """K of the colour pictures, pixel centres at +0.5; ValueError when no file holds it."""
        found = self._known_intrinsics("color")
        if found is None:
            raise ValueError(f"{self.source.where}: no colour intrinsics in intrinsic.txt, SCENE.txt or .sens; "
                             "write them into intrinsic.txt as a 4x4 matrix")  # fmt: skip
        return found

    @cached_property
    def depth_intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """K of the depth pictures, pixel centres at +0.5; from colour's, with a warning, where no file holds it."""
        found = self._known_intrinsics("depth")
        if found is not None:
            return found
        height, width = self.depth_m(0).shape
        full_height, full_width = self.colour(0).shape[:2]
        warnings.warn(f"{self.source.where}: no depth intrinsics; colour's, scaled to {width}x{height}", stacklevel=2)
        return np.diag([width / full_width, height / full_height, 1.0]) @ self.colour_intrinsics

    def _known_intrinsics(self, kind: str) -> np.ndarray | None:
        """K from the frames' own files, else from SCENE.txt, else from the recording; checked against the size."""
        found = self.source.intrinsics(kind)
        if found is None:
            found = self._written_intrinsics(kind)
        if found is None and has_file(self.file(".sens")):
            found = SensFile(self.file(".sens")).intrinsics(kind)
        if found is None:
            return None
        shape = self.colour(0).shape if kind == "color" else self.depth_m(0).shape
        if not (0.25 < found[0, 2] / shape[1] < 0.75 and 0.25 < found[1, 2] / shape[0] < 0.75):
            raise ValueError(
                f"{self.source.where}: {kind} intrinsics have their centre at {found[:2, 2].round(1).tolist()}, the "
                f"pictures are {shape[1]}x{shape[0]}: were they resized? Scale the intrinsics likewise"
            )
        return found

    def _written_intrinsics(self, kind: str) -> np.ndarray | None:
        names = [f"{name}_{kind}" for name in ("fx", "fy", "mx", "my")]
        if not has_file(self.file(".txt")) or not all(name in self.properties for name in names):
            return None
        fx, fy, mx, my = (self._numbers(name, 1)[0] for name in names)
        return half_centres(np.array([[fx, 0, mx], [0, fy, my], [0, 0, 1]]), self.file(".txt"))

    def depth_on_colour(
        self, frame: int, size: tuple[int, int], intrinsics: Float[np.ndarray, "3 3"] | None = None
    ) -> Float[np.ndarray, "H W"]:
        """Depth at every pixel of a grid of ``size`` (H, W) with these intrinsics (default: the colour pictures').

        That of the depth pixel which the same ray meets, nearest, 0 outside the depth picture: both cameras share one
        centre and one direction, as ScanNet's registered depth does.
        """
        grid = self.colour_intrinsics if intrinsics is None else intrinsics
        return nearest_depth(self.depth_m(frame), self.depth_intrinsics @ np.linalg.inv(grid), size)

    @cached_property
    def properties(self) -> dict[str, str]:
        """The ``key = value`` lines of SCENE.txt; ValueError when it is missing."""
        path = self.file(".txt")
        pairs = (line.partition("=") for line in read_text(path).splitlines())
        found = {key.strip(): value.strip() for key, mark, value in pairs if mark}
        if not found:
            raise ValueError(f"{path}: no line of the form key = value; fetch it with ScanNet's download script")
        return found

    def _numbers(self, key: str, count: int) -> list[float]:
        words = self.properties[key].split()
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            path, shown = self.file(".txt"), self.properties[key]
            raise ValueError(f"{path}: {key}: expected {count} finite numbers, got {shown!r}; fetch it again")
        return numbers

    @cached_property
    def axis_alignment(self) -> Float[np.ndarray, "4 4"]:
        """Aligned-from-mesh 4x4; the identity where SCENE.txt names none, as in the test scenes.

        ValueError where SCENE.txt is missing or its matrix is broken.
        """
        if "axisAlignment" not in self.properties:
            return np.eye(4)
        matrix = np.array(self._numbers("axisAlignment", 16)).reshape(4, 4)
        turn = matrix[:3, :3]
        rigid = np.abs(turn @ turn.T - np.eye(3)).max() < _ROTATION_TOLERANCE and np.linalg.det(turn) > 0
        if not rigid or tuple(matrix[3]) != (0, 0, 0, 1):
            kind = "a mirroring" if np.linalg.det(turn) < 0 else "no rigid motion"
            raise ValueError(f"{self.file('.txt')}: axisAlignment: expected a turn and a shift with the last row "
                             f"0 0 0 1, got {kind}; fetch it again")  # fmt: skip
        return matrix

    @cached_property
    def _suffix(self) -> str:
        """``_vh_clean_2`` (every language set counts by it), or ``_vh_clean`` where only that is annotated."""
        fine = not has_file(self.file(".aggregation.json")) and has_file(self.file("_vh_clean.aggregation.json"))
        return "_vh_clean" if fine else "_vh_clean_2"

    def aligned_vertices(self) -> Float[np.ndarray, "V 3"]:
        """Vertices of ``_vh_clean_2.ply`` in the aligned frame, metres: what proposals number."""
        return self._align(read_mesh(self.file("_vh_clean_2.ply")))

    def _align(self, vertices: np.ndarray) -> np.ndarray:
        return vertices @ self.axis_alignment[:3, :3].T + self.axis_alignment[:3, 3]

    @cached_property
    def instances(self) -> list[Instance]:
        """The annotated objects with their boxes in the aligned frame.

        ValueError where mesh, segments or aggregation are missing, broken, or do not belong together.
        """
        coarse = self._suffix == "_vh_clean_2"
        mesh_path = self.file(f"{self._suffix}.ply")
        segments_path = self.file("_vh_clean_2.0.010000.segs.json" if coarse else "_vh_clean.segs.json")
        vertices, segments = read_mesh(mesh_path), read_segments(segments_path)
        if len(vertices) != len(segments):
            raise ValueError(f"{segments_path}: {len(segments)} segments for the {len(vertices)} vertices of "
                             f"{mesh_path.name}; fetch both again")  # fmt: skip
        groups = read_groups(self.file(".aggregation.json" if coarse else "_vh_clean.aggregation.json"))
        labels = None if self._labels is None else read_label_map(self._labels)
        return make_instances(self._align(vertices), segments, groups, labels)
