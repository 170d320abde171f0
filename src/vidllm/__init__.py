"""vidllm: an ordinary video in, metres and answers out. An open implementation of Vid-LLM (arXiv 2509.24385).

Names are loaded when first used, so that ``import vidllm`` costs nothing; transformers' Auto classes know our
checkpoints from then on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidllm.auto_classes import announce

__version__ = "0.1.0"

_HOME = {
    "load": "vidllm.scene",
    "load_detector": "vidllm.detection.detectors",
    "load_scene": "vidllm.scene",
    "GivenCameras": "vidllm.io.cameras.given",
    "read_cameras": "vidllm.io.cameras.given",
    "Scene": "vidllm.scene",
    "VidLLMConfig": "vidllm.model.huggingface",
    "VidLLMForConditionalGeneration": "vidllm.model.huggingface",
    "VidLLMProcessor": "vidllm.model.huggingface",
}

__all__ = [
    "GivenCameras",
    "Scene",
    "VidLLMConfig",
    "VidLLMForConditionalGeneration",
    "VidLLMProcessor",
    "load",
    "load_detector",
    "load_scene",
    "read_cameras",
]

if TYPE_CHECKING:
    from vidllm.detection.detectors import load_detector
    from vidllm.io.cameras.given import GivenCameras, read_cameras
    from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
    from vidllm.scene import Scene, load, load_scene


announce()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
