"""Coloured points: binary little-endian PLY (metres, scene frame, z up), and GLB for web viewers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidllm.export.box_drawing import EDGES, Boxes, box_colour, box_labels, corners_of
from vidllm.export.depth_png import colour_map
from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
PROPERTIES = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]


def write_ply(path: str | Path, data: SceneData) -> None:
    """Write the scene's points (:meth:`SceneData.cloud`)."""
    write_points(path, *data.cloud())


def write_points(path: str | Path, xyz: Float[np.ndarray, "N 3"], rgb: UInt8[np.ndarray, "N 3"]) -> None:
    """Write `(N, 3)` positions and uint8 colours."""
    vertices = np.empty(len(xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        header = ["ply", "format binary_little_endian 1.0", "comment metres, z up, origin at the first camera",
                  f"element vertex {len(xyz)}", *PROPERTIES, "end_header"]  # fmt: skip
        file.write("\n".join(header).encode("ascii") + b"\n" + vertices.tobytes())


# ---- GLB for web viewers -------------------------------------------------------------------------------------------
#
# Written from the glTF 2.0 specification: a JSON chunk that describes the arrays of a binary chunk. glTF has y up:
# scene (x, y, z) becomes (x, z, -y). Its vertex colours are linear light, so sRGB colours are linearised.

_EDGES = np.array([0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1])
_POINTS, _LINES, TRIANGLES = 0, 1, 4  # glTF primitive modes
_FLOAT, _UNSIGNED_SHORT, _UNSIGNED_INT = 5126, 5123, 5125  # glTF component types


def write_glb(path: str | Path, data: SceneData, *, boxes: Boxes = ()) -> None:
    """Write points, cameras (from blue to red, 0.1 m deep) and the edges of boxes, one mesh each."""
    builder = GlbBuilder()
    xyz, rgb = data.points(data.stride_for(500_000))
    builder.add("points", xyz, rgb, _POINTS)
    outlines = camera_pyramids(data, 0.1)[:, _EDGES].reshape(-1, 3)
    colours = colour_map(np.linspace(0.1, 0.9, len(data)))
    builder.add("cameras", outlines, np.repeat(colours, len(_EDGES), axis=0), _LINES)
    for number, (corners, label) in enumerate(zip(corners_of(boxes), box_labels(boxes), strict=True)):
        edges = corners[np.array(EDGES).ravel()]
        builder.add(label, edges, np.tile(np.array(box_colour(number), np.uint8), (len(edges), 1)), _LINES)
    builder.write(path)


def camera_pyramids(data: SceneData, depth_m: float) -> Float[np.ndarray, "F 5 3"]:
    """Apex and image corners of each camera's view at `depth_m`, in the scene frame."""
    height, width = data.size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], np.float64)
    rays = corners @ np.linalg.inv(data.intrinsics.astype(np.float64)).transpose(0, 2, 1) * depth_m
    points = np.concatenate([np.zeros((len(data), 1, 3)), rays], axis=1)
    pose = data.scene_from_camera
    return points @ pose[:, :3, :3].transpose(0, 2, 1) + pose[:, None, :3, 3]


class GlbBuilder:
    """Collects vertex arrays into one binary chunk and the JSON that describes them."""

    def __init__(self) -> None:
        self.binary = b""
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.meshes: list[dict[str, Any]] = []

    def add(
        self, name: str, xyz: Float[np.ndarray, "N 3"], rgb: UInt8[np.ndarray, "N 3"], mode: int,
        faces: Int[np.ndarray, "T 3"] | None = None,
    ) -> None:  # fmt: skip
        """Add one mesh of scene-frame vertices; nothing without vertices, since glTF has no empty arrays."""
        if len(xyz) == 0:
            return
        position = np.stack([xyz[:, 0], xyz[:, 2], -xyz[:, 1]], -1).astype("<f4")
        bounds = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
        colour = np.full((len(rgb), 4), 65535, "<u2")
        colour[:, :3] = (_linear(rgb) * 65535).round()
        attributes = {
            "POSITION": self._accessor(position, _FLOAT, "VEC3", bounds),
            "COLOR_0": self._accessor(colour, _UNSIGNED_SHORT, "VEC4", {"normalized": True}),
        }
        primitive = {"attributes": attributes, "mode": mode, "material": 0}
        if faces is not None:
            primitive["indices"] = self._accessor(faces.astype("<u4"), _UNSIGNED_INT, "SCALAR", {}, 34963)
        self.meshes.append({"name": name, "primitives": [primitive]})

    def _accessor(
        self, array: np.ndarray, component: int, kind: str, more: dict[str, Any], target: int = 34962
    ) -> int:
        raw = array.tobytes()
        self.views.append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(raw), "target": target})
        self.binary += raw
        view, count = len(self.views) - 1, array.size if kind == "SCALAR" else len(array)
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": count, "type": kind, **more}
        )
        return view

    def write(self, path: str | Path) -> None:
        """Write the file: header, JSON chunk padded with spaces, binary chunk (its arrays are multiples of four)."""
        content = {
            "asset": {"version": "2.0", "generator": "vidllm"},
            "scene": 0,
            "scenes": [{"nodes": list(range(len(self.meshes)))}],
            "nodes": [{"mesh": index, "name": mesh["name"]} for index, mesh in enumerate(self.meshes)],
            "meshes": self.meshes,
            "materials": [{"name": "vertex colours", "extensions": {"KHR_materials_unlit": {}}}],
            "extensionsUsed": ["KHR_materials_unlit"],
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}],
        }
        text = json.dumps(content, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.binary), b"BIN\0") + self.binary
        with atomic_path(path) as temporary:
            temporary.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def _linear(rgb: np.ndarray) -> np.ndarray:
    """SRGB uint8 to linear light in [0, 1]."""
    value = rgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
