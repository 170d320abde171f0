"""The commands ``serve`` (HTTP) and ``mcp`` (standard input and output)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from vidllm.cli import reading
from vidllm.cli.options import Count, Effect, Text, read_by
from vidllm.cli.scenes import WithModel

TOKEN = "VIDLLM_TOKEN"


def needing(extra: str, module: str, name: str) -> Callable[..., Any]:
    """A function of ``vidllm.serving`` that needs an extra; ValueError that names the extra if it is missing."""
    try:
        found: Callable[..., Any] = getattr(import_module(f"vidllm.serving.{module}"), name)
    except ImportError as error:
        if (error.name or "vidllm").startswith("vidllm"):
            raise
        raise ValueError(f"this needs {error.name}, which is not installed: pip install 'vidllm[{extra}]'") from None
    return found


@dataclass(frozen=True)
class WithLimits(WithModel):
    """A command that serves scenes."""

    REFINES: ClassVar[bool] = True
    EFFECTS = (Effect(("json",), "a server prints no results", lambda _: False),)

    frames: Count = field(default=64, kw_only=True)  # maximum number of frames per video
    memory_mb: Count = field(default=2048, kw_only=True)  # maximum memory of all scenes, in MiB
    waiting: Count = field(default=64, kw_only=True)  # maximum number of waiting requests

    def core(self, **limits: Any) -> Any:
        """The core, with its model loaded."""
        from vidllm.serving.core import Core, Limits

        told = {"frames": self.frames, "memory": self.memory_mb * 2**20, "waiting": self.waiting, **limits}
        return Core(self.model(), Limits(**told))


@dataclass(frozen=True)
class Serve(WithLimits):
    """Serve a web page, an OpenAI-compatible API and MCP over HTTP (docs/serving.md)."""

    videos: Annotated[Positional[tuple[str, ...]], arg(metavar="VIDEO...", help_behavior_hint="")] = ()
    """videos to reconstruct at the start"""
    host: str = "127.0.0.1"  # address to listen on; any but this machine's own address requires a token
    port: Annotated[int, read_by(reading.whole, "N")] = 8000  # 0: any free port
    token: Text = None  # token that clients must send (default: VIDLLM_TOKEN, else a random one if one is required)
    upload_mb: Count = 512  # maximum size of a video, in MiB

    def run(self) -> None:
        application = needing("serve", "web", "application")
        from vidllm.io.files import check_source
        from vidllm.serving.web import LOOPBACK, bound, http_server

        for video in self.videos:
            check_source(video)
        token = self.token or os.environ.get(TOKEN) or ("" if self.host in LOOPBACK else secrets.token_urlsafe(24))
        with bound(self.host, self.port) as listening, self.core(upload=self.upload_mb * 2**20) as core:
            address = f"{f'[{self.host}]' if ':' in self.host else self.host}:{listening.getsockname()[1]}"
            for video in [core.local(video) for video in self.videos]:
                core.submit(video, len)
            reading.note(f"vidllm: http://{address}/{f'?token={token}' if token else ''}  (OpenAI clients: "
                         f"http://{address}/v1, MCP: http://{address}/mcp)")  # fmt: skip
            http_server(application(core, token, self._agents(core))).run(sockets=[listening])

    def _agents(self, core: Any) -> Any:
        """MCP over HTTP, if its extra is installed."""
        try:
            return needing("mcp", "agents", "over_http")(core)
        except ValueError as error:
            reading.note(f"vidllm: no MCP at /mcp: {error}")
            return None


@dataclass(frozen=True)
class Mcp(WithLimits):
    """Serve tools for an agent over standard input and output (MCP); it may name video files of this machine."""

    def run(self) -> None:
        server = needing("mcp", "agents", "server")
        with self.core() as core:
            server(core, local=True).run("stdio")
