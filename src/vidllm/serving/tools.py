"""The functions of a scene that HTTP clients and agents can call, with JSON values as arguments and results.

Lengths are metres of the scene frame (z up, origin at the first camera), angles radians.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from vidllm.export import BOXED, EXPORTERS, export_scene
from vidllm.export.movie import view_from
from vidllm.inventory import NAMES, pixel
from vidllm.scene import Scene

IN_SCENE = {"frame": "scene", "units": "m", "angles": "rad", "up": "z"}
MAX_NAMES = 200


def summary(scene: Scene) -> dict[str, Any]:
    """Summary of the reconstruction: frames, scale with its interval, camera path, warnings."""
    return scene.summary()


def ask(scene: Scene, question: str, situation: str | None = None) -> dict[str, Any]:
    """Answer a question about the room. situation: position and viewing direction, e.g. "I am sitting on the sofa."."""
    answer = scene.ask(question, situation)
    return {"question": question, "answer": str(answer), "notes": list(answer.notes), **_said(scene)}


def ground(scene: Scene, expression: str) -> dict[str, Any]:
    """Find the objects that an expression refers to, e.g. "the red chair": boxes (centre, size, yaw, score), best
    first; or none.
    """
    boxes = scene.ground(expression)
    found = [box.as_dict() for box in boxes]
    return {"expression": expression, "boxes": found, "notes": list(boxes.notes), **_said(scene)}


def describe(scene: Scene, at: tuple[float, float, float] | None = None) -> dict[str, Any]:
    """Describe the room, or the object at a point (x, y, z)."""
    return {"at": at, "description": scene.describe(at), **_said(scene)}


def inventory(scene: Scene, names: list[str] | None = None, distances: bool = False) -> dict[str, Any]:
    """List all objects of the room with name, colour and box, the counts and the floor. names: look for these;
    distances: also between all pairs.
    """
    if names is not None and len(names) > MAX_NAMES:
        raise ValueError(f"{len(names)} names, at most {MAX_NAMES} are looked for; leave some out")
    return scene.inventory(names or NAMES).as_dict(distances)


def measure(scene: Scene, first: str, second: str | None = None) -> dict[str, Any]:
    """Sizes and heights of one or two things, and the distances between two. Each is an expression ("the table") or a
    pixel "FRAME:U,V" of a sampled frame.
    """
    found = scene.measure(*[pixel(what) or what for what in (first, second) if what is not None])
    return {**found.as_dict(), **_said(scene)}


TOOLS: dict[str, Callable[..., dict[str, Any]]] = {
    tool.__name__: tool for tool in (summary, ask, ground, describe, inventory, measure)
}


def _said(scene: Scene) -> dict[str, Any]:
    return {"warnings": list(scene.warnings), **IN_SCENE}


# ---- pictures and files --------------------------------------------------------------------------------------------


def render_view(scene: Scene, expression: str | None = None, angle: float = math.pi, down: float = 0.6) -> bytes:
    """A picture (PNG) of the points from outside: from direction ``angle`` about z, looking ``down``, both in radians,
    with the boxes of an expression.

    ValueError for angles that are not finite.
    """
    if not (math.isfinite(angle) and math.isfinite(down)):
        raise ValueError(f"expected finite angles in radians, received {angle} and {down}")
    picture, file = view_from(scene.data, labelled(scene, expression), angle, down), io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def labelled(scene: Scene, expression: str | None) -> list[dict[str, Any]]:
    """The boxes of an expression, labelled with it; none without an expression."""
    return [] if expression is None else [{**b.as_dict(), "label": expression} for b in scene.ground(expression)]


def everything(scene: Scene) -> list[dict[str, Any]]:
    """The boxes of all objects, labelled with their names."""
    return [{**thing.box.as_dict(), "label": thing.called} for thing in scene.inventory().things]


def exported(scene: Scene, name: str) -> tuple[str, bytes]:
    """Name and bytes of an export, with the boxes of all objects if the format shows boxes; a folder becomes a zip.

    ValueError for an unknown format.
    """
    if name not in EXPORTERS:
        raise ValueError(f"unknown format {name[:40]!r}; choose from {', '.join(EXPORTERS)}")
    with TemporaryDirectory(prefix="vidllm-") as folder:
        (file,) = export_scene(folder, scene.data, [name], everything(scene) if name in BOXED else ())
        if file.is_dir():
            file = Path(shutil.make_archive(str(file), "zip", file))
        return file.name, file.read_bytes()
