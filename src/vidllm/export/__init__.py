"""Writers of a reconstructed scene: one file a format, each imported when first used.

`EXPORTERS[name](path, data)` writes `data` (a `SceneData`) at `path`, whole or not at all; `export_scene(folder,
data, formats)` writes several formats under their usual names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import OutputError, atomic_folder, atomic_path

if TYPE_CHECKING:
    from vidllm.export.page import PageTexts

__all__ = ["BOXED", "EXPORTERS", "FILE_NAMES", "OutputError", "SceneData", "atomic_folder", "atomic_path",
           "export_scene"]  # fmt: skip

FILE_NAMES: dict[str, str] = {
    "ply": "points.ply",
    "tum": "trajectory.txt",
    "depth": "depth",
    "cameras": "cameras.json",
    "colmap": "colmap",
    "nerfstudio": "nerfstudio",
    "glb": "scene.glb",
    "overview": "overview.png",
    "html": "scene.html",
    "boxes": "boxes",
    "npz": "depth.npz",
    "mp4": "scene.mp4",
    "rrd": "scene.rrd",
    "mesh": "mesh.glb",
}
BOXED = ("overview", "html", "boxes", "glb", "mp4", "rrd")  # formats that show boxes


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
    "html": _lazy("page", "write_page"),
    "boxes": _lazy("tables", "write_boxes"),
    "npz": _lazy("tables", "write_npz"),
    "mp4": _lazy("movie", "write_movie"),
    "rrd": _lazy("rerun_file", "write_rrd"),
    "mesh": _lazy("mesh", "write_mesh"),
}


def export_scene(
    folder: str | Path,
    data: SceneData,
    formats: Iterable[str],
    boxes: Sequence[Mapping[str, Any]] = (),
    texts: PageTexts | None = None,
) -> list[Path]:
    """Write `data` in each of `formats` under `folder`, named by `FILE_NAMES`; returns the paths written.

    Args:
        folder: made when missing.
        data: the scene.
        formats: keys of `EXPORTERS`.
        boxes: found boxes as `{"center": [x, y, z], "size": [...], "yaw": ..., "label": optional}`, scene frame;
            shown by the formats of `BOXED`.
        texts: what the page ("html") says beside the scene.

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
        options: dict[str, Any] = {"boxes": boxes} if name in BOXED else {}
        if name == "html" and texts is not None:
            options["texts"] = texts
        EXPORTERS[name](path, data, **options)
    return paths
