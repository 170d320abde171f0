"""What a video needs in memory, without the memory: the network runs on tensors that have shapes and no storage.

Every tensor that an operation makes is counted while it lives, so the peak is that of a real run but for what kernels
take for themselves (workspaces of convolutions and matrix products) and the allocator's rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidllm.model.configuration import VidLLMConfig
from vidllm.model.cost import Extent, cache_bytes, language_bytes, visual_tokens
from vidllm.model.summary import build_on_meta, count


class Memory(NamedTuple):
    """Bytes that live at most while a part runs (``peak``), and after it (``held``), without the weights."""

    name: str
    peak: int
    held: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside: ``live`` now, ``peak`` since :meth:`restart`; ``known`` do not count."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()
        self._known = [tensor.untyped_storage() for tensor in known]
        self._seen.update(storage._cdata for storage in self._known)

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


class Kernels(TorchFunctionMode):
    """Operations as their kernels have them, an output and nothing between: attention without a matrix of scores;
    resizing and normalising, which shapes alone take long to work out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only these three are others here."""
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        if func is F.layer_norm:
            return args[0].new_empty(args[0].shape)
        if func is F.interpolate and given.get("size") is not None:
            return args[0].new_empty((*args[0].shape[:2], *given["size"]))
        return func(*args, **given)


def shortened(config: VidLLMConfig) -> VidLLMConfig:
    """The configuration with as many layers as memory tells apart: the tapped ones, one before each, and the last.

    Of what runs one after another, and leaves little behind (refinements, attractors), there is one or two.
    """
    short = copy.deepcopy(config)
    short.encoder.depth, taps = _layers(config.encoder.depth, config.encoder.tap_layers)
    short.encoder.tap_layers = tuple(taps)
    short.attention.depth, taps = _layers(config.attention.depth, config.dense_head.tap_layers)
    short.dense_head.tap_layers = (taps[0], taps[1], taps[2], taps[3])
    short.camera_head.iterations = 1
    coarse, half, quarter, fine = (min(count, 2) for count in config.metric_depth.attractors)
    short.metric_depth.attractors = (coarse, half, quarter, fine)
    return short


def _layers(depth: int, taps: Sequence[int]) -> tuple[int, list[int]]:
    kept = sorted({*taps, *(max(tap - 1, 0) for tap in taps), depth - 1})
    return len(kept), [kept.index(tap) for tap in taps]


@torch.no_grad()
def vision_memory(config: VidLLMConfig, extent: Extent, dtype: torch.dtype = torch.bfloat16) -> list[Memory]:
    """Peak and held bytes of every part from pixels to depth, at batch one."""
    model = build_on_meta(shortened(config)).eval().to(dtype)
    pixels = torch.empty(1, extent.frames, 3, extent.height, extent.width, dtype=dtype, device="meta")
    rows = []
    with Kernels(), LiveBytes([*model.parameters(), *model.buffers()]) as bytes_:

        def note(name: str) -> None:
            rows.append(Memory(name, bytes_.peak, bytes_.live))
            bytes_.restart()

        bytes_._count(pixels.untyped_storage())
        features = model.see(pixels)
        note("encoder and adapter")
        cameras = model.locate(features)
        note("global-frame attention, cameras")
        kept = [model.relative_depth(cameras, features.image_size)]
        note("depth head")
        if model.metric_depth is not None:
            intrinsics = torch.empty(1, extent.frames, 3, 3, device="meta")
            kept.append(model.measure(features, intrinsics))
            note("metric depth model")
    return rows


def memory(config: VidLLMConfig, extent: Extent, language_dtype: str = "bfloat16") -> list[tuple[str, int]]:
    """Bytes by purpose, weights of vision in bfloat16; the last row is the peak of the whole.

    The video's tensors and the language model's are never there together: the larger of the two counts.
    """
    model, text = build_on_meta(config), config.text_config
    vision = 2 * (count(model) - count(model.language_model))
    language = language_bytes(config, language_dtype)
    tokens = visual_tokens(config, extent)
    seen = max(row.peak for row in vision_memory(config, extent))
    largest = 0 if not language_dtype.startswith("int") else 5 * text.hidden_size * text.intermediate_size
    working = 2 * tokens * (4 * text.hidden_size + 3 * text.intermediate_size) + largest
    cache = cache_bytes(config, tokens + 128)
    rows = [
        ("weights: vision, heads, grounding", vision),
        (f"weights: language model, {language_dtype}", language),
        (f"video, at its peak ({extent.frames} frames of {extent.height} x {extent.width})", seen),
        (f"language model, at its peak ({tokens} visual tokens)", working),
        ("key-value cache", cache),
    ]
    return [*rows, ("peak of the whole", vision + language + max(seen, working + cache))]

