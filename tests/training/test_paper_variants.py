"""Systems of the paper's tables and readings of its text as options of stage 2: each does what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import micro_model, video
from teacher_models import save_teachers

from vidllm.model.configuration import AdapterConfig, ScaleConfig
from vidllm.model.cross_task_adapter import CrossTaskAdapter
from vidllm.training.config import Start, changed, tiny_test
from vidllm.training.joint import candidate_boxes, language_losses, proposal_loss, true_geometry
from vidllm.training.losses import choice_loss, normalise
from vidllm.training.models import change_forms, fresh_settings
from vidllm.training.stage2 import Run
from vidllm.training.supervision.representation import pooled_mean
from vidllm.training.texts import scene_boxes, scene_from_room


@pytest.fixture(scope="module")
def places(rooms_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    return folder, save_teachers(folder, sorted(rooms_folder.iterdir()))


@pytest.fixture
def start(rooms_folder, places):
    folder, (_, _, student) = places
    return changed(
        tiny_test(), data=str(rooms_folder), out=str(folder / "run"), init_from=student, language_start=0,
        language_share=1.0, guide_weight=0.0, word_weight=0.0, correspondence_weight=0.0, patch_point_weight=0.0,
        semantic_weight=0.0, naming_weight=0.0, references=4,
    )  # fmt: skip


def spoken(run):
    """One batch with the prefix of its true geometry, and packed texts some of which want boxes."""
    rng = np.random.default_rng(1)
    batch, _, packed = run.draw(0, rng)
    geometry = true_geometry(normalise(batch.depth_m, batch.extrinsics, batch.intrinsics), batch.up)
    features = run.model.encode(batch.images)
    return batch, features, geometry, packed


# ---- readings of the text --------------------------------------------------------------------------------------------


def test_bridge_tokens_ride_in_a_model_that_was_imported_without():
    model = micro_model(adapter={"geometry_rider": False, "language_rider": False})
    features = model.encode(video())
    geometry = model.metric_geometry(features, model.predict_cameras(features))
    before, poses = model.build_visual_tokens(features, geometry), model.predict_cameras(features).pose_encodings
    change_forms(model.config, Start(bridge_riders=True))
    after = model.build_visual_tokens(features, geometry)
    assert torch.equal(after.tokens[:, :3], model.projector(features.streams.bridge))
    assert torch.equal(after.tokens[:, 3:], before.tokens)
    assert not torch.allclose(model.predict_cameras(features).pose_encodings[-1], poses[-1])
    with pytest.raises(ValueError, match="--bridge-riders: the adapter has no bridge tokens"):
        change_forms(micro_model(adapter={"variant": "none"}).config, Start(bridge_riders=True))


def test_a_run_trains_and_leaves_what_it_changed(start):
    run = Run.build(changed(start, bridge_riders=True, scale_estimator="wls", positions=False))
    assert run.model.config.adapter.language_rider and run.model.config.scale.estimator == "wls"
    assert run.model.config.patches.positions is False
    batch = run.draw(0, np.random.default_rng(0))
    run.losses(batch, 0, np.random.default_rng(0)).total().backward()
    assert run.model.adapter.exchange.tokens.grad.abs().sum() > 0
    assert all(p.grad is None for p in run.model.position_embedding.parameters())  # VG-LLM's setting


def test_without_positions_the_language_model_is_not_told_where_patches_are():
    model = micro_model()
    features = model.encode(video())
    geometry = model.metric_geometry(features, model.predict_cameras(features))
    unplaced = model.build_visual_tokens(features, geometry, embed_positions=False)
    change_forms(model.config, Start(positions=False))
    assert torch.equal(model.build_visual_tokens(features, geometry).tokens, unplaced.tokens)


def test_the_literal_eq_1():
    adapter = CrossTaskAdapter(AdapterConfig(variant="none", residual=False, num_heads=2), 8)
    tokens = torch.randn(1, 2, 3, 8)
    streams = adapter(tokens)
    for phi, stream in ((adapter.phi_geometry, streams.geometry), (adapter.phi_language, streams.language)):
        first, second = phi.expand, phi.contract
        assert first.weight.shape == (32, 8) and set(dict(phi.named_parameters())) == {
            "expand.weight", "expand.bias", "contract.weight", "contract.bias"}  # fmt: skip
        hidden = tokens @ first.weight.T + first.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        assert torch.allclose(stream, hidden @ second.weight.T + second.bias, atol=1e-6)
    assert fresh_settings(Start(literal_streams=True), 40).adapter.residual is False
    with pytest.raises(ValueError, match="--literal-streams"):
        fresh_settings(Start(literal_streams=True, geometry_from="M"), 40)


def test_the_literal_least_squares():
    model = micro_model()
    change_forms(model.config, Start(scale_estimator="wls"))
    features = model.encode(video())
    cameras = model.predict_cameras(features)
    geometry = model.metric_geometry(features, cameras)
    assert not geometry.scale.scale.requires_grad
    depth, sure = (x[0].detach().double() for x in model.predict_depth(cameras, features.image_size))
    metric, scale = geometry.metric_depth_m[0].detach().double(), ScaleConfig()
    votes = []
    for r, m, c in zip(depth, metric, sure, strict=True):
        kept = (c >= c.median()) & (m > scale.min_depth_m) & (m < scale.max_depth_m)
        w = (c / m**2)[kept]
        votes.append((w * r[kept] * m[kept]).sum() / (w * r[kept] ** 2).sum())
    assert float(geometry.scale.scale[0]) == pytest.approx(float(torch.stack(votes).median()), rel=1e-3)


def test_the_canonical_focal_length_and_the_point_head_of_fresh_weights():
    assert fresh_settings(Start(), 40).dense_head.point_head is False  # tiny
    told = fresh_settings(Start(point_head=True, canonical_focal=1.5), 40)
    assert told.dense_head.point_head is True and told.metric_depth.canonical_focal == 1.5
    assert fresh_settings(Start("paper", canonical_focal=0.9), 40).metric_depth.canonical_focal == 0.9
    model = micro_model()
    model.config.metric_depth.canonical_focal = 1.5
    features, k = model.encode(video()), torch.eye(3).expand(1, 3, 3, 3) * 30
    near, far = (model.predict_metric_depth(features, k * factor)[0] for factor in (1, 2))
    assert torch.allclose(far, 2 * near, rtol=1e-4)  # twice the focal length: the same picture is twice as far


# ---- proposal matching -------------------------------------------------------------------------------------------


def test_the_candidates_are_the_boxes_of_the_scene_once(start):
    run = Run.build(start)
    batch, _, _, packed = spoken(run)
    boxes, known = candidate_boxes(packed, batch)
    for b, record in enumerate(batch.records):
        wanted = torch.tensor(list(scene_boxes(record, scene_from_room(batch.extrinsics[b])).values()))
        assert torch.equal(boxes[b][known[b]], torch.unique(wanted, dim=0))
    alone, there = candidate_boxes(packed, None)
    assert there.sum() <= known.sum() and torch.equal(alone[0][there[0]], torch.unique(
        packed.boxes[0][packed.box_mask[0]], dim=0))  # fmt: skip


def test_the_choice_is_scored_by_the_probability_of_the_targets():
    logits, none = torch.tensor([[[1.0, 2.0, 0.5], [0.0, 1.0, 2.0]]]), torch.tensor([[0.0, 3.0]])
    positives = torch.zeros(1, 2, 1, 3, dtype=torch.bool)
    positives[0, 0, 0, 1] = True
    wanted = torch.tensor([[[True], [False]]])
    found = choice_loss(logits, none, positives, wanted, torch.ones(1, 2, dtype=torch.bool))
    chances = [torch.cat([logits[0, e], none[0, e, None]]).softmax(0) for e in (0, 1)]
    assert float(found) == pytest.approx(-float(chances[0][1].log() + chances[1][3].log()) / 2, rel=1e-6)


def test_a_choice_among_given_boxes_is_learned(start):
    run = Run.build(changed(start, proposal_weight=1.0))
    batch, features, geometry, packed = spoken(run)
    prefix = run.model.build_visual_tokens(features, geometry)
    losses = language_losses(run.model, prefix, packed, run.texts.prefix_ids, run.config.weights, (), batch)
    assert "proposals" in losses.terms
    losses.terms["proposals"].backward()
    grounding = run.model.grounding
    for part in (grounding.query_out, grounding.patch_in, grounding.loc_out):
        assert any(bool(p.grad.any()) for p in part.parameters())
    run = Run.build(changed(start, proposal_weight=0.0))
    prefix = run.model.build_visual_tokens(run.model.encode(batch.images), geometry)
    plain = language_losses(run.model, prefix, packed, run.texts.prefix_ids, run.config.weights, (), batch)
    assert "proposals" not in plain.terms

    boxes, known = candidate_boxes(packed, batch)
    hidden = torch.randn(*packed.loc.shape, 32)
    seen = type(prefix)(**{name: value.detach() for name, value in vars(prefix).items()})
    optimizer = torch.optim.Adam(run.model.grounding.parameters(), 1e-2)
    for step in range(60):
        loss = proposal_loss(run.model, seen, hidden, packed, boxes, known)
        first = float(loss.detach()) if step == 0 else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * first


# ---- 3DRS --------------------------------------------------------------------------------------------------------


def test_features_are_pooled_as_the_patches_were():
    features = torch.tensor([[[1.0], [3.0], [10.0], [7.0]]])
    assert pooled_mean(features, torch.tensor([[0, 0, -1, 2]]), 3).tolist() == [[[2.0], [0.0], [7.0]]]
    model = micro_model()
    seen = model.encode(video())
    geometry = model.metric_geometry(seen, model.predict_cameras(seen))
    change_forms(model.config, Start(positions=False))
    prefix = model.build_visual_tokens(seen, geometry)
    pooled = pooled_mean(seen.streams.language.flatten(1, 2), prefix.patch_index, prefix.patch_mask.shape[1])
    assert torch.allclose(pooled, prefix.patches, atol=1e-5)


def test_visual_tokens_are_drawn_to_the_teachers_features(start, places):
    teacher = places[1][0]
    run = Run.build(changed(start, represent_weight=2.0, represent_from=teacher))
    (kind,) = run.supervision
    assert any(name.startswith("auxiliary.represent.") for name in run.named_parameters())
    batch, features, geometry, packed = spoken(run)
    prefix = run.model.build_visual_tokens(features, geometry)
    losses = language_losses(run.model, prefix, packed, run.texts.prefix_ids, run.config.weights, [kind], batch)
    losses.terms["represent"].backward()
    for part in (run.model.projector, run.model.language_model, run.auxiliary.represent):
        assert any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    assert not any(p.requires_grad for p in kind.teacher.model.parameters())
    assert losses.terms["represent"].item() == pytest.approx(2 * (1 - losses.figures["represent_cos"]), rel=1e-5)

    grid = batch.images.shape[-2] // 14, batch.images.shape[-1] // 14
    wanted = pooled_mean(kind.teacher.on_grid(batch, grid).flatten(1, 2), prefix.patch_index,
                         prefix.patch_mask.shape[1])  # fmt: skip
    run.auxiliary.represent.forward = lambda tokens: 3 * wanted  # the direction alone counts
    again = language_losses(run.model, prefix, packed, run.texts.prefix_ids, run.config.weights, [kind], batch)
    assert again.terms["represent"].item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="--represent-from"):
        Run.build(changed(start, represent_weight=1.0))
