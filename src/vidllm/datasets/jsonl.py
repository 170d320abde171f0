"""Your own videos and sentences: one JSON object a line, every field checked (docs/fine_tuning.md has the format).

    {"video": "hall.mp4", "question": "Which way does the door open?", "answer": "inwards"}
    {"video": "hall.mp4", "expression": "the fire extinguisher", "box": {"center": [x, y, z], "size": [...], "yaw": 0}}
    {"video": "hall.mp4", "caption": "A coat rack of steel.", "point": [x, y, z]}

Boxes and points are metres in the level frame of the video's first camera ("scene"), or in a world of your own whose z
is up ("world"); then a small file beside the video holds the first camera's pose in that world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.datasets.records import Entry
from vidllm.geometry.boxes import transform_boxes
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.precision import full_precision
from vidllm.io.files import numbered_lines, parse_json, read_json
from vidllm.model.prompts import check_question

SAYS = ("question", "expression", "caption", "captions")  # a line holds one of these
FIELDS = ("video", *SAYS, "answer", "answers", "situation", "box", "boxes", "point", "frame", "kind", "id")
FRAMES = ("scene", "world")
CAMERA_SUFFIX = ".camera.json"
_BOX_FIELDS = ("center", "size", "yaw")

Point = tuple[float, float, float]
BoxRow = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class Example:
    """One line.

    Attributes:
        line: its number in the file, from 1.
        video: a video file, or a folder of pictures.
        task: ``question``, ``expression`` or ``caption``.
        text: the question or the expression; empty for a caption.
        answers: what may be answered, or the captions; empty for an expression.
        situation: where one stands and looks, for a question.
        boxes: (centre, size, yaw) of what the question or expression means; None where nothing was said of boxes, empty
            for an expression that means nothing in the video.
        point: what a caption is about; None: the whole room.
        frame: of boxes and point: ``scene`` or ``world``.
        kind: a label for the scores; the task's name where none was given.
    """

    line: int
    video: Path
    task: str
    text: str
    answers: tuple[str, ...] = ()
    situation: str | None = None
    boxes: tuple[BoxRow, ...] | None = None
    point: Point | None = None
    frame: str = "scene"
    kind: str = ""


class Line(Entry):
    """One line of the file: its errors say the line's number and what to do."""

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.path}: line {self.index}"

    def error(self, field: str, expected: str, value: Any) -> ValueError:
        """The error of a field that is not what it should be."""
        shown = f"{value!r:.77}" + ("..." if len(repr(value)) > 77 else "")
        return ValueError(f"{self.name}: {field!r} must be {expected}, got {shown}")


def read_jsonl(path: str | Path) -> list[Example]:
    """Every line as an example; ValueError, naming the line, at the first that is wrong, or when there is none."""
    examples = []
    for number, text in numbered_lines(path):
        examples.append(parse_line(Path(path), number, text))
    if not examples:
        raise ValueError(f"{path}: holds no line; write one JSON object a line")
    return examples


def parse_line(path: Path, number: int, text: str | bytes) -> Example:
    """One line; ValueError naming it, what is wrong and the remedy. The video itself is not looked at."""
    line = _object(path, number, text)
    task = _task(line)
    _no_strangers(line, task)
    boxes, answers = _boxes(line), _answers(line, task)
    if task == "expression" and boxes is None:
        raise ValueError(f"{line.name}: an expression needs 'box' or 'boxes'; [] says that there is no such object")
    return Example(
        number, _video(line), task, _sentence(line, task) if task != "caption" else "", answers,
        _sentence(line, "situation") if "situation" in line.values else None, boxes, _point(line), _frame(line),
        line.name_of("kind") if "kind" in line.values else task,
    )  # fmt: skip


def camera_path(video: Path) -> Path:
    """Where the first camera of a video is told: ``hall.camera.json`` for ``hall.mp4`` or a folder ``hall``."""
    return video.parent / ((video.name if video.is_dir() else video.stem) + CAMERA_SUFFIX)


def read_first_camera(path: Path) -> np.ndarray:
    """Camera-from-world (4,4) of a video's first frame, float64, metres, OpenCV axes.

    The file holds ``camera_from_world`` or ``world_from_camera``, 4x4; ValueError naming it when it does not.
    """
    values = read_json(path)
    given = [key for key in ("camera_from_world", "world_from_camera") if isinstance(values, dict) and key in values]
    if len(given) != 1:
        raise ValueError(f"{path}: expected one of 'camera_from_world' and 'world_from_camera', a 4x4 matrix")
    try:
        pose = np.array(values[given[0]], dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape != (4, 4) or not np.isfinite(pose).all() or not np.allclose(pose[3], (0, 0, 0, 1)):
        raise ValueError(f"{path}: {given[0]!r} must be a 4x4 matrix of numbers whose last row is 0 0 0 1")
    turn = pose[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise ValueError(f"{path}: {given[0]!r} is no rigid motion; take scale and mirroring out of its 3x3 part")
    return pose if given[0] == "camera_from_world" else np.linalg.inv(pose)


@full_precision()
def scene_places(example: Example) -> tuple[list[list[float]] | None, Point | None]:
    """Boxes (centre, size, yaw) and point of an example in the scene frame, metres.

    Those of a world of one's own are moved by the first camera's pose; ValueError when its file is missing or wrong.
    """
    boxes, point = example.boxes, example.point
    if example.frame == "scene" or (not boxes and point is None):
        return None if boxes is None else [list(box) for box in boxes], point
    first = torch.from_numpy(_first_camera_of(example.video))
    scene_from_own = scene_from_world(first[:3, 2]) @ first  # both are level: a turn about z, and a shift
    yaw, shift = torch.atan2(scene_from_own[1, 0], scene_from_own[0, 0]), scene_from_own[:3, 3]
    rows = torch.tensor([*(boxes or ()), (*(point or (0.0, 0.0, 0.0)), 1, 1, 1, 0)], dtype=torch.float64)
    *moved, last = transform_boxes(rows, yaw, shift).tolist()
    return None if boxes is None else moved, None if point is None else (last[0], last[1], last[2])


@lru_cache(maxsize=1024)
def _first_camera_of(video: Path) -> np.ndarray:
    path = camera_path(video)
    if not path.exists():
        raise ValueError(
            f"{path}: no such file; boxes in frame 'world' need the first camera's pose there, or give them in 'scene'"
        )
    return read_first_camera(path)


# -- one line


def _object(path: Path, number: int, text: str | bytes) -> Line:
    values = parse_json(text, f"{path}: line {number}")
    if not isinstance(values, dict):
        raise ValueError(f"{path}: line {number}: expected an object {{...}}, got {values!r:.60}")
    return Line(path, number, values)


def _task(line: Line) -> str:
    found = [name for name in SAYS if name in line.values]
    if len(found) != 1:
        raise ValueError(f"{line.name}: expected one of {', '.join(SAYS)}, got {', '.join(found) or 'none of them'}")
    return found[0].removesuffix("s")


def _no_strangers(line: Line, task: str) -> None:
    """ValueError for a field that nobody knows, or that this kind of line has no use for: it may be a slip."""
    unknown = sorted(set(line.values) - set(FIELDS))
    if unknown:
        raise ValueError(f"{line.name}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    idle = {
        "question": ("point",),
        "expression": ("answer", "answers", "situation", "point"),
        "caption": ("answer", "answers", "situation", "box", "boxes"),
    }[task]
    for name in idle:
        if name in line.values:
            raise ValueError(f"{line.name}: a line with {task!r} has no use for {name!r}; take it out")


def _sentence(line: Line, field: str) -> str:
    return _checked(line, line.text(field), field)


def _checked(line: Line, text: str, field: str) -> str:
    """The text as a model may be asked or taught it; ValueError naming the line."""
    try:
        return check_question(text, what=field)
    except ValueError as error:
        raise ValueError(f"{line.name}: {error}") from error


def _answers(line: Line, task: str) -> tuple[str, ...]:
    if task == "expression":
        return ()
    one, many = ("answer", "answers") if task == "question" else ("caption", "captions")
    if (one in line.values) == (many in line.values):
        raise ValueError(f"{line.name}: expected either {one!r}, a text, or {many!r}, a list of texts")
    given = (line.text(one),) if one in line.values else line.texts(many)
    if not given or not all(text.strip() for text in given):
        raise line.error(one if one in line.values else many, "text that is not empty", line.values.get(many, ""))
    return tuple(_checked(line, text, one) for text in given)


def _video(line: Line) -> Path:
    return (line.path.parent / Path(line.name_of("video")).expanduser()).absolute()


def _frame(line: Line) -> str:
    frame = line.values.get("frame", "scene")
    if frame not in FRAMES:
        raise line.error("frame", f"one of {FRAMES}", frame)
    return str(frame)


def _point(line: Line) -> Point | None:
    if "point" not in line.values:
        return None
    x, y, z = _numbers(line, "point", line.values["point"])
    return x, y, z


def _boxes(line: Line) -> tuple[BoxRow, ...] | None:
    if "box" in line.values and "boxes" in line.values:
        raise ValueError(f"{line.name}: expected 'box' or 'boxes', got both")
    if "box" in line.values:
        return (_box(line, line.values["box"]),)
    if "boxes" not in line.values:
        return None
    given = line.values["boxes"]
    if not isinstance(given, list):
        raise line.error("boxes", "a list of boxes", given)
    return tuple(_box(line, box) for box in given)


def _box(line: Line, value: Any) -> BoxRow:
    if not isinstance(value, dict) or not {"center", "size"} <= set(value) <= set(_BOX_FIELDS):
        raise line.error("box", '{"center": [x, y, z], "size": [x, y, z], "yaw": radians}', value)
    x, y, z = _numbers(line, "center", value["center"])
    w, d, h = _numbers(line, "size", value["size"])
    if min(w, d, h) <= 0:
        raise line.error("size", "three full side lengths above zero, in metres", value["size"])
    yaw = value.get("yaw", 0.0)
    if not _is_number(yaw):
        raise line.error("yaw", "a number of radians", yaw)
    return x, y, z, w, d, h, float(yaw)


def _numbers(line: Line, field: str, value: Any) -> Point:
    if not isinstance(value, list) or len(value) != 3 or not all(_is_number(v) for v in value):
        raise line.error(field, "three finite numbers in metres", value)
    x, y, z = (float(v) for v in value)
    return x, y, z


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
