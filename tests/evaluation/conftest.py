"""Two small exported rooms and a small random model, made once for all tests of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_model import save_small_model

import vidllm
from vidllm.scene import VidLLM
from vidllm_rooms.official.export import export_rooms

FRAMES = 3


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root in the official layouts: rooms 1000 and 1001, 4 frames of 96x128."""
    root = tmp_path_factory.mktemp("exported")
    export_rooms(root, (1000, 1001), frames=4, height=96, width=128)
    return root


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of a few thousand weights."""
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def small(small_folder: Path) -> VidLLM:
    """The same, loaded."""
    return vidllm.load(small_folder)
