"""Camera motion from the pictures alone, independent of predicted cameras: frames of one view, overlap of frames.

Frames are compared at ``SIDE`` pixels, normalised to mean 0 and standard deviation 1, so that changes of exposure do
not count as motion. For small motions, the difference of two frames over their mean gradient is the displacement in
pixels; frames that moved by less than ``MOVED`` of the shorter side show one view. A camera that travels 2% of the
median depth moves a picture by about 2% of the shorter side.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SIDE = 64  # pixels of the shorter side at which frames are compared
MOVED = 0.75 / SIDE  # displacement over the shorter side below which two frames show one view
LEAST_DEVIATION = 4 / 255  # standard deviation below which a picture counts as a flat one with noise
LEAST_GRADIENT = 2 / 255  # a pixel; the same of the mean gradient
REMEMBERED = 64  # latest views that a frame is compared with, besides the first
BLANK = 0.012  # contrast of a picture in which nothing is to be seen, but for the noise of its compression
FAINT = 0.04  # contrast below which hardly anything is


def contrasts(images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, " F"]:
    """Standard deviation of each picture's values (0 to 1) in the channel with the largest one."""
    return images.float().flatten(2).std(-1).amax(1)


class PictureMotion:
    """``views``: for each frame so far, the number of the view it shows, from 0 in order of appearance.

    A view that reappears after ``REMEMBERED`` others counts as a new one, except the first view.
    """

    def __init__(self, views: list[int] | None = None) -> None:
        self.views: list[int] = [] if views is None else views
        self._pictures: list[tuple[int, Tensor, Tensor]] = []  # view, normalised picture, mean gradient

    def add(self, images: Float[Tensor, "F 3 H W"]) -> None:
        """Add frames with values in [0, 1]."""
        for picture in shrunk(images.float(), SIDE):
            normalised, gradient = _normalised(picture)
            self.views.append(self._view(normalised, gradient, MOVED * min(picture.shape[-2:])))

    def _view(self, picture: Tensor, gradient: Tensor, moved: float) -> int:
        if self._pictures:
            numbers, others, gradients = zip(*self._pictures, strict=True)
            apart = (torch.stack(others) - picture).abs().flatten(1).mean(1)
            pixels = apart / torch.maximum(torch.stack(gradients), gradient)
            if bool(pixels.min() < moved):
                return int(numbers[int(pixels.argmin())])
        view = max(self.views, default=-1) + 1
        self._pictures.append((view, picture, gradient))
        if len(self._pictures) > REMEMBERED + 1:
            del self._pictures[1]
        return view


def shrunk(images: Float[Tensor, "F C H W"], side: int) -> Float[Tensor, "F C h w"]:
    """Areas averaged, so that the shorter side has ``side`` pixels at most."""
    height, width = images.shape[-2:]
    ratio = max(1.0, min(height, width) / side)
    return F.interpolate(images, (round(height / ratio), round(width / ratio)), mode="area")


def _normalised(picture: Float[Tensor, "3 h w"]) -> tuple[Tensor, Tensor]:
    """The picture with mean 0 and deviation 1, and its mean absolute difference of neighbouring pixels."""
    deviation = picture.std(correction=0).clamp(min=LEAST_DEVIATION)
    normalised = (picture - picture.mean()) / deviation
    steps = [normalised.diff(dim=axis).abs().flatten() for axis in (-2, -1)]
    gradient = torch.cat(steps).mean() if sum(map(len, steps)) else normalised.new_zeros(())
    return normalised, torch.maximum(gradient, LEAST_GRADIENT / deviation)


# ---- how much of one picture another one shows: an affine registration, coarse to fine ------------------------------
#
# Pictures are compared small, each with mean 0 and standard deviation 1, so that exposure does not matter. The affine
# map that takes pixels of the one to pixels of the other is found by Gauss-Newton on the difference of the two (Lucas
# and Kanade 1981; Baker and Matthews 2004), with Huber weights, on blurred pictures first. Rotation, zoom, roll and the
# motion of a distant scene are affine in good approximation; parallax is averaged, which is enough to count overlap.

SIDES = (12, 24, 48)  # pixels of the shorter side, one after the other
ITERATIONS = (8, 5, 2)  # at each of them
HUBER = 0.5  # of differences, in standard deviations of the picture
DAMPING = 0.01  # of the mean diagonal of the normal equations


def small_pictures(images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "F 1 h w"]:
    """Grey pictures of mean 0 and deviation 1 whose shorter side has ``SIDES[-1]`` pixels at most."""
    small = shrunk(images.float().mean(1, keepdim=True), SIDES[-1])
    deviation = small.std(dim=(-2, -1), correction=0, keepdim=True).clamp(min=LEAST_DEVIATION)
    return (small - small.mean(dim=(-2, -1), keepdim=True)) / deviation


def register_pictures(
    first: Float[Tensor, "B 1 h w"], second: Float[Tensor, "B 1 h w"]
) -> tuple[Float[Tensor, "B 2 3"], Float[Tensor, " B"]]:
    """Affine maps from the first pictures' coordinates to the second ones', and how well they agree (correlation).

    Coordinates are normalised: the centre is 0, half the shorter side is 1. The correlation is over what both show.
    """
    maps = torch.eye(2, 3, dtype=first.dtype).repeat(len(first), 1, 1)
    agreement = first.new_zeros(len(first))
    for side, iterations in zip(SIDES, ITERATIONS, strict=True):
        one, two = (_blurred(shrunk(x, side)) for x in (first, second))
        layers = torch.cat([two, *_gradients(two)], 1)
        for _ in range(iterations):
            maps, agreement = _step(one, layers, maps)
    return maps, agreement


def overlap(maps: Float[Tensor, "B 2 3"], aspect: tuple[float, float]) -> Float[Tensor, " B"]:
    """Fraction of the first picture's area that the second shows; ``aspect`` (x, y): sides over the shorter side."""
    points = _grid((24, 24), maps) * maps.new_tensor(aspect)
    moved = points @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]
    return (moved.abs() <= maps.new_tensor(aspect)).all(-1).float().mean(-1)


def compose(later: Float[Tensor, "B 2 3"], earlier: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B 2 3"]:
    """The map ``later`` after ``earlier``."""
    linear = later[:, :, :2] @ earlier[:, :, :2]
    return torch.cat([linear, later[:, :, :2] @ earlier[:, :, 2:] + later[:, :, 2:]], -1)


def half_sides(size: tuple[int, int]) -> tuple[float, float]:
    """Half sides (x, y) of a picture of (H, W) pixels over half its shorter side."""
    shorter = min(size)
    return size[1] / shorter, size[0] / shorter


def _step(one: Tensor, layers: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """One Gauss-Newton step of the maps, and the correlation before it; ``layers``: the second picture and its
    gradients.
    """
    size = (one.shape[-2], one.shape[-1])
    halves = maps.new_tensor(half_sides(size))
    points = _grid(size, maps) * halves
    moved = points @ maps[:, :, :2].transpose(1, 2) + maps[:, None, :, 2]
    inside = (moved.abs() <= halves).all(-1).to(one.dtype)
    found = F.grid_sample(layers, (moved / halves)[:, None], padding_mode="border", align_corners=False)[:, :, 0]
    target = one.flatten(1)
    value, gradient = found[:, 0], found[:, 1:]  # (B,n), (B,2,n)
    difference = value - target
    weight = inside * HUBER / difference.abs().clamp(min=HUBER)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1).transpose(1, 2)
    jacobian = (gradient[:, :, None] * homogeneous[:, None]).flatten(1, 2)  # (B,6,n): rows of the map
    weighted = jacobian * weight[:, None]
    normal = weighted @ jacobian.transpose(1, 2)
    scale = normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    normal = normal + (DAMPING * scale + 1e-9) * torch.eye(6, dtype=normal.dtype)
    step = torch.linalg.solve(normal, weighted @ difference[..., None])
    return maps - step.reshape(-1, 2, 3), _correlation(value, target, inside)


def _correlation(one: Tensor, two: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(1, keepdim=True).clamp(min=1)
    one, two = (x - (x * weight).sum(1, keepdim=True) / total for x in (one, two))
    spread = ((one.square() * weight).sum(1) * (two.square() * weight).sum(1)).sqrt()
    return (one * two * weight).sum(1) / spread.clamp(min=1e-6)


def _grid(size: tuple[int, int], like: Tensor) -> Tensor:
    """Pixel centres (1,n,2) of a picture as (x, y) in -1..1."""
    y, x = (((torch.arange(n) + 0.5) / n * 2 - 1).to(like) for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1).reshape(1, -1, 2)


def _gradients(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, per unit of the normalised coordinates."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    unit = min(pictures.shape[-2:]) / 2
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (unit / 2)
    return along_x, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (unit / 2)


def _blurred(pictures: Tensor) -> Tensor:
    kernel = pictures.new_tensor([0.25, 0.5, 0.25])
    kernel = (kernel[:, None] * kernel)[None, None]
    return F.conv2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), kernel)
