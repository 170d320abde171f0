"""The shared encoder: DINOv2 with registers (docs/method.md, section 2), whose patch tokens feed every branch.

The weights live in transformers' ``Dinov2WithRegistersModel``; its layers are walked here, so that only the tapped
intermediate tokens are kept in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings

from vidllm.model.configuration import EncoderConfig

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass
class EncoderOutput:
    """What the encoder gives for B scenes of F frames.

    ``tokens``: final-norm patch tokens, row by row. ``taps``: raw patch tokens after each block of
    ``config.tap_layers``, in that order. ``grid``: patches down and across, P = h * w.
    """

    tokens: Float[Tensor, "B F P C"]
    taps: list[Float[Tensor, "B F P C"]]
    grid: tuple[int, int]


class _PlainEmbeddings(Dinov2WithRegistersEmbeddings):
    """Embeddings whose position table is resized without antialiasing, as that of DINOv2 without registers."""

    interpolate_pos_encoding = Dinov2Embeddings.interpolate_pos_encoding


class DinoEncoder(nn.Module):
    """DINOv2 with registers on every frame; ImageNet normalisation happens inside.

    The position table is used as it is for square inputs of its own grid, else resized (bicubic; antialiased unless
    ``config.position_antialias`` is off).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.gradient_checkpointing = False
        self.backbone = Dinov2WithRegistersModel(_backbone_config(config))
        if not config.position_antialias:
            self.backbone.embeddings.__class__ = _PlainEmbeddings

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> EncoderOutput:
        """Encode images in [0, 1]; ValueError when H or W is not a multiple of the patch size."""
        batch, frames = images.shape[:2]
        grid = self.grid(images.shape[-2], images.shape[-1])
        hidden = self.backbone.embeddings(normalise(images).flatten(0, 1))
        kept: dict[int, Tensor] = {}
        for index, layer in enumerate(self.backbone.encoder.layer):
            nested = getattr(layer, "gradient_checkpointing", False)  # transformers' own switch, set on every layer
            if self.gradient_checkpointing and self.training and not nested:
                hidden = checkpoint(layer, hidden, use_reentrant=False)
            else:
                hidden = layer(hidden)
            if index in self.config.tap_layers:
                kept[index] = self._patches(hidden, batch, frames)
        tokens = self._patches(self.backbone.layernorm(hidden), batch, frames)
        return EncoderOutput(tokens, [kept[index] for index in self.config.tap_layers], grid)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across an image of ``height`` x ``width`` pixels."""
        patch = self.config.patch_size
        if height % patch or width % patch or min(height, width) < patch:
            raise ValueError(
                f"image height and width must be positive multiples of the patch size {patch}, got {height} x {width}; "
                "resize or crop the frames first"
            )
        return height // patch, width // patch

    def _patches(self, hidden: Tensor, batch: int, frames: int) -> Tensor:
        """Patch tokens alone: the class token and the registers stand before them."""
        return hidden[:, 1 + self.config.num_register_tokens :].unflatten(0, (batch, frames))


def normalise(images: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch 3 H W"]:
    """Images in [0, 1] with ImageNet's channel means and deviations taken out."""
    mean = images.new_tensor(IMAGE_MEAN)[:, None, None]
    std = images.new_tensor(IMAGE_STD)[:, None, None]
    return (images - mean) / std


def _check(config: EncoderConfig) -> None:
    if config.mlp_ratio != int(config.mlp_ratio):
        raise ValueError(f"encoder mlp_ratio must be a whole number, got {config.mlp_ratio}")
    if config.hidden_size % config.num_heads:
        raise ValueError(f"encoder width {config.hidden_size} is not divisible by {config.num_heads} heads")
    outside = [index for index in config.tap_layers if not 0 <= index < config.depth]
    if outside:
        raise ValueError(f"encoder tap_layers {outside} are outside 0..{config.depth - 1}")


def _backbone_config(config: EncoderConfig) -> Dinov2WithRegistersConfig:
    backbone = Dinov2WithRegistersConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        mlp_ratio=int(config.mlp_ratio),
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_register_tokens=config.num_register_tokens,
        layer_norm_eps=config.layer_norm_eps,
        layerscale_value=config.layer_scale_init,
        hidden_act="gelu",
        qkv_bias=True,
    )
    backbone._attn_implementation = "sdpa"
    return backbone
