"""Reading and greedy answers behind one cached prefix, alone or many side by side."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from vidllm.model.generation import check_logits, run_language_model
from vidllm.model.modeling import VidLLMForConditionalGeneration, VisualPrefix
from vidllm.model.prompts import VISUAL_PREFIX

_APPENDED = (DynamicLayer, DynamicSlidingWindowLayer)  # their tensors are replaced as they grow, never written into
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


class CachedPrefix:
    """The language model behind a visual prefix that it reads once, and what prompts (strings, whole) say after it.

    Threads that ask the same model wait for each other. The cached prefix never changes: every prompt reads a branch
    of it, so that one that fails or is interrupted leaves nothing behind.
    """

    def __init__(
        self, model: VidLLMForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, prefix: VisualPrefix
    ) -> None:
        self.model, self.tokenizer, self.prefix = model, tokenizer, prefix
        with _LOCKS_LOCK:
            self._lock = _LOCKS.setdefault(model, threading.RLock())

    def read(self, prompt: str) -> tuple[Float[Tensor, "1 L D"], Float[Tensor, "1 L V"]]:
        """Last hidden states and logits of the prompt's tokens behind the prefix."""
        with self._lock:
            return self._read(self._suffix(prompt), None, branched(self._cache))

    @torch.inference_mode()
    def answer(self, prompt: str, coordinates: Float[Tensor, "1 N 3"] | None, max_new_tokens: int) -> list[int]:
        """New tokens, without the end token; ``coordinates`` are those of the prompt's ``<coord>`` tokens."""
        said: list[int] = []
        with self._lock:
            ids, cache = self._suffix(prompt), branched(self._cache)
            while len(said) < max_new_tokens:
                _, logits = self._read(ids, coordinates, cache)
                token = int(logits[0, -1].argmax())
                if token == self.tokenizer.eos_token_id:
                    break
                said.append(token)
                ids, coordinates = torch.tensor([[token]], device=ids.device), None
        return said

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

    def _suffix(self, prompt: str) -> Int[Tensor, "1 L"]:
        _, suffix = self.model.encode_parts(self.tokenizer, prompt)
        return torch.tensor([suffix], device=self.prefix.tokens.device)

    @cached_property
    @torch.inference_mode()
    def _cache(self) -> DynamicCache:
        """Keys and values of the visual prefix."""
        ids, _ = self.model.encode_parts(self.tokenizer, VISUAL_PREFIX)
        tokens = torch.tensor([ids], device=self.prefix.tokens.device)
        whole = self.model.prepare(tokens, prefix=self.prefix)
        cache = DynamicCache(config=self.model.config.text_config)
        run_language_model(
            self.model.language_model, inputs_embeds=whole.embeddings, cache=cache, use_cache=True, logits_to_keep=1
        )
        return cache

    @torch.inference_mode()
    def _read(self, ids: Tensor, coordinates: Tensor | None, cache: DynamicCache) -> tuple[Tensor, Tensor]:
        """Hidden states and logits of tokens behind what ``cache`` holds; it grows by them."""
        points = None if coordinates is None else coordinates.to(self.prefix.tokens.device)
        out = run_language_model(
            self.model.language_model, inputs_embeds=self.model.embed_text(ids, points), cache=cache, use_cache=True,
            output_hidden_states=True,
        )  # fmt: skip
        check_logits(out.logits[:, -1], self.model.name_or_path)
        return out.hidden_states[-1], out.logits


def branched(cache: DynamicCache) -> DynamicCache:
    """A cache that begins with what ``cache`` holds and grows alone: whatever becomes of it, ``cache`` stays as it is.

    Keys and values of attention are shared, not copied; layers of other kinds are copied.
    """
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) if type(layer) in _APPENDED else copy.deepcopy(layer) for layer in cache.layers]
    return own


@torch.inference_mode()
def greedy_after_prefix(
    language_model: nn.Module,
    cache: DynamicCache,
    suffixes: Sequence[Sequence[int]],
    eos_token_id: int,
    max_new_tokens: int,
    name: str | None = None,
) -> list[list[int]]:
    """New tokens (without the end token) of each suffix; ``cache`` holds the prefix of one row and is left as it was.

    Suffixes of different lengths are padded on the left; positions count on from the prefix for each row. ``name`` is
    how an error calls the model (:func:`check_logits`).
    """
    rows, length = len(suffixes), cache.get_seq_length()
    device = next(language_model.parameters()).device
    ids, alive = _pad_left(suffixes, device)
    own = branched(cache)
    own.batch_repeat_interleave(rows)
    mask = torch.cat([alive.new_ones(rows, length), alive], 1)
    positions = (mask.cumsum(1) - 1)[:, length:]
    answers: list[list[int]] = [[] for _ in range(rows)]
    running = [True] * rows
    for _ in range(max_new_tokens):
        embeddings: Float[Tensor, "N L D"] = language_model.get_input_embeddings()(ids)  # type: ignore[operator]
        out = run_language_model(
            language_model, inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, cache=own,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        check_logits(out.logits[:, -1], name)
        tokens = out.logits[:, -1].argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            running[row] = running[row] and token != eos_token_id
            if running[row]:
                answers[row].append(token)
        if not any(running):
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
    return answers


def _pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "N L"], Int[Tensor, "N L"]]:
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    alive = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, longest - len(row) :] = torch.tensor(row, device=device)
        alive[n, longest - len(row) :] = 1
    return ids, alive
