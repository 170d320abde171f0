"""From a run to a model folder: averaged weights in half precision, configuration and processor."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor
from vidllm.training.run import Run
from vidllm.training.starting import AUXILIARY_FILE


def export_model(run: Run, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the run's averaged weights as safetensors (16 MB shards at most) with everything ``vidllm.load`` needs.

    The auxiliary heads go beside the folder, for a run that starts from it.
    """
    write_model(run.model, run.model.state_dict() | run.averaged, run.texts.tokenizer, folder, dtype)
    save_file(run.auxiliary.state_dict(), folder.parent / AUXILIARY_FILE)
    return folder


def write_model(
    model: VidLLMForConditionalGeneration,
    state: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write a model's configuration with the weights of ``state``, and its processor; the model itself stays as it is.

    ``state`` may hold the averaged weights in place of the model's own.
    """
    copied = VidLLMForConditionalGeneration(copy.deepcopy(model.config)).eval()
    copied.load_state_dict(state)
    copied.to(dtype).save_pretrained(folder, max_shard_size="15MB")
    VidLLMProcessor.from_config(copied.config, tokenizer).save_pretrained(folder)
    return folder
