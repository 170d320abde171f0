"""What a model and a video cost, by running the network without storage: parameters, operations, bytes.

Operations are what torch's FlopCounterMode counts of the real network on the meta device: matrix products and
convolutions, a multiply-add as two; normalisation, softmax and activations are left out (they move bytes and hardly
compute). The language model's are arithmetic, because they depend on lengths alone. Memory is that of every tensor
while it lives, so the peak is a real run's but for workspaces of kernels and the allocator's rounding.

Operations over a device's rate are the floor of a part's time; the bytes of the language model's weights and of its
key-value cache over the memory bandwidth are the floor of a generated token's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vidllm.io.frames import Resize, frame_spec
from vidllm.model.configuration import ModelConfig
from vidllm.model.language_model import TextConfig
from vidllm.model.loading import kind_of
from vidllm.model.modeling import Network
from vidllm.model.precision import GROUP

QUESTION_TOKENS = 32  # of a question with its template
VIDEO_SIZE = (480, 640)  # the video that costs are told for where no size is given: 4 to 3
WEIGHT_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "int8": 8.0, "int4": 4.0}
GROUP_BITS = 32.0  # scale and offset of a group of 4-bit weights, 16 bits each


# ---- parameters --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A box of Figure 2, its form in words, and how many parameters it has."""

    name: str
    form: str
    parameters: int


def build_on_meta(config: ModelConfig) -> Network:
    """The network with shapes and no storage."""
    with torch.device("meta"):
        if isinstance(config.text_config, TextConfig):
            return Network(config)
        kind: Any = kind_of(config.model_type)[1]
        network: Network = kind(config)
        return network


def count(module: nn.Module | None) -> int:
    """Parameters of a module, tied ones once; 0 for a part the configuration leaves out."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def parts(config: ModelConfig) -> list[Part]:
    """All parts in the figure's order, a cascade's in its own; their parameters add up to the model's."""
    model = build_on_meta(config)
    if config.model_type != ModelConfig.model_type:
        named = model.named_children()
        return [Part(name.replace("_", " "), type(part).__name__, count(part)) for name, part in named if count(part)]
    attention = model.attention
    blocks = count(attention.frame_blocks) + count(attention.global_blocks)
    encoder, text, dense, depth = config.encoder, config.text_config, config.dense_head, config.metric_depth
    pair = f"{config.attention.depth} blocks, {config.attention.num_heads} heads"
    adapter = f"{config.adapter.variant}, {config.adapter.bridge_tokens} bridge tokens"
    refined = f"{config.camera_head.trunk_depth} blocks, {config.camera_head.iterations} refinements"
    bins = f"{depth.num_bins} bins, {depth.min_depth_m:g} to {depth.max_depth_m:g} m" if depth.enabled else "left out"
    rows = (
        ("encoder", f"{encoder.depth} blocks, width {encoder.hidden_size}, patch {encoder.patch_size}",
         count(model.encoder)),
        ("cross-task adapter", adapter, count(model.adapter)),
        ("frame attention", pair, count(attention.frame_blocks)),
        ("global attention", pair, count(attention.global_blocks)),
        ("camera and register tokens", f"1 and {config.attention.num_register_tokens}, two kinds of frame",
         count(attention) - blocks),
        ("camera head", refined, count(model.camera_head)),
        ("gravity head", "", count(model.gravity_head)),
        ("depth head", f"{dense.features} features", count(model.depth_head)),
        ("point head", f"{dense.features} features" if dense.point_head else "left out", count(model.point_head)),
        ("metric depth model", bins, count(model.metric_depth)),
        ("3D position embedding", "", count(model.position_embedding)),
        ("projector", "", count(model.projector)),
        ("coordinate embedding", "", count(model.coordinate_embedding)),
        ("language model", f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}",
         count(model.language_model)),
        ("grounding decoder", f"{config.grounding.num_layers} layers, {config.grounding.num_queries} queries",
         count(model.grounding)),
    )  # fmt: skip
    return [Part(*row) for row in rows]


def total(rows: list[Part]) -> int:
    """Parameters of all parts together."""
    return sum(part.parameters for part in rows)


# ---- operations --------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """One part: its name, its parameters, and its operations for one video ("token": one more token)."""

    name: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class Extent:
    """A video as the model sees it: ``frames`` of ``height`` x ``width`` pixels, multiples of the patch."""

    frames: int
    height: int
    width: int
    patch: int = 14

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.height // self.patch, self.width // self.patch

    @property
    def patches(self) -> int:
        """Of all frames."""
        return self.frames * self.grid[0] * self.grid[1]


def extent_of(config: ModelConfig, frames: int | None = None) -> Extent:
    """The processed size of ``frames`` frames (the model's default) of a video of :data:`VIDEO_SIZE` pixels."""
    if frames is not None and frames < 1:
        raise ValueError(f"expected at least 1 frame, received {frames}")
    patch = config.encoder.patch_size
    spec = frame_spec(
        VIDEO_SIZE, shorter_side=config.shorter_side, resize=cast(Resize, config.resize), patch_size=patch
    )
    return Extent(frames or config.default_frames, *spec.size, patch)


def visual_tokens(config: ModelConfig, extent: Extent) -> int:
    """The most tokens the language model reads of a scene: the cap of 3D patches, and the bridge."""
    adapter = config.adapter
    rides = adapter.variant == "bridge" and adapter.language_rider
    bridge = adapter.bridge_tokens * (extent.frames if adapter.bridge_per_frame else 1) if rides else 0
    return min(extent.patches, config.patches.max_patches) + bridge


def count_flops(run: Callable[[], Any]) -> tuple[dict[str, int], Any]:
    """Operations of a call by the dotted names of the modules they happen in ("Global": all), and its result."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = run()
    return {name: sum(table.values()) for name, table in counter.get_flop_counts().items()}, result


@torch.no_grad()
def costs(config: ModelConfig, extent: Extent, visual: int | None = None) -> list[Cost]:
    """All parts from pixels to the first token of an answer, in the order they run, and one more token.

    ``visual``: tokens the language model reads of the scene (the most there can be, by default). ValueError for a
    cascade.
    """
    if config.model_type != ModelConfig.model_type:
        raise ValueError("operations and memory are counted for a Vid-LLM, not for a cascade; leave --frames out")
    model, text = build_on_meta(config).eval().requires_grad_(False), config.text_config
    seen = visual_tokens(config, extent) if visual is None else visual
    pixels = torch.empty(1, extent.frames, 3, extent.height, extent.width, device="meta")
    vision, features = count_flops(lambda: model.encode(pixels))
    attended, cameras = count_flops(lambda: model.predict_cameras(features))
    within, across = (_inside(attended, rf"\w+\.{kind}_blocks\.\d+") for kind in ("frame", "global"))
    depth, _ = count_flops(lambda: model.predict_depth(cameras, features.image_size))
    metric: dict[str, int] = {"Global": 0}
    if model.metric_depth is not None:
        k = torch.empty(1, extent.frames, 3, 3, device="meta")
        metric, _ = count_flops(lambda: model.predict_metric_depth(features, k))
    lifted, _ = count_flops(lambda: _lift(model, extent, seen))
    boxes, _ = count_flops(lambda: _ground(model, seen))
    lm, weights = count(model.language_model), linear_weights(model.language_model)

    def read(new: int, known: int, logits: int = 1) -> int:
        attention = 4 * new * (known + new) * text.num_attention_heads * _head_width(text) * text.num_hidden_layers
        return 2 * (new * weights + logits * text.vocab_size * text.hidden_size) + attention

    sizes = {name: count(getattr(model, name)) for name, _ in model.named_children()}
    global_blocks = count(model.attention.global_blocks)
    heads = attended["Global"] - within - across
    return [
        Cost("encoder", sizes["encoder"], _inside(vision, type(model.encoder).__name__)),
        Cost("cross-task adapter", sizes["adapter"], _inside(vision, type(model.adapter).__name__)),
        Cost("frame attention", sizes["attention"] - global_blocks, within),
        Cost("global attention", global_blocks, across),
        Cost("camera and gravity heads", sizes["camera_head"] + sizes["gravity_head"], heads),
        Cost("depth head", sizes["depth_head"], depth["Global"]),
        Cost("point head (training)", sizes.get("point_head", 0), 0),
        Cost("metric depth model", sizes.get("metric_depth", 0), metric["Global"]),
        Cost("lift and projector", sizes["position_embedding"] + sizes["projector"] + sizes["coordinate_embedding"],
             lifted["Global"]),
        Cost("language model: scene", lm, read(seen, 0)),
        Cost("language model: question", 0, read(QUESTION_TOKENS, seen, QUESTION_TOKENS)),
        Cost("language model: token", 0, read(1, seen + QUESTION_TOKENS)),
        Cost("grounding decoder", sizes["grounding"], boxes["Global"]),
    ]  # fmt: skip


def _inside(table: dict[str, int], pattern: str) -> int:
    """Operations of the modules whose name in the counter's table is ``pattern``."""
    return sum(flops for name, flops in table.items() if re.fullmatch(pattern, name))


def _lift(model: Network, extent: Extent, visual: int) -> None:
    """Position embedding of every patch (where used) and the projector on what is left after pooling."""
    if model.config.patches.positions:
        model.position_embedding(torch.empty(1, extent.patches, 3, device="meta"))
    model.projector(torch.empty(1, visual, model.config.encoder.hidden_size, device="meta"))


def _ground(model: Network, patches: int) -> None:
    """The boxes of one expression among ``patches`` 3D patches."""
    features = torch.empty(1, patches, model.config.encoder.hidden_size, device="meta")
    mask = torch.ones(1, patches, dtype=torch.bool, device="meta")
    hidden = torch.empty(1, 1, model.config.text_config.hidden_size, device="meta")
    model.grounding(features, torch.empty(1, patches, 3, device="meta"), mask, hidden)


def linear_weights(language_model: nn.Module) -> int:
    """Weights of the linear layers of a causal LM but its head: two operations each for every token."""
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    linear = (m for m in language_model.modules() if isinstance(m, nn.Linear) and m is not head)
    return sum(m.weight.numel() for m in linear)


def _head_width(text: Any) -> int:
    given = getattr(text, "head_dim", None)
    return int(given or text.hidden_size // text.num_attention_heads)


# ---- bytes -------------------------------------------------------------------------------------------------------


def language_bytes(config: ModelConfig, dtype: str, other: str = "bfloat16") -> int:
    """Bytes of the language model's weights: its layers in ``dtype``, tables and head in ``other`` if that is int."""
    if dtype not in WEIGHT_BITS:
        raise ValueError(f"unknown dtype {dtype!r}; expected one of {', '.join(WEIGHT_BITS)}")
    model = build_on_meta(config).language_model
    inner, whole = linear_weights(model), count(model)
    if not dtype.startswith("int"):
        return round(whole * WEIGHT_BITS[dtype] / 8)
    bits = WEIGHT_BITS[dtype] + (GROUP_BITS / GROUP if dtype == "int4" else 0)
    return round((inner * bits + (whole - inner) * WEIGHT_BITS[other]) / 8)


def cache_bytes(config: ModelConfig, tokens: int, dtype: str = "bfloat16") -> int:
    """Bytes of the key-value cache of ``tokens`` tokens."""
    text = config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return round(2 * text.num_hidden_layers * heads * _head_width(text) * tokens * WEIGHT_BITS[dtype] / 8)


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
                self.count(tensor.untyped_storage())
        return made

    def count(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed."""
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


def shortened(config: ModelConfig) -> ModelConfig:
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
def vision_memory(config: ModelConfig, extent: Extent, dtype: torch.dtype = torch.bfloat16) -> list[Memory]:
    """Peak and held bytes of every part from pixels to depth, at batch one."""
    model = build_on_meta(shortened(config)).eval().to(dtype)
    pixels = torch.empty(1, extent.frames, 3, extent.height, extent.width, dtype=dtype, device="meta")
    rows = []
    with Kernels(), LiveBytes([*model.parameters(), *model.buffers()]) as bytes_:

        def note(name: str) -> None:
            rows.append(Memory(name, bytes_.peak, bytes_.live))
            bytes_.restart()

        bytes_.count(pixels.untyped_storage())
        features = model.encode(pixels)
        note("encoder and adapter")
        cameras = model.predict_cameras(features)
        note("global-frame attention, cameras")
        kept = [model.predict_depth(cameras, features.image_size)]
        note("depth head")
        if model.metric_depth is not None:
            intrinsics = torch.empty(1, extent.frames, 3, 3, device="meta")
            kept.append(model.predict_metric_depth(features, intrinsics))
            note("metric depth model")
    return rows


def memory(config: ModelConfig, extent: Extent, language_dtype: str = "bfloat16") -> list[tuple[str, int]]:
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
