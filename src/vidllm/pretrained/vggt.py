"""VGGT's weights in our reconstruction branch, key for key (docs/method.md, section 4).

With VGGT's encoder and without the adapter, our encoder, global-frame attention, camera head and dense heads *are*
VGGT: ``load_vggt`` puts them together and gives VGGT's outputs. The weights are published under their own licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vidllm.geometry.cameras import decode_pose
from vidllm.io.files import naming
from vidllm.io.weight_files import Checkpoint, open_checkpoint
from vidllm.model.camera_head import CameraHead
from vidllm.model.configuration import AttentionConfig, CameraHeadConfig, DenseHeadConfig, EncoderConfig
from vidllm.model.dpt_head import DPTHead
from vidllm.model.encoder import DinoEncoder
from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.pretrained import dinov2, licences
from vidllm.pretrained.conversion import KeyMap, Pairs, Renames, Source, dpt_renames, load_strictly, unused_tokens

_HEAD: dict[str, Any] = {
    "dim_in": 2048, "patch_size": 14, "features": 256, "out_channels": [256, 512, 1024, 1024],
    "intermediate_layer_idx": [4, 11, 17, 23], "pos_embed": True, "conf_activation": "expp1",
    "feature_only": False, "down_ratio": 1, "frames_chunk_size": 8,
}  # fmt: skip
#: Constructor arguments of VGGT-1B; a configuration given to ``load_vggt`` replaces fields of it.
VGGT_1B: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4, "num_register_tokens": None},
    "aggregator": {
        "img_size": 518, "patch_size": 14, "embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0,
        "num_register_tokens": 4, "qkv_bias": True, "proj_bias": True, "ffn_bias": True,
        "aa_order": ["frame", "global"], "aa_block_size": 1, "qk_norm": True, "rope_freq": 100, "init_values": 0.01,
    },
    "camera_head": {
        "dim_in": 2048, "trunk_depth": 4, "num_heads": 16, "mlp_ratio": 4, "init_values": 0.01,
        "trans_act": "linear", "quat_act": "linear", "fl_act": "relu", "num_iterations": 4,
    },
    "depth_head": {**_HEAD, "output_dim": 2, "activation": "exp"},
    "point_head": {**_HEAD, "output_dim": 4, "activation": "inv_log"},
}  # fmt: skip
#: Fields of which we compute the value of VGGT-1B only.
_FIXED = (
    "qkv_bias", "proj_bias", "ffn_bias", "aa_order", "aa_block_size", "trans_act", "quat_act", "fl_act", "feature_only",
    "down_ratio", "pos_embed", "conf_activation", "output_dim", "activation",
)  # fmt: skip
#: Fields of the point head that are those of the depth head.
_ALIKE = ("features", "out_channels", "intermediate_layer_idx", "frames_chunk_size")

_VIT = "aggregator.patch_embed."
#: Key map from VGGT to our modules, but for its encoder, whose names are DINOv2's own.
RENAMES: Renames = (
    (r"aggregator\.(camera_token|register_token|(?:frame|global)_blocks\..+)", r"attention.\1"),
    (r"camera_head\.empty_pose_tokens", "camera_head.empty_pose"),
    (r"camera_head\.poseLN_modulation\.1\.(weight|bias)", r"camera_head.modulation.\1"),
    (r"camera_head\.((?:trunk|token_norm|trunk_norm|embed_pose|pose_branch)\..+)", r"camera_head.\1"),
    *(pair for head in ("depth_head", "point_head") for pair in dpt_renames(head, head)),
    (r"track_head\..+", ""),
)
_MAP = KeyMap(RENAMES)


@dataclass(frozen=True)
class VGGTParts:
    """VGGT's constructor arguments as our configurations."""

    encoder: EncoderConfig
    attention: AttentionConfig
    camera: CameraHeadConfig
    dense: DenseHeadConfig


class VGGTReconstruction(nn.Module):
    """Our encoder, global-frame attention and heads, joined as VGGT joins them; the outputs are named as VGGT's."""

    def __init__(self, parts: VGGTParts) -> None:
        super().__init__()
        width, patch = parts.encoder.hidden_size, parts.encoder.patch_size
        self.taps = parts.dense.tap_layers
        self.encoder = DinoEncoder(parts.encoder)
        self.attention = GlobalFrameAttention(parts.attention, width)
        self.camera_head = CameraHead(parts.camera, 2 * width)
        self.depth_head = DPTHead(parts.dense, 2 * width, 2, "exp", patch)
        points = parts.dense.point_head
        self.point_head = DPTHead(parts.dense, 2 * width, 4, "inv_log", patch) if points else None

    def forward(self, images: Float[Tensor, "... 3 H W"]) -> dict[str, Tensor]:
        """Cameras, depth and points of (B, F, 3, H, W) or (F, 3, H, W) images in [0, 1].

        pose_enc (B,F,9); extrinsics (B,F,3,4) camera-from-world; intrinsics (B,F,3,3) pixels; depth (B,F,H,W,1);
        depth_conf (B,F,H,W); with a point head world_points (B,F,H,W,3) and world_points_conf (B,F,H,W). Relative
        scale; the world is about the first camera's frame. Always with the batch dimension. H and W must be multiples
        of the patch size.
        """
        if images.ndim not in (4, 5):
            raise ValueError(f"expected images (B, F, 3, H, W) or (F, 3, H, W), got {tuple(images.shape)}")
        batch = images if images.ndim == 5 else images[None]
        size = (batch.shape[-2], batch.shape[-1])
        seen = self.encoder(batch)
        attended = self.attention(seen.tokens, seen.grid, self.taps)
        layers = [attended.intermediate_features[index] for index in self.taps]
        pose = self.camera_head(attended.special[:, :, 0])[-1]
        extrinsics, intrinsics = decode_pose(pose, size, fov_limits=None)
        depth, depth_conf = self.depth_head(layers, size)
        found = {"pose_enc": pose, "extrinsics": extrinsics, "intrinsics": intrinsics}
        found |= {"depth": depth, "depth_conf": depth_conf}
        if self.point_head is not None:
            found["world_points"], found["world_points_conf"] = self.point_head(layers, size)
        return found


def load_vggt(
    weights: str | Path | Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> VGGTReconstruction:
    """VGGT with the given weights, float32, in evaluation mode.

    ``weights``: a .safetensors or .pt file, a folder with one (or shards), or a state dict. ``config``: VGGT's
    constructor arguments by part ("vit", "aggregator", "camera_head", "depth_head", "point_head"); fields left out are
    VGGT-1B's, a part that is None or left out of a given configuration is off (the point head only); None is VGGT-1B.
    Tracking weights are not used. Raises ValueError on values we do not compute and on keys that do not fit.
    """
    parts = vggt_parts(config)
    with torch.device("meta"):
        model = VGGTReconstruction(parts)
    given = weights if isinstance(weights, Mapping) else dict(open_checkpoint(weights).tensors())
    named = {key: translate(key, tensor) for key, tensor in given.items()}
    tensors = _implied(parts.encoder) | {name: tensor for pairs in named.values() for name, tensor in pairs or ()}
    load_strictly(model, tensors, "VGGT", [key for key, pairs in named.items() if pairs is None])
    return model.eval()


def vggt_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Constructor arguments from a ``config.json`` beside the weights; VGGT-1B's where it has none.

    Either by part, as ``load_vggt`` takes them, or the released file's ``img_size``, ``patch_size``, ``embed_dim``.
    """
    found = checkpoint.settings() or {}
    parts = {name: values for name, values in found.items() if name in VGGT_1B or name == "camera_iterations"}
    if parts:
        return parts
    whole = {name: found[name] for name in ("img_size", "patch_size", "embed_dim") if name in found}
    trunk = VGGT_1B["aggregator"] | whole
    camera = {"dim_in": 2 * trunk["embed_dim"]}
    head = {**camera, "patch_size": trunk["patch_size"]}
    return {"vit": {"embed_dim": trunk["embed_dim"]}, "aggregator": whole, "camera_head": camera, "depth_head": head,
            "point_head": head}  # fmt: skip


def parts_of(checkpoint: Checkpoint) -> VGGTParts:
    """:func:`vggt_parts` of a checkpoint; ValueError that names its config.json."""
    with naming(checkpoint.folder / "config.json"):
        return vggt_parts(vggt_settings(checkpoint))


def vggt_source(checkpoint: Checkpoint, parts: VGGTParts) -> Source:
    """VGGT's weights for an import: encoder, attention, camera and dense heads."""
    points = ("point_head.",) if parts.dense.point_head else ()
    fills = ("encoder.", "attention.", "camera_head.", "depth_head.", *points)
    return Source("VGGT", checkpoint, translate, fills, licences.VGGT, dinov2.MASK, _implied(parts.encoder))


def _implied(encoder: EncoderConfig) -> dict[str, Tensor]:
    """Weights that VGGT does not hold: its pose starts at zero, and its encoder may have no registers."""
    registers = () if encoder.num_register_tokens else dinov2.REGISTERS
    return {"camera_head.base_pose": torch.zeros(9), **unused_tokens(encoder.hidden_size, registers)}


def translate(key: str, tensor: Tensor) -> Pairs | None:
    """One of VGGT's weights under our names (see :data:`~vidllm.pretrained.conversion.Translate`)."""
    if key.startswith(_VIT):
        return dinov2.translate(key.removeprefix(_VIT), tensor)
    return _MAP.translate(key, tensor)


def vggt_parts(config: Mapping[str, Any] | None = None) -> VGGTParts:
    """Our configurations for VGGT's constructor arguments; ValueError on values we do not compute."""
    c = _complete(config)
    vit, trunk, camera, depth, points = c.values()
    registers = trunk["num_register_tokens"]
    encoder = EncoderConfig(
        vit["embed_dim"], vit["depth"], vit["num_heads"], float(vit["mlp_ratio"]), trunk["patch_size"],
        trunk["img_size"], registers if vit["num_register_tokens"] is None else vit["num_register_tokens"],
        tap_layers=(),
    )  # fmt: skip
    attention = AttentionConfig(
        trunk["depth"], trunk["num_heads"], float(trunk["mlp_ratio"]), registers, float(trunk["rope_freq"]),
        trunk["qk_norm"], float(trunk["init_values"]),
    )  # fmt: skip
    head = CameraHeadConfig(
        camera["trunk_depth"], camera["num_heads"], float(camera["mlp_ratio"]), float(camera["init_values"]),
        camera["num_iterations"],
    )  # fmt: skip
    dense = DenseHeadConfig(
        depth["features"], tuple(depth["out_channels"]), tuple(depth["intermediate_layer_idx"]),
        depth["frames_chunk_size"], point_head=points is not None,
    )  # fmt: skip
    return VGGTParts(encoder, attention, head, dense)


def _complete(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """VGGT-1B's arguments by part, with those given put in, checked."""
    given = dict(VGGT_1B if config is None else config)
    iterations = given.pop("camera_iterations", None)
    given.pop("track_head", None)
    _refuse_unknown("parts", given, VGGT_1B, "VGGT's configuration")
    complete: dict[str, Any] = {}
    for part, defaults in VGGT_1B.items():
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in (given.get(part) or {}).items()}
        _refuse_unknown("fields", values, defaults, f"VGGT's {part}")
        off = part == "point_head" and given.get(part) is None
        complete[part] = None if off else {**defaults, **values}
    if iterations is not None:
        complete["camera_head"]["num_iterations"] = iterations
    trunk = complete["aggregator"]
    shared = {"embed_dim": trunk["embed_dim"], "dim_in": 2 * trunk["embed_dim"], "patch_size": trunk["patch_size"]}
    for part, values in complete.items():
        if values is not None:
            wanted = shared | {name: VGGT_1B[part][name] for name in _FIXED if name in values}
            if part == "point_head":
                wanted |= {name: complete["depth_head"][name] for name in _ALIKE}
            _check_part(part, values, wanted, trunk["depth"])
    return complete


def _refuse_unknown(what: str, given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} {unknown} of {where}; expected {sorted(known)}")


def _check_part(part: str, values: Mapping[str, Any], wanted: Mapping[str, Any], depth: int) -> None:
    """Values that we compute for, sizes that the parts share, and layers that exist."""
    for name, only in wanted.items():
        if values.get(name, only) != only:
            raise ValueError(f"VGGT's {part}.{name} = {values[name]!r} is not supported; only {only!r} is")
    if not values.get("init_values", 1):
        raise ValueError(f"VGGT's {part}.init_values = {values['init_values']!r} (no LayerScale) is not supported; "
                         "give > 0")  # fmt: skip
    layers = values.get("intermediate_layer_idx", [0] * 4)
    if len(layers) != 4 or any(not 0 <= index < depth for index in layers):
        raise ValueError(f"{part}.intermediate_layer_idx must be 4 layers in 0..{depth - 1}, got {layers}")
