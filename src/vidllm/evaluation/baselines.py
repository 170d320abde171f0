"""What needs no video: one text for everything, a language model that never saw one, one box for every object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.language_only import LanguageOnly
from vidllm.evaluation.tasks import Item, Task
from vidllm.model import prompts

MEAN_BOX = (2.5, 0.0, -0.8, 0.8, 0.8, 0.8, 0.0)
"""Centre, size (metres) and yaw in the scene frame, where no baseline's own mean of its training data is there."""


def most_frequent(texts: Sequence[str]) -> str:
    """The text that occurs most often, the first in the alphabet among equals; ValueError for no text."""
    if not texts:
        raise ValueError("no annotated text to take the most frequent of; leave the baseline out")
    count = Counter(texts)
    return min(count, key=lambda text: (-count[text], text))


def most_frequent_of(task: Task, data: DataRoot, items: Sequence[Item]) -> tuple[str, str]:
    """The most frequent text and where it was counted: the train split where it is there, else the references."""
    if data.annotation_file(task.name, "train") is not None:
        return most_frequent(task.texts(data.annotations(task.name, "train"))), "the train split"
    entries = [item.entry for item in items]
    if task.kind == "caption":
        entries = [one for entry in entries for one in entry.descriptions]
    return most_frequent(task.texts(entries)), "the references themselves"


def language_only_answers(blind: LanguageOnly, task: Task, items: Sequence[Item]) -> list[str]:
    """The language-only model's answers, from the words of the questions alone."""
    return blind.answers([task.ask(item) for item in items]) if items else []


def language_only_caption(blind: LanguageOnly) -> str:
    """The language-only model's caption: to it every object is at the same unknown point."""
    return blind.replies([prompts.caption_prompt()], max_new_tokens=96)[0]


def nearest_to(box: Sequence[float] | np.ndarray, candidates: np.ndarray) -> int:
    """Which of the boxes (M, 6) has its centre nearest to that of ``box``."""
    return int(np.linalg.norm(candidates[:, :3] - np.asarray(box)[:3], axis=1).argmin())
