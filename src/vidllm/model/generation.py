"""Driving the language model: the one place where the name of its key-value cache is known.

transformers 5.24 renamed the cache from ``past_key_values`` to ``cache``, in ``forward``, in ``generate`` and in what
they return; 5.40 removes the older name. Everything of ours says ``cache``, and :func:`run_language_model` passes it
under the name that the language model's own signature has.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from functools import cache as memoised
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import Cache, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import TransformersKwargs

if TYPE_CHECKING:
    from vidllm.model.modeling import Geometry, VidLLMForConditionalGeneration

CACHE_NAMES = ("cache", "past_key_values")  # newest first
#: The name under which outputs of the installed transformers carry the cache.
OUTPUT_CACHE = next(name for name in CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)})


@dataclass
class VidLLMOutput(CausalLMOutputWithPast):
    """Loss and logits as of any causal LM (over the spliced sequence), with the hidden states of ``<loc>`` tokens."""

    # of any precision and on any device, which older versions of transformers do not say
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    loc_hidden: Tensor | None = None

    @classmethod
    def of(cls, output: Any, with_states: bool, is_loc: Tensor | None) -> VidLLMOutput:
        """A language model's output, with all its hidden states or without; ``is_loc`` (B,S) marks ``<loc>``."""
        cached: Any = {OUTPUT_CACHE: cache_of(output)}
        return cls(
            loss=output.loss, logits=output.logits, attentions=output.attentions,
            hidden_states=output.hidden_states if with_states else None,
            loc_hidden=None if is_loc is None else output.hidden_states[-1][is_loc], **cached,
        )  # fmt: skip


def run_language_model(language_model: nn.Module, *, cache: Cache | None = None, **inputs: Any) -> Any:
    """The output of a causal language model, which reads keys and values from ``cache`` and adds its own to it.

    ``inputs`` are keyword arguments of its ``forward``; TypeError for one that neither it nor transformers knows.
    """
    kind: Any = type(_innermost(language_model))
    unknown = sorted(set(inputs) - _arguments(kind))
    if unknown:
        raise TypeError(f"{kind.__name__}.forward() got an unexpected keyword argument {unknown[0]!r}")
    return language_model(**{_cache_name(kind): cache}, **inputs)


def cache_of(output: Any) -> Cache | None:
    """The cache in a language model's output; None without one."""
    found: Cache | None = getattr(output, OUTPUT_CACHE, None)
    return found


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache that was given under either name; ValueError where two different ones were."""
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of one argument, received both; pass cache alone")
    return past_key_values if cache is None else cache


def holds_tokens(cache: Cache | None) -> bool:
    """Whether anything has been read into a cache."""
    return cache is not None and int(cache.get_seq_length()) > 0


def check_logits(logits: Tensor, name: str | None) -> None:
    """ValueError, calling the model ``name`` (its folder), where logits are NaN or infinite: no answer follows."""
    # NaN and infinity go before every number: the largest shows them all
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(f"{name or 'the model'}: its logits are not finite in {str(logits.dtype)[6:]}; take "
                         "other weights, or --dtype float32")  # fmt: skip


def checked_geometry(model: VidLLMForConditionalGeneration, geometry: Geometry) -> Geometry:
    """The geometry; but in training, ValueError where cameras, depth or up direction are NaN, infinite or no direction.

    The error calls the model by its folder.
    """
    parts = geometry.extrinsics, geometry.intrinsics, geometry.depth_m, geometry.up, geometry.scene_from_world
    if model.training:
        return geometry
    finite = all(bool(part.isfinite().all()) for part in parts) and bool((geometry.up.norm(dim=-1) > 0.5).all())
    if not finite:
        raise ValueError(f"{model.name_or_path or 'the model'}: its cameras, depth or up direction are not finite; "
                         "take other weights, or --dtype float32")  # fmt: skip
    return geometry


class CheckedLogits(LogitsProcessor):
    """:func:`check_logits` in Hugging Face generation, at every step; the scores stay as they are."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores; ValueError where they are not finite."""
        check_logits(scores, self.name)
        return scores


def with_checked_logits(arguments: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The arguments of ``generate`` with :class:`CheckedLogits` behind the processors that are given."""
    given = arguments.get("logits_processor") or ()
    return {**arguments, "logits_processor": LogitsProcessorList([*given, CheckedLogits(name)])}


def _innermost(language_model: Any) -> Any:
    """The model itself: the signatures of torch.compile's and peft's wrappers do not show its arguments."""
    language_model = getattr(language_model, "_orig_mod", language_model)
    return language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model


@memoised
def _cache_name(kind: Any) -> str:
    names = inspect.signature(kind.forward).parameters
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ValueError(f"{kind.__name__} takes no key-value cache by any of the names {', '.join(CACHE_NAMES)}")


@memoised
def _arguments(kind: Any) -> frozenset[str]:
    """What a model's ``forward`` may be given: what it names, and what all of transformers' models understand."""
    named = inspect.signature(kind.forward).parameters.values()
    return frozenset(p.name for p in named if p.kind is not p.VAR_KEYWORD) | TransformersKwargs.__optional_keys__
