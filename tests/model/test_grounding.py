from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vidllm.model.configuration import GroundingConfig
from vidllm.model.grounding import (
    MASKED,
    WIDER,
    GroundingDecoder,
    boxes_from_raw,
    decode_boxes,
    farthest_points,
    nearest_patches,
)
from vidllm.model.outputs import GroundingOutput

CONFIG = GroundingConfig(32, num_queries=20, num_layers=2, num_heads=4, neighbours=(4, 8))
FEATURE, LOC = 12, 16


def scene(batch: int = 2, patches: int = 40, expressions: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, patches, dtype=torch.bool)
    mask[-1, 12:] = False  # the last scene is short
    return {
        "features": torch.randn(batch, patches, FEATURE, generator=generator),
        "positions": 4 * torch.rand(batch, patches, 3, generator=generator) * mask[..., None],
        "mask": mask,
        "loc": torch.randn(batch, expressions, LOC, generator=generator),
    }


def decoder(config: GroundingConfig = CONFIG) -> GroundingDecoder:
    torch.manual_seed(0)
    return GroundingDecoder(config, FEATURE, LOC)


def test_farthest_points_are_the_farthest() -> None:
    data = scene()
    index, mask = farthest_points(data["positions"], data["mask"], 20)
    assert index.shape == (2, 20) and index[:, 0].tolist() == [0, 0]
    assert mask.sum(1).tolist() == [20, 12]
    assert sorted(index[1, :12].tolist()) == list(range(12))
    points = data["positions"][0]
    for i in range(1, 20):
        away = torch.cdist(points, points[index[0, :i]]).min(1).values
        assert away[index[0, i]] == away.max()


def test_farthest_points_start_at_the_first_valid_one_and_take_all_when_few() -> None:
    data = scene(patches=15)
    data["mask"][0, :3] = False
    index, mask = farthest_points(data["positions"], data["mask"], 20)
    assert index.shape == (2, 15) and index[0, 0] == 3 and mask.sum(1).tolist() == [12, 12]
    assert data["mask"].gather(1, index)[mask].all()


def test_neighbours_are_sorted_valid_and_relative() -> None:
    data = scene()
    near = nearest_patches(data["positions"][:, :5], data["positions"], data["mask"], 16)
    assert near.index[:, :, 0].tolist() == [list(range(5))] * 2 and near.mask[0].all()
    assert near.mask[1].sum(-1).tolist() == [12] * 5
    lengths = near.offset.norm(dim=-1).masked_fill(~near.mask, torch.inf)
    assert (lengths[..., 1:] >= lengths[..., :-1] - 1e-6).all()


def test_shapes_masks_and_gradients() -> None:
    data, net = scene(), decoder()
    out = net(**data)
    assert out.boxes.shape == (2, 2, 3, 20, 7) and out.logits.shape == (2, 3, 20) and out.none_logit.shape == (2, 3)
    assert out.query_mask.sum(1).tolist() == [20, 12] and (out.logits[1, :, 12:] == MASKED).all()
    assert out.logits[out.logits > MASKED].abs().max() <= 1 / CONFIG.object_temperature + 1e-3
    assert (out.boxes[..., 3:6] > 0).all() and (out.boxes[..., 6].abs() <= math.pi / 2).all()
    assert ((out.boxes[..., :3] - out.query_positions[None, :, None]).norm(dim=-1) < 0.5).all()  # near their queries
    (out.boxes.square().mean() + out.logits.softmax(-1).square().mean() + out.none_logit.mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_batch_is_its_scenes_and_expressions_do_not_see_each_other() -> None:
    data, net = scene(), decoder()
    out = net(**data)
    short = {k: v[1:] if k == "loc" else v[1:, :12] for k, v in data.items()}
    alone = net(**short)
    torch.testing.assert_close(out.boxes[:, 1:, :, :12], alone.boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.logits[1:, :, :12], alone.logits, atol=1e-4, rtol=1e-4)
    one = net(**{**data, "loc": data["loc"][:, 1:2]})
    torch.testing.assert_close(out.boxes[:, :, 1:2], one.boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.none_logit[:, 1:2], one.none_logit, atol=1e-4, rtol=1e-4)


def test_boxes_move_with_the_room() -> None:
    data, net = scene(), decoder()
    for parameter in (net.position.position_embedding_head[3].weight, net.position.position_embedding_head[3].bias):
        torch.nn.init.zeros_(parameter)  # all but the absolute position embedding is relative
    shift = torch.tensor([1.0, -2.0, 0.5])
    moved = {**data, "positions": data["positions"] + shift}
    before, after = net(**data).boxes, net(**moved).boxes
    torch.testing.assert_close(after[..., :3], before[..., :3] + shift, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(after[..., 3:], before[..., 3:], atol=1e-3, rtol=1e-3)


def test_an_empty_scene_gives_finite_numbers_and_no_box() -> None:
    data = scene()
    data["mask"][:] = False
    out = decoder()(**data)
    assert out.boxes.isfinite().all() and not out.query_mask.any()
    assert decode_boxes(out) == [[[], [], []], [[], [], []]]


def test_raw_box_numbers() -> None:
    anchors = torch.tensor([[[1.0, 2.0, 3.0]]])
    angle = torch.tensor(2 * 0.4)
    raw = torch.tensor([0.5, 0, 0, math.log(2), 0, -99, 0, 0])
    raw[6], raw[7] = angle.sin(), angle.cos() - 1
    box = boxes_from_raw(raw.view(1, 1, 1, 8), anchors).flatten()
    torch.testing.assert_close(box, torch.tensor([1.5, 2, 3, 1.2, 0.6, 0.02, 0.4]))


def test_bfloat16_runs_and_follows() -> None:
    data, net = scene(), decoder()
    reference = net(**data)
    half = net.bfloat16()(**{**data, "features": data["features"].bfloat16(), "loc": data["loc"].bfloat16()})
    assert half.boxes.dtype == half.logits.dtype == torch.float32
    assert (half.boxes - reference.boxes).abs().max() < 0.1


def test_proposals_are_scored_and_masked() -> None:
    data, net = scene(), decoder()
    proposals = torch.cat([data["positions"][:, :6], torch.ones(2, 6, 3), torch.zeros(2, 6, 1)], -1)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    logits, none = net.choose_proposal(**data, proposals=proposals, proposal_mask=mask)
    assert logits.shape == (2, 3, 6) and none.shape == (2, 3) and (logits[0, :, 4:] == MASKED).all()
    fewer = net.choose_proposal(**{k: v[:1] for k, v in data.items()}, proposals=proposals[:1, :4])[0]
    torch.testing.assert_close(fewer, logits[:1, :, :4], atol=1e-4, rtol=1e-4)
    far = proposals.clone()
    far[..., :3] += 50.0  # no patch inside: the nearest one speaks for it
    assert net.choose_proposal(**data, proposals=far)[0].isfinite().all()


def output(chances: list[float], none: float, centres: list[float]) -> GroundingOutput:
    """One scene, one expression: unit boxes along x with the given probabilities."""
    boxes = torch.zeros(1, 1, 1, len(chances), 7)
    boxes[..., 3:6] = 1.0
    boxes[0, 0, 0, :, 0] = torch.tensor(centres)
    logits = torch.tensor(chances).log().view(1, 1, -1)
    positions, mask = boxes[0, 0, :, :, :3], torch.ones(1, len(chances), dtype=torch.bool)
    return GroundingOutput(boxes, logits, torch.tensor([[none]]).log(), positions, mask)


def test_the_mean_of_boxes_knows_that_quarter_turns_exchange_the_sides() -> None:
    alike = torch.tensor([[0.0, 0, 0, 2, 1, 1, 0.1], [0.2, 0, 0, 1, 2, 1, 0.1 - math.pi / 2], [9.0, 0, 0, 1, 1, 1, 0]])
    chances = torch.tensor([[0.5, 0.25, 0.2, 0.05]])
    out = GroundingOutput(alike[None, None, None], chances[None, :, :3].log(), chances[:, 3:].log(), alike[None, :, :3],
                          torch.ones(1, 3, dtype=torch.bool))  # fmt: skip
    (one,) = decode_boxes(out, multiple=False)[0][0]
    spread = 0.2 * (2 / 9) ** 0.5  # of the centres, along x
    wider = WIDER * spread * torch.tensor([math.cos(0.1), math.sin(0.1), 0])
    expected = torch.tensor([0.2 / 3, 0, 0, 2, 1, 1, 0.1])
    expected[3:6] += wider
    torch.testing.assert_close(one.box, expected)
    assert one.score == pytest.approx(0.75)
    (raw,) = decode_boxes(out, multiple=False, average=False)[0][0]
    assert torch.equal(raw.box, alike[0])


def test_decoding_none_one_and_several() -> None:
    assert decode_boxes(output([0.1, 0.2], 0.7, [0.0, 5.0])) == [[[]]]
    (one,) = decode_boxes(output([0.9, 0.05, 0.03], 0.02, [0.0, 5.0, 9.0]))[0][0]
    assert one.box[0] == 0 and one.score == pytest.approx(0.9, abs=1e-5)
    several = decode_boxes(output([0.3, 0.4, 0.2], 0.1, [0.0, 5.0, 5.1]))[0][0]
    assert [round(float(found.box[0]), 3) for found in several] == [5.033, 0.0]  # the mean of 5.0 (0.4) and 5.1 (0.2)
    assert [found.score for found in several] == pytest.approx([0.6, 0.3], abs=1e-5)
    single = decode_boxes(output([0.3, 0.4, 0.2], 0.1, [0.0, 5.0, 5.1]), multiple=False)[0][0]
    assert len(single) == 1 and single[0].box[0] == several[0].box[0]
    assert len(decode_boxes(output([0.3, 0.3, 0.3], 0.1, [0.0, 5.0, 10.0]), max_boxes=2)[0][0]) == 2


def test_an_object_spread_over_queries_beats_none() -> None:
    spread = output([0.1] * 7, 0.3, [0.02 * i for i in range(7)])  # "none" is the largest single number
    (found,) = decode_boxes(spread)[0][0]
    assert found.score == pytest.approx(0.7, abs=1e-5)


def test_neighbourhoods_must_match_the_layers() -> None:
    with pytest.raises(ValueError, match="neighbourhood"):
        decoder(replace(CONFIG, num_layers=3))
