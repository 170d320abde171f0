"""Language about a rendered room: questions with answers, referring expressions and captions, verified on the scene.

Only what is visible in the clip is mentioned. Directions ("left of", "in front of", "closer to the camera") are
those of the first camera made upright; situated questions define their own. Distances are between centres.
Answers that are likely without looking at the room get a lower weight, see ``guessing``.
"""

from __future__ import annotations

import numpy as np

from vidllm.datasets.language import Language
from vidllm_rooms.language.captions import make_captions
from vidllm_rooms.language.facts import observe
from vidllm_rooms.language.questions import make_questions
from vidllm_rooms.language.references import make_references
from vidllm_rooms.language.speaker import Speaker
from vidllm_rooms.world import Clip


def make_language(clip: Clip, rng: np.random.Generator, *, questions: int = 24, references: int = 8) -> Language:
    """Questions and references, up to that many of each, and captions of the room and of some objects.

    The same clip and generator state give the same language. A clip without visible objects gets only what applies
    to an empty room.
    """
    speaker = Speaker(observe(clip), rng)
    return Language(
        questions=make_questions(speaker, questions),
        references=make_references(speaker, references),
        captions=make_captions(speaker, objects=4),
    )
