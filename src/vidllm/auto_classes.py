"""Registers vidllm's classes with transformers' Auto classes without importing anything.

``import vidllm`` must be cheap, and ``AutoProcessor.from_pretrained(folder)`` must work after it. Therefore the
registries of transformers get placeholders when they are imported; a placeholder is replaced by the real class when a
checkpoint of its kind is read, and everything is registered as usual (``vidllm.model.loading.register``).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Placeholder(type):
    """Metaclass of classes that are imported at the first access to an attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):  # introspection, for example by inspect, imports nothing
            raise AttributeError(name)
        return getattr(_real(cls), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An instance of the real class."""
        return _real(cls)(*args, **kwargs)


def _real(placeholder: type) -> Any:
    """The class of a placeholder; registers all classes of vidllm."""
    import_module("vidllm.model.loading").register()
    return getattr(import_module(placeholder.__module__), placeholder.__name__)


def _placeholder(module: str, name: str, **known: str) -> Placeholder:
    return Placeholder(name, (), {"__module__": f"vidllm.{module}", **known})


_CONFIGS = (
    _placeholder("model.huggingface", "VidLLMConfig", model_type="vidllm"),
    _placeholder("baselines.cascade", "CascadeConfig", model_type="vidllm_cascade"),
    _placeholder("baselines.reconstruction_only", "ReconstructionOnlyConfig", model_type="vidllm_reconstruction"),
)
_FRAME_PROCESSOR = _placeholder("model.huggingface", "VidLLMVideoFrameProcessor")
#: Modules of transformers: mapping, key and placeholder.
_REGISTRIES: dict[str, list[tuple[str, Any, Any]]] = {
    "transformers.models.auto.configuration_auto": [("CONFIG_MAPPING", one.model_type, one) for one in _CONFIGS],
    "transformers.models.auto.processing_auto": [
        ("PROCESSOR_MAPPING", _CONFIGS[0], _placeholder("model.huggingface", "VidLLMProcessor"))
    ],
    "transformers.models.auto.image_processing_auto": [
        ("IMAGE_PROCESSOR_MAPPING", _CONFIGS[0], {"pil": _FRAME_PROCESSOR})
    ],
}


def _add(registry: ModuleType) -> None:
    for mapping, key, placeholder in _REGISTRIES[registry.__name__]:
        getattr(registry, mapping).register(key, placeholder, exist_ok=True)


class RegistryFinder:
    """An import hook that adds our placeholders to a registry of transformers as soon as it has been imported."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a registry, which adds the placeholders after its execution; None for other modules."""
        spec = PathFinder.find_spec(name, path, target) if name in _REGISTRIES else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _add(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def announce() -> None:
    """Register our classes with transformers: now if it is imported, else when it is. May be called repeatedly."""
    if RegistryFinder in sys.meta_path:
        return
    sys.meta_path.insert(0, RegistryFinder)
    for name in _REGISTRIES:
        if name in sys.modules:
            _add(sys.modules[name])
