"""IoU as the published evaluators compute it, to the last bit, and optimal one-to-one matching."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import load
from scipy.optimize import linear_sum_assignment

from vidllm.evaluation.protocols.box_metrics import (
    EPSILON_FLOAT32,
    benchmark_generalized_iou,
    centre_size_corners,
    hull_iou,
    matched_ious,
)


def cube(size: float = 1.0, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    signs = np.array([[x, y, z] for z in (1, -1) for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
    return signs * size / 2 + np.array(at)


def test_every_edge_case_agrees_with_the_five_published_functions(golden: Path) -> None:
    items = load(golden, "box_iou")["items"]
    assert len(items) > 80
    for item in items:
        true, predicted = np.array(item["gt_corners"]), np.array(item["pred_corners"])
        double = float(hull_iou(predicted, true))
        stored = float(hull_iou(centre_size_corners(true), centre_size_corners(predicted)))
        single = float(hull_iou(predicted, true, EPSILON_FLOAT32, np.float32))
        assert double == pytest.approx(item["scanrefer_box3d_iou_f64"], abs=1e-15), item["note"]
        assert double == pytest.approx(item["scan2cap_box3d_iou_batch_tensor_f64"], abs=1e-15), item["note"]
        assert stored == pytest.approx(item["video3dllm_box3d_iou_from_center_size"], abs=1e-15), item["note"]
        assert single == item["m3dref_aabb_pair_iou_f32"], item["note"]
        score, expected = (
            benchmark_generalized_iou(predicted[None], true[None])[0, 0],
            item["scan2cap_benchmark_giou_f64"],
        )
        assert np.isnan(score) if expected is None else score == pytest.approx(expected, abs=1e-12), item["note"]


def test_an_exact_half_fails_in_float64_and_passes_in_float32() -> None:
    half = cube(2.0), np.concatenate((cube(2.0)[:4] - [0, 0, 1], cube(2.0)[4:]))
    assert hull_iou(*half, EPSILON_FLOAT32, np.float32) >= 0.5 > hull_iou(*half) > 0.4999


def test_the_benchmark_matching_score_sees_no_overlap() -> None:
    score = benchmark_generalized_iou(cube()[None], cube(at=(0.5, 0.5, 0.0))[None])[0, 0]
    assert score == pytest.approx(2 / 2.25 - 1)  # the textbook value is -0.0794


def test_nan_passes_no_threshold() -> None:
    broken = cube()
    broken[3, 1] = np.nan
    assert not hull_iou(broken, cube()) >= 0.0


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 4), (4, 1)])
def test_assignment_has_the_least_cost_of_all(shape: tuple[int, int]) -> None:
    cost = np.random.default_rng(sum(shape)).normal(size=shape)
    rows, columns = linear_sum_assignment(cost)
    tall = cost if shape[0] <= shape[1] else cost.T
    every = itertools.permutations(range(tall.shape[1]), tall.shape[0])
    best = min(sum(tall[i, j] for i, j in enumerate(order)) for order in every)
    assert cost[rows, columns].sum() == pytest.approx(best)
    assert list(rows) == sorted(rows) and len(set(columns)) == len(columns) == min(shape)


def test_ties_fall_as_in_the_usual_implementation() -> None:
    assert list(linear_sum_assignment(np.zeros((2, 2)))[1]) == [0, 1]
    assert list(linear_sum_assignment(np.zeros((2, 4)))[1]) == [0, 1]
    rows, columns = linear_sum_assignment(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (2, 0)]


def test_matching_maximises_the_sum_not_the_number_of_pairs() -> None:
    ious = np.array([[0.9, 0.3], [0.3, 0.0]])
    assert np.allclose(matched_ious(ious), [0.9, 0.0])  # two pairs above 0.25 would sum to 0.6
    assert np.allclose(matched_ious(np.array([[0.2], [0.7]])), [0.0, 0.7])
