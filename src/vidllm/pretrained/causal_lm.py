"""Import of any causal language model of Hugging Face; its token table gets rows for our three special tokens."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from vidllm.io.weight_files import Checkpoint
from vidllm.model.config_fields import check_loops
from vidllm.model.loading import quiet
from vidllm.model.text import add_special_tokens_for, tokenizer_fault
from vidllm.pretrained import licences
from vidllm.pretrained.conversion import KeyMap, Pairs, Renames, Source, Translate

#: Key map: our language model is transformers' own, under one more name.
RENAMES: Renames = (
    (r".*rotary_emb\.inv_freq", ""),
    (r"((?:model|lm_head|transformer|gpt_neox)\..+)", r"language_model.\1"),
)
_LEFT_OUT = ("model_type", "architectures", "transformers_version", "_name_or_path", "auto_map", "quantization_config")


def text_config(settings: dict[str, Any] | None, place: str, model_type: str | None = None) -> PretrainedConfig:
    """The language model's configuration from its ``config.json``; ValueError if it is missing or not of an LM."""
    if settings is None:
        raise ValueError(f"{place}: config.json is missing; give the folder of a Hugging Face model")
    if settings.get("quantization_config"):
        raise ValueError(f"{place}: quantised weights cannot be imported; give the checkpoint in half precision")
    kind = model_type or settings.get("model_type")
    check_loops(settings, f"{place}: config.json")
    fields = {name: value for name, value in settings.items() if name not in _LEFT_OUT}
    try:
        with quiet(), warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # old names of fields
            config: PretrainedConfig = AutoConfig.for_model(str(kind), **fields)
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers and huggingface_hub have errors of their own
        raise ValueError(f"{place}: {kind!r} is not a causal language model that transformers knows") from error
    return config


def load_tokenizer(checkpoint: Checkpoint, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer with our three tokens; ValueError if there is none or it cannot be read."""
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, config=config, trust_remote_code=False)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        reason = tokenizer_fault(checkpoint.folder) or first
        raise ValueError(
            f"{checkpoint.place}: its tokenizer cannot be read ({reason}); put tokenizer.json beside the weights "
            "(or install sentencepiece for a tokenizer.model)"
        ) from error
    add_special_tokens_for(tokenizer)
    return tokenizer


def grown(translate: Translate, tables: tuple[str, ...], before: int, after: int) -> Translate:
    """``translate`` that adds rows to our weights named ``tables``: the mean of the existing rows.

    With the mean as its embedding, greedy decoding never generates a new token before it was trained.
    """

    def longer(key: str, tensor: Tensor) -> Pairs | None:
        pairs = translate(key, tensor)
        if after == before or not pairs:
            return pairs
        return [(n, with_means(t) if n in tables and len(t) == before else t) for n, t in pairs]

    def with_means(table: Tensor) -> Tensor:
        mean = table.float().mean(0, keepdim=True).to(table.dtype)
        return torch.cat([table, mean.expand(after - before, *table.shape[1:])])

    return longer


def table_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Our names of the weights with one row per token: the embeddings and the head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    ours = {id(p) for module in modules if module is not None for p in module.parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return tuple(f"language_model.{name}" for name, parameter in named if id(parameter) in ours)


def causal_lm_source(checkpoint: Checkpoint, config: PretrainedConfig, before: int) -> Source:
    """A causal LM's weights for an import: our ``language_model``, with ``config.vocab_size`` rows."""
    translate = grown(KeyMap(RENAMES).translate, table_names(config), before, int(config.vocab_size))
    return Source("language model", checkpoint, translate, ("language_model.",), licences.CAUSAL_LM)
