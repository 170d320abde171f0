"""Loop closure: pairs are proposed by encoder features, verified by alignment, and distributed over the chain.

Frames far apart in time with similar features are proposed as pairs. Refinement of the two frames alone, starting at
the rotation for which the pictures are most similar, gives their relative pose; pairs that agree afterwards are loops,
and a pose graph distributes the drift over the frames between (:mod:`vidllm.geometry.pose_graph`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.bundle_adjustment import adjust
from vidllm.geometry.cameras import invert_extrinsics, to_homogeneous
from vidllm.geometry.pose_graph import Links, relax, scale_and_rotation

MOST_LOOPS = 16  # pairs that are verified
ALIKE = 0.5  # cosine of two frames' features, less their mean over the video, below which a pair is not proposed
MOST_PLACES = 96  # of the graph; of more frames, runs of some move together
LOOSE_CHAIN, LOOSE_LOOP = 4.0, 1.0  # expected errors, in usual ones: of a link that was not refined, of a loop
FIRM = 0.35  # contrast of two neighbours up to which their link has the usual error; beyond, its square over this one's


@runtime_checkable
class Maps(Protocol):
    """Arrays by name, with access to the first frames: rgb (F,H,W,3) 0 to 255, depth (F,H,W), ..."""

    def read(self, name: str, frames: int) -> np.ndarray:
        """The first ``frames`` frames of an array."""

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""


@dataclass(frozen=True)
class Chained:
    """F frames as placed by the windows, in one unit of length.

    extrinsics (F,3,4), intrinsics (F,3,3), median depths (F,), features (F,C); contrast (F-1,) of neighbours after
    refinement, nan without refinement (:class:`vidllm.geometry.bundle_adjustment.Adjusted`).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depths: Tensor
    features: Tensor
    contrast: Tensor


def close_loops(frames: Chained, maps: Maps, apart: int) -> tuple[Float[Tensor, "F 4 4"] | None, int]:
    """A similarity of the world per frame that closes the loops, or None without loops; and the number of loops.

    ``apart``: smallest distance in frames of a pair.
    """
    pairs = propose(frames.features, apart)
    rgb, depth = (maps.read(name, len(frames.depths)) for name in ("rgb", "depth"))
    loops = []
    for pair in pairs:
        at = list(pair)
        pictures = torch.from_numpy(rgb[at]).permute(0, 3, 1, 2).float() / 255
        motion = align(pictures, torch.from_numpy(depth[at]), frames.intrinsics[at])
        loops += [] if motion is None else [(pair, motion)]
    return (corrections(frames, loops) if loops else None), len(loops)


def propose(features: Float[Tensor, "F C"], apart: int) -> list[tuple[int, int]]:
    """Pairs of the most similar frames, best first; at least ``apart`` in time, and half of it from one another."""
    centred = F.normalize(features.float() - features.float().mean(0), dim=-1)
    number = torch.arange(len(features))
    alike = torch.where(number[None] - number[:, None] >= apart, centred @ centred.T, -1.0)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < MOST_LOOPS and float(alike.max()) >= ALIKE:
        i, j = divmod(int(alike.argmax()), len(features))
        pairs.append((i, j))
        near = [(number - k).abs() <= apart // 2 for k in (i, j)]
        alike[near[0][:, None] & near[1]] = -1
    return pairs


def align(
    images: Float[Tensor, "2 3 H W"], depth: Float[Tensor, "2 H W"], intrinsics: Float[Tensor, "2 3 3"]
) -> Float[Tensor, "4 4"] | None:
    """The second camera in the first one's frame, each at the scale of its depth: ``x_first = Z x_second``, float64.

    None if the two do not agree.
    """
    found = adjust(images, depth, intrinsics, torch.eye(4).repeat(2, 1, 1), keep=("focal",))
    if not found.agrees:
        return None
    first, second = (found.depth / depth).flatten(1).nanmedian(1).values.double()
    place = torch.linalg.inv(found.extrinsics[1].double())
    place[:3, :3] *= second
    place[:3] /= first
    return place


def corrections(
    frames: Chained, loops: list[tuple[tuple[int, int], Float[Tensor, "4 4"]]]
) -> Float[Tensor, "F 4 4"]:
    """A similarity of the world per frame that fits the chain and its loops best (float64)."""
    cameras = invert_extrinsics(to_homogeneous(frames.extrinsics.double()))
    count = len(cameras)
    run = -(-count // MOST_PLACES)
    node, before = torch.arange(count) // run, cameras[::run]
    back = torch.linalg.inv(before)
    steps = torch.arange(len(before) - 1)
    refined = (frames.contrast / FIRM).square().clamp(min=1).nan_to_num(LOOSE_CHAIN)
    total = F.pad(refined.double().square().cumsum(0), (1, 0))  # errors of a run's links add up as squares
    loose = (total[steps * run + run] - total[steps * run]).sqrt()
    first, second = torch.tensor([pair for pair, _ in loops]).T
    motions = torch.stack([motion for _, motion in loops])
    motions = back[node[first]] @ cameras[first] @ motions @ torch.linalg.inv(cameras[second]) @ before[node[second]]
    links = Links(
        torch.cat([steps, node[first]]), torch.cat([steps + 1, node[second]]),
        torch.cat([back[:-1] @ before[1:], motions]),
        torch.cat([frames.depths[::run][1:], frames.depths[second]]).double(),
        torch.cat([loose, torch.full((len(loops),), LOOSE_LOOP, dtype=loose.dtype)]),
        torch.arange(len(steps) + len(loops)) >= len(steps),
    )  # fmt: skip
    return (relax(before, links) @ back)[node]


def moved_cameras(
    extrinsics: Float[Tensor, "F 3 4"], similarities: Float[Tensor, "F 4 4"]
) -> tuple[Float[Tensor, "F 3 4"], Float[Tensor, " F"]]:
    """Cameras in the transformed world (float32), and the factors of their depth."""
    places = similarities @ invert_extrinsics(to_homogeneous(extrinsics.double()))
    scale, turn = scale_and_rotation(places)
    back = turn.mT
    return torch.cat([back, -back @ places[:, :3, 3:]], -1).float(), scale.float()
