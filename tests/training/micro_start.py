"""A saved model of a few thousand weights with the rooms' tokenizer, and the configuration of short runs from it."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from helpers import micro_config
from torch import Tensor

from vidllm.model.huggingface import VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import load_pretrained
from vidllm.training.config import TrainConfig, changed, tiny_test
from vidllm.training.texts import load_or_build_tokenizer


def save_start(folder: Path, rooms: Path) -> Path:
    """Write the model and its processor, which are made once for a folder of rooms."""
    shutil.copytree(_made(rooms), folder, dirs_exist_ok=True)
    torch.manual_seed(0)  # as well where it was made before
    return folder


@cache
def _made(rooms: Path) -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = load_or_build_tokenizer(folder / "tokenizer", sorted(rooms.iterdir()), 600)
    torch.manual_seed(0)
    config = micro_config(len(tokenizer))
    VidLLMForConditionalGeneration(config).save_pretrained(folder)
    VidLLMProcessor.from_config(config, tokenizer).save_pretrained(folder)
    return folder


def short_run(rooms: Path, start: Path, out: Path) -> TrainConfig:
    return changed(
        tiny_test(), data=str(rooms), out=str(out), init_from=str(start), window_frames=(2, 3), clip_frames=(3, 2)
    )


def quiet(line: str) -> None:
    pass


def log_of(out: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without the time they took."""
    return [{**json.loads(line), "seconds": 0} for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_pretrained(folder)[0].state_dict()
