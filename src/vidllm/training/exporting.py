"""From a run to a model folder: averaged weights in half precision, configuration and processor."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vidllm.model.processing import VidLLMProcessor

if TYPE_CHECKING:
    from vidllm.training.run import Run


def export_model(run: Run, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the run's averaged weights as safetensors (16 MB shards at most) with everything ``vidllm.load`` needs."""
    model = copy.deepcopy(run.model).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in run.averaged:
                parameter.copy_(run.averaged[name])
    model.to(dtype).save_pretrained(folder, max_shard_size="15MB")
    VidLLMProcessor.from_config(model.config, run.texts.tokenizer).save_pretrained(folder)
    return folder
