"""Stage 2's one-way gradients: what is said never changes how the room is measured (paper, section 3.3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from teacher_models import save_teachers

from vidllm.training.config import Texts, changed, tiny_test
from vidllm.training.joint import geometry_losses, language_losses
from vidllm.training.losses import Losses
from vidllm.training.packing import pack
from vidllm.training.stage2 import Run
from vidllm.training.texts import draw_texts

#: Global-frame attention, its heads and the metric depth model: the geometric branch behind the adapter.
GEOMETRY = ("attention", "camera_head", "gravity_head", "depth_head", "point_head", "metric_depth")


@pytest.fixture(scope="module")
def config(rooms_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_way")
    student = save_teachers(folder, sorted(rooms_folder.iterdir()))[2]
    return changed(
        tiny_test(), data=str(rooms_folder), out=str(folder / "run"), init_from=student, language_start=0,
        language_share=1.0, guide_weight=0.0, word_weight=0.0, references=4,
    )  # fmt: skip


def language_of(run: Run) -> Losses:
    """L_VL of one batch, lifted with the geometry that the model itself finds, and nothing detached by hand."""
    rng = np.random.default_rng(1)
    batch, kind, _ = run.draw(0, rng)
    assert kind == "clip"
    features = run.model.encode(batch.images)
    prefix = run.model.build_visual_tokens(
        features, run.model.metric_geometry(features, run.model.predict_cameras(features))
    )
    texts = draw_texts(batch, run.texts, rng, Texts(4, 4, 2))
    packed = pack(texts, run.model.config.loc_token_id, 400)
    assert bool(packed.loc_mask.any())
    return language_losses(run.model, prefix, packed, run.texts.prefix_ids, run.config.weights)


def with_gradient(run: Run) -> set[str]:
    return {n.split(".")[0] for n, p in run.model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_the_language_loss_has_no_gradient_in_the_geometric_branch(config):
    run = Run.build(config)
    losses = language_of(run)
    assert {"text", "box_diou", "box_l1", "box_nce"} <= set(losses.terms)
    losses.total().backward()
    for part in GEOMETRY:
        module = getattr(run.model, part)
        assert all(p.grad is None or not bool(p.grad.any()) for p in module.parameters()), part
    assert with_gradient(run) >= {"encoder", "adapter", "projector", "position_embedding", "language_model"}
    assert "grounding" in with_gradient(run)


@pytest.mark.parametrize("term", ["text", "box_diou", "box_nce"])
def test_each_language_term_reaches_the_adapter_alone(config, term):
    run = Run.build(changed(config, freeze_encoder=True))
    language_of(run).terms[term].backward()
    found = with_gradient(run)
    assert "adapter" in found and not found & {*GEOMETRY, "encoder"}


def test_the_reconstruction_losses_reach_the_adapter_and_no_word(config):
    run = Run.build(config)
    batch, *_ = run.draw(0, np.random.default_rng(1))
    losses, *_ = geometry_losses(run.model, batch, run.config.weights, torch.tensor([0]))
    losses.total().backward()
    assert with_gradient(run) == {"encoder", "adapter", *GEOMETRY}


def test_vggts_form_of_the_losses_trains_the_same_parts(config):
    run = Run.build(changed(config, reconstruction="vggt"))
    batch, *_ = run.draw(0, np.random.default_rng(1))
    losses, *_ = geometry_losses(run.model, batch, run.config.weights, torch.tensor([0, 1]))
    ours, *_ = geometry_losses(run.model, batch, config.weights, torch.tensor([0, 1]))
    assert set(losses.terms) == set(ours.terms)
    for name in ("camera", "depth", "points"):
        assert float(losses.terms[name].detach()) != pytest.approx(float(ours.terms[name].detach()), rel=1e-3), name
    for name in ("gravity", "metric"):
        torch.testing.assert_close(losses.terms[name], ours.terms[name])
    losses.total().backward()
    assert with_gradient(run) == {"encoder", "adapter", *GEOMETRY}
