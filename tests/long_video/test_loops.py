"""Places that a video comes back to: proposed, verified, and the whole brought together, its patches with it."""

from __future__ import annotations

import pytest
import torch
from textured_corner import corner

from vidllm.geometry.cameras import to_homogeneous
from vidllm.long_video.loops import Chained, align, corrections, moved_cameras, propose


def test_frames_with_like_features_far_apart_are_proposed():
    features = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    features[31], features[30], features[5] = features[3] + 0.05, features[2] + 0.1, features[4]
    pairs = propose(features, 8)
    assert pairs[0] == (3, 31)
    assert (2, 30) not in pairs and (4, 5) not in pairs  # near another pair; near in time
    assert propose(features[:6], 8) == []


def test_two_views_of_a_place_are_aligned_and_two_places_are_not():
    images, depth, k, extrinsics = corner(detail=0.4)
    pair = [0, 2]
    depths = depth[pair] * torch.tensor([1.0, 1.3])[:, None, None]  # the second one's own unit is larger
    motion = align(images[pair], depths, k[pair])
    assert motion is not None
    true = torch.linalg.inv(extrinsics[2]).double()  # camera 2 in camera 0, whose pose is the identity
    assert float(torch.linalg.det(motion[:3, :3]) ** (1 / 3)) == pytest.approx(1 / 1.3, rel=0.1)
    assert float((motion[:3, 3] - true[:3, 3]).norm()) < 0.25 * float(true[:3, 3].norm())
    other = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 32), depth.shape[-2:], mode="bilinear")
    assert align(torch.cat([images[:1], other]), depth[pair], k[pair]) is None


def test_a_walk_that_comes_back_ends_where_it_began():
    count = 130  # more frames than places of the graph
    angle = torch.linspace(0, 2 * torch.pi, count, dtype=torch.float64) * 0.9  # a tenth of the turn is lost
    extrinsics = torch.zeros(count, 3, 4, dtype=torch.float64)
    extrinsics[:, 0, 0] = extrinsics[:, 2, 2] = angle.cos()
    extrinsics[:, 1, 1] = 1
    extrinsics[:, 0, 2], extrinsics[:, 2, 0] = -angle.sin(), angle.sin()
    centres = torch.stack([angle.cos() - 1, 0 * angle, angle.sin()], -1)
    extrinsics[:, :, 3] = -(extrinsics[:, :, :3] @ centres[..., None])[..., 0]
    frames = Chained(extrinsics, torch.eye(3).expand(count, 3, 3), torch.full((count,), 2.0), torch.randn(count, 4),
                     torch.full((count - 1,), 0.2))  # fmt: skip
    moved, factors = moved_cameras(extrinsics, corrections(frames, [((0, count - 1), torch.eye(4).double())]))
    ends = torch.linalg.inv(to_homogeneous(moved[[0, -1]]))
    torch.testing.assert_close(ends[0], ends[1], atol=0.03, rtol=0)
    torch.testing.assert_close(moved[0], extrinsics[0].float())
    assert float((factors - 1).abs().max()) < 0.15
