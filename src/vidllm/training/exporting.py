"""From a run to a model folder: averaged weights in half precision, configuration and processor."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor
from vidllm.training.run import Run


def export_model(run: Run, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the run's averaged weights as safetensors (16 MB shards at most) with everything ``vidllm.load`` needs."""
    state = run.model.state_dict() | run.averaged
    model = VidLLMForConditionalGeneration(copy.deepcopy(run.model.config)).eval()
    model.load_state_dict(state)
    model.to(dtype).save_pretrained(folder, max_shard_size="15MB")
    VidLLMProcessor.from_config(model.config, run.texts.tokenizer).save_pretrained(folder)
    return folder
