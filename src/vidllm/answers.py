"""Results of a scene: answers and boxes with their notes, and the scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Box:
    """An oriented box in the scene frame: centre and size in metres, yaw about z in radians, score in [0, 1].

    With 90% probability the error of the centre is below ``center_error`` metres, and the ratio of each true side to
    the predicted one (or its inverse) below 1 + ``size_error``. None if the model is not calibrated
    (:mod:`vidllm.model.calibration`).
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    score: float
    center_error: float | None = None
    size_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


class Answer(str):
    """An answer; ``notes`` say for example which words were replaced by known ones."""

    notes: tuple[str, ...]

    def __new__(cls, text: str, notes: Sequence[str] = ()) -> Answer:
        """A text with its notes."""
        answer = super().__new__(cls, text)
        answer.notes = tuple(notes)
        return answer


def with_notes(text: str, notes: Sequence[str]) -> str:
    """A text, followed by its notes in brackets."""
    return f"{text}  ({'; '.join(notes)})" if notes else text


class Boxes(list[Box]):
    """Boxes, best first, with ``notes`` as those of :class:`Answer`."""

    def __init__(self, boxes: Iterable[Box] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(boxes)
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Scale:
    """Metres per unit of relative depth, the relative spread of this value over the images, and warnings.

    The spread is nan if the scale was given or all images show one view. ``interval`` is the 90% interval; None without
    a spread or a calibration.
    """

    value: float
    spread: float
    warnings: tuple[str, ...]
    interval: tuple[float, float] | None = None

    def of_length(self, length_m: float) -> tuple[float, float] | None:
        """The 90% interval of a measured length due to the scale alone; None without an interval of the scale.

        Errors of boxes and points are not included.
        """
        if self.interval is None:
            return None
        low, high = sorted(bound / self.value * length_m for bound in self.interval)
        return low, high

    @property
    def length_spread(self) -> float | None:
        """Upper end of :meth:`of_length` as a fraction of the length, minus 1; None if unknown."""
        wide = self.of_length(1.0)
        return None if wide is None else wide[1] - 1


def three_numbers(values: Any) -> tuple[float, float, float]:
    """Three values as floats."""
    x, y, z = (float(v) for v in values)
    return x, y, z
