"""Writers of a reconstructed scene, each imported when first used.

`EXPORTERS[name](path, data)` writes `data` (a `SceneData`) at `path` atomically; `export_scene(folder, data, formats)`
writes several formats under their usual names. Every writer raises `OutputError` if the file cannot be written. Boxes
are `(Q, 7)` arrays or mappings with `center`, `size`, `yaw` and optionally `label` and `score` (scene frame, metres).
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

#: Format: the name of its file or folder, and its writer: module and function.
_FORMATS = {
    "ply": ("points.ply", "points", "write_ply"),
    "tum": ("trajectory.txt", "cameras", "write_tum"),
    "depth": ("depth", "depth_png", "write_depth"),
    "cameras": ("cameras.json", "cameras", "write_cameras"),
    "colmap": ("colmap", "splatting", "write_colmap"),
    "nerfstudio": ("nerfstudio", "splatting", "write_nerfstudio"),
    "glb": ("scene.glb", "points", "write_glb"),
    "overview": ("overview.png", "pictures", "write_overview"),
    "html": ("scene.html", "page", "write_page"),
    "boxes": ("boxes", "tables", "write_boxes"),
    "npz": ("depth.npz", "tables", "write_npz"),
    "mp4": ("scene.mp4", "movie", "write_movie"),
    "rrd": ("scene.rrd", "rerun_file", "write_rrd"),
    "mesh": ("mesh.glb", "mesh", "write_mesh"),
}
BOXED = ("overview", "html", "boxes", "glb", "mp4", "rrd")  # formats that show boxes
FILE_NAMES: dict[str, str] = {name: file for name, (file, _, _) in _FORMATS.items()}


def _lazy(module: str, function: str) -> Callable[..., None]:
    def write(path: str | Path, data: SceneData, **options: Any) -> None:
        getattr(import_module(f"vidllm.export.{module}"), function)(path, data, **options)

    return write


EXPORTERS: dict[str, Callable[..., None]] = {name: _lazy(*writer) for name, (_, *writer) in _FORMATS.items()}


def export_scene(
    folder: str | Path,
    data: SceneData,
    formats: Iterable[str],
    boxes: Sequence[Mapping[str, Any]] = (),
    texts: PageTexts | None = None,
) -> list[Path]:
    """Write `data` in each of `formats` under `folder`, named by `FILE_NAMES`; returns the paths written.

    Args:
        folder: created if missing.
        data: the scene.
        formats: keys of `EXPORTERS`; ValueError for another one.
        boxes: shown by the formats of `BOXED`.
        texts: texts of the page ("html").
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
