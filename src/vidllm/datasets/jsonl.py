"""Your own videos and sentences: one JSON object a line, every field checked (docs/fine_tuning.md has the format).

    {"video": "hall.mp4", "question": "Which way does the door open?", "answer": "inwards"}
    {"video": "hall.mp4", "expression": "the fire extinguisher", "box": {"center": [x, y, z], "size": [...], "yaw": 0}}
    {"video": "hall.mp4", "caption": "A coat rack of steel.", "point": [x, y, z]}

Boxes and points are metres in the level frame of the video's first camera ("scene"), or in a world of your own whose z
is up ("world"); then a small file beside the video holds the first camera's pose in that world.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from vidllm.datasets.records import Entry, Table, is_number, list_of, name, text, texts
from vidllm.geometry.boxes import transform_boxes
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.precision import full_precision
from vidllm.io.files import numbered_lines, parse_json, read_json
from vidllm.model.prompts import check_question

SAYS = ("question", "expression", "caption", "captions")  # a line holds one of these
FIELDS = ("video", *SAYS, "answer", "answers", "situation", "box", "boxes", "point", "frame", "kind", "id")
FRAMES = ("scene", "world")
CAMERA_SUFFIX = ".camera.json"

Point = tuple[float, float, float]
BoxRow = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class Example:
    """One line.

    ``boxes`` (centre, size, yaw) are what the question or expression means: None where nothing was said of boxes,
    empty for an expression that means nothing in the video.
    """

    line: int  # its number in the file, from 1
    video: Path  # a video file, or a folder of pictures
    task: str  # ``question``, ``expression`` or ``caption``
    text: str  # the question or the expression; empty for a caption
    answers: tuple[str, ...] = ()  # what may be answered, or the captions; empty for an expression
    situation: str | None = None  # where one stands and looks, for a question
    boxes: tuple[BoxRow, ...] | None = None
    point: Point | None = None  # what a caption is about; None: the whole room
    frame: str = "scene"  # of boxes and point, or ``world``
    kind: str = ""  # a label for the scores; the task's name where none was given


def read_jsonl(path: str | Path) -> list[Example]:
    """Every line as an example; ValueError, naming the line, at the first that is wrong, or when there is none."""
    examples = [parse_line(Path(path), number, line) for number, line in numbered_lines(path)]
    if not examples:
        raise ValueError(f"{path}: holds no line; write one JSON object a line")
    return examples


def parse_line(path: Path, number: int, content: str | bytes) -> Example:
    """One line; ValueError naming it, what is wrong and the remedy. The video itself is not looked at."""
    where = f"{path}: line {number}"
    values = parse_json(content, where)
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object {{...}}, got {values!r:.60}")
    found = [field for field in SAYS if field in values]
    if len(found) != 1:
        raise ValueError(f"{where}: expected one of {', '.join(SAYS)}, got {', '.join(found) or 'none of them'}")
    line, task = Entry(where, values), found[0].removesuffix("s")
    _check_fields(line, task)
    read, answers = line.read(_LINE), _answers(line, task)
    boxes = read["boxes"] if read["box"] is None else (read["box"],)
    if task == "expression" and boxes is None:
        raise ValueError(f"{where}: an expression needs 'box' or 'boxes'; [] says that there is no such object")
    video = (path.parent / Path(read["video"]).expanduser()).absolute()
    return Example(
        number, video, task, read["question"] or read["expression"], answers, read["situation"], boxes, read["point"],
        read["frame"], read["kind"] or task,
    )  # fmt: skip


def _check_fields(line: Entry, task: str) -> None:
    """ValueError for an unknown field, or one that this kind of line does not use."""
    unknown = sorted(set(line.values) - set(FIELDS))
    if unknown:
        raise ValueError(f"{line.where}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    unused = next((field for field in _UNUSED[task] if field in line.values), None)
    if unused is not None:
        raise ValueError(f"{line.where}: a line with {task!r} has no use for {unused!r}; take it out")
    if {"box", "boxes"} <= set(line.values):
        raise ValueError(f"{line.where}: expected 'box' or 'boxes', got both")


def _answers(line: Entry, task: str) -> tuple[str, ...]:
    if task == "expression":
        return ()
    one, many = ("answer", "answers") if task == "question" else ("caption", "captions")
    if (one in line.values) == (many in line.values):
        raise ValueError(f"{line.where}: expected either {one!r}, a text, or {many!r}, a list of texts")
    given = (line.get(one, text),) if one in line.values else line.get(many, texts)
    if not given or not all(answer.strip() for answer in given):
        raise line.error(one if one in line.values else many, "text that is not empty", line.values.get(many, ""))
    return tuple(_asked(line, one, answer) for answer in given)


def _asked(line: Entry, field: str, value: Any) -> str:
    """A text as a model may be asked or taught it."""
    try:
        return check_question(text(line, field, value), what=field)
    except ValueError as error:
        raise error if str(error).startswith(line.where) else ValueError(f"{line.where}: {error}") from None


def _frame(line: Entry, field: str, value: Any) -> str:
    if value not in FRAMES:
        raise line.error(field, f"one of {FRAMES}", value)
    return str(value)


def _point(line: Entry, field: str, value: Any) -> Point:
    if not isinstance(value, list) or len(value) != 3 or not all(map(is_number, value)):
        raise line.error(field, "three finite numbers in metres", value)
    x, y, z = map(float, value)
    return x, y, z


def _box(line: Entry, field: str, value: Any) -> BoxRow:
    if not isinstance(value, dict) or not {"center", "size"} <= set(value) <= {"center", "size", "yaw"}:
        raise line.error("box", '{"center": [x, y, z], "size": [x, y, z], "yaw": radians}', value)
    centre, size = (_point(line, part, value[part]) for part in ("center", "size"))
    yaw = value.get("yaw", 0)
    if min(size) <= 0:
        raise line.error("size", "three full side lengths above zero, in metres", value["size"])
    if not is_number(yaw):
        raise line.error("yaw", "a number of radians", yaw)
    return (*centre, *size, float(yaw))


_LINE: Table = {
    "video": name, "question": (_asked, ""), "expression": (_asked, ""), "situation": (_asked, None),
    "box": (_box, None), "boxes": (list_of(_box), None), "point": (_point, None), "frame": (_frame, "scene"),
    "kind": (name, None),
}  # fmt: skip
_UNUSED = {
    "question": ("point",),
    "expression": ("answer", "answers", "situation", "point"),
    "caption": ("answer", "answers", "situation", "box", "boxes"),
}


def camera_path(video: Path) -> Path:
    """The file of a video's first camera: ``hall.camera.json`` for ``hall.mp4`` or a folder ``hall``."""
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

    Those in the frame ``world`` are transformed by the first camera's pose; ValueError if its file is missing or wrong.
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


# -- checks of a whole file: errors, suspicious lines, and a summary

LARGE_M = 50.0  # a box or a place beyond this is hardly in metres
PATCH = 14  # frames are read as small as can be: they are only counted


@dataclass(frozen=True)
class Remark:
    """Something about one line: its number and a sentence."""

    line: int
    text: str


@dataclass
class JsonlReport:
    """What was found in the file.

    ``examples`` are the lines that are right, ``problems`` lines that cannot be used (with the remedy), ``notes`` lines
    that can be used but look wrong; ``frames`` and ``seconds`` of each video that was opened.
    """

    path: str
    examples: list[Example] = field(default_factory=list)
    problems: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, remarks: list[Remark], example: Example, remark: str) -> None:
        """Add a remark on the line of an example."""
        remarks.append(Remark(example.line, f"{self.path}: line {example.line}: {remark}"))

    @property
    def usable(self) -> bool:
        """Whether there are lines and none is wrong."""
        return bool(self.examples) and not self.problems

    def summary(self) -> dict[str, Any]:
        """Counts and lengths, JSON-ready."""
        tasks = Counter(example.task for example in self.examples)
        boxes = [example.boxes for example in self.examples if example.boxes is not None]
        return {
            "videos": len({example.video for example in self.examples}),
            "questions": tasks["question"], "expressions": tasks["expression"], "captions": tasks["caption"],
            "boxes": sum(map(len, boxes)),
            "no_such_object": sum(not row for row in boxes),
            "in_a_world_frame": sum(example.frame == "world" for example in self.examples),
            "kinds": dict(Counter(example.kind for example in self.examples).most_common()),
            "frames_a_video": _spread(list(self.frames.values())),
            "seconds_a_video": _spread(list(self.seconds.values())),
            "words_a_text": _spread([len(e.text.split()) for e in self.examples if e.text]),
            "words_an_answer": _spread([len(a.split()) for e in self.examples for a in e.answers]),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        remarks = {name: [asdict(remark) for remark in getattr(self, name)] for name in ("problems", "notes")}
        return {"path": self.path, "usable": self.usable, **remarks, "summary": self.summary()}

    def lines(self) -> list[str]:
        """The report as text, errors first."""
        text = [f"wrong: {remark.text}" for remark in self.problems] + [f"note: {r.text}" for r in self.notes]
        for key, value in self.summary().items():
            shown = " ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value
            text.append(f"{key.replace('_', ' '):18s}{shown}")
        return text


def check_jsonl(
    path: str | Path, *, quick: bool = False, progress: Callable[[int, int], None] | None = None
) -> JsonlReport:
    """Check every line, and open every video (``quick``: only check that it exists).

    ``progress`` is called with the numbers of videos done and of all. ValueError if the file cannot be read.
    """
    path = Path(path)
    report = JsonlReport(str(path))
    for number, line in numbered_lines(path):
        try:
            report.examples.append(parse_line(path, number, line))
        except ValueError as error:
            report.problems.append(Remark(number, str(error)))
    if not report.examples and not report.problems:
        report.problems.append(Remark(0, f"{path}: holds no line; write one JSON object a line"))
    _check_positions(report)
    _check_repeated(report)
    _check_videos(report, quick, progress)
    report.problems.sort(key=lambda remark: remark.line)
    return report


def _check_positions(report: JsonlReport) -> None:
    """Boxes and points that cannot be transformed to the scene frame, or seem to be in other units."""
    for example in report.examples:
        try:
            boxes, point = scene_places(example)
        except ValueError as error:
            report.add(report.problems, example, str(error))
            continue
        lengths = [abs(value) for box in boxes or () for value in box[:6]] + [abs(v) for v in point or ()]
        if lengths and max(lengths) > LARGE_M:
            report.add(report.notes, example, f"a place or size of {max(lengths):.0f} m; lengths are metres")
        if any(abs(box[6]) > 2 * math.pi for box in example.boxes or ()):
            report.add(report.notes, example, "a yaw beyond a full turn; yaws are radians")


def _check_repeated(report: JsonlReport) -> None:
    """Repeated questions: with the same answer they count twice, with another they contradict each other."""
    first: dict[tuple[Any, ...], Example] = {}
    for example in report.examples:
        asked = example.video, example.task, example.text, example.situation, example.point
        before = first.setdefault(asked, example)
        if before is example or (example.task == "caption" and before.answers != example.answers):
            continue
        if (before.answers, before.boxes) == (example.answers, example.boxes):
            report.add(report.notes, example, f"the same as line {before.line}; it counts twice")
        else:
            remark = f"as line {before.line}, told otherwise; put all that is right into one line"
            report.add(report.notes, example, remark)


def _check_videos(report: JsonlReport, quick: bool, progress: Callable[[int, int], None] | None) -> None:
    from vidllm.io.video import load_frames

    videos: dict[Path, list[Example]] = {}
    for example in report.examples:
        videos.setdefault(example.video, []).append(example)
    for done, (video, examples) in enumerate(videos.items(), 1):
        others = f" ({len(examples) - 1} more lines with it)" if len(examples) > 1 else ""
        if not video.exists():
            remark = f"{video}: no such video{others}; paths count from the file's folder"
            report.add(report.problems, examples[0], remark)
        elif not quick:
            try:
                frames = load_frames(video, 2, shorter_side=PATCH)
                report.frames[str(video)] = int(frames.indices[-1]) + 1
                report.seconds[str(video)] = float(frames.timestamps_s[-1])
            except ValueError as error:
                report.add(report.problems, examples[0], f"{error}{others}")
        if progress is not None:
            progress(done, len(videos))


def _spread(values: list[int] | list[float]) -> dict[str, int | float]:
    return {"least": min(values), "median": median(values), "most": max(values)} if values else {}
