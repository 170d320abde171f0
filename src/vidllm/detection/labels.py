"""What things in a recording's pictures are called: a file of boxes beside it, from a detector or by hand.

``labels.json`` in the folder of the recording, or ``NAME.labels.json`` beside a recording that is one file::

    {"frames": {"00012.jpg": [{"category": "chair", "bbox": [x, y, width, height], "score": 0.83}]}}

``bbox`` as COCO's: pixels of the upright picture, whose first pixel has its corner at 0, 0; ``score`` may be left out.
Nothing is known of frames that are not listed, nor of what lies outside the boxes: a detector misses things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.detection.fusion import Detect
from vidllm.io.atomic import write_json
from vidllm.io.captures import Capture
from vidllm.io.files import has_file, read_json_object

SLACK = 1.0  # pixels that a box may reach out of its picture
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Label:
    """A box and the category of what it shows."""

    category: str
    box: Corners


def labels_file(capture: Capture) -> Path:
    """Where the labels of a recording lie."""
    place = Path(capture.where)
    return place / "labels.json" if place.is_dir() else place.with_name(f"{place.name}.labels.json")


def read_labels(capture: Capture) -> dict[int, list[Label]]:
    """The labels of each labelled frame, by its number; none where there is no file.

    Raises ValueError of one line, naming file, frame and box, for anything but the form above.
    """
    file = labels_file(capture)
    if not has_file(file):
        return {}
    held = read_json_object(file)
    frames = held.get("frames")
    if set(held) != {"frames"} or not isinstance(frames, dict):
        raise ValueError(f'{file}: expected {{"frames": {{NAME: [box, ...]}}}}, got the keys {sorted(held)}; see '
                         "docs/training.md")  # fmt: skip
    numbers = {name: number for number, name in enumerate(capture.names)}
    if len(numbers) < len(capture):
        raise ValueError(f"{file}: two pictures of the recording have the same name; rename them, or remove the labels")
    unknown = [name for name in frames if name not in numbers]
    if unknown:
        raise ValueError(f"{file}: frame {unknown[0]!r} is not in the recording, whose first is {capture.names[0]!r}; "
                         "remove it, or name the picture")  # fmt: skip
    size = capture.picture(numbers[next(iter(frames))]).size if frames else (0, 0)  # of all pictures of a recording
    found = {}
    for name, boxes in frames.items():
        if not isinstance(boxes, list):
            raise ValueError(f"{file}: frame {name!r}: expected a list of boxes, got {type(boxes).__name__}")
        found[numbers[name]] = [_label(f"{file}: frame {name!r}, box {n}", b, size) for n, b in enumerate(boxes, 1)]
    return found


def _label(where: str, values: Any, size: tuple[int, int]) -> Label:
    """A label from plain values; ``size`` = (width, height) of its picture."""
    keys = set(values) if isinstance(values, dict) else set[str]()
    if keys - {"score"} != {"category", "bbox"}:
        raise ValueError(f'{where}: expected the keys "category", "bbox" and perhaps "score", got {sorted(keys)}')
    category, bbox, score = values["category"], values["bbox"], values.get("score", 1.0)
    if not isinstance(category, str) or not category.strip():
        raise ValueError(f'{where}: "category" is {category!r:.60}; expected a name')
    if not _numbers([score]) or not 0 <= score <= 1:
        raise ValueError(f'{where}: "score" is {score!r:.60}; expected a number from 0 to 1')
    if not isinstance(bbox, list) or len(bbox) != 4 or not _numbers(bbox) or min(bbox[2:]) <= 0:
        raise ValueError(f'{where}: "bbox" is {bbox!r:.80}; expected [x, y, width, height] in pixels, both above 0')
    x, y, width, height = map(float, bbox)
    if x < -SLACK or y < -SLACK or x + width > size[0] + SLACK or y + height > size[1] + SLACK:
        raise ValueError(f'{where}: "bbox" {bbox} reaches out of the picture of {size[0]} x {size[1]} pixels; expected '
                         "[x, y, width, height] in pixels of the picture as it is stored")  # fmt: skip
    return Label(category.strip().lower(), (x, y, x + width, y + height))


def _numbers(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def write_labels(
    capture: Capture, detect: Detect, names: Sequence[str], least: float, progress: Callable[[int, int], None]
) -> tuple[Path, int]:
    """Write what ``detect`` finds of ``names`` in every frame, from the score ``least`` on.

    Returns the file and the number of its boxes; ``progress`` is called with the numbers of frames done and of all.
    """
    frames: dict[str, list[dict[str, Any]]] = {}
    for number, name in enumerate(capture.names):
        picture = np.asarray(capture.picture(number))
        limits = np.array([picture.shape[1], picture.shape[0]] * 2, float)
        rows = frames.setdefault(name, [])
        for one in detect(picture, names):
            x0, y0, x1, y1 = np.clip(one.box, 0, limits).round(1).tolist()
            if one.score >= least and x1 > x0 and y1 > y0:
                box = [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)]
                rows.append({"category": names[one.name], "bbox": box, "score": round(one.score, 3)})
        progress(number + 1, len(capture))
    file = labels_file(capture)
    write_json(file, {"frames": frames}, indent=None)
    return file, sum(map(len, frames.values()))
