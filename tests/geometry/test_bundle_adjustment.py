"""A reconstruction with planted errors is brought back to where its frames agree."""

from __future__ import annotations

import pytest
import torch
from textured_corner import corner, turned
from torch import Tensor

from vidllm.geometry.bundle_adjustment import _Bundle, adjust
from vidllm.geometry.rotations import rotation_angle_deg

Views = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def truth() -> Views:
    return corner(detail=0.4)


def wrong_cameras(extrinsics: Tensor) -> Tensor:
    """Every camera but the first turned by some four degrees and put some centimetres away."""
    noise = torch.Generator().manual_seed(0)
    moved = extrinsics.clone()
    for pose in moved[1:]:
        pitch, yaw = (torch.randn(2, generator=noise) * 0.05).tolist()
        pose[:3, :3] = turned(pitch, yaw) @ pose[:3, :3]
        pose[:3, 3] += 0.06 * torch.randn(3, generator=noise)
    return moved


def errors(extrinsics: Tensor, truth: Views) -> tuple[float, float]:
    """Mean error of the cameras but the first: degrees, metres."""
    true = truth[3]
    angle = rotation_angle_deg(extrinsics[1:, :3, :3], true[1:, :3, :3])
    return float(angle.mean()), float((extrinsics[1:, :3, 3] - true[1:, :3, 3]).norm(dim=-1).mean())


def test_cameras_come_back(truth: Views):
    images, depth, k, extrinsics = truth
    wrong = wrong_cameras(extrinsics)
    found = adjust(images, depth, k, wrong, keep=("focal",))
    (turn, place), (turn_before, place_before) = errors(found.extrinsics, truth), errors(wrong, truth)
    assert turn_before > 3 and turn < 0.15 * turn_before
    assert place_before > 0.08 and place < 0.15 * place_before
    assert found.after < 0.2 * found.before and found.agrees
    torch.testing.assert_close(found.extrinsics[0], wrong[0])


@pytest.mark.slow
def test_a_wrong_focal_length_comes_back_as_one_for_all_where_cameras_turn():
    truth = corner(turn_by=3, detail=0.4)
    images, depth, k, extrinsics = truth
    wrong = k.clone()
    wrong[:, (0, 1), (0, 1)] *= torch.tensor([0.9, 0.88, 0.86, 0.9, 0.92, 0.9])[:, None]
    found = adjust(images, depth, wrong, wrong_cameras(extrinsics))
    assert abs(float(found.intrinsics[0, 0, 0]) / 50 - 1) < 0.04
    torch.testing.assert_close(found.intrinsics, found.intrinsics[:1].expand_as(k))
    assert errors(found.extrinsics, truth)[0] < 0.3 * errors(wrong_cameras(extrinsics), truth)[0]


@pytest.mark.slow
def test_frames_come_to_one_scale_and_the_unit_stays(truth: Views):
    images, depth, k, extrinsics = truth
    factors = torch.tensor([1.0, 1.15, 0.9, 1.0, 1.1, 0.85])[:, None, None]
    found = adjust(images, depth * factors, k, extrinsics, keep=("focal",))
    apart = (found.depth / depth).log().flatten(1).median(1).values
    assert float(apart.std()) < 0.5 * float(factors.log().std())
    assert float((found.depth / (depth * factors)).median()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(found.intrinsics, k)


@pytest.mark.slow
def test_known_cameras_do_not_move_and_the_depth_takes_their_unit(truth: Views):
    images, depth, k, extrinsics = truth
    found = adjust(images, 1.1 * depth, k, extrinsics, keep=("cameras", "focal"))
    assert torch.equal(found.intrinsics, k) and torch.equal(found.extrinsics, extrinsics)
    assert abs(float((found.depth / depth).median()) - 1) < 0.04


def test_where_nothing_can_be_compared_all_stays(truth: Views):
    images, depth, k, extrinsics = truth
    apart = extrinsics.clone()
    apart[1:, :3, 3] += 1000.0
    for given in ((images[:1], depth[:1], k[:1], extrinsics[:1]), (images, depth, k, apart),
                  (images, torch.full_like(depth, torch.nan), k, extrinsics)):  # fmt: skip
        found = adjust(*given)
        assert torch.equal(found.depth, given[1]) or bool(given[1].isnan().all())
        assert torch.equal(found.intrinsics, given[2]) and torch.equal(found.extrinsics, given[3])


def test_whether_frames_agree_is_told_of_right_and_of_wrong_cameras(truth: Views):
    images, depth, k, extrinsics = truth
    right = _Bundle(images, depth, k, extrinsics, keep=("focal",)).test()
    wrong = _Bundle(images, depth, k, wrong_cameras(extrinsics), keep=("focal",)).test()
    assert right[0] and not wrong[0]
    assert float(right[1].max()) < 0.25 and float(wrong[1].max()) > 0.6
    one_off = extrinsics.clone()
    one_off[3:, :3, :3] = turned(0.05, 0.08) @ one_off[3:, :3, :3]
    agrees, contrast = _Bundle(images, depth, k, one_off, keep=("focal",)).test()
    assert not agrees and int(contrast.argmax()) == 2  # between the frames 2 and 3


@pytest.mark.slow
def test_frames_of_different_things_stay_and_do_not_agree(truth: Views):
    _, depth, k, extrinsics = truth
    others = torch.nn.functional.interpolate(torch.rand(6, 3, 24, 32), depth.shape[-2:], mode="bilinear")
    found = adjust(others, depth, k, extrinsics)
    assert not found.agrees and torch.equal(found.depth, depth) and torch.equal(found.extrinsics, extrinsics)
    assert found.after == found.before


def test_pixels_without_depth_do_no_harm(truth: Views):
    images, depth, k, extrinsics = truth
    holes = depth.clone()
    holes[:, :10] = torch.nan
    holes[:, 10:14] = 0
    found = adjust(images, holes, k, wrong_cameras(extrinsics), keep=("focal",))
    assert errors(found.extrinsics, truth)[0] < 0.5
    assert bool(found.depth[:, :10].isnan().all()) and bool((found.depth[:, 10:14] == 0).all())


@pytest.mark.slow
def test_the_same_comes_out_twice_and_inside_inference_mode(truth: Views):
    images, depth, k, extrinsics = truth
    with torch.inference_mode():
        first = adjust(images.clone(), depth.clone(), k.clone(), wrong_cameras(extrinsics))
    second = adjust(images, depth, k, wrong_cameras(extrinsics))
    assert torch.equal(first.extrinsics, second.extrinsics) and torch.equal(first.depth, second.depth)
    assert not second.depth.requires_grad


def test_motions_between_neighbours_bring_back_cameras_that_are_far_off():
    truth = corner(turn_by=4, detail=0.4)
    images, depth, k, extrinsics = truth
    wrong = extrinsics.clone()
    for number, pose in enumerate(wrong[1:], 1):
        pose[:3, :3] = turned(0.1 * (-1) ** number, 0.12 * number) @ pose[:3, :3]
    found = adjust(images, depth, k, wrong, keep=("focal",))
    assert errors(wrong, truth)[0] > 20 and errors(found.extrinsics, truth)[0] < 1


def test_two_frames_are_enough(truth: Views):
    images, depth, k, extrinsics = (x[:2] for x in truth)
    wrong = wrong_cameras(extrinsics)
    found = adjust(images, depth, k, wrong, keep=("focal",))
    two = images, depth, k, extrinsics
    assert errors(found.extrinsics, two)[0] < 0.3 * errors(wrong, two)[0]


def test_a_camera_that_stands_still_stays_so(truth: Views):
    images, depth, k, extrinsics = (x[:1].expand(4, *x.shape[1:]) for x in truth)
    found = adjust(images, depth, k, extrinsics)
    torch.testing.assert_close(found.extrinsics, extrinsics, atol=1e-5, rtol=0)
    still = images, depth, k, extrinsics
    wrong = wrong_cameras(extrinsics)
    assert errors(adjust(images, depth, k, wrong).extrinsics, still)[0] < 0.1 * errors(wrong, still)[0]


def test_constant_pictures_move_nothing_and_a_warning_says_so(truth: Views):
    _, depth, k, extrinsics = truth
    with pytest.warns(UserWarning, match="no texture"):
        found = adjust(torch.full((6, 3, 48, 64), 0.5), depth, k, wrong_cameras(extrinsics))
    assert torch.equal(found.extrinsics, wrong_cameras(extrinsics)) and torch.equal(found.depth, depth)
