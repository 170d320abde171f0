"""Reconstruction over exported rooms: thinning keeps the geometry; means, medians and a baseline in the table."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vidllm.answers import Scale
from vidllm.datasets.layout import DataRoot
from vidllm.evaluation import reconstruction
from vidllm.evaluation.harness import Plan
from vidllm.evaluation.reconstruction import evaluate_reconstruction, measure_clip, scene_metrics
from vidllm.evaluation.reconstruction_metrics import PosedDepth
from vidllm.evaluation.recording import EvaluationScene
from vidllm.evaluation.tasks import Variant
from vidllm.geometry.cameras import unproject


@pytest.mark.parametrize("step", [1, 2, 3])
def test_every_nth_pixel_keeps_its_point(step):
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 3, (2, 12, 15))
    intrinsics = np.repeat(np.array([[[20.0, 0, 7.5], [0, 21.0, 6.0], [0, 0, 1]]]), 2, 0)
    coarse = PosedDepth(depth, np.repeat(np.eye(4)[None], 2, 0), intrinsics).every_nth(step)
    first = step // 2
    fine = unproject(torch.from_numpy(depth), torch.from_numpy(intrinsics))[:, first::step, first::step]
    assert torch.allclose(unproject(*(torch.from_numpy(a.copy()) for a in (coarse.depth_m, coarse.intrinsics))), fine)


def test_the_truth_in_place_of_the_prediction_is_perfect(exported, small):
    case = EvaluationScene(DataRoot(exported), "scene91000_00", small, 3)
    case._placed["raw", True] = case.placed("oracle-geometry")
    ours, wall = (scene_metrics(case, variant) for variant in (Variant("vidllm", "raw"), reconstruction.WALL))
    assert ours["abs_rel"] < 1e-5 and ours["ate_m"] < 1e-4 and ours["f_score"] > 0.999
    assert wall["abs_rel"] > 0.05 and wall["f_score"] < 0.9 and wall["rta_30"] == 0


def test_a_run_has_mean_and_median_and_the_same_digits_again(exported, small, tmp_path):
    plan = Plan("reconstruction", exported, tmp_path, (), frames=3)
    results = evaluate_reconstruction(plan, small)
    before = (tmp_path / "results.json").read_bytes()
    assert set(results["protocols"]) == {"mean", "median"} and results["items"] == 2
    rows = [
        json.loads(line)
        for line in (tmp_path / "predictions/reconstruction.val.vidllm.raw.jsonl").read_text().splitlines()
    ]
    mean = results["protocols"]["mean"]["scores"]["vidllm.raw"]
    assert mean["abs_rel"] == pytest.approx(np.mean([r["figures"]["abs_rel"] for r in rows]))
    assert evaluate_reconstruction(plan, small) == results and (tmp_path / "results.json").read_bytes() == before
    with pytest.raises(ValueError, match="no scene scene9_00"):
        evaluate_reconstruction(Plan("reconstruction", exported, tmp_path / "other", (), scenes=("scene9_00",)), small)


def test_given_poses_are_the_true_ones_and_depth_is_the_models(exported, small, tmp_path):
    case = EvaluationScene(DataRoot(exported), "scene91000_00", small, 3)
    posed, free = (case.placed(setting).scene for setting in ("given-poses", "raw"))
    truth = case.recording
    assert np.allclose(posed.extrinsics, truth.extrinsics, atol=1e-4)
    assert np.allclose(posed.intrinsics, truth.intrinsics, atol=1e-3)
    assert not np.allclose(free.extrinsics, truth.extrinsics, atol=1e-2)
    ratio = (posed.depth / free.depth).flatten(1)  # the model's own depth but for the unit of the poses
    assert torch.allclose(ratio, ratio[:, :1], rtol=1e-3)
    plan = Plan("reconstruction", exported, tmp_path, (), frames=3, settings=("raw", "given-poses"))
    scores = evaluate_reconstruction(plan, small)["protocols"]["mean"]["scores"]
    assert list(scores) == ["vidllm.raw", "vidllm.given-poses", "flat-wall.no-video"]
    assert scores["vidllm.given-poses"]["ate_m"] < 1e-4 < scores["vidllm.raw"]["ate_m"]
    with pytest.raises(ValueError, match="no setting 'proposals' of reconstruction"):
        evaluate_reconstruction(Plan("reconstruction", exported, tmp_path, (), settings=("proposals",)), small)


def test_a_clip_s_intervals_are_held_against_its_truth():
    """Told depths are 10% too long: half of them, and the scale, say that they may be."""
    true = np.full((2, 4, 6), 2.0)
    std = torch.full((2, 4, 6), 0.2 / 1.645 + 1e-3)
    std[:, :2] = 0.1
    frames = SimpleNamespace(images=torch.zeros(2, 3, 4, 6), affine=torch.eye(3), original_size=(6, 4))
    poses = np.repeat(np.eye(4)[None], 2, 0)

    def reconstruct(pictures, count):
        return SimpleNamespace(
            frames=frames, depth=torch.from_numpy(true * 1.1), depth_std=std, scale=Scale(2.0, 0.05, (), (1.7, 2.2)),
            extrinsics=torch.from_numpy(poses).float(), frames_agree=False,
        )  # fmt: skip

    depths = {0: lambda: true[0], 1: lambda: true[1]}
    clip = SimpleNamespace(usable=[0, 1], depths=depths, poses=poses, picture=lambda n: n)
    figures = measure_clip(SimpleNamespace(reconstruct=reconstruct), clip, 2)
    assert figures["scale_ratio"] == pytest.approx(1.1) and figures["abs_rel_aligned"] == pytest.approx(0)
    assert (figures["depth_in_90"], figures["scale_in_90"], figures["frames_agree"]) == (0.5, 1.0, 0.0)
