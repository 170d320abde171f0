"""Questions about videos as OpenAI's chat completions.

The video is a content part of a message: ``video_url`` with a data URL or the id of an uploaded file, or ``file`` with
such an id; the last one counts. The question is the text of the last message. System messages and earlier turns are
ignored. No path is opened and no URL is fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vidllm.answers import with_notes
from vidllm.io.files import plain
from vidllm.model.prompts import check_question
from vidllm.scene import Scene
from vidllm.serving.core import Core, Refused, Video

MODEL = {"id": "vidllm", "object": "model", "created": 0, "owned_by": "vidllm"}
MAX_TOKENS = 512
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
_DATA_URL = re.compile(r"data:(?:video|image|application)/([\w.+-]{1,40})(?:;[^,]{0,100})?;base64,", re.ASCII)
#: Options that are not supported, with the values that have no effect.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1), "tools": (None, []), "functions": (None, []), "stop": (None, []), "logprobs": (None, False),
    "response_format": (None, {"type": "text"}), "audio": (None,), "modalities": (None, ["text"]),
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """An answer with its notes, the scene's warnings, the numbers of tokens, and OpenAI's reason why it ends."""

    text: str
    warnings: tuple[str, ...]
    usage: dict[str, int]
    reason: str


@dataclass(frozen=True)
class Request:
    """The content of a request; ``source``: a file id or a data URL."""

    source: str
    question: str
    stream: bool
    with_usage: bool
    max_tokens: int

    def answer(self, scene: Scene, heard: Callable[[str], None] | None = None) -> Said:
        """Ask the scene."""
        answer = scene.ask(self.question, None, self.max_tokens, heard)
        read, wrote = scene.count_tokens(self.question, answer)
        usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
        reason = "length" if wrote > self.max_tokens else "stop"
        return Said(with_notes(answer, answer.notes), scene.warnings, usage, reason)


def video_of(core: Core, source: str) -> Video:
    """The video of a file id, or of a data URL, which is stored; Refused for anything else, such as paths and URLs."""
    if FILE_ID.fullmatch(source):
        return core.video(source)
    head = _DATA_URL.match(source)
    if head is None:
        raise Refused(f"a video is the id of an uploaded file or a data: URL in base64, received {source[:60]!r}; "
                      "URLs are not fetched and paths are not opened: send the video to /v1/files")  # fmt: skip
    try:
        content = base64.b64decode(source[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"the data: URL of the video is not base64 ({error}); encode it again") from None
    return core.keep(io.BytesIO(content), f"video.{head[1].split('+')[0]}")


def check_model(name: Any) -> dict[str, Any]:
    """The model; Refused for another name."""
    if name != MODEL["id"]:
        raise Refused(f"there is no model {str(name)[:60]!r} here; use {MODEL['id']!r}", 404)
    return MODEL


def read_request(body: dict[str, Any]) -> Request:
    """Read the body of /v1/chat/completions; Refused if it is wrong or asks for something that is not supported."""
    check_model(body.get("model"))
    for option, neutral in _NEUTRAL.items():
        if body.get(option) not in neutral:
            raise Refused(f"{option} is not supported here; leave it out")
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    most = 64 if most is None else most
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_TOKENS:
        raise Refused(f"max_completion_tokens: expected 1 to {MAX_TOKENS}, received {str(most)[:20]}")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Refused("messages: expected a list of messages, each with role and content")
    parts = [part for message in messages for part in _parts(message)]
    sources = [source for part in parts if (source := _source(part)) is not None]
    last = messages[-1]
    question = " ".join(str(part.get("text") or "") for part in _parts(last) if part.get("type") == "text")
    if last.get("role") != "user":
        raise Refused("the last message must be the user's; it holds the question")
    if not sources:
        raise Refused("no message holds a video; add a content part video_url with a file id or a data: URL")
    options = body.get("stream_options") or {}
    usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Request(sources[-1], check_question(question), bool(body.get("stream")), usage, most)


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content or ""}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Refused("content: expected text, or a list of parts")
    return content


def _source(part: dict[str, Any]) -> str | None:
    """The video named by a content part; None for text."""
    kind = part.get("type")
    if kind == "text":
        return None
    held = part.get(str(kind))
    held = {"url": held} if isinstance(held, str) else held if isinstance(held, dict) else {}
    found = {"video_url": held.get("url"), "file": held.get("file_id") or held.get("file_data")}.get(str(kind))
    if not isinstance(found, str):
        raise Refused(f"a content part of type {str(kind)[:40]!r} is not read; expected text, or video_url with a file "
                      "id or a data: URL, or file with a file_id")  # fmt: skip
    return found


# ---- answers -------------------------------------------------------------------------------------------------------


def as_error(error: Refused) -> dict[str, Any]:
    """An error as OpenAI's object."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"message": str(error), "type": kind, "param": None, "code": error.status}


def as_file(video: Video) -> dict[str, Any]:
    """A video as OpenAI's file object, with the state of its scene."""
    return {"id": video.id, "object": "file", "bytes": video.bytes, "created_at": video.created, "filename": video.name,
            "purpose": "user_data", "status": "processed", "scene": video.as_dict()}  # fmt: skip


def completion(video: Video, said: Said) -> dict[str, Any]:
    """A complete answer; ``vidllm`` has the fields that OpenAI's format lacks."""
    message = {"role": "assistant", "content": said.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": said.reason, "logprobs": None}
    return {**_head("chat.completion"), "choices": [choice], "usage": said.usage, "vidllm": _own(video, said)}


async def events(core: Core, video: Video, wanted: Request) -> AsyncIterator[str]:
    """Stream an answer as server-sent events, until the client disconnects."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    loop, gone = asyncio.get_running_loop(), False

    def hear(text: str) -> None:
        if gone:
            raise Refused("the client disconnected", 499)
        loop.call_soon_threadsafe(heard.put_nowait, text)

    future = core.submit(video, lambda scene: wanted.answer(scene, hear))
    answer, head, sent = asyncio.wrap_future(future), _head("chat.completion.chunk"), ""
    try:
        yield _event(head, {"role": "assistant", "content": ""})
        while not answer.done() or not heard.empty():
            with suppress(TimeoutError):
                text = await asyncio.wait_for(heard.get(), 0.05)
                if text.startswith(sent) and text != sent:
                    yield _event(head, {"content": text[len(sent) :]})
                    sent = text
        said = answer.result()
        rest = said.text[len(sent) :] if said.text.startswith(sent) else f"\n{said.text}"
        if rest:
            yield _event(head, {"content": rest})
        yield _event({**head, "vidllm": _own(video, said)}, {}, said.reason)
        if wanted.with_usage:
            yield _line({**head, "choices": [], "usage": said.usage})
    except Refused as error:
        yield _line({"error": as_error(error)})
    finally:
        gone = True
        future.cancel()
    yield "data: [DONE]\n\n"


def _head(kind: str) -> dict[str, Any]:
    found = f"chatcmpl-{secrets.token_hex(12)}"
    return {"id": found, "object": kind, "created": int(time.time()), "model": MODEL["id"]}


def _own(video: Video, said: Said) -> dict[str, Any]:
    return {"file_id": video.id, "warnings": list(said.warnings)}


def _event(head: dict[str, Any], delta: dict[str, Any], reason: str | None = None) -> str:
    return _line({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]})


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(plain(value), allow_nan=False)}\n\n"
