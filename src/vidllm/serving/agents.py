"""The tools for agents, over the Model Context Protocol. Extra `mcp`.

A local agent (standard input and output) may name files of this machine. Over HTTP, a video is the id of an upload or a
data URL.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, get_type_hints

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import Field

from vidllm import __version__
from vidllm.io.files import plain
from vidllm.serving.chat import FILE_ID, video_of
from vidllm.serving.core import MESSAGE, Core, Refused, Video
from vidllm.serving.tools import TOOLS, render_view

INSTRUCTIONS = """Rooms from videos, in metres: call reconstruct with a video, then give the id that it returns to the \
other tools. Lengths are metres of the scene frame: z up, origin at the first camera, x in its viewing direction; yaw \
in radians about z. Tell your user about warnings."""
NAMES = {"summary": "reconstruct"}
LOCAL = "path of a video file or a folder of pictures on this machine, or the id that reconstruct returned"
REMOTE = "id of a video that was sent to /v1/files, or a data: URL in base64"


def server(core: Core, local: bool) -> MCPServer[Any]:
    """The MCP server; ``local``: whether the agent may name files of this machine."""
    made: MCPServer[Any] = MCPServer("vidllm", instructions=INSTRUCTIONS, version=__version__, log_level="ERROR")
    for tool in (*TOOLS.values(), render_view):
        name = NAMES.get(tool.__name__, tool.__name__)
        made.add_tool(_offered(core, tool, local), name, description=inspect.getdoc(tool), structured_output=False)
    return made


def over_http(core: Core) -> tuple[Callable[[Any], AbstractAsyncContextManager[None]], list[Any]]:
    """Lifespan and routes of the server at /mcp; :class:`vidllm.serving.web.Guard` checks its requests."""
    made = server(core, local=False)
    guarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = made.streamable_http_app(stateless_http=True, max_request_body_size=MESSAGE, transport_security=guarded)
    return lambda _: made.session_manager.run(), app.routes


def _offered(core: Core, tool: Any, local: bool) -> Callable[..., Any]:
    """A tool with a video as its argument instead of a scene."""

    async def call(video: str, ctx: Any, **given: Any) -> Any:
        try:
            found = await asyncio.to_thread(_find, core, video, local)
            told = await _result(core.submit(found, lambda scene: tool(scene, **given)), found, ctx)
        except (Refused, ValueError) as error:
            raise ToolError(str(error)) from None
        return Image(data=told, format="png") if isinstance(told, bytes) else plain({"video": found.id, **told})

    hints = get_type_hints(tool)
    _, *taken = inspect.signature(tool).parameters.values()
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = {"video": Annotated[str, Field(description=LOCAL if local else REMOTE)], "ctx": Context}
    shown = [inspect.Parameter(name, kind, annotation=hint) for name, hint in own.items()]
    shown += [one.replace(annotation=hints[one.name]) for one in taken]
    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in shown}
    return call


def _find(core: Core, video: str, local: bool) -> Video:
    return video_of(core, video) if not local or FILE_ID.fullmatch(video) else core.local(video)


async def _result(future: Future[Any], video: Video, ctx: Any) -> Any:
    """The result of a job, with reports of its progress; the job is cancelled with the request."""
    waited = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait({waited}, timeout=1.0))[0]:
            await ctx.report_progress(video.done, None, video.state)
        return waited.result()
    finally:
        waited.cancel()
