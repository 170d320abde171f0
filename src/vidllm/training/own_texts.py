"""Sentences about your own videos (:mod:`vidllm.datasets.jsonl`) as training texts behind the visual prefix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidllm.datasets.jsonl import Example, scene_places
from vidllm.model import prompts
from vidllm.training.packing import Text
from vidllm.training.texts import TextMaker


class OwnTexts:
    """The texts of each video, made anew at every draw: one of the answers, one of the wordings.

    Raises ValueError, naming the line, for a sentence that is longer than ``max_tokens``.
    """

    def __init__(self, examples: Sequence[Example], maker: TextMaker, max_tokens: int) -> None:
        self.maker = maker
        self._of: dict[Path, list[tuple[Example, bool]]] = {}
        self._places = {}
        for example in examples:
            self._places[example.line] = scene_places(example)
            ways = [True] * (example.boxes is not None) + [False] * (example.task != "expression")
            self._of.setdefault(example.video, []).extend((example, finds) for finds in ways)
            for finds in ways:
                self._check_length(example, finds, max_tokens)
        self.videos = sorted(self._of)

    def shares(self, texts: int) -> np.ndarray:
        """How often each video is drawn, when ``texts`` of it are taken at a time: each sentence about as often."""
        visits = np.array([-(-len(self._of[video]) // texts) for video in self.videos], dtype=np.float64)
        return visits / visits.sum()

    def draw(self, video: int, count: int, rng: np.random.Generator) -> list[Text]:
        """Up to ``count`` texts of a video, in random order."""
        known = self._of[self.videos[video]]
        return [self.text(*known[int(i)], rng) for i in rng.permutation(len(known))[:count]]

    def text(self, example: Example, finds: bool, rng: np.random.Generator) -> Text:
        """An example as a question with its answer, or (``finds``) as an expression with its boxes."""
        boxes, point = self._places[example.line]
        if finds:
            several = len(boxes or ()) != 1 or rng.random() < 0.5  # "all" must not give the number away
            prompt = (prompts.multi_grounding_prompt if several else prompts.grounding_prompt)(example.text)
            return self.maker.text(prompt, None, example.kind, boxes=boxes)
        said = example.answers[int(rng.integers(len(example.answers)))]
        return self.maker.text(_prompt(example), said, example.kind, [point] if point else [])

    def _check_length(self, example: Example, finds: bool, most: int) -> None:
        prompt = prompts.multi_grounding_prompt(example.text) if finds else _prompt(example)
        for answer in example.answers if not finds else (None,):
            length = len(self.maker.text(prompt, answer, example.kind).ids)
            if length > most:
                raise ValueError(
                    f"line {example.line} of the data has {length} tokens, at most {most} fit; shorten it, "
                    "or give a higher --max-text-tokens"
                )


def too_long(examples: Sequence[Example], maker: TextMaker, max_tokens: int) -> list[tuple[int, str]]:
    """(line, message) of every example that :class:`OwnTexts` refuses by itself."""
    found = []
    for example in examples:
        try:
            OwnTexts([example], maker, max_tokens)
        except ValueError as error:
            found.append((example.line, str(error)))
    return found


def _prompt(example: Example) -> str:
    if example.task == "question":
        return prompts.question_prompt(example.text, example.situation)
    return prompts.room_prompt() if example.point is None else prompts.caption_prompt()
