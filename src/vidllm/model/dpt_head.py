"""Dense prediction (DPT): four token layers fused from coarse to fine, then a value and a confidence a pixel.

``DPTDecoder`` is the trunk, shared by the depth head, the point head and the metric depth model; ``DPTHead`` puts
VGGT's output layers on it (docs/method.md, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidllm.model.configuration import DenseHeadConfig, ModelConfig
from vidllm.model.outputs import EncoderOutput, GlobalFrameOutput

#: Share of the position embedding in the features.
_POSITION_WEIGHT = 0.1
_VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "inv_log": lambda x: torch.sign(x) * torch.expm1(x.abs()),  # linear near zero, exponential far out; both signs
}
_CONFIDENCE: dict[str, Callable[[Tensor], Tensor]] = {"expp1": lambda x: 1 + x.exp(), "relu": F.relu}


def position_map(
    channels: int, height: int, width: int, aspect: float, device: torch.device | None = None
) -> Float[Tensor, "channels H W"]:
    """Sines and cosines of the place in the image: a quarter of the channels each for sin u, cos u, sin v, cos v.

    The image spans (u, v) of a rectangle of aspect ratio ``aspect`` = W/H with diagonal 2, pixel centres inside it.
    """
    if channels % 4:
        raise ValueError(f"a position map needs a number of channels divisible by 4, got {channels}")
    diagonal = (aspect**2 + 1.0) ** 0.5
    omega = 100.0 ** -(torch.arange(channels // 4, device=device, dtype=torch.float64) / (channels / 4))
    halves = []
    for size, span in ((width, aspect / diagonal), (height, 1.0 / diagonal)):
        limit = span * (size - 1) / size
        angles = omega[:, None] * torch.linspace(-limit, limit, size, device=device, dtype=torch.float64)
        halves.append(torch.cat((angles.sin(), angles.cos())).float())
    across, down = halves
    return torch.cat((across[:, None].expand(-1, height, -1), down[..., None].expand(-1, -1, width)))


class ResidualConv(nn.Module):
    """``relu(x) + conv(relu(conv(relu(x))))``: the skip path carries the rectified input, as VGGT's weights expect, or
    the input itself where ``rectified`` is off.
    """

    rectified = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Same size in and out."""
        rectified = F.relu(x)
        return (rectified if self.rectified else x) + self.conv2(F.relu(self.conv1(rectified)))


class Fusion(nn.Module):
    """Adds a finer map to the coarser path, refines the sum, resizes it; the coarsest level has nothing to add."""

    def __init__(self, features: int, coarsest: bool = False) -> None:
        super().__init__()
        self.skip = None if coarsest else ResidualConv(features)
        self.refine = ResidualConv(features)
        self.out = nn.Conv2d(features, features, 1)

    def forward(
        self, x: Float[Tensor, "N C h w"], finer: Float[Tensor, "N C h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "N C H W"]:
        """Fused map at ``size``. The 1x1 convolution commutes with the resizing and comes first: fewer pixels."""
        if self.skip is not None and finer is not None:
            x = x + self.skip(finer)
        return _resize(self.out(self.refine(x)), size)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class DPTDecoder(nn.Module):
    """From four layers' tokens on one h x w grid to a pyramid of feature maps.

    ``pyramid`` gives the four laterals, ``fuse`` the four fused maps, ``forward`` both steps. ``dim_in``: the layers'
    width, whose norm they share (as VGGT's do), or the width of each of four, which have norms of their own.
    """

    def __init__(
        self, dim_in: int | Sequence[int], features: int, out_channels: Sequence[int], position_embedding: bool = True
    ) -> None:
        super().__init__()
        c = tuple(out_channels)
        if len(c) != 4:
            raise ValueError(f"DPT fuses four layers: expected four out_channels, got {c}")
        if position_embedding and any(n % 4 for n in c):
            raise ValueError(f"with a position embedding, out_channels must be divisible by 4, got {c}")
        self.position_embedding = position_embedding
        widths = (dim_in,) * 4 if isinstance(dim_in, int) else tuple(dim_in)
        single = isinstance(dim_in, int)
        self.norm: nn.Module = nn.LayerNorm(dim_in) if single else nn.ModuleList(map(nn.LayerNorm, widths))
        self.projects = nn.ModuleList(nn.Conv2d(width, n, 1) for width, n in zip(widths, c, strict=True))
        self.resizes = nn.ModuleList(
            (
                nn.ConvTranspose2d(c[0], c[0], 4, stride=4),
                nn.ConvTranspose2d(c[1], c[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c[3], c[3], 3, stride=2, padding=1),
            )
        )
        self.laterals = nn.ModuleList(nn.Conv2d(n, features, 3, padding=1, bias=False) for n in c)
        self.fusions = nn.ModuleList(Fusion(features, coarsest=level == 3) for level in range(4))

    def forward(
        self, features: Sequence[Float[Tensor, "N P _"]], grid: tuple[int, int]
    ) -> list[Float[Tensor, "N features _ _"]]:
        """Four fused maps, coarse to fine: (h, w), (2h, 2w), (4h, 4w), (8h, 8w)."""
        return self.fuse(self.pyramid(features, grid))

    def pyramid(
        self, features: Sequence[Float[Tensor, "N P _"]], grid: tuple[int, int]
    ) -> list[Float[Tensor, "N features _ _"]]:
        """Lateral maps, fine to coarse: (4h, 4w), (2h, 2w), (h, w), (ceil(h/2), ceil(w/2))."""
        if len(features) != 4:
            raise ValueError(f"DPT fuses four layers: expected the tokens of four, got {len(features)}")
        maps = []
        norms = self.norm if isinstance(self.norm, nn.ModuleList) else [self.norm] * 4
        parts = zip(features, norms, self.projects, self.resizes, self.laterals, strict=True)
        for tokens, norm, project, resize, lateral in parts:
            x = project(norm(tokens).transpose(1, 2).unflatten(-1, grid))
            if self.position_embedding:
                x = add_position(x, grid[1] / grid[0])
            maps.append(lateral(resize(x)))
        return maps

    def fuse(self, pyramid: Sequence[Float[Tensor, "N features _ _"]]) -> list[Float[Tensor, "N features _ _"]]:
        """Fused maps, coarse to fine, of the laterals (fine to coarse)."""
        path, fused = pyramid[3], []
        for level in (3, 2, 1, 0):
            here = pyramid[level].shape[-2:]
            size = pyramid[level - 1].shape[-2:] if level else (2 * here[0], 2 * here[1])
            path = self.fusions[level](path, None if level == 3 else pyramid[level], (int(size[0]), int(size[1])))
            fused.append(path)
        return fused


def add_position(x: Float[Tensor, "N C H W"], aspect: float) -> Float[Tensor, "N C H W"]:
    """Features with the position map of an image of aspect ratio W/H added."""
    places = position_map(x.shape[1], x.shape[2], x.shape[3], aspect, x.device)
    return x + _POSITION_WEIGHT * places.to(x.dtype)


class DPTHead(nn.Module):
    """A value of ``out_dim - 1`` channels and a confidence for every pixel.

    ``activation``: "exp" (positive depth) or "inv_log" (points, both signs). Confidence is at least 1 with "expp1", at
    least 0 with "relu". Frames are independent of each other and run ``config.frames_chunk_size`` at a time.
    """

    def __init__(
        self,
        config: DenseHeadConfig,
        dim_in: int | Sequence[int],
        out_dim: int,
        activation: str,
        patch_size: int = 14,
        position_embedding: bool = True,
        confidence_activation: str = "expp1",
    ) -> None:
        super().__init__()
        if activation not in _VALUES or confidence_activation not in _CONFIDENCE:
            raise ValueError(
                f"unknown activation {activation!r} or confidence activation {confidence_activation!r}; "
                f"expected one of {sorted(_VALUES)} and one of {sorted(_CONFIDENCE)}"
            )
        if config.features % (8 if position_embedding else 2):
            raise ValueError(f"features must be divisible by 8 (2 without position embedding), got {config.features}")
        self.config = config
        self.patch_size = patch_size
        self.gradient_checkpointing = False
        self.position_embedding = position_embedding
        self.activation, self.confidence_activation = activation, confidence_activation
        self.decoder = DPTDecoder(dim_in, config.features, config.out_channels, position_embedding)
        half = config.features // 2
        self.narrow = nn.Conv2d(config.features, half, 3, padding=1)
        self.out: nn.Module = nn.Sequential(nn.Conv2d(half, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, out_dim, 1))

    def forward(
        self, features: Sequence[Float[Tensor, "B F P _"]], image_size: tuple[int, int]
    ) -> tuple[Float[Tensor, "B F H W out"], Float[Tensor, "B F H W"]]:
        """Values and confidences at ``image_size`` = (H, W) from the ``config.tap_layers``, in float32 or better."""
        batch, frames = features[0].shape[:2]
        flat = [feature.flatten(0, 1) for feature in features]
        size = self.config.frames_chunk_size if self.config.frames_chunk_size > 0 else batch * frames
        run = self._logits
        if self.gradient_checkpointing and self.training:
            run = partial(checkpoint, self._logits, use_reentrant=False)
        chunks = [run(list(part), image_size) for part in zip(*(x.split(size) for x in flat), strict=True)]
        raw = torch.cat(chunks).unflatten(0, (batch, frames)).movedim(2, -1)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        values = _VALUES[self.activation](raw[..., :-1])
        return values, _CONFIDENCE[self.confidence_activation](raw[..., -1])

    def _logits(self, features: list[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Raw outputs (N, out_dim, H, W) of one chunk of frames."""
        height, width = image_size
        grid = (height // self.patch_size, width // self.patch_size)
        if grid[0] * grid[1] != features[0].shape[1]:
            raise ValueError(
                f"an image of {height} x {width} has {grid[0] * grid[1]} patches, got {features[0].shape[1]}"
            )
        x = _resize(self.narrow(self.decoder(features, grid)[-1]), image_size)
        if self.position_embedding:
            x = add_position(x, width / height)
        return self.out(x)


def layer_widths(config: ModelConfig) -> int | list[int]:
    """Width of the layers that the dense heads read; of each of the four where the first are the encoder's."""
    width, count = config.encoder.hidden_size, config.dense_head.encoder_taps
    if not 0 <= count <= min(4, len(config.encoder.tap_layers)):
        raise ValueError(
            f"dense_head.encoder_taps is {count}: expected 0 to 4, and no more than encoder.tap_layers "
            f"{config.encoder.tap_layers}"
        )
    return [width] * count + [2 * width] * (4 - count) if count else 2 * width


def dense_features(config: ModelConfig, seen: EncoderOutput, attended: GlobalFrameOutput) -> list[Tensor]:
    """The four layers that the dense heads read, fine to coarse: the encoder's, then global-frame attention's."""
    count = config.dense_head.encoder_taps
    return seen.intermediate_features[:count] + [
        attended.intermediate_features[i] for i in config.dense_head.tap_layers[count:]
    ]
