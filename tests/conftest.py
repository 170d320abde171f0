"""One thread, fixed seeds, and every shape annotation of the package checked at run time."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shape_checks import check_shapes

gc.disable()  # while all is imported
check_shapes("vidllm", "vidllm_rooms")  # before anything imports them

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
os.fsync = lambda _: None  # no test cuts the power, and a tenth of a second a file is much
re._MAXCACHE = 2**14  # transformers compiles a pattern for each weight that it loads


def pytest_configure(config: pytest.Config) -> None:
    """In CI also deprecations that our own code causes are errors, and whatever is left open (see pyproject.toml)."""
    if os.environ.get("CI"):
        doubt = "default:.*do not agree after refinement:UserWarning"  # true of the cameras of random weights
        for line in ("error:::(vidllm|test_|helpers)", "error::pytest.PytestUnraisableExceptionWarning", doubt):
            config.addinivalue_line("filterwarnings", line)


def pytest_collection_finish() -> None:
    """What is imported by now stays: to search it for garbage again and again took a tenth of the time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def manual_seed() -> Iterator[None]:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)  # training sets it for its process
    yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of stored reference numbers."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def shipped_model() -> Any:
    """The model of the package, loaded once; tests that change a model load their own."""
    import vidllm

    return vidllm.load()


@pytest.fixture(scope="session")
def rooms_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shards of two rendered rooms each: 4 frames of 56x70 and of 70x56."""
    from vidllm_rooms.shards import write_shard

    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder, [10000, 10001], 4, 56, 70)
    write_shard(folder, [10002, 10003], 4, 70, 56)
    return folder
