"""A drifting chain of cameras comes back to its truth where loops tell it, and a wrong loop does not bend it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidllm.geometry.pose_graph import Links, relax, scale_and_rotation
from vidllm.geometry.rotations import rotation_angle_deg


def similarity(scale: float, turn: tuple[float, float, float], shift: tuple[float, float, float]) -> Tensor:
    x, y, z = turn
    generator = torch.tensor([[0, -z, y, 0], [z, 0, -x, 0], [-y, x, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    place = torch.linalg.matrix_exp(generator)
    place[:3, :3] *= math.exp(scale)
    place[:3, 3] = torch.tensor(shift)
    return place


def circle(frames: int) -> Tensor:
    """Cameras that walk round a circle and look ahead; the last one is where the first was."""
    step = similarity(0, (0, 2 * math.pi / (frames - 1), 0), (0.05, 0, 0.3))
    places = [torch.eye(4, dtype=torch.float64)]
    for _ in range(frames - 1):
        places.append(places[-1] @ step)
    return torch.stack(places)


def graph(truth: Tensor, loops: list[tuple[int, int]], wrong: Tensor | None = None) -> tuple[Tensor, Links]:
    """Drifted places (2 degrees, 2% of scale a step) and the links of chain and loops; ``wrong`` moves the last."""
    drift = similarity(0.02, (0.01, 0.03, 0), (0.01, 0, 0))
    inverse = torch.linalg.inv(truth)
    steps, places = inverse[:-1] @ truth[1:] @ drift, [truth[0]]
    for step in steps:
        places.append(places[-1] @ step)
    told = [inverse[a] @ truth[b] for a, b in loops]
    if wrong is not None:
        told[-1] = told[-1] @ wrong
    count = len(steps)
    first = torch.tensor([*range(count), *(a for a, _ in loops)])
    second = torch.tensor([*range(1, count + 1), *(b for _, b in loops)])
    one = torch.ones(len(first), dtype=torch.float64)
    return torch.stack(places), Links(first, second, torch.cat([steps, torch.stack(told)]), 2 * one, one,
                                      torch.arange(len(first)) >= count)  # fmt: skip


def errors(places: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Of the last camera: degrees, distance, scale."""
    scale, turn = scale_and_rotation(places[-1:])
    angle = float(rotation_angle_deg(turn, truth[-1:, :3, :3])[0])
    return angle, float((places[-1] - truth[-1])[:3, 3].norm()), float(scale[0])


def test_a_loop_closes_and_the_drift_goes_out_of_the_chain():
    truth = circle(41)
    drifted, links = graph(truth, [(0, 40), (2, 38)])
    found = relax(drifted, links)
    angle, distance, scale = errors(drifted, truth)
    assert angle > 40 and distance > 1.5 and scale > 2
    angle, distance, scale = errors(found, truth)
    assert angle < 2 and distance < 0.1 and scale == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(found[0], truth[0])
    before, after = ((x[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1).mean() for x in (drifted, found))
    assert after < 0.6 * before


def test_without_contradiction_nothing_moves():
    truth = circle(12)
    _, links = graph(truth, [(0, 11)])
    exact = Links(links.first[-1:], links.second[-1:], links.motion[-1:], links.depth[-1:], links.loose[-1:],
                  links.loop[-1:])  # fmt: skip
    torch.testing.assert_close(relax(truth, exact), truth)


def test_a_wrong_loop_among_right_ones_is_left_out():
    truth = circle(41)
    drifted, links = graph(truth, [(0, 40), (1, 39), (3, 37), (8, 25)], similarity(0.4, (0, 1.2, 0), (1, 0, -1)))
    angle, distance, _ = errors(relax(drifted, links), truth)
    assert angle < 2 and distance < 0.2


def test_a_loose_link_takes_the_error():
    truth = circle(21)
    drifted, links = graph(truth, [(0, 20)])
    loose = links.loose.clone()
    loose[9] = 10.0
    found = relax(drifted, Links(links.first, links.second, links.motion, links.depth, loose, links.loop))
    change = torch.linalg.inv(found[:-1]) @ found[1:] - torch.linalg.inv(drifted[:-1]) @ drifted[1:]
    moved = change[:, :3, :3].flatten(1).norm(dim=-1)
    assert int(moved.argmax()) == 9 and float(moved[9]) > 5 * float(moved[[0, 19]].max())
