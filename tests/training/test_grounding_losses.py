from __future__ import annotations

import math

import pytest
import torch

from vidllm.model.configuration import GroundingConfig
from vidllm.model.grounding import GroundingDecoder, decode_boxes
from vidllm.model.outputs import GroundingOutput
from vidllm.training.losses import grounding_losses, match_queries


def output(positions: list[float], logits: list[float], none: float) -> GroundingOutput:
    """One scene, one expression, one layer: unit boxes at queries along x."""
    boxes = torch.zeros(1, 1, 1, len(positions), 7)
    boxes[..., 3:6] = 1.0
    boxes[0, 0, 0, :, 0] = torch.tensor(positions)
    mask = torch.ones(1, len(positions), dtype=torch.bool)
    return GroundingOutput(boxes, torch.tensor([[logits]]), torch.tensor([[none]]), boxes[0, 0, :, :, :3], mask)


def target(*centres: float) -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.zeros(1, 1, max(1, len(centres)), 7)
    boxes[..., 3:6] = 1.0
    boxes[0, 0, : len(centres), 0] = torch.tensor(centres)
    mask = torch.zeros(boxes.shape[:3], dtype=torch.bool)
    mask[..., : len(centres)] = True
    return boxes, mask


def test_queries_inside_match_and_else_the_nearest() -> None:
    found = match_queries(output([0.0, 0.4, 3.0, 9.0], [0.0] * 4, 0.0), *target(0.1, 5.5))
    assert found[0, 0].tolist() == [[True, True, False, False], [False, False, True, False]]
    turned, mask = target(0.0)
    turned[..., 3:6] = torch.tensor([0.2, 4.0, 1.0])
    assert match_queries(output([0.0, 1.5], [0.0] * 2, 0.0), turned, mask).sum() == 1
    turned[..., 6] = math.pi / 2
    assert match_queries(output([0.0, 1.5], [0.0] * 2, 0.0), turned, mask).sum() == 2


def test_a_perfect_answer_costs_nothing() -> None:
    losses = grounding_losses(output([0.0, 5.0], [50.0, 0.0], 0.0), *target(0.0))
    assert all(float(value) == pytest.approx(0.0, abs=1e-6) for value in losses.values())


def test_info_nce_by_hand() -> None:
    logits, none = [1.0, 2.0, 0.5], 0.3
    total = sum(math.exp(x) for x in (*logits, none))
    one = grounding_losses(output([0.0, 0.3, 5.0], logits, none), *target(0.0))["nce"]
    assert float(one) == pytest.approx(-math.log((math.exp(1) + math.exp(2)) / total), abs=1e-5)
    two = grounding_losses(output([0.0, 0.3, 5.0], logits, none), *target(0.0, 5.0))["nce"]
    expected = -(math.log((math.exp(1) + math.exp(2)) / total) + math.log(math.exp(0.5) / total)) / 2
    assert float(two) == pytest.approx(expected, abs=1e-5)
    nobody = grounding_losses(output([0.0, 0.3, 5.0], logits, none), *target())
    assert float(nobody["nce"]) == pytest.approx(-math.log(math.exp(none) / total), abs=1e-5)
    assert float(nobody["diou"]) == 0


def test_box_losses_by_hand() -> None:
    boxes, mask = target(0.5)
    boxes[..., 6] = math.pi / 6
    losses = grounding_losses(output([0.0], [0.0], 0.0), boxes, mask)
    assert float(losses["l1"]) == pytest.approx(0.5 / 6, abs=1e-6)
    assert float(losses["yaw"]) == pytest.approx(0.5, abs=1e-6)
    diagonal = 1.5**2 + 1 + 1
    assert float(losses["diou"]) == pytest.approx(1 - 1 / 3 + 0.25 / diagonal, abs=1e-5)


def test_padding_and_empty_scenes_do_not_count() -> None:
    out = output([0.0, 5.0], [1.0, 0.0], 0.0)
    boxes, mask = target(0.0)
    padded_boxes, padded_mask = boxes.repeat(1, 2, 1, 1), mask.repeat(1, 2, 1)
    twice = GroundingOutput(
        out.boxes.repeat(1, 1, 2, 1, 1), out.logits.repeat(1, 2, 1), out.none_logit.repeat(1, 2),
        out.query_positions, out.query_mask,
    )  # fmt: skip
    twice.logits[0, 1] = torch.tensor([-9.0, 9.0])
    exists = torch.tensor([[True, False]])
    plain, padded = grounding_losses(out, boxes, mask), grounding_losses(twice, padded_boxes, padded_mask, exists)
    for name, value in plain.items():
        torch.testing.assert_close(padded[name], value)
    blind = GroundingOutput(out.boxes, out.logits, out.none_logit, out.query_positions, out.query_mask & False)
    assert all(float(value) == 0 for value in grounding_losses(blind, boxes, mask).values())


def test_the_decoder_learns_a_scene() -> None:
    """Three expressions - one object, two objects, none - told apart by their ``<loc>`` state alone."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0, 0.5], [3.0, 0.0, 0.4], [0.0, 3.0, 0.6]])
    kind = torch.arange(3).repeat_interleave(12)
    positions = (centres[kind] + 0.25 * torch.randn(36, 3, generator=generator))[None]
    features = torch.eye(8)[kind][None] + 0.1 * torch.randn(1, 36, 8, generator=generator)
    loc, mask = torch.randn(1, 3, 8, generator=generator), torch.ones(1, 36, dtype=torch.bool)
    boxes = torch.cat([centres, torch.tensor([[0.8, 0.6, 1.0]] * 3), torch.full((3, 1), 0.3)], -1)
    targets = torch.stack([boxes[[0, 0]], boxes[[1, 2]], boxes[[0, 0]]])[None]
    target_mask = torch.tensor([[[True, False], [True, True], [False, False]]])
    net = GroundingDecoder(GroundingConfig(32, 16, 2, 2, neighbours=(4, 8)), 8, 8)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    history = []
    for _ in range(80):
        losses = grounding_losses(net(features, positions, mask, loc), targets, target_mask)
        loss = sum(losses.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name in ("diou", "l1", "yaw"):
        assert history[-1][name] < 0.35 * history[0][name], name
    assert history[-1]["nce"] < 0.35  # two objects alone cost log(2) / 3 = 0.23
    found = decode_boxes(net(features, positions, mask, loc))[0]
    assert [len(one) for one in found] == [1, 2, 0]
    assert (found[0][0].box[:3] - centres[0]).norm() < 0.3
