"""The language-only baseline: a causal LM of the same form and data that never sees the video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vidllm.io.weight_files import model_of_run
from vidllm.model import prompts
from vidllm.model.auto import load_causal_lm
from vidllm.model.text import decode_answers, encode_parts, read_tokenizer

LANGUAGE_ONLY = Path(__file__).parent.parent / "weights" / "blind"


class LanguageOnly:
    """Answers questions from their words alone; ``mean_box`` is the training data's mean target box."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mean_box: tuple[float, ...]
    ) -> None:
        self.model, self.tokenizer, self.mean_box = model.eval(), tokenizer, mean_box

    def answers(self, questions: Sequence[tuple[str, str | None]], max_new_tokens: int = 32) -> list[str]:
        """Greedy answers to (question, situation) pairs, all at once."""
        return self.replies([prompts.question_prompt(q, s) for q, s in questions], max_new_tokens)

    @torch.inference_mode()
    def replies(self, whole_prompts: Sequence[str], max_new_tokens: int = 32) -> list[str]:
        """Greedy replies to whole prompts, whose scene it does not get."""
        suffixes = [encode_parts(self.tokenizer, prompt)[1] for prompt in whole_prompts]
        padded = self.tokenizer.pad({"input_ids": suffixes}, padding_side="left", return_tensors="pt")
        out = self.model.generate(
            **padded, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id,
        )
        return decode_answers(self.tokenizer, out[:, padded["input_ids"].shape[1] :].tolist())


def load_language_only(folder: Path = LANGUAGE_ONLY) -> LanguageOnly | None:
    """The shipped baseline, or that of a folder: of the model or of the run that made it; None when it is absent."""
    folder = model_of_run(folder)
    if not (folder / "config.json").exists():
        return None
    model = load_causal_lm(folder)
    return LanguageOnly(model, read_tokenizer(folder), tuple(model.config.mean_box))
