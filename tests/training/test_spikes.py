"""Which steps are taken: the finite ones that are not far above what steps of their kind have been."""

from __future__ import annotations

import math

import pytest

from vidllm.training.trainable import KNOWN, RECENT, LossSpikeGuard


def taught(guard: LossSpikeGuard, kind: str = "clip", steps: int = KNOWN) -> LossSpikeGuard:
    for step in range(steps):
        assert guard.judge(kind, 2.0 + 0.1 * (step % 3), 5.0) is None
    return guard


@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_what_is_not_finite_is_never_taken(loss, norm):
    guard = LossSpikeGuard(factor=0.0)
    assert "not finite" in str(guard.judge("clip", loss, norm)) and guard.skipped() == 1


def test_a_jump_is_ten_times_the_median():
    guard = taught(LossSpikeGuard())
    assert guard.judge("clip", 20.9, 5.0) is None and guard.judge("clip", 2.0, 49.0) is None
    assert "loss 21.1 is over 10 times the median 2.1" in str(guard.judge("clip", 21.1, 5.0))
    assert "gradient norm 51" in str(guard.judge("clip", 2.0, 51.0))
    assert guard.skipped() == 2 and guard.judge("clip", 2.0, 5.0) is None


def test_each_kind_is_measured_by_its_own():
    guard = taught(LossSpikeGuard(), "window")
    assert guard.judge("clip", 1000.0, 1000.0) is None  # nothing is known of clips yet
    assert guard.judge("window", 1000.0, 5.0) is not None


def test_no_step_is_judged_before_enough_are_known_and_none_without_a_factor():
    assert taught(LossSpikeGuard(), steps=KNOWN - 1).judge("clip", 1e6, 5.0) is None
    assert taught(LossSpikeGuard(factor=0.0)).judge("clip", 1e6, 5.0) is None


def test_old_steps_are_forgotten():
    guard = taught(LossSpikeGuard(window=KNOWN))
    for _ in range(KNOWN):
        guard.judge("clip", 15.0, 5.0)
    assert guard.judge("clip", 100.0, 5.0) is None
    for _ in range(RECENT + 10):
        guard.judge("clip", math.nan, 1.0)
    assert guard.skipped() == RECENT


def test_the_memory_goes_into_a_checkpoint():
    guard = taught(LossSpikeGuard())
    guard.judge("clip", math.nan, 1.0)
    other = LossSpikeGuard()
    other.load(guard.state())
    assert other.state() == guard.state() and other.skipped() == 1
    assert other.judge("clip", 21.1, 5.0) == guard.judge("clip", 21.1, 5.0) is not None
