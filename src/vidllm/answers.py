"""What a scene gives back: answers, boxes, the scale, and what has to be said about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Box:
    """An oriented box in the scene frame: centre and size in metres, yaw about z in radians, score in [0, 1].

    With 90% the true centre lies within ``center_error`` metres, and no true side is larger or smaller by more than a
    factor of 1 + ``size_error``; None where the model is not calibrated (:mod:`vidllm.model.calibration`).
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
    """An answer, and in ``notes`` what has to be said about it: words taken for others, doubts."""

    notes: tuple[str, ...]

    def __new__(cls, text: str, notes: Sequence[str] = ()) -> Answer:
        """A text with its notes."""
        answer = super().__new__(cls, text)
        answer.notes = tuple(notes)
        return answer


def with_notes(text: str, notes: Sequence[str]) -> str:
    """A text, and in brackets what has to be said about it."""
    return f"{text}  ({'; '.join(notes)})" if notes else text


class Boxes(list[Box]):
    """Boxes, best first, and in ``notes`` what has to be said about them."""

    def __init__(self, boxes: Iterable[Box] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(boxes)
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Scale:
    """Metres per unit of the model's relative depth, its relative spread over images, and what makes it doubtful.

    The spread is nan where it is not known: a scale that was given, or pictures that show one view. ``interval`` holds
    the true scale with 90%; None without a spread or a calibration.
    """

    value: float
    spread: float
    warnings: tuple[str, ...]
    interval: tuple[float, float] | None = None

    def of_length(self, length_m: float) -> tuple[float, float] | None:
        """Between which lengths a measured one lies as far as the scale is concerned; None where that is not known.

        The one place where intervals of lengths come from; the error of a box or a point itself is not in it.
        """
        if self.interval is None:
            return None
        low, high = sorted(bound / self.value * length_m for bound in self.interval)
        return low, high

    @property
    def length_spread(self) -> float | None:
        """How far beyond a measured length the true one may lie, as a share of it; None where that is not known."""
        wide = self.of_length(1.0)
        return None if wide is None else wide[1] - 1


def three_numbers(values: Any) -> tuple[float, float, float]:
    """As plain numbers."""
    x, y, z = (float(v) for v in values)
    return x, y, z
