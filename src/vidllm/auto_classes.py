"""Telling transformers' Auto classes of vidllm's checkpoints without importing anything.

``import vidllm`` must be cheap, and ``AutoProcessor.from_pretrained(folder)`` must work after it. So when transformers
imports its registries (or has), they get placeholders; a placeholder becomes the real class when a checkpoint of its
kind is read. Then everything is registered as usual (``vidllm.model.loading.register``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Placeholder(type):
    """The class of a class that is imported when anything but its name is asked of it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):  # questions about the class itself, such as inspect's, import nothing
            raise AttributeError(name)
        return getattr(_real(cls), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance of the real class."""
        return _real(cls)(*args, **kwargs)


def _real(placeholder: type) -> Any:
    """The class that a placeholder stands for; from here on all of vidllm's classes are registered."""
    import_module("vidllm.model.loading").register()
    return getattr(import_module(placeholder.__module__), placeholder.__name__)


def _placeholder(module: str, name: str, **known: str) -> Placeholder:
    return Placeholder(name, (), {"__module__": f"vidllm.{module}", **known})


_CONFIGS = (
    _placeholder("model.huggingface", "VidLLMConfig", model_type="vidllm"),
    _placeholder("baselines.cascade", "CascadeConfig", model_type="vidllm_cascade"),
)
_PROCESSOR = _placeholder("model.huggingface", "VidLLMProcessor")
_FRAME_PROCESSOR = _placeholder("model.huggingface", "VidLLMVideoFrameProcessor")


def _add_configs(registry: ModuleType) -> None:
    for config in _CONFIGS:
        registry.CONFIG_MAPPING.register(config.model_type, config, exist_ok=True)


def _add_processor(registry: ModuleType) -> None:
    registry.PROCESSOR_MAPPING.register(_CONFIGS[0], _PROCESSOR, exist_ok=True)


def _add_frame_processor(registry: ModuleType) -> None:
    registry.IMAGE_PROCESSOR_MAPPING.register(_CONFIGS[0], {"pil": _FRAME_PROCESSOR}, exist_ok=True)


_REGISTRIES: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _add_configs,
    "transformers.models.auto.processing_auto": _add_processor,
    "transformers.models.auto.image_processing_auto": _add_frame_processor,
}


class RegistryFinder:
    """An import hook that adds our placeholders to a registry of transformers as soon as it has been imported."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's usual spec, with our addition behind its execution; None for every other module."""
        add = _REGISTRIES.get(name)
        spec = None if add is None else PathFinder.find_spec(name, path, target)
        if add is None or spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            add(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def announce() -> None:
    """Let transformers know: now where it is imported already, else when it is. Calling it again changes nothing."""
    if RegistryFinder in sys.meta_path:
        return
    sys.meta_path.insert(0, RegistryFinder)
    for name, add in _REGISTRIES.items():
        if name in sys.modules:
            add(sys.modules[name])
