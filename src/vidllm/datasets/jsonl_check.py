"""A file of your own videos and sentences, looked at as a whole: what is wrong, what looks wrong, what is there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from vidllm.datasets.jsonl import Example, parse_line, scene_places
from vidllm.io.files import numbered_lines
from vidllm.io.video import load_frames

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

    def add(self, remarks: list[Remark], example: Example, text: str) -> None:
        """Say something about the line of an example."""
        remarks.append(Remark(example.line, f"{self.path}: line {example.line}: {text}"))

    @property
    def usable(self) -> bool:
        """Something is there and nothing is wrong."""
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
        told = {name: [asdict(remark) for remark in getattr(self, name)] for name in ("problems", "notes")}
        return {"path": self.path, "usable": self.usable, **told, "summary": self.summary()}

    def lines(self) -> list[str]:
        """The report for people: what is wrong first."""
        told = [f"wrong: {remark.text}" for remark in self.problems] + [f"note: {r.text}" for r in self.notes]
        for name, value in self.summary().items():
            shown = " ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value
            told.append(f"{name.replace('_', ' '):18s}{shown}")
        return told


def check_jsonl(
    path: str | Path, *, quick: bool = False, tell: Callable[[int, int], None] | None = None
) -> JsonlReport:
    """Look at every line, and open every video (``quick``: only see whether it is there).

    ``tell`` hears (videos done, videos in all). ValueError where the file cannot be read.
    """
    path = Path(path)
    report = JsonlReport(str(path))
    for number, text in numbered_lines(path):
        try:
            report.examples.append(parse_line(path, number, text))
        except ValueError as error:
            report.problems.append(Remark(number, str(error)))
    if not report.examples and not report.problems:
        report.problems.append(Remark(0, f"{path}: holds no line; write one JSON object a line"))
    _check_places(report)
    _check_twins(report)
    _check_videos(report, quick, tell)
    report.problems.sort(key=lambda remark: remark.line)
    return report


def _check_places(report: JsonlReport) -> None:
    """Boxes and points that cannot be brought into the scene frame, or that look as if in other units."""
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


def _check_twins(report: JsonlReport) -> None:
    """The same asked twice: with the same answer it counts twice, with another it contradicts itself."""
    first: dict[tuple[Any, ...], Example] = {}
    for example in report.examples:
        asked = example.video, example.task, example.text, example.situation, example.point
        before = first.setdefault(asked, example)
        if before is example or (example.task == "caption" and before.answers != example.answers):
            continue
        if (before.answers, before.boxes) == (example.answers, example.boxes):
            report.add(report.notes, example, f"the same as line {before.line}; it counts twice")
        else:
            told = f"as line {before.line}, told otherwise; put all that is right into one line"
            report.add(report.notes, example, told)


def _check_videos(report: JsonlReport, quick: bool, tell: Callable[[int, int], None] | None) -> None:
    videos: dict[Path, list[Example]] = {}
    for example in report.examples:
        videos.setdefault(example.video, []).append(example)
    for done, (video, examples) in enumerate(videos.items(), 1):
        others = f" ({len(examples) - 1} more lines with it)" if len(examples) > 1 else ""
        if not video.exists():
            told = f"{video}: no such video{others}; paths count from the file's folder"
            report.add(report.problems, examples[0], told)
        elif not quick:
            try:
                frames = load_frames(video, 2, shorter_side=PATCH)
                report.frames[str(video)] = int(frames.indices[-1]) + 1
                report.seconds[str(video)] = float(frames.timestamps_s[-1])
            except ValueError as error:
                report.add(report.problems, examples[0], f"{error}{others}")
        if tell is not None:
            tell(done, len(videos))


def _spread(values: list[int] | list[float]) -> dict[str, int | float]:
    return {"least": min(values), "median": median(values), "most": max(values)} if values else {}
