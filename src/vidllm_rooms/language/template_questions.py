"""Template questions for training (``vidllm train stage2 --plain N --places N``): made from a shard's record of a room.

The command line hands :func:`template_questions` to stage 2 (:data:`vidllm.training.texts.ExtraQuestions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidllm.datasets.language import Question
from vidllm_rooms.language.place_questions import place_questions
from vidllm_rooms.language.plain_questions import plain_questions


def template_questions(
    record: dict[str, Any], boxes: Mapping[int, Sequence[float]], rng: np.random.Generator, plain: int, places: int
) -> list[Question]:
    """``plain`` questions about what a room holds and ``places`` about where it is (fewer where less can be asked).

    ``boxes`` (centre, size, yaw) by object id are in the scene frame.
    """
    return plain_questions(record, rng, plain) + place_questions(record, boxes, rng, places)
