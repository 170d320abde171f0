"""Every choice of the model in one place, each with its provenance.

[P] the paper's text or equations, [F] its figures, [D] our decision where the paper is silent (docs/log.md gives
the reasons). The presets `tiny`, `tiny-dinov2`, `compact` and `paper` are the same classes with other numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, PretrainedConfig

from vidllm.model.config_fields import check_loops, check_value, read_fields

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


_PARTS: dict[str, type] = {
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


class VidLLMConfig(PretrainedConfig):
    """Configuration of :class:`VidLLMForConditionalGeneration`.

    Each part of Figure 2 has a dataclass (see this module); ``text_config`` is any Hugging Face causal LM's
    configuration. ``default_frames`` and ``shorter_side`` are the input defaults [P: 32 frames, 518].
    """

    model_type = "vidllm"
    sub_configs = {"text_config": AutoConfig}

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

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        default_frames: int = 32,
        shorter_side: int = 518,
        resize: str = "shorter_side",
        refine: bool = False,
        video_token_id: int = 0,
        loc_token_id: int = 0,
        coord_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        for name, kind in _PARTS.items():
            setattr(self, name, build_part(name, kind, kwargs.pop(name, None)))
        self.text_config = _text_config(text_config)
        for name, value in (("default_frames", default_frames), ("shorter_side", shorter_side),
                            ("video_token_id", video_token_id), ("loc_token_id", loc_token_id),
                            ("coord_token_id", coord_token_id)):  # fmt: skip
            check_value(name, value, int)
        check_value("refine", refine, bool)
        self.default_frames = default_frames
        self.shorter_side = shorter_side
        self.resize = resize
        self.refine = refine  # [D] off, as the paper; on: reconstructions are bundle-adjusted (docs/refinement.md)
        self.video_token_id = video_token_id  # "<video>": replaced by bridge tokens and 3D patches
        self.loc_token_id = loc_token_id  # "<loc>": its hidden state asks the grounding decoder
        self.coord_token_id = coord_token_id  # "<coord>": replaced by the embedding of a 3D point
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; the inverse of ``from_dict``."""
        plain = super().to_dict()
        for name in _PARTS:
            plain[name] = asdict(getattr(self, name))
        plain["text_config"] = self.text_config.to_dict()
        return plain


def _text_config(value: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    if isinstance(value, PretrainedConfig):
        return value
    given = {"model_type": "llama"} if value is None else value
    if not isinstance(given, dict) or not isinstance(given.get("model_type"), str):
        raise ValueError(f"text_config: expected the configuration of a language model with its model_type, received "
                         f"{given!r:.60}")  # fmt: skip
    check_loops(given, "text_config")
    try:
        return AutoConfig.for_model(**given)
    except Exception as error:  # transformers and huggingface_hub have errors of their own for a wrong field
        raise ValueError(f"text_config: {' '.join(str(error).split())[:200]}") from error


def tiny(vocab_size: int = 1536) -> VidLLMConfig:
    """The shipped model: runs on two CPU cores in seconds, trained on rooms."""
    return VidLLMConfig(
        encoder=EncoderConfig(192, depth=6, num_heads=3, image_size=112, tap_layers=(1, 2, 4, 5)),
        adapter=AdapterConfig(bridge_tokens=8, num_heads=3),
        attention=AttentionConfig(depth=4, num_heads=3, layer_scale_init=0.1),
        camera_head=CameraHeadConfig(trunk_depth=1, num_heads=6, layer_scale_init=0.1),
        dense_head=DenseHeadConfig(48, out_channels=(32, 48, 96, 96), tap_layers=(0, 1, 2, 3), point_head=False),
        metric_depth=MetricDepthConfig(
            features=48, out_channels=(32, 48, 96, 96), bin_embedding=32, canonical_focal=1.0
        ),
        patches=PatchesConfig(max_patches=384, token_norm=True),
        grounding=GroundingConfig(128, num_queries=96, num_layers=3, num_heads=4, neighbours=(8, 16, 32)),
        text_config=_llama(vocab_size, 256, 704, layers=4, heads=4, positions=2048, tie=True),
        default_frames=8,
        shorter_side=112,
    )


def tiny_dinov2(vocab_size: int = 1536) -> VidLLMConfig:
    """`tiny` of the second generation: the first ten layers of DINOv2 ViT-S/14, as the paper at small size."""
    return VidLLMConfig(
        encoder=EncoderConfig(
            384, depth=10, num_heads=6, num_register_tokens=0, position_antialias=False, tap_layers=(3, 6, 8, 9)
        ),
        adapter=AdapterConfig(bridge_tokens=8, num_heads=6),
        attention=AttentionConfig(depth=4, num_heads=6, mlp_ratio=2.0, layer_scale_init=0.1),
        camera_head=CameraHeadConfig(trunk_depth=1, num_heads=12, mlp_ratio=2.0, layer_scale_init=0.1),
        dense_head=DenseHeadConfig(
            64, out_channels=(48, 64, 96, 96), tap_layers=(0, 1, 1, 3), encoder_taps=2, point_head=False
        ),
        metric_depth=MetricDepthConfig(
            features=64, out_channels=(48, 64, 96, 96), bin_embedding=32, canonical_focal=1.0
        ),
        patches=PatchesConfig(max_patches=768, token_norm=True),
        grounding=GroundingConfig(128, num_queries=96, num_layers=3, num_heads=4, neighbours=(8, 16, 32)),
        text_config=_llama(vocab_size, 256, 704, layers=4, heads=4, positions=2048, tie=True),
        default_frames=8,
        shorter_side=168,
    )


def compact() -> VidLLMConfig:
    """DINOv2-L and VGGT-1B's form with a language model of Qwen3-0.6B's form: one 24 GB GPU."""
    text = AutoConfig.for_model(
        "qwen3", vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
        rope_theta=1000000.0, tie_word_embeddings=True, rms_norm_eps=1e-6,
    )
    # the last rows of Qwen3's table, which its tokenizer leaves free
    return VidLLMConfig(text_config=text, video_token_id=151933, loc_token_id=151934, coord_token_id=151935)


def paper() -> VidLLMConfig:
    """The paper's size: DINOv2-L, VGGT-1B, LLaVA-3D-7B (Vicuna).

    Vicuna's table is full: three rows must be added (``resize_token_embeddings(32003)``) before text is read.
    """
    text = _llama(32000, 4096, 11008, layers=32, heads=32, positions=4096, tie=False)
    return VidLLMConfig(text_config=text, video_token_id=32000, loc_token_id=32001, coord_token_id=32002)


def _llama(
    vocab: int, hidden: int, inner: int, *, layers: int, heads: int, positions: int, tie: bool
) -> PretrainedConfig:
    return AutoConfig.for_model(
        "llama", vocab_size=vocab, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=positions,
        tie_word_embeddings=tie, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )


PRESETS = {"tiny": tiny, "tiny-dinov2": tiny_dinov2, "compact": compact, "paper": paper}


def preset(name: str) -> VidLLMConfig:
    """The preset's configuration; ValueError names the known ones."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; expected one of {sorted(PRESETS)}")
    return PRESETS[name]()
