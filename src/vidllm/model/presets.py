"""The presets `tiny`, `tiny-dinov2`, `compact` and `paper`: the same classes with different sizes."""

from __future__ import annotations

from transformers import AutoConfig, PretrainedConfig

from vidllm.model.configuration import (
    AdapterConfig,
    AttentionConfig,
    CameraHeadConfig,
    DenseHeadConfig,
    EncoderConfig,
    GroundingConfig,
    MetricDepthConfig,
    PatchesConfig,
)
from vidllm.model.huggingface import VidLLMConfig


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
            64, out_channels=(48, 64, 96, 96), tap_layers=(0, 1, 1, 3), frames_chunk_size=2, encoder_taps=2,
            point_head=False,
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
