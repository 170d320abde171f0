"""HTTP: the page, the tools and the OpenAI API (:mod:`vidllm.serving.chat`). Extra `serve`.

Every request passes :class:`Guard` first. No path, query or body names a file: videos are uploads, named by their ids,
and the page's own files are in a table.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import socket
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from importlib import resources
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

import python_multipart  # noqa: F401  needed for uploads: report at the start if it is missing
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import ConfigDict, ValidationError, create_model
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from vidllm.export import EXPORTERS
from vidllm.export.page import SCRIPTS, PageTexts, camera_pictures, filled, page_boxes, page_content, viewer_file
from vidllm.io.files import parse_json, plain
from vidllm.scene import Scene
from vidllm.serving import chat
from vidllm.serving.core import MESSAGE, Core, Refused, refusal
from vidllm.serving.tools import TOOLS, everything, exported, labelled

T = TypeVar("T")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
          "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
           "cache-control": "no-store"}  # fmt: skip
COOKIE = "vidllm"
FORM = 2**20  # bytes of a form around the uploaded file
IN_FLIGHT = 2**30  # bytes of all bodies being received
OWN_SCRIPT = "served.js"
CONNECTIONS = 512
STALL_S = 30.0  # seconds without data of a body


class Guard:
    """Checks token, host, origin and size of every request.

    To protect browsers from pages of other origins, the Host must be one of ``hosts`` (any, if there is a token) and an
    Origin must be that host. A token is sent as ``Authorization: Bearer`` or in a cookie, which ``/?token=`` sets.
    """

    def __init__(self, app: Any, upload: int, token: str, hosts: tuple[str, ...]) -> None:
        self.app, self.upload, self.token, self.hosts = app, upload + FORM, token, hosts
        self.in_flight = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI's call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, receive, self.upload if scope["path"] == "/v1/files" else MESSAGE)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in names]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        request = Request(scope)
        try:
            entry = self._entry(request)
            body.check(int(request.headers.get("content-length", "0")))
            await (entry or self.app)(scope, body.receive, with_headers)
        except Refused as error:
            await failure(error)(scope, receive, with_headers)
        finally:
            self.in_flight -= body.taken

    def _entry(self, request: Request) -> Response | None:
        """None if the request is allowed; for a link with the token a redirect without it, which sets the cookie."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        try:
            asked, source = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:
            raise Refused("the Host or the Origin of the request is none") from None
        if not self.token and asked not in self.hosts:
            raise Refused(f"this server is not {host[:100]!r}; ask for it as {self.hosts[0]}", 421)
        if origin is not None and source != host:
            raise Refused("a page of another origin may not use this server", 403)
        shown = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self.token or self._is_token(shown or request.cookies.get(COOKIE, "")):
            return None
        if not self._is_token(request.query_params.get("token", "")):
            raise Refused("a token is needed: Authorization: Bearer TOKEN, or /?token=TOKEN in a browser", 401)
        answer = RedirectResponse(request.url.path, 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return answer

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())


class _Body:
    """Counts the bytes of a request's body while it is received."""

    def __init__(self, guard: Guard, receive: Any, most: int) -> None:
        self.guard, self.source, self.most = guard, receive, most
        self.taken, self.complete = 0, False

    async def receive(self) -> Any:
        try:
            message = await asyncio.wait_for(self.source(), None if self.complete else STALL_S)
        except TimeoutError:
            raise Refused(f"no data of the request for {STALL_S:g} s", 408) from None
        size = len(message.get("body", b""))
        self.taken, self.guard.in_flight = self.taken + size, self.guard.in_flight + size
        self.complete = not message.get("more_body", False)
        self.check(self.taken)
        return message

    def check(self, size: int) -> None:
        if size > self.most:
            raise Refused(f"the request has over {self.most:,} bytes; send less, and videos to /v1/files", 413)
        if self.guard.in_flight > IN_FLIGHT:
            raise Refused("too much is being received now; try again in some seconds", 503)


def failure(error: Refused) -> JSONResponse:
    """An error in OpenAI's format."""
    headers = {"retry-after": "2"} if error.status in (429, 503) else None
    return JSONResponse({"error": chat.as_error(error)}, error.status, headers)


async def finished(request: Request, future: Future[T]) -> T:
    """The result of a job, which is cancelled if the client disconnects before it has begun."""
    waited = asyncio.wrap_future(future)
    while not (await asyncio.wait({waited}, timeout=0.5))[0]:
        if await request.is_disconnected():
            waited.cancel()  # and with it the job
            raise Refused("the client disconnected", 499)
    if waited.cancelled():
        raise Refused("the server is stopping", 503)
    return waited.result()


class Site:
    """The routes over a core."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        """Method, path, function."""
        return [
            ("GET", "/", self.start), ("GET", "/scenes/{found}", self.page), ("GET", "/viewer/{name}", self.script),
            ("GET", "/api/scenes/{found}", self.state), ("POST", "/api/scenes/{found}", self.reconstruct),
            ("GET", "/api/scenes/{found}/export/{name}", self.export),
            ("POST", "/api/scenes/{found}/show", self.show), ("POST", "/api/scenes/{found}/{name}", self.use),
            ("POST", "/v1/files", self.upload), ("GET", "/v1/files", self.uploads),
            ("GET", "/v1/files/{found}", self.described), ("DELETE", "/v1/files/{found}", self.remove),
            ("GET", "/v1/models", self.models), ("GET", "/v1/models/{name}", self.model),
            ("POST", "/v1/chat/completions", self.complete),
        ]  # fmt: skip

    # ---- the page ---------------------------------------------------------------------------------------------

    async def start(self) -> Response:
        """Upload or record."""
        return HTMLResponse(static("start.html"))

    async def script(self, name: str) -> Response:
        """One of the page's scripts."""
        if name not in (*SCRIPTS, OWN_SCRIPT):
            raise Refused("there is no such file", 404)
        text = static(name) if name == OWN_SCRIPT else viewer_file(name)
        return Response(text, media_type="text/javascript", headers={"cache-control": "max-age=600"})

    async def page(self, request: Request, found: str) -> Response:
        """The scene in 3D; before it is ready, the page that shows the progress."""
        video = self.core.video(found)
        if video.scene is None:
            return RedirectResponse(f"/#{video.id}", 303)

        def act(scene: Scene) -> dict[str, Any]:
            texts = PageTexts(video.name, video.warnings, (), scene.scale.length_spread)
            return page_content(scene.data, texts=texts)

        content = await finished(request, self.core.submit(video, act))
        scripts = "".join(f'<script src="/viewer/{name}"></script>\n' for name in (*SCRIPTS, OWN_SCRIPT))
        links = "".join(f'<a href="/api/scenes/{video.id}/export/{name}" download>{name}</a>\n' for name in EXPORTERS)
        panel = static("panel.html").replace("@LINKS@", links)
        return HTMLResponse(await run_in_threadpool(filled, content, POLICY, scripts, panel))

    async def show(self, request: Request, found: str) -> Response:
        """Boxes of an ``expression`` or of the inventory, and the frames with these boxes."""
        body = await _body(request)
        expression = body.get("expression")

        def act(scene: Scene) -> dict[str, Any]:
            boxes = everything(scene) if expression is None else labelled(scene, expression)
            return {"boxes": page_boxes(boxes), "pictures": camera_pictures(scene.data, boxes)}

        return JSONResponse(plain(await finished(request, self.core.submit(self.core.video(found), act))))

    # ---- scenes -----------------------------------------------------------------------------------------------

    async def state(self, found: str) -> Response:
        """The progress of a video."""
        return JSONResponse(self.core.video(found).as_dict())

    async def reconstruct(self, found: str) -> Response:
        """Start a reconstruction, without waiting for it."""
        video = self.core.video(found)
        if video.scene is None and not video.jobs:
            self.core.submit(video, len)
        return JSONResponse(video.as_dict(), 202)

    async def use(self, request: Request, found: str, name: str) -> Response:
        """Call one of :data:`TOOLS` with its arguments as a JSON object."""
        given = arguments(name, await _body(request))
        job = self.core.submit(self.core.video(found), lambda scene: TOOLS[name](scene, **given))
        return JSONResponse(plain(await finished(request, job)))

    async def export(self, request: Request, found: str, name: str) -> Response:
        """A file of the scene; a folder as a zip."""
        job = self.core.submit(self.core.video(found), lambda scene: exported(scene, name))
        file, content = await finished(request, job)
        return Response(content, media_type="application/octet-stream",
                        headers={"content-disposition": f'attachment; filename="{file}"'})  # fmt: skip

    # ---- the OpenAI API -----------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Store a video: the field ``file`` of a form."""
        async with request.form(max_files=1, max_fields=8) as form:
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise Refused("expected a form (multipart/form-data) with a field file that holds the video")
            video = await run_in_threadpool(self.core.keep, file.file, file.filename or "video")
        return JSONResponse(chat.as_file(video))

    async def uploads(self) -> Response:
        """All videos."""
        files = [chat.as_file(video) for video in self.core.videos()]
        return JSONResponse({"object": "list", "data": files, "has_more": False})  # clients request more without it

    async def described(self, found: str) -> Response:
        """One video."""
        return JSONResponse(chat.as_file(self.core.video(found)))

    async def remove(self, found: str) -> Response:
        """Delete a video."""
        self.core.remove(found)
        return JSONResponse({"id": found, "object": "file", "deleted": True})

    async def models(self) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [chat.MODEL]})

    async def model(self, name: str) -> Response:
        """The one model."""
        return JSONResponse(chat.check_model(name))

    async def complete(self, request: Request) -> Response:
        """A question about a video, whole or as a stream of server-sent events."""
        wanted = chat.read_request(await _body(request))
        video = await run_in_threadpool(chat.video_of, self.core, wanted.source)
        if wanted.stream:
            return StreamingResponse(chat.events(self.core, video, wanted), media_type="text/event-stream")
        said = await finished(request, self.core.submit(video, wanted.answer))
        return JSONResponse(plain(chat.completion(video, said)))


@cache
def static(name: str) -> str:
    """One of the server's own files."""
    return resources.files("vidllm.serving").joinpath("static", name).read_text(encoding="utf-8")


@cache
def _form(name: str) -> Any:
    """What a tool takes beside the scene."""
    hints = get_type_hints(TOOLS[name])
    _, *taken = inspect.signature(TOOLS[name]).parameters.values()
    fields: Any = {p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in taken}
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def arguments(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Checked arguments of one of :data:`TOOLS`; Refused for an unknown tool or wrong arguments."""
    if name not in TOOLS:
        raise Refused(f"there is no tool {name[:40]!r}; choose from {', '.join(TOOLS)}", 404)
    try:
        return dict(_form(name)(**given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise Refused(f"{name}: {where}: {first['msg']}; see docs/serving.md") from None


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request; empty without a body."""
    content = await request.body()
    body = parse_json(content, "the request") if content else {}
    if not isinstance(body, dict):
        raise Refused(f"the request: expected a JSON object, got {type(body).__name__}")
    return body


def application(core: Core, token: str = "", agents: Any = None) -> FastAPI:
    """The application; without a token it only answers requests for a local host name.

    ``agents``: the result of :func:`vidllm.serving.agents.over_http`, served at /mcp.
    """
    lifespan, routes = (None, []) if agents is None else agents
    app = FastAPI(title="vidllm", docs_url=None, redoc_url=None, lifespan=lifespan)  # its docs need a CDN
    app.router.routes.extend(routes)
    for method, path, function in Site(core).routes():
        app.add_api_route(path, function, methods=[method], response_model=None)

    async def failed(_: Request, error: Any) -> Response:
        known = Refused(str(error.detail), error.status_code) if isinstance(error, HTTPException) else refusal(error)
        return failure(known)

    for kind in (ValueError, OSError, HTTPException, Exception):
        app.add_exception_handler(kind, failed)
    app.add_middleware(Guard, upload=core.limits.upload, token=token, hosts=LOOPBACK)
    return app


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError if it cannot be opened."""
    if not 0 <= port < 2**16:
        raise ValueError(f"cannot listen on port {port}; expected 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port} ({error}); choose another --host or --port") from None


def http_server(app: FastAPI) -> uvicorn.Server:
    """The server of an application; start it with ``run(sockets=[...])``."""
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", limit_concurrency=CONNECTIONS, server_header=False,
                                         timeout_graceful_shutdown=5))  # fmt: skip
