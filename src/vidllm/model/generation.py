"""Running the language model: splicing a scene into a prompt, the cached prefix, decoding. Only this file calls it.

transformers 5.24 renamed the cache from ``past_key_values`` to ``cache`` in ``forward``, ``generate`` and their
results; 5.40 removes the older name. This package uses ``cache``, and :func:`run_language_model` passes it under the
name in the language model's signature.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache as memoised
from functools import cached_property
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vidllm.model.language_model import KeyValueCache
from vidllm.model.outputs import VisualPrefix
from vidllm.model.prompts import VISUAL_PREFIX
from vidllm.model.text import IGNORE_INDEX, AnyTokenizer, encode_answer

CACHE_NAMES = ("cache", "past_key_values")  # newest first
#: Layers of transformers' caches whose tensors are replaced as they grow, never written into.
_APPENDED = ("DynamicLayer", "DynamicSlidingWindowLayer")
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


# ---- running it ---------------------------------------------------------------------------------------------------


def run_language_model(language_model: nn.Module, *, cache: Any = None, **inputs: Any) -> Any:
    """The output of a causal language model, which reads and extends ``cache``.

    ``inputs`` are keyword arguments of its ``forward``.
    """
    kind: Any = type(innermost(language_model))
    return language_model(**{_cache_name(kind): cache}, **inputs)


def run_backbone(language_model: nn.Module, **inputs: Any) -> Float[Tensor, "B S D"]:
    """Last hidden states of a whole sequence, without cache and head (packed training)."""
    backbone: Any = language_model.base_model
    states: Tensor = backbone(use_cache=False, **inputs).last_hidden_state
    return states


def cache_of(output: Any) -> Any:
    """The cache in a language model's output; None without one."""
    found = (getattr(output, name, None) for name in CACHE_NAMES)
    return next((cache for cache in found if cache is not None), None)


def check_logits(logits: Tensor, name: str | None) -> None:
    """ValueError, with the model's ``name`` (its folder), if logits are NaN or infinite."""
    # NaN and infinity go before every number: the largest shows them all
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(f"{name or 'the model'}: its logits are not finite in {str(logits.dtype)[6:]}; take "
                         "other weights, or --dtype float32")  # fmt: skip


def innermost(language_model: Any) -> Any:
    """The model without the wrappers of torch.compile and peft, whose signatures do not show its arguments."""
    language_model = getattr(language_model, "_orig_mod", language_model)
    return language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model


@memoised
def _cache_name(kind: Any) -> str:
    names = inspect.signature(kind.forward).parameters
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ValueError(f"{kind.__name__} takes no key-value cache by any of the names {', '.join(CACHE_NAMES)}")


# ---- the scene in the prompt --------------------------------------------------------------------------------------


@dataclass
class SplicedInputs:
    """One sequence of embeddings (B,S,D), its mask, positions, labels and token ids (-1 at visual tokens)."""

    embeddings: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor | None
    token_ids: Tensor


def splice(
    input_ids: Int[Tensor, "B L"],
    embeddings: Float[Tensor, "B L D"],
    attention_mask: Int[Tensor, "B L"],
    labels: Int[Tensor, "B L"] | None,
    visual: tuple[Tensor, Tensor] | None,
    video_token_id: int,
) -> SplicedInputs:
    """Rows of text with their scene. ``visual`` = tokens (B,T,D) and mask (B,T); padding goes to the left.

    Raises ValueError when a row has no ``<video>`` but a scene is given, has several, or has one without a scene.
    """
    rows = []
    for b in range(len(input_ids)):
        keep = attention_mask[b].bool()
        ids, text = input_ids[b][keep], embeddings[b][keep]
        marks = labels[b][keep] if labels is not None else torch.full_like(ids, IGNORE_INDEX)
        rows.append(_join(ids, text, marks, None if visual is None else visual[0][b][visual[1][b]], video_token_id))
    return _pad_rows(rows, with_labels=labels is not None)


def _join(
    ids: Tensor, text: Tensor, labels: Tensor, scene: Tensor | None, video_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    places = (ids == video_token_id).nonzero()[:, 0].tolist()
    if scene is None:
        if places:
            raise ValueError("the text has a <video> token but no video was given; pass pixel_values or a prefix")
        return text, labels, ids
    if len(places) != 1:
        raise ValueError(f"expected exactly one <video> token a row, received {len(places)}")
    at = places[0]
    blank = torch.full((len(scene),), IGNORE_INDEX, dtype=labels.dtype, device=labels.device)
    return (
        torch.cat([text[:at], scene, text[at + 1 :]]),
        torch.cat([labels[:at], blank, labels[at + 1 :]]),
        torch.cat([ids[:at], torch.full_like(blank, -1), ids[at + 1 :]]),
    )


def _pad_rows(rows: list[tuple[Tensor, Tensor, Tensor]], *, with_labels: bool) -> SplicedInputs:
    mask = _padded_left([torch.ones_like(tokens) for _, _, tokens in rows])
    labels = _padded_left([marks for _, marks, _ in rows], IGNORE_INDEX) if with_labels else None
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    embeddings, ids = _padded_left([text for text, _, _ in rows]), _padded_left([tokens for _, _, tokens in rows], -1)
    return SplicedInputs(embeddings, mask, positions, labels, ids)


def _padded_left(rows: list[Tensor], fill: int = 0) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=fill, padding_side="left")


# ---- decoding behind a cached prefix ------------------------------------------------------------------------------


@runtime_checkable
class SceneReader(Protocol):
    """The interface that decoding after a cached prefix needs of a model."""

    language_model: Any
    config: Any

    @property
    def name_or_path(self) -> str | None:
        """The model's name in error messages."""

    def encode_parts(self, tokenizer: AnyTokenizer, prompt: str) -> tuple[list[int], list[int]]:
        """A prompt as (prefix ids, suffix ids)."""

    def embed_text(self, input_ids: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """Token embeddings."""

    def prepare(self, input_ids: Tensor, *, prefix: VisualPrefix | None = None) -> SplicedInputs:
        """A prompt with its scene as embeddings."""


class CachedPrefix:
    """The language model with a visual prefix that is computed once; prompts (whole strings) follow it.

    Threads that use the same model wait for each other. The cached prefix is never changed: every prompt uses a branch
    of it, so a prompt that fails or is interrupted has no effect on later ones.
    """

    def __init__(
        self, model: SceneReader, tokenizer: AnyTokenizer, prefix: VisualPrefix
    ) -> None:
        self.model, self.tokenizer, self.prefix = model, tokenizer, prefix
        with _LOCKS_LOCK:
            self._lock = _LOCKS.setdefault(model, threading.RLock())

    def read(self, prompt: str) -> tuple[Float[Tensor, "1 L D"], Float[Tensor, "1 L V"]]:
        """Last hidden states and logits of the prompt's tokens behind the prefix."""
        with self._lock:
            return self._read(self._suffix(prompt))

    @torch.inference_mode()
    def answer(self, prompt: str, coordinates: Float[Tensor, "1 N 3"] | None, max_new_tokens: int) -> list[int]:
        """New tokens, without the end token; ``coordinates`` are those of the prompt's ``<coord>`` tokens."""
        with self._lock:
            ids = self._suffix(prompt)
            return greedy_after_prefix(
                self.model.language_model, self._cache, ids.tolist(), self.tokenizer.eos_token_id, max_new_tokens,
                self.model.name_or_path, self._embed(ids, coordinates),
            )[0]

    def _embed(self, ids: Tensor, coordinates: Tensor | None = None) -> Tensor:
        return self.model.embed_text(ids, None if coordinates is None else coordinates.to(ids.device))

    def answers(self, prompts: Sequence[str], max_new_tokens: int, batch_size: int) -> list[list[int]]:
        """:meth:`answer` of many prompts without coordinates, decoded side by side."""
        said: list[list[int]] = []
        with self._lock:
            suffixes = [self._suffix(prompt)[0].tolist() for prompt in prompts]
            for first in range(0, len(suffixes), batch_size):
                said += greedy_after_prefix(
                    self.model.language_model, self._cache, suffixes[first : first + batch_size],
                    self.tokenizer.eos_token_id, max_new_tokens, self.model.name_or_path,
                )
        return said

    @torch.inference_mode()
    def likeliest(self, prompt: str, answers: Sequence[str]) -> str:
        """The answer to which the model gives the highest probability."""
        with self._lock:
            return max(answers, key=lambda answer: self._log_probability(prompt, answer))

    def _log_probability(self, prompt: str, answer: str) -> float:
        asked, said = self._suffix(prompt), encode_answer(self.tokenizer, answer)
        told = torch.tensor([said], device=asked.device)
        _, logits = self._read(torch.cat([asked, told], 1)[:, :-1])
        chances = logits[0, -len(said) :].float().log_softmax(-1)
        return float(chances.gather(1, told.T).sum())

    def length(self, prompt: str) -> int:
        """Tokens of a prompt and of the prefix before it."""
        return int(self._cache.get_seq_length()) + self._suffix(prompt).shape[1]

    def _suffix(self, prompt: str) -> Int[Tensor, "1 L"]:
        _, suffix = self.model.encode_parts(self.tokenizer, prompt)
        return torch.tensor([suffix], device=self.prefix.tokens.device)

    @cached_property
    @torch.inference_mode()
    def _cache(self) -> Any:
        """Keys and values of the visual prefix."""
        ids, _ = self.model.encode_parts(self.tokenizer, VISUAL_PREFIX)
        tokens = torch.tensor([ids], device=self.prefix.tokens.device)
        whole = self.model.prepare(tokens, prefix=self.prefix)
        read = run_language_model(
            self.model.language_model, inputs_embeds=whole.embeddings, use_cache=True, logits_to_keep=1
        )
        return cache_of(read)

    @torch.inference_mode()
    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        out = run_language_model(
            self.model.language_model, inputs_embeds=self._embed(ids), cache=branched(self._cache), use_cache=True,
            output_hidden_states=True,
        )  # fmt: skip
        check_logits(out.logits[:, -1], self.model.name_or_path)
        return out.hidden_states[-1], out.logits


_LISTENER: ContextVar[Callable[[list[int]], None] | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Callable[[list[int]], None] | None) -> Iterator[None]:
    """Context in which ``listener`` is called with all tokens so far after each token of an answer decoded alone.

    An exception in it ends the answer.
    """
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def branched(cache: Any) -> Any:
    """A cache that starts with the content of ``cache`` and grows separately; ``cache`` is not changed.

    Keys and values of attention are shared, not copied; other kinds of layers are copied.
    """
    if isinstance(cache, KeyValueCache):
        return cache.branch()
    own = copy.copy(cache)
    own.layers = [
        copy.copy(layer) if type(layer).__name__ in _APPENDED else copy.deepcopy(layer) for layer in cache.layers
    ]
    return own


@torch.inference_mode()
def greedy_after_prefix(
    language_model: nn.Module,
    cache: Any,
    suffixes: Sequence[Sequence[int]],
    eos_token_id: int,
    max_new_tokens: int,
    name: str | None = None,
    first: Float[Tensor, "N L D"] | None = None,
) -> list[list[int]]:
    """New tokens (without the end token) of each suffix; ``cache`` contains the prefix of one row and is not changed.

    Suffixes of different lengths are padded on the left; the positions of each row continue from the prefix. ``name``
    is the model's name in errors (:func:`check_logits`); ``first``: embeddings of the suffixes, if they are not those
    of the table.
    """
    rows, length = len(suffixes), cache.get_seq_length()
    device = next(language_model.parameters()).device
    each = [torch.tensor(suffix, dtype=torch.long, device=device) for suffix in suffixes]
    ids, alive = _padded_left(each), _padded_left([torch.ones_like(suffix) for suffix in each])
    own, mask, positions = branched(cache), None, None
    if rows > 1:
        own.batch_repeat_interleave(rows)
        mask = torch.cat([alive.new_ones(rows, length), alive], 1)
        positions = (mask.cumsum(1) - 1)[:, length:]
    embed = language_model.get_input_embeddings()  # type: ignore[operator]
    answers: list[list[int]] = [[] for _ in range(rows)]
    running, listener = [True] * rows, _LISTENER.get() if rows == 1 else None
    for _ in range(max_new_tokens):
        out = run_language_model(
            language_model, inputs_embeds=embed(ids) if first is None else first, attention_mask=mask,
            position_ids=positions, cache=own, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        check_logits(out.logits[:, -1], name)
        tokens = out.logits[:, -1].argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            running[row] = running[row] and token != eos_token_id
            if running[row]:
                answers[row].append(token)
        if not any(running):
            break
        if listener is not None:
            listener(answers[0])
        ids, first = tokens[:, None], None
        if mask is not None and positions is not None:
            mask, positions = torch.cat([mask, mask.new_ones(rows, 1)], 1), positions[:, -1:] + 1
    return answers
