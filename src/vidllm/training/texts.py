"""Language of a scene as training texts: questions, situated questions, captions, references, all tasks mixed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm.io.atomic import atomic_folder
from vidllm.model import prompts
from vidllm.model.text import (
    build_tokenizer,
    encode_answer,
    encode_parts,
    forget_origin,
    read_tokenizer,
    special_token_ids,
)
from vidllm.rooms.shards import Shard, language_from_record
from vidllm.rooms.types import Caption, Question, Reference
from vidllm.training.drills import drills
from vidllm.training.packing import Text
from vidllm.training.place_drills import place_drills

TOKENIZER_SCENES = 400
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class TextCounts:
    """How many texts of each kind are drawn from a scene; ``plain`` and ``places`` are drills."""

    questions: int
    references: int
    captions: int
    plain: int = 0
    places: int = 0


class TextMaker:
    """Turns a scene's questions, references and captions into token ids behind the visual prefix."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        ids, _ = encode_parts(tokenizer, prompts.VISUAL_PREFIX)
        video = special_token_ids(tokenizer)[prompts.VIDEO_TOKEN]
        at = ids.index(video)
        self.prefix_ids: tuple[Tensor, Tensor] = (torch.tensor([ids[:at]]), torch.tensor([ids[at + 1 :]]).long())
        self._suffix = lru_cache(maxsize=200_000)(self._encode_suffix)

    @property
    def special_ids(self) -> tuple[int, int, int]:
        """Ids of ``<video>``, ``<loc>``, ``<coord>``."""
        ids = special_token_ids(self.tokenizer)
        return ids[prompts.VIDEO_TOKEN], ids[prompts.LOC_TOKEN], ids[prompts.COORD_TOKEN]

    def _encode_suffix(self, prompt: str, answer: str | None) -> tuple[tuple[int, ...], int]:
        _, suffix = encode_parts(self.tokenizer, prompt)
        told = [] if answer is None else encode_answer(self.tokenizer, answer)
        return tuple(suffix + told), len(told)

    def text(
        self,
        prompt: str,
        answer: str | None,
        kind: str,
        points: Sequence[tuple[float, float, float]] = (),
        boxes: list[list[float]] | None = None,
    ) -> Text:
        """A prompt's part behind the visual prefix with its answer; only the answer is scored."""
        ids, told = self._suffix(prompt, answer)
        scored = [False] * (len(ids) - told) + [True] * told
        return Text(list(ids), scored, kind, list(points), boxes)

    def question(self, item: Question) -> Text:
        """A question, situated or not, with its reference answer."""
        return self.text(prompts.question_prompt(item.question, item.situation), item.answers[0], item.kind)

    def reference(self, item: Reference, boxes: dict[int, list[float]], rng: np.random.Generator) -> Text:
        """A referring expression; its ``<loc>`` is trained on the targets' boxes (none: no such object).

        Unique ones are asked for in both wordings, so that "find all" does not give the number of targets away.
        """
        several = item.kind in ("none", "several") or rng.random() < 0.5
        prompt = (prompts.multi_grounding_prompt if several else prompts.grounding_prompt)(item.expression)
        return self.text(prompt, None, item.kind, boxes=[boxes[t] for t in item.targets])

    def caption(self, item: Caption, boxes: dict[int, list[float]], rng: np.random.Generator) -> Text:
        """One of the reference captions, of an object (its centre as ``<coord>``) or of the room."""
        said = item.texts[int(rng.integers(len(item.texts)))]
        if item.object_id is None:
            return self.text(prompts.room_prompt(), said, "room")
        x, y, z = boxes[item.object_id][:3]
        return self.text(prompts.caption_prompt(), said, "object", [(x, y, z)])

    def scene(
        self,
        record: dict[str, Any],
        boxes: dict[int, list[float]],
        rng: np.random.Generator,
        counts: TextCounts,
    ) -> list[Text]:
        """A random choice of a scene's language as texts, and drills, in random order."""
        language = language_from_record(record)
        made = [self.question(q) for q in _some(rng, language.questions, counts.questions)]
        made += [self.reference(r, boxes, rng) for r in _some(rng, language.references, counts.references)]
        made += [self.caption(c, boxes, rng) for c in _some(rng, language.captions, counts.captions)]
        made += [self.question(q) for q in drills(record, rng, counts.plain)]
        made += [self.question(q) for q in place_drills(record, boxes, rng, counts.places)]
        return [made[int(i)] for i in rng.permutation(len(made))]


def _some(rng: np.random.Generator, items: Sequence[Any], count: int) -> list[Any]:
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def corpus(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every sentence of the records' language, for a tokenizer's training."""
    for record in records:
        language = language_from_record(record)
        for q in language.questions:
            yield from ([q.situation] if q.situation else [])
            yield q.question
            yield from q.answers[:1]
        yield from (r.expression for r in language.references)
        yield from (text for c in language.captions for text in c.texts)


def load_or_build_tokenizer(folder: Path, shards: Sequence[Path], vocab_size: int) -> PreTrainedTokenizerBase:
    """The run's tokenizer: read from ``folder``, or trained on the first shards' language and written there.

    One that cannot be read (a kill or a full disk cut it short) is made again; the log says so.
    """
    found = saved_tokenizer(folder)
    if found is not None:
        return found
    records: list[dict[str, Any]] = []
    for path in shards:
        records += Shard(path).records
        if len(records) >= TOKENIZER_SCENES:
            break
    built = build_tokenizer(corpus(records), vocab_size)
    return keep_tokenizer(built, folder)


def keep_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    """Write a tokenizer, all of it or nothing; returns it as it is read by whoever goes on with the folder."""
    with atomic_folder(folder) as part:
        forget_origin(tokenizer).save_pretrained(part)
    return forget_origin(read_tokenizer(folder))


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder; None where there is none, or it is half written, which the log tells."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    reason = f"{', '.join(missing)} missing" if missing else "not readable"
    if not missing:
        with suppress(ValueError):
            return forget_origin(read_tokenizer(folder))
    logging.getLogger(__name__).warning("%s: a half-written tokenizer (%s); it is made again", folder, reason)
    return None
