"""The input of a vision-language model for a scene, and boxes from its answers (docs/vision_language.md).

The input is pictures and the inventory as text. The model refers to objects by their numbers in the inventory, so boxes
are those of the inventory; to choose among given boxes, the nearest given one is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from vidllm.answers import Box, Boxes
from vidllm.baselines.vision_language import (
    LONGER_SIDE,
    MAX_NUMBERS,
    MAX_PICTURES,
    WHICH,
    Shown,
    VisionLanguageModel,
)
from vidllm.geometry.boxes import iou_oriented
from vidllm.inventory import NAMES, Inventory, row_of
from vidllm.model.modeling import Network
from vidllm.model.prompts import OBJECT_REQUEST, ROOM_REQUEST, check_question, format_coordinate

#: A reply with numbers of objects; replies that begin otherwise may contain other numbers.
_NUMBERS = re.compile(r"(?:(?:the )?(?:numbers?|objects?|things?)\b)?[\s:#(]*\d", re.IGNORECASE)


@dataclass
class SceneInWords:
    """A vision-language model that answers about a scene; the scene's own model takes the inventory.

    ``metres``: whether it gets the measurements (not for the baseline "2d"). ``finds``: whether the scene's own model
    can find objects; without a list of objects, it gets the room's size and the camera path.
    """

    scene: Any
    speaker: VisionLanguageModel
    metres: bool = True
    finds: bool = True

    @cached_property
    def inventory(self) -> Inventory:
        """By the scene's own model."""
        found: Inventory = self.scene.inventory(NAMES if self.finds else ())
        return found

    @cached_property
    def shown(self) -> Shown:
        """Pictures of evenly spaced frames, in original size up to ``LONGER_SIDE``, and the facts."""
        data = self.scene.data
        chosen = set(data.evenly(MAX_PICTURES))
        pictures = tuple(_picture(rgb) for number, rgb in enumerate(data.pictures()) if number in chosen)
        facts = self.inventory.as_text().splitlines() if self.metres else []
        return Shown(pictures, "\n".join(line for line in facts if self.finds or not line.startswith("Counts: ")))

    def answers(self, questions: Sequence[tuple[str, str | None]], max_new_tokens: int) -> list[str]:
        """To (question, situation or None) pairs."""
        return self.speaker.answers(self.shown, questions, max_new_tokens)

    def describe(self, at: Sequence[float] | None, max_new_tokens: int) -> str:
        """Of the room, or of the object at a point."""
        request = ROOM_REQUEST if at is None else OBJECT_REQUEST.format(where=format_coordinate(at))
        return self.speaker.reply(self.shown, request, max_new_tokens)

    def ground(self, expression: str, several: bool) -> Boxes:
        """The boxes of the inventory whose numbers it names, in order; ``several=False``: one.

        If one is wanted and it names none, the box that the scene's own model finds, with a note.
        """
        things = self.inventory.things
        request = WHICH.format(expression=check_question(expression, what="expression"),
                               count="their numbers" if several else "its number")  # fmt: skip
        if not self.metres:  # names alone
            request = "\n".join(f"{n}. {thing.called}" for n, thing in enumerate(things, 1)) + f"\n{request}"
        said = self.speaker.reply(self.shown, request, MAX_NUMBERS) if things else "none"
        named = re.findall(r"\d{1,4}", said.splitlines()[0]) if _NUMBERS.match(said) else []
        boxes = [things[n - 1].box for n in dict.fromkeys(map(int, named)) if 1 <= n <= len(things)]
        if several and not (boxes or said.lower().startswith("none")):
            return Boxes((), (f"the reply names no listed thing: {said[:80]}",))
        if several or boxes:
            return Boxes(boxes if several else boxes[:1])
        own = self.scene.ground(expression, several=False)
        return Boxes(own, (f"none of the {len(things)} listed things was named: {said}", *own.notes))

    def choose(
        self, expression: str, candidates: Sequence[Sequence[float]], several: bool
    ) -> list[tuple[int, float]]:
        """The given boxes that overlap most with those it names, or are nearest to them; with scores."""
        given = torch.tensor([list(map(float, box)) for box in candidates], dtype=torch.float64)
        found: dict[int, float] = {}
        for box in self.ground(expression, several):
            found.setdefault(_nearest(box, given), box.score)
        return list(found.items())


def told_in_words(scene: Any, network: Network) -> SceneInWords | None:
    """The scene for the network's ``speaker``; None if the network answers itself.

    The inventory is taken of a copy of the scene in which the network itself answers.
    """
    if network.speaker is None:
        return None
    own = object.__new__(type(scene))
    own.__dict__.update(vars(scene), in_words=None)
    return SceneInWords(own, network.speaker, finds="grounding" in dict(network.named_children()))


def _nearest(box: Box, candidates: torch.Tensor) -> int:
    row = torch.tensor(row_of(box), dtype=torch.float64)
    overlap = iou_oriented(row[None], candidates)[0]
    apart = (candidates[:, :3] - row[:3]).norm(dim=-1)
    return int(overlap.argmax() if bool(overlap.max() > 0) else apart.argmin())


def _picture(rgb: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE))
    return picture
