"""Which frames show the same view: what the pictures tell of a camera's motion, whatever cameras were predicted.

Frames are compared small (``SIDE`` pixels), each brought to mean 0 and standard deviation 1, so that a flickering
exposure is no motion. Where a picture has moved by a little, the difference of two frames over their mean gradient is
the displacement in pixels; frames that moved by less than ``MOVED`` of the shorter side show one view. A camera that
travels 2% of the median depth moves a picture by about 2% of the shorter side.
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
    """Standard deviation of each picture's values (0 to 1), that of the channel which varies most."""
    return images.float().flatten(2).std(-1).amax(1)


class PictureMotion:
    """``views``: for each frame added so far, the number of the view it shows, counted from 0 in order of appearance.

    A view that is shown again after ``REMEMBERED`` others counts as a new one, but for the first.
    """

    def __init__(self, views: list[int] | None = None) -> None:
        self.views: list[int] = [] if views is None else views
        self._pictures: list[tuple[int, Tensor, Tensor]] = []  # view, normalised picture, mean gradient

    def add(self, images: Float[Tensor, "F 3 H W"]) -> None:
        """Note further frames, values in [0, 1]."""
        for picture in shrunk(images.float(), SIDE):
            normalised, gradient = _normalised(picture)
            self.views.append(self._view(normalised, gradient, MOVED * min(picture.shape[-2:])))

    def _view(self, picture: Tensor, gradient: Tensor, moved: float) -> int:
        if self._pictures:
            numbers = [view for view, _, _ in self._pictures]
            others = torch.stack([other for _, other, _ in self._pictures])
            gradients = torch.stack([other for _, _, other in self._pictures])
            pixels = (others - picture).abs().flatten(1).mean(1) / torch.maximum(gradients, gradient)
            if bool(pixels.min() < moved):
                return numbers[int(pixels.argmin())]
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
