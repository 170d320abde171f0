"""What a video costs by arithmetic: floating-point operations and bytes of each part, from the configuration alone.

Operations are those of matrix products and convolutions, a multiply-add counted as two; normalisation, softmax and
activations are left out (they move bytes and hardly compute). Attention is counted whole, causal or not. Divided by a
device's rate these are the floor of a part's time; the bytes of the language model's weights and of its key-value
cache, divided by the memory bandwidth, are the floor of a generated token's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

from torch import nn
from transformers import PretrainedConfig

from vidllm.frames import Resize, frame_spec
from vidllm.model.configuration import AdapterConfig, VidLLMConfig
from vidllm.model.summary import build_on_meta, count

QUESTION_TOKENS = 32  # of a question with its template
VIDEO_SIZE = (480, 640)  # the video that costs are told for where no size is given: 4 to 3
WEIGHT_BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "int8": 8.0, "int4": 4.0}
GROUP_BITS = 32.0  # scale and offset of a group of 4-bit weights, 16 bits each
GROUP = 64  # 4-bit weights that share a scale and an offset


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


def extent_of(config: VidLLMConfig, frames: int | None = None, original: tuple[int, int] = VIDEO_SIZE) -> Extent:
    """The processed size of ``frames`` frames (the model's default) of a video of ``original`` = (H, W) pixels."""
    if frames is not None and frames < 1:
        raise ValueError(f"expected at least 1 frame, received {frames}")
    patch = config.encoder.patch_size
    spec = frame_spec(
        original, shorter_side=config.shorter_side, resize=cast(Resize, config.resize), patch_size=patch
    )
    return Extent(frames or config.default_frames, *spec.size, patch)


def visual_tokens(config: VidLLMConfig, extent: Extent) -> int:
    """The most tokens the language model reads of a scene: the cap of 3D patches, and the bridge."""
    bridge = _bridge(config, config.adapter.language_rider) * (extent.frames if config.adapter.bridge_per_frame else 1)
    return min(extent.patches, config.patches.max_patches) + bridge


def costs(config: VidLLMConfig, extent: Extent, visual: int | None = None) -> list[Cost]:
    """All parts from pixels to the first token of an answer, in the order they run, and one more token.

    ``visual``: tokens the language model reads of the scene (the most there can be, by default).
    """
    model, text = build_on_meta(config), config.text_config
    seen = visual_tokens(config, extent) if visual is None else visual
    lm, weights = count(model.language_model), linear_weights(model.language_model)

    def read(new: int, known: int, logits: int = 1) -> int:
        return 2 * (new * weights + logits * text.vocab_size * text.hidden_size) + _text_attention(text, new, known)

    sizes = {name: count(getattr(model, name)) for name, _ in model.named_children()}
    within = count(model.attention.global_blocks)
    lifted = sizes["position_embedding"] + sizes["projector"] + sizes["coordinate_embedding"]
    flops = attention_flops(config, extent)
    metric = metric_depth_flops(config, extent) if config.metric_depth.enabled else 0
    return [
        Cost("encoder", sizes["encoder"], encoder_flops(config, extent)),
        Cost("cross-task adapter", sizes["adapter"], adapter_flops(config, extent)),
        Cost("frame attention", sizes["attention"] - within, flops[0]),
        Cost("global attention", within, flops[1]),
        Cost("camera and gravity heads", sizes["camera_head"] + sizes["gravity_head"], camera_flops(config, extent)),
        Cost("depth head", sizes["depth_head"], dense_head_flops(config, extent, 2)),
        Cost("point head (training)", sizes.get("point_head", 0), 0),
        Cost("metric depth model", sizes.get("metric_depth", 0), metric),
        Cost("lift and projector", lifted, lift_flops(config, extent, seen)),
        Cost("language model: scene", lm, read(seen, 0)),
        Cost("language model: question", 0, read(QUESTION_TOKENS, seen, QUESTION_TOKENS)),
        Cost("language model: token", 0, read(1, seen + QUESTION_TOKENS)),
        Cost("grounding decoder", sizes["grounding"], grounding_flops(config, seen)),
    ]


def linear_weights(language_model: nn.Module) -> int:
    """Weights of the linear layers of a causal LM but its head: two operations each for every token."""
    head = language_model.get_output_embeddings()  # type: ignore[operator]
    linear = (m for m in language_model.modules() if isinstance(m, nn.Linear) and m is not head)
    return sum(m.weight.numel() for m in linear)


# ---- operations of each part ------------------------------------------------------------------------------------


def linear(tokens: int, *widths: int) -> int:
    """Linear layers one after another: operations for ``tokens`` rows through the widths given."""
    return sum(2 * tokens * a * b for a, b in pairwise(widths))


def attention(tokens: int, span: int, width: int) -> int:
    """Scores and their weighted sum: ``tokens`` queries, each over ``span`` keys."""
    return 4 * tokens * span * width


def block(tokens: int, span: int, width: int, ratio: float) -> int:
    """A transformer block: qkv, attention, projection, two layers of an MLP."""
    return linear(tokens, width, 4 * width) + attention(tokens, span, width) + 2 * linear(
        tokens, width, int(width * ratio)
    )  # fmt: skip


def encoder_flops(config: VidLLMConfig, extent: Extent) -> int:
    """DINOv2: patch embedding and blocks over each frame's patches, registers and class token."""
    c = config.encoder
    frame = 1 + c.num_register_tokens + extent.patches // extent.frames
    embed = linear(extent.patches, 3 * c.patch_size**2, c.hidden_size)
    return embed + c.depth * block(extent.frames * frame, frame, c.hidden_size, c.mlp_ratio)


def adapter_flops(config: VidLLMConfig, extent: Extent) -> int:
    """Eq 1 twice, and the exchange between the two streams."""
    c, n, width = config.adapter, extent.patches, config.encoder.hidden_size
    span = n // extent.frames if c.bridge_per_frame else n
    both = 2 * linear(n, width, c.expansion * width, width)
    if c.variant == "concat_self_attention":
        return both + _exchange(2 * n, 2 * n, 2 * span, width)
    if c.variant == "cross_attention":
        return both + 2 * _exchange(n, n, span, width)
    return both + (_bridge_flops(c, n, span, width) if c.variant == "bridge" else 0)


def _bridge_flops(c: AdapterConfig, n: int, span: int, width: int) -> int:
    k = c.bridge_tokens
    fuse = _exchange(n, n, span, width) if c.fuse_streams else 0
    return 2 * (fuse + _exchange(k * n // span, n, span, width) + _exchange(n, k * n // span, k, width))


def _exchange(queries: int, memory: int, span: int, width: int) -> int:
    """Multi-head attention of ``queries`` over ``memory``, ``span`` of it each."""
    return linear(queries, width, 2 * width) + linear(memory, width, 2 * width) + attention(queries, span, width)


def attention_flops(config: VidLLMConfig, extent: Extent) -> tuple[int, int]:
    """Frame-wise and global blocks."""
    c, width = config.attention, config.encoder.hidden_size
    special = 1 + c.num_register_tokens + _bridge(config, config.adapter.geometry_rider)
    frame = special + extent.patches // extent.frames
    tokens = extent.frames * frame
    within, across = (c.depth * block(tokens, span, width, c.mlp_ratio) for span in (frame, tokens))
    return within, across


def _bridge(config: VidLLMConfig, rides: bool) -> int:
    """Bridge tokens that ride along (with each frame in global-frame attention)."""
    return config.adapter.bridge_tokens if config.adapter.variant == "bridge" and rides else 0


def camera_flops(config: VidLLMConfig, extent: Extent) -> int:
    """Camera head, all its refinements, and the gravity head."""
    c, frames, width = config.camera_head, extent.frames, 2 * config.encoder.hidden_size
    trunk = c.trunk_depth * block(frames, frames, width, c.mlp_ratio)
    once = linear(frames, 9, width, 3 * width) + trunk + linear(frames, width, width // 2, 9)
    return c.iterations * once + linear(1, width, width // 4, 3)


def dpt_flops(extent: Extent, dim_in: int, features: int, channels: Sequence[int]) -> int:
    """Four levels projected, resized and fused from coarse to fine; 3 x 3 convolutions but where said."""
    (h, w), n, f = extent.grid, extent.frames, features
    half = -(-h // 2) * -(-w // 2)
    sizes = (16 * h * w, 4 * h * w, h * w, half)
    c0, c1, _, c3 = channels
    total = sum(linear(h * w, dim_in, c) for c in channels)
    total += linear(h * w, c0, 16 * c0) + linear(h * w, c1, 4 * c1) + linear(half, 9 * c3, c3)
    total += sum(linear(size, 9 * c, f) for size, c in zip(sizes, channels, strict=True))
    units = (2, 2, 2, 1)  # residual units of a level, two convolutions each: the coarsest adds no finer map
    total += sum(size * (2 * u * linear(1, 9 * f, f) + linear(1, f, f)) for size, u in zip(sizes, units, strict=True))
    return n * total


def dense_head_flops(config: VidLLMConfig, extent: Extent, outputs: int) -> int:
    """A DPT head with ``outputs`` channels at every pixel (2: depth and confidence, 4: points and confidence)."""
    c = config.dense_head
    (h, w), half = extent.grid, c.features // 2
    fine = linear(64 * h * w, 9 * c.features, half)
    pixels = extent.height * extent.width
    out = linear(pixels, 9 * half, 32) + linear(pixels, 32, outputs)
    return dpt_flops(extent, 2 * config.encoder.hidden_size, c.features, c.out_channels) + extent.frames * (fine + out)


def metric_depth_flops(config: VidLLMConfig, extent: Extent) -> int:
    """DPT decoder on the encoder's tokens, bins on its four maps."""
    c, (h, w) = config.metric_depth, extent.grid
    f, e, outputs = c.features, c.bin_embedding, 2 if c.ordinal == "log_binomial" else c.num_bins
    total = linear(h * w, f, e, c.num_bins) + linear(h * w, f, e, e)
    for level, attractors in enumerate(c.attractors):
        total += linear(4**level * h * w, f, e, e, e, attractors)
    total += linear(64 * h * w, f + e, (f + e) // 2, outputs)
    return dpt_flops(extent, config.encoder.hidden_size, f, c.out_channels) + extent.frames * total


def lift_flops(config: VidLLMConfig, extent: Extent, visual: int) -> int:
    """Position embedding of every patch (where used) and the projector on what is left after pooling."""
    width, hidden = config.encoder.hidden_size, config.text_config.hidden_size
    embedded = linear(extent.patches, 3, width, width) if config.patches.positions else 0
    return embedded + linear(visual, width, hidden, hidden)


def grounding_flops(config: VidLLMConfig, patches: int, expressions: int = 1) -> int:
    """Boxes of some expressions among ``patches`` 3D patches."""
    c, width = config.grounding, config.grounding.hidden_size
    q, e = min(c.num_queries, patches), expressions
    total = linear(patches, config.encoder.hidden_size, width) + linear(e, config.text_config.hidden_size, width)
    total += linear(q, 3, width, width) + linear(e * q + e, width, width)
    for level, wanted in enumerate(c.neighbours):
        k, own = min(wanted, patches), e if level else 1  # before the first layer, queries are the same for all
        total += linear(q * k, 3, width, 2 * width) + linear(patches, width, 2 * width)
        total += linear(own * q, width, 2 * width) + attention(own * q, k, width)
        total += linear(e * (q + 1), width, 4 * width) + attention(e * (q + 1), q + 1, width)
        total += 2 * linear(e * (q + 1), width, int(width * c.mlp_ratio)) + linear(e * q, width, width, 8)
    return total


def _text_attention(text: PretrainedConfig, new: int, known: int) -> int:
    width = text.num_attention_heads * _head_width(text)
    return text.num_hidden_layers * attention(new, known + new, width)


def _head_width(text: PretrainedConfig) -> int:
    given = getattr(text, "head_dim", None)
    return int(given or text.hidden_size // text.num_attention_heads)


# ---- bytes ------------------------------------------------------------------------------------------------------


def language_bytes(config: VidLLMConfig, dtype: str, other: str = "bfloat16") -> int:
    """Bytes of the language model's weights: its layers in ``dtype``, tables and head in ``other`` if that is int."""
    if dtype not in WEIGHT_BITS:
        raise ValueError(f"unknown dtype {dtype!r}; expected one of {', '.join(WEIGHT_BITS)}")
    model = build_on_meta(config).language_model
    inner, whole = linear_weights(model), count(model)
    if not dtype.startswith("int"):
        return round(whole * WEIGHT_BITS[dtype] / 8)
    bits = WEIGHT_BITS[dtype] + (GROUP_BITS / GROUP if dtype == "int4" else 0)
    return round((inner * bits + (whole - inner) * WEIGHT_BITS[other]) / 8)


def cache_bytes(config: VidLLMConfig, tokens: int, dtype: str = "bfloat16") -> int:
    """Bytes of the key-value cache of ``tokens`` tokens."""
    text = config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return round(2 * text.num_hidden_layers * heads * _head_width(text) * tokens * WEIGHT_BITS[dtype] / 8)
