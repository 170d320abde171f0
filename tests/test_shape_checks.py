"""The tests themselves see a wrong shape, in calls of functions and in dataclasses."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from vidllm.geometry.cameras import project
from vidllm.io.files import number
from vidllm.io.frames import Frames


def test_a_wrong_shape_is_refused_and_an_axis_has_one_length():
    assert project(torch.ones(4, 3), torch.eye(3))[0].shape == (4, 2)
    with pytest.raises(BeartypeCallHintViolation, match="points"):
        project(torch.ones(4, 2), torch.eye(3))
    indices, affine = torch.zeros(2, dtype=torch.int64), torch.eye(3)
    Frames(torch.zeros(2, 3, 4, 4), torch.zeros(2), indices, affine, (4, 4), "")
    with pytest.raises(BeartypeCallHintViolation, match="timestamps_s"):
        Frames(torch.zeros(2, 3, 4, 4), torch.zeros(3), indices, affine, (4, 4), "")


def test_what_has_no_shape_is_left_as_it_is():
    assert not hasattr(number, "__wrapped__") and hasattr(project, "__wrapped__")
