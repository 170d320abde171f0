"""A small random model, its core, and a server in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_model import noise_clip, save_small_model

import vidllm
from vidllm.io.video import write_video
from vidllm.serving.core import Core, Limits


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> vidllm.VidLLM:
    return vidllm.load(save_small_model(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "noise.mp4"
    write_video(path, noise_clip(4, 56, 70))
    return path


@dataclass
class Site:
    core: Core
    address: str
    token: str


@pytest.fixture(scope="module")
def site(model: vidllm.VidLLM) -> Iterator[Site]:
    yield from serving(model, "")


@pytest.fixture(scope="module")
def locked_site(model: vidllm.VidLLM) -> Iterator[Site]:
    yield from serving(model, "a-token")


def serving(model: vidllm.VidLLM, token: str) -> Iterator[Site]:
    from vidllm.serving.agents import over_http
    from vidllm.serving.web import application, bound, http_server

    with bound("127.0.0.1", 0) as listening, Core(model, Limits(upload=2**22, waiting=6)) as core:
        server = http_server(application(core, token, over_http(core)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield Site(core, f"http://127.0.0.1:{listening.getsockname()[1]}", token)
        server.should_exit = True
        thread.join()
