"""One HTML file with the scene in 3D: points, cameras with their pictures, boxes, lengths between two clicks.

The file contains everything, including three.js (MIT licence, `viewer/three.LICENSE`), and its content security policy
forbids to load anything else. Points are 9 bytes each: three 16-bit steps within their bounds, and a colour.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidllm.export.box_drawing import (
    Boxes,
    box_colour,
    box_labels,
    box_scores,
    boxes_array,
    corners_of,
    frame_with_boxes,
)
from vidllm.export.depth_png import DEPTH_FRAMES, colour_map
from vidllm.export.geometry import SceneData, known
from vidllm.export.pictures import HEADROOM_M
from vidllm.export.points import camera_pyramids
from vidllm.io.atomic import atomic_path

MAX_POINTS, MAX_CAMERAS, THUMBNAIL = 750_000, 48, 320  # all pixels of 32 frames of 112x199
STEPS = 65535
SCRIPTS = ("three.min.js", "viewer.js")  # in their order
CLOSED = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class PageTexts:
    """Texts of the page, which are escaped.

    Attributes:
        title: the video's name.
        warnings: warnings about the reconstruction.
        transcript: questions with their answers.
        length_spread: relative half width of a length's interval; None: unknown.
    """

    title: str = "scene"
    warnings: Sequence[str] = ()
    transcript: Sequence[tuple[str, str]] = ()
    length_spread: float | None = None


def write_page(path: str | Path, data: SceneData, *, boxes: Boxes = (), texts: PageTexts = PageTexts()) -> None:
    """Write the page: below 15 MB at 32 frames."""
    scripts = "".join(f"<script>{viewer_file(name)}</script>\n" for name in SCRIPTS)
    page = filled(page_content(data, boxes, texts), CLOSED, scripts)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def viewer_file(name: str) -> str:
    """The text of one of the page's own files."""
    return resources.files("vidllm.export").joinpath("viewer", name).read_text(encoding="utf-8")


def filled(content: dict[str, Any], policy: str, scripts: str, panel: str = "") -> str:
    """The page from its content, content security policy, script elements and further HTML of the side panel."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    # "<" would end the script element; inside JSON it may stand as an escape
    parts = {"SCENE": text.replace("<", "\\u003c"), "POLICY": policy, "SCRIPTS": scripts, "PANEL": panel}
    return re.sub("@([A-Z]+)@", lambda mark: parts[mark[1]], viewer_file("page.html"))


def page_content(data: SceneData, boxes: Boxes = (), texts: PageTexts = PageTexts()) -> dict[str, Any]:
    """The content of the page, for JSON."""
    stride = data.stride_for(MAX_POINTS)
    samples = data.samples(stride)
    path = data.scene_from_camera[:, :3, 3]
    marks = np.concatenate([path, corners_of(boxes).reshape(-1, 3)])
    inner = np.percentile(samples.xyz, [2, 98], axis=0) if len(samples.xyz) else np.stack([marks.min(0), marks.max(0)])
    low, high = np.minimum(inner[0], path.min(0)), np.maximum(inner[1], path.max(0))
    radius = max(float(np.linalg.norm((high - low)[:2])) / 2, 0.1)
    depths = data.depth_m[data.evenly(DEPTH_FRAMES)]
    depths = depths[known(depths)]
    spacing = stride * float(np.median(depths)) / float(data.intrinsics[0, 0, 0]) if len(depths) else 0.01
    top = max(float(samples.xyz[:, 2].max(initial=-np.inf)), float(high[2])) + 0.05
    return {
        "title": texts.title, "warnings": list(texts.warnings), "length_spread": texts.length_spread,
        "transcript": [list(pair) for pair in texts.transcript],
        "summary": f"{len(data)} frames, {len(samples.xyz):,} points; metres, z up",
        "centre": ((low + high) / 2).tolist(), "radius": radius, "floor": float(inner[0][2]), "top": top,
        "cut": min(float(path[:, 2].max()) + HEADROOM_M, top),
        "point_size": 1.3 * spacing, "points": _points(samples.xyz, samples.rgb), "path": path.tolist(),
        "cameras": _cameras(data, radius / 14), "boxes": page_boxes(boxes),
    }  # fmt: skip


def _points(xyz: np.ndarray, rgb: np.ndarray) -> dict[str, Any]:
    low = xyz.min(0) if len(xyz) else np.zeros(3)
    step = np.maximum((xyz.max(0) - low) / STEPS, 1e-9) if len(xyz) else np.ones(3)
    steps = ((xyz - low) / step).round().clip(0, STEPS).astype("<u2")
    return {"low": low.tolist(), "step": step.tolist(), "xyz": _base64(steps.tobytes()), "rgb": _base64(rgb.tobytes())}


def _cameras(data: SceneData, depth_m: float) -> list[dict[str, Any]]:
    """Evenly chosen ones: view pyramid, picture, colour (blue first, red last)."""
    pyramids, colours = camera_pyramids(data, depth_m), colour_map(np.linspace(0.1, 0.9, len(data)))
    names = list(data.names) or data.file_stems()
    shown = zip(data.evenly(MAX_CAMERAS), camera_pictures(data), strict=True)
    return [{"pyramid": pyramids[n].tolist(), "colour": colours[n].tolist(), "name": f"frame {n}: {names[n]}",
             "picture": picture} for n, picture in shown]  # fmt: skip


def camera_pictures(data: SceneData, boxes: Boxes = ()) -> list[str]:
    """Data URLs of the pictures of the cameras that the page shows, with boxes drawn in."""
    urls = []
    for n in data.evenly(MAX_CAMERAS):
        picture, file = Image.fromarray(data.rgb[n]), io.BytesIO()
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        frame_with_boxes(data, n, picture, boxes).save(file, "JPEG", quality=80)
        urls.append(f"data:image/jpeg;base64,{_base64(file.getvalue())}")
    return urls


def page_boxes(boxes: Boxes) -> list[dict[str, Any]]:
    """Boxes as the page shows them: with number, label and colour."""
    rows = zip(boxes_array(boxes).tolist(), box_labels(boxes), box_scores(boxes), strict=True)
    return [{"center": row[:3], "size": row[3:6], "yaw": row[6], "label": label, "score": score,
             "colour": list(box_colour(number))} for number, (row, label, score) in enumerate(rows)]  # fmt: skip


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
