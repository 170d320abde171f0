"""Training texts after the visual prefix: of rooms, with all tasks mixed, or of your own videos."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm.datasets.jsonl import Example, scene_places
from vidllm.datasets.language import Caption, Question, Reference, language_from_record
from vidllm.datasets.shards import Shard
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.precision import full_precision
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
from vidllm.training.config import Texts
from vidllm.training.data import Batch
from vidllm.training.packing import Text

TOKENIZER_SCENES = 400
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


Boxes = Mapping[int, Sequence[float]]  # of a scene's objects, in the scene frame
#: Questions on top of a scene's own, from its record; how many: ``Texts.plain`` and ``places``.
ExtraQuestions = Callable[[dict[str, Any], Boxes, np.random.Generator, int, int], list[Question]]


class TextMaker:
    """Turns a scene's questions, references and captions into token ids behind the visual prefix."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, extra_questions: ExtraQuestions | None = None) -> None:
        self.tokenizer, self.extra_questions = tokenizer, extra_questions
        ids, _ = encode_parts(tokenizer, prompts.VISUAL_PREFIX)
        video = special_token_ids(tokenizer)[prompts.VIDEO_TOKEN]
        at = ids.index(video)
        self.prefix_ids: tuple[Tensor, Tensor] = (torch.tensor([ids[:at]]), torch.tensor([ids[at + 1 :]]).long())
        self._suffix = lru_cache(maxsize=200_000)(self._encode_suffix)

    def __reduce__(self) -> tuple[type[TextMaker], tuple[Any, ...]]:
        """Pickled without its cache."""
        return TextMaker, (self.tokenizer, self.extra_questions)

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
        """The part of a prompt after the visual prefix, with its answer; only the answer is scored."""
        ids, told = self._suffix(prompt, answer)
        scored = [False] * (len(ids) - told) + [True] * told
        return Text(list(ids), scored, kind, list(points), boxes)

    def question(self, item: Question) -> Text:
        """A question, situated or not, with its reference answer."""
        return self.text(prompts.question_prompt(item.question, item.situation), item.answers[0], item.kind)

    def reference(self, item: Reference, boxes: dict[int, list[float]], rng: np.random.Generator) -> Text:
        """A referring expression; its ``<loc>`` is trained on the targets' boxes (none: no such object).

        Unique ones use both wordings, so that "find all" does not reveal the number of targets.
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
        self, record: dict[str, Any], boxes: dict[int, list[float]], rng: np.random.Generator, counts: Texts
    ) -> list[Text]:
        """A random choice of a scene's texts, including extra questions, in random order."""
        language = language_from_record(record)
        made = [self.question(q) for q in _some(rng, language.questions, counts.questions)]
        made += [self.reference(r, boxes, rng) for r in _some(rng, language.references, counts.references)]
        made += [self.caption(c, boxes, rng) for c in _some(rng, language.captions, counts.captions)]
        made += [self.question(q) for q in _some(rng, language.spatial, counts.spatial)]
        if self.extra_questions is not None:
            made += [self.question(q) for q in self.extra_questions(record, boxes, rng, counts.plain, counts.places)]
        return [made[int(i)] for i in rng.permutation(len(made))]


def _some(rng: np.random.Generator, items: Sequence[Any], count: int) -> list[Any]:
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


@full_precision()
def scene_boxes(record: dict[str, Any], scene_from_room: Float[Tensor, "4 4"]) -> dict[int, list[float]]:
    """Boxes (centre, size, yaw) of the scene's objects in the scene frame, by object id."""
    turn = math.atan2(float(scene_from_room[1, 0]), float(scene_from_room[0, 0]))
    boxes = {}
    for item in record["objects"]:
        centre = scene_from_room[:3, :3] @ torch.tensor(item["box"][:3]) + scene_from_room[:3, 3]
        boxes[item["id"]] = [*centre.tolist(), *item["box"][3:6], item["box"][6] + turn]
    return boxes


@full_precision()
def scene_from_room(extrinsics: Float[Tensor, "F 4 4"]) -> Float[Tensor, "4 4"]:
    """The level scene frame of a clip (docs/method.md, section 0) from room coordinates: first camera at the origin."""
    first = extrinsics[0]
    return scene_from_world(first[:3, 2]) @ first


def draw_texts(batch: Batch, maker: TextMaker, rng: np.random.Generator, counts: Texts) -> list[list[Text]]:
    """Texts of each scene of a batch, with boxes and points in its scene frame."""
    return [
        maker.scene(record, scene_boxes(record, scene_from_room(extrinsics)), rng, counts)
        for extrinsics, record in zip(batch.extrinsics.cpu(), batch.records, strict=True)
    ]


# ---- the run's tokenizer -------------------------------------------------------------------------------------------


def corpus(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every sentence of the records' language, for a tokenizer's training."""
    for record in records:
        language = language_from_record(record)
        for q in (*language.questions, *language.spatial):
            yield from ([q.situation] if q.situation else [])
            yield q.question
            yield from q.answers[:1]
        yield from (r.expression for r in language.references)
        yield from (text for c in language.captions for text in c.texts)


def load_or_build_tokenizer(folder: Path, shards: Sequence[Path], vocab_size: int) -> PreTrainedTokenizerBase:
    """The run's tokenizer: read from ``folder``, or trained on the texts of the first shards and written there.

    An incomplete one (after a kill or a full disk) is trained again, with a warning in the log.
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
    """Write a tokenizer atomically; returns it as it will be read from the folder."""
    with atomic_folder(folder) as part:
        forget_origin(tokenizer).save_pretrained(part)
    return forget_origin(read_tokenizer(folder))


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder; None if there is none, or an incomplete one (with a warning in the log)."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    reason = f"{', '.join(missing)} missing" if missing else "not readable"
    if not missing:
        with suppress(ValueError):
            return forget_origin(read_tokenizer(folder))
    logging.getLogger(__name__).warning("%s: a half-written tokenizer (%s); it is made again", folder, reason)
    return None


# ---- your own videos -----------------------------------------------------------------------------------------------


class OwnTexts:
    """The texts of each video; every draw chooses among the answers and the wordings.

    ValueError, naming the line, for a text that is longer than ``max_tokens``.
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
                prompt = prompts.multi_grounding_prompt(example.text) if finds else _prompt(example)
                answers = (None,) if finds else example.answers
                lengths = [len(maker.text(prompt, answer, example.kind).ids) for answer in answers]
                if max(lengths, default=0) > max_tokens:
                    raise ValueError(
                        f"line {example.line} of the data has {max(lengths)} tokens, at most {max_tokens} fit; shorten "
                        "it, or give a higher --max-text-tokens"
                    )
        self.videos = sorted(self._of)

    def shares(self, texts: int) -> np.ndarray:
        """Probabilities of the videos if ``texts`` of each are drawn: all texts are about equally frequent."""
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


def too_long(examples: Sequence[Example], maker: TextMaker, max_tokens: int) -> list[tuple[int, str]]:
    """(line, message) of every example that :class:`OwnTexts` refuses."""
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
