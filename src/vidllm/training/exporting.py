"""From weights to a model folder: half precision, configuration and processor."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm.io.atomic import atomic_folder
from vidllm.model.compact_weights import save_compact
from vidllm.model.huggingface import VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.training.lora import merged_state

LARGEST_MIB = 15.0  # of a file of compact weights


def write_model(
    model: VidLLMForConditionalGeneration,
    state: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype = torch.float16,
    *,
    compact: bool = False,
) -> Path:
    """Write a model's configuration with the weights of ``state``, and its processor; the model itself stays as it is.

    ``state`` may hold the averaged weights in place of the model's own. LoRA is folded in. ``compact``: in int8
    (:mod:`vidllm.model.compact_weights`).
    """
    copied = VidLLMForConditionalGeneration(copy.deepcopy(model.config)).eval()
    copied.load_state_dict(merged_state(model, state))
    with atomic_folder(folder) as part:
        if compact:
            save_compact(copied.state_dict(), part, LARGEST_MIB)
            copied.config.save_pretrained(part)
            if copied.generation_config is not None:
                copied.generation_config.save_pretrained(part)
        else:
            copied.to(dtype).save_pretrained(part, max_shard_size="15MB")
        VidLLMProcessor.from_config(copied.config, tokenizer).save_pretrained(part)
    return folder
