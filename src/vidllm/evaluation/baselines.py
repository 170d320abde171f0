"""Baselines without a video: one text for all questions, one box for all objects, and a language-only model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.tasks import Item, Task
from vidllm.io.weight_files import model_of_run
from vidllm.model import prompts
from vidllm.model.loading import load_causal_lm
from vidllm.model.text import decode_answers, encode_parts, read_tokenizer

LANGUAGE_ONLY = Path(__file__).parent.parent / "weights" / "blind"
"""The shipped language-only baseline."""
MEAN_BOX = (2.5, 0.0, -0.8, 0.8, 0.8, 0.8, 0.0)
"""Centre, size (metres) and yaw in the scene frame, used without a language-only model, which has its own."""


class LanguageOnly:
    """Answers questions from their words alone; ``mean_box`` is the training data's mean target box."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mean_box: tuple[float, ...]) -> None:
        self.model, self.tokenizer, self.mean_box = model.eval(), tokenizer, mean_box

    def answers(self, questions: Sequence[tuple[str, str | None]], max_new_tokens: int = 32) -> list[str]:
        """Greedy answers to (question, situation) pairs, all at once."""
        return self.replies([prompts.question_prompt(q, s) for q, s in questions], max_new_tokens)

    @torch.inference_mode()
    def replies(self, whole_prompts: Sequence[str], max_new_tokens: int = 32) -> list[str]:
        """Greedy replies to whole prompts without their scene."""
        suffixes = [encode_parts(self.tokenizer, prompt)[1] for prompt in whole_prompts]
        padded = self.tokenizer.pad({"input_ids": suffixes}, padding_side="left", return_tensors="pt")
        out = self.model.generate(
            **padded,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return decode_answers(self.tokenizer, out[:, padded["input_ids"].shape[1] :].tolist())


def load_language_only(folder: Path = LANGUAGE_ONLY) -> LanguageOnly | None:
    """The shipped baseline, or that of a folder: of the model or of the run that made it; None when it is absent."""
    folder = model_of_run(folder)
    if not (folder / "config.json").exists():
        return None
    model = load_causal_lm(folder)
    return LanguageOnly(model, read_tokenizer(folder), tuple(model.config.mean_box))


def most_frequent(texts: Sequence[str]) -> str:
    """The text that occurs most often, the first in the alphabet among equals; ValueError for no text."""
    if not texts:
        raise ValueError("no annotated text to take the most frequent of; leave the baseline out")
    count = Counter(texts)
    return min(count, key=lambda text: (-count[text], text))


def most_frequent_of(task: Task, data: DataRoot, items: Sequence[Item]) -> tuple[str, str]:
    """The most frequent text and where it was counted: the train split if it exists, else the references."""
    if data.annotation_file(task.name, "train") is not None:
        return most_frequent(task.texts(data.annotations(task.name, "train"))), "the train split"
    entries = [item.entry for item in items]
    if task.kind == "caption":
        entries = [one for entry in entries for one in entry.descriptions]
    return most_frequent(task.texts(entries)), "the references themselves"


def nearest_to(box: Sequence[float] | np.ndarray, candidates: np.ndarray) -> int:
    """Which of the boxes (M, 6) has its centre nearest to that of ``box``."""
    return int(np.linalg.norm(candidates[:, :3] - np.asarray(box)[:3], axis=1).argmin())
