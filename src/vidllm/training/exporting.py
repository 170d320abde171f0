"""From weights to a model folder: half precision, configuration and processor."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm.io.atomic import atomic_folder
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor
from vidllm.training.lora import merged_state


def write_model(
    model: VidLLMForConditionalGeneration,
    state: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a model's configuration with the weights of ``state``, and its processor; the model itself stays as it is.

    ``state`` may hold the averaged weights in place of the model's own. LoRA is folded in.
    """
    copied = VidLLMForConditionalGeneration(copy.deepcopy(model.config)).eval()
    copied.load_state_dict(merged_state(model, state))
    with atomic_folder(folder) as part:
        copied.to(dtype).save_pretrained(part, max_shard_size="15MB")
        VidLLMProcessor.from_config(copied.config, tokenizer).save_pretrained(part)
    return folder
