"""From a run to a model folder: averaged weights in half precision, configuration and processor."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file

from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor
from vidllm.training.run import Run
from vidllm.training.starting import AUXILIARY_FILE


def export_model(run: Run, folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the run's averaged weights as safetensors (16 MB shards at most) with everything ``vidllm.load`` needs.

    The auxiliary heads go beside the folder, for a run that starts from it.
    """
    state = run.model.state_dict() | run.averaged
    model = VidLLMForConditionalGeneration(copy.deepcopy(run.model.config)).eval()
    model.load_state_dict(state)
    model.to(dtype).save_pretrained(folder, max_shard_size="15MB")
    VidLLMProcessor.from_config(model.config, run.texts.tokenizer).save_pretrained(folder)
    save_file(run.auxiliary.state_dict(), folder.parent / AUXILIARY_FILE)
    return folder
