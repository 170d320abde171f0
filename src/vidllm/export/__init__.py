"""Writers of a reconstructed scene: one file a format, each imported when first used.

`EXPORTERS[name](path, data)` writes `data` (a `SceneData`) at `path`, whole or not at all; `export_scene(folder,
data, formats)` writes several formats under their usual names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import OutputError, atomic_folder, atomic_path

__all__ = ["EXPORTERS", "FILE_NAMES", "OutputError", "SceneData", "atomic_folder", "atomic_path", "export_scene"]

FILE_NAMES: dict[str, str] = {
    "ply": "points.ply",
    "tum": "trajectory.txt",
    "depth": "depth",
    "cameras": "cameras.json",
    "colmap": "colmap",
    "nerfstudio": "nerfstudio",
    "glb": "scene.glb",
    "overview": "overview.png",
}


def _lazy(module: str, function: str) -> Callable[..., None]:
    def write(path: str | Path, data: SceneData, **options: Any) -> None:
        getattr(import_module(f"vidllm.export.{module}"), function)(path, data, **options)

    write.__name__, write.__doc__ = function, f"See `vidllm.export.{module}.{function}`."
    return write


EXPORTERS: dict[str, Callable[..., None]] = {
    "ply": _lazy("points", "write_ply"),
    "tum": _lazy("cameras", "write_tum"),
    "depth": _lazy("depth_png", "write_depth"),
    "cameras": _lazy("cameras", "write_cameras"),
    "colmap": _lazy("splatting", "write_colmap"),
    "nerfstudio": _lazy("splatting", "write_nerfstudio"),
    "glb": _lazy("points", "write_glb"),
    "overview": _lazy("pictures", "write_overview"),
}


def export_scene(
    folder: str | Path, data: SceneData, formats: Iterable[str], boxes: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Write `data` in each of `formats` under `folder`, named by `FILE_NAMES`; returns the paths written.

    Args:
        folder: made when missing.
        data: the scene.
        formats: keys of `EXPORTERS`.
        boxes: found boxes as `{"center": [x, y, z], "size": [...], "yaw": ..., "label": optional}`, scene frame;
            drawn in the overview.

    Raises:
        ValueError: an unknown format.
        OutputError: a file cannot be written.
    """
    formats = list(dict.fromkeys(formats))
    unknown = sorted(set(formats) - set(EXPORTERS))
    if unknown:
        raise ValueError(f"unknown export format {', '.join(unknown)}; choose from {', '.join(EXPORTERS)}")
    paths = [Path(folder) / FILE_NAMES[name] for name in formats]
    for name, path in zip(formats, paths, strict=True):
        options = {"boxes": boxes} if name == "overview" else {}
        EXPORTERS[name](path, data, **options)
    return paths
