"""Every choice of the model in one place, each with its provenance.

[P] the paper's text or equations, [F] its figures, [D] our decision where the paper is silent (docs/log.md gives
the reasons). `presets.py` has the presets: the same classes with other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from vidllm.model.config_fields import check_value, read_fields
from vidllm.model.language_model import TextConfig

TINY = Path(__file__).parents[1] / "weights" / "tiny"  # the shipped checkpoint

AdapterVariant = Literal["none", "concat_self_attention", "cross_attention", "bridge"]


@dataclass
class EncoderConfig:
    """Shared encoder: DINOv2 with registers [P: DINOv2-L]."""

    hidden_size: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 14
    image_size: int = 518  # side of the position table, not of the input
    num_register_tokens: int = 4
    position_antialias: bool = True  # of the resized position table; DINOv2 without registers was trained without
    layer_norm_eps: float = 1e-6
    layer_scale_init: float = 1.0
    tap_layers: tuple[int, ...] = (4, 11, 17, 23)  # [D] blocks (0-based) whose tokens feed the metric depth decoder


@dataclass
class AdapterConfig:
    """Cross-Task Adapter (Eqs 1-2, Table 6)."""

    variant: AdapterVariant = "bridge"
    bridge_tokens: int = 16  # [P] best of 4, 8, 16, 32
    expansion: int = 4  # [P]
    residual: bool = True  # [D] Eq 1 as T + gamma phi(norm(T)); False: literal, phi(T), which passes nothing through
    num_heads: int = 16  # [D]
    layer_scale_init: float = 0.0  # [D] residual branches start at zero: each stream passes through
    fuse_streams: bool = False  # [D] self-attention of each stream before the bridge reads it (T^fused)
    bridge_per_frame: bool = False  # [D] Eq 2 reads the whole image sequence: one bridge a scene
    geometry_rider: bool = True  # [F] bridge tokens join the special tokens of global-frame attention
    language_rider: bool = True  # [F] bridge tokens stand before the 3D patches for the language model


@dataclass
class AttentionConfig:
    """Global-frame attention: VGGT's alternating blocks [D], so that VGGT-1B loads key for key."""

    depth: int = 24  # pairs of (frame, global) blocks
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    rope_frequency: float = 100.0
    qk_norm: bool = True
    layer_scale_init: float = 0.01


@dataclass
class CameraHeadConfig:
    """Camera head: iterative refinement of 9 numbers (VGGT's form)."""

    trunk_depth: int = 4
    num_heads: int = 16
    mlp_ratio: float = 4.0
    layer_scale_init: float = 0.01
    iterations: int = 4


@dataclass
class DenseHeadConfig:
    """DPT on four layers: depth and confidence, points and confidence (VGGT's form)."""

    features: int = 256
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    tap_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    frames_chunk_size: int = 8
    point_head: bool = True
    encoder_taps: int = 0  # [D] the first of the four, finest, read the encoder's tapped layers in their place


@dataclass
class MetricDepthConfig:
    """Metric Depth Model: DPT decoder on the encoder's features and ordered metric bins (docs/method.md, section 5)."""

    enabled: bool = True  # ablation: without it, lengths are ``scale.unit_m`` a unit of relative depth
    features: int = 256
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    num_bins: int = 64  # [D]
    min_depth_m: float = 0.1  # [D]
    max_depth_m: float = 20.0  # [D]
    bin_embedding: int = 128  # [D] ZoeDepth's
    attractors: tuple[int, int, int, int] = (16, 8, 4, 1)  # [D] at the four scales, coarse to fine
    attractor_alpha: float = 300.0  # [D]
    ordinal: Literal["log_binomial", "softmax"] = "log_binomial"  # [P: "ordinal-aware normalization", D: the form]
    min_temperature: float = 0.02  # [D]
    max_temperature: float = 5.0  # [D]
    canonical_focal: float | None = None  # [D] in units of the shorter image side; None: off


@dataclass
class ScaleConfig:
    """Real-scale alignment (docs/method.md, section 6)."""

    # [D]; "wls" is the paper's literal form; "none" (ablation): depth is the metric one, nothing is aligned to it
    estimator: Literal["log_huber", "wls", "none"] = "log_huber"
    unit_m: float = 1.0  # [D] metres a unit of relative depth where nothing measures it (no metric depth, "none")
    frames: int | Literal["all"] = 16  # [P]
    seed: int = 0
    huber_delta: float = 0.1  # [D] in log units
    huber_rounds: int = 5  # [D]
    min_depth_m: float = 0.1  # metric depth outside this range does not vote
    max_depth_m: float = 19.0
    warn_spread: float = 0.25  # [D] relative spread of the per-image factors that triggers a warning


@dataclass
class PatchesConfig:
    """3D patches (Eqs 3-4) and pooling."""

    positions: bool = True  # ablation "2D": False leaves the 3D position embedding out
    voxel_size_m: float = 0.2  # [D] LLaVA-3D's
    max_patches: int = 2560  # [D] LLaVA-3D's cap; over it the voxel grows
    token_norm: bool = False  # [D] visual tokens normalised (patches_3d.TOKEN_SIZE); for training from nothing


@dataclass
class WindowsConfig:
    """Long videos in windows (docs/long_video.md). A window is as long as the clips that a model was trained on."""

    size: int | None = None  # [D] frames a window; None: ``default_frames``
    overlap: int | None = None  # [D] frames shared with the window before; None: a quarter of a window
    whole_up_to: int = 64  # [D] more frames than this go in windows without being asked to
    most: int = 192  # [D] frames that are chosen of a video at most, unless a number is given


@dataclass
class GroundingConfig:
    """Grounding decoder [D]: as LLaVA-3D's paper describes, never released."""

    hidden_size: int = 512
    num_queries: int = 512
    num_layers: int = 4
    num_heads: int = 8
    neighbours: tuple[int, ...] = (16, 32, 64, 128)  # one neighbourhood size a layer
    mlp_ratio: float = 4.0
    object_temperature: float = 0.07  # InfoNCE
    max_boxes: int = 16


PARTS: dict[str, type] = {
    "encoder": EncoderConfig,
    "adapter": AdapterConfig,
    "attention": AttentionConfig,
    "camera_head": CameraHeadConfig,
    "dense_head": DenseHeadConfig,
    "metric_depth": MetricDepthConfig,
    "scale": ScaleConfig,
    "patches": PatchesConfig,
    "windows": WindowsConfig,
    "grounding": GroundingConfig,
}


def build_part(name: str, kind: type, value: Any) -> Any:
    """A part's dataclass from a dict (JSON turns tuples into lists), another instance or None."""
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected an object with the fields of {kind.__name__}, received {value!r:.60}")
    return kind(**read_fields(kind, value, name))


class ModelConfig:
    """Configuration of :class:`~vidllm.model.modeling.Network`.

    Each part of Figure 2 has a dataclass (see this module); ``text_config`` is the language model's. Other fields:
    :data:`VALUES`.
    """

    model_type: ClassVar[str] = "vidllm"

    encoder: EncoderConfig
    adapter: AdapterConfig
    attention: AttentionConfig
    camera_head: CameraHeadConfig
    dense_head: DenseHeadConfig
    metric_depth: MetricDepthConfig
    scale: ScaleConfig
    patches: PatchesConfig
    windows: WindowsConfig
    grounding: GroundingConfig
    text_config: Any
    default_frames: int
    shorter_side: int
    resize: str
    refine: bool
    video_token_id: int
    loc_token_id: int
    coord_token_id: int

    def __init__(self, text_config: Any, **given: Any) -> None:
        """ValueError, naming the field, for a value of another type or beyond its bounds."""
        for name, kind in PARTS.items():
            setattr(self, name, build_part(name, kind, given.get(name)))
        self.text_config = text_config
        for name, usual in VALUES.items():
            check_value(name, given.get(name, usual), type(usual))
            setattr(self, name, given.get(name, usual))

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> ModelConfig:
        """From the object of a config.json whose language model is of our own form (:class:`TextConfig`)."""
        own = {name: given[name] for name in FIELDS if name in given}
        return cls(TextConfig(given["text_config"]), **own)


#: Fields of one value, with their defaults.
VALUES: dict[str, Any] = {
    "default_frames": 32,  # [P] of a video
    "shorter_side": 518,  # [P] of a frame in pixels
    "resize": "shorter_side",
    "refine": False,  # [D] off, as the paper; on: reconstructions are bundle-adjusted (docs/refinement.md)
    "video_token_id": 0,  # "<video>": replaced by bridge tokens and 3D patches
    "loc_token_id": 0,  # "<loc>": its hidden state asks the grounding decoder
    "coord_token_id": 0,  # "<coord>": replaced by the embedding of a 3D point
}
#: Our fields of a config.json, except ``text_config``.
FIELDS = (*PARTS, *VALUES)
