"""The real clients: openai's over HTTP, mcp's over standard input and output and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from PIL import Image
from small_model import save_small_model

from vidllm.answers import Answer
from vidllm.reconstruction import Scene

QUESTION = "how many chairs are there?"


def asked(video: dict[str, Any], question: str = QUESTION) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [video, {"type": "text", "text": question}]}]


def by_id(file: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": file}}


@pytest.fixture(scope="module")
def client(site):
    with openai.OpenAI(base_url=f"{site.address}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def file(client, clip) -> str:
    return client.files.create(file=clip, purpose="user_data").id


def test_files_and_models(client, file, clip):
    assert [model.id for model in client.models.list()] == ["vidllm"]
    assert client.models.retrieve("vidllm").owned_by == "vidllm"
    found = client.files.retrieve(file)
    assert (found.filename, found.bytes, found.status) == ("noise.mp4", clip.stat().st_size, "processed")
    assert file in [one.id for one in client.files.list()]


@pytest.mark.parametrize("kind", ["id", "data", "file"])
def test_a_question_is_answered_as_the_scene_answers(client, file, model, clip, kind):
    data = f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    video = {"id": by_id(file), "data": by_id(data), "file": {"type": "file", "file": {"file_id": file}}}[kind]
    said = client.chat.completions.create(model="vidllm", messages=asked(video), max_tokens=8)
    scene = model.reconstruct(clip)
    expected = scene.ask(QUESTION, max_new_tokens=8)
    assert said.choices[0].message.content == expected and said.choices[0].finish_reason in ("stop", "length")
    read, wrote = scene.count_tokens(QUESTION, expected)
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (read, wrote)
    assert said.usage.total_tokens == read + wrote
    assert said.vidllm["file_id"] == file  # the same bytes are the same video


def test_a_stream_is_the_answer_in_pieces(client, file, model, clip):
    options = {"model": "vidllm", "messages": asked(by_id(file)), "max_tokens": 8}
    whole = client.chat.completions.create(**options)
    parts = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    pieces = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len([piece for piece in pieces if piece]) > 1
    assert parts[-1].usage == whole.usage and parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_an_answer_that_is_replaced_or_doubted_is_whole(client, file, monkeypatch):
    def ask(self, question, situation, most, heard):
        heard("two")
        return Answer("two chairs", ['"stool" is taken as "chair"'])

    monkeypatch.setattr(Scene, "ask", ask)
    parts = client.chat.completions.create(model="vidllm", messages=asked(by_id(file)), stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == 'two chairs  ("stool" is taken as "chair")'


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"model": "gpt"}, openai.NotFoundError, "there is no model 'gpt' here; use 'vidllm'"),
    ({"n": 2}, openai.BadRequestError, "n is not supported"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools is not supported"),
    ({"max_tokens": 10_000}, openai.BadRequestError, "expected 1 to 512"),
    ({"messages": []}, openai.BadRequestError, "expected a list of messages"),
    ({"messages": [{"role": "user", "content": "a"}]}, openai.BadRequestError, "no message holds a video"),
    ({"messages": asked(by_id("/etc/passwd"))}, openai.BadRequestError, "paths are not opened"),
    ({"messages": asked(by_id("file:///etc/passwd"))}, openai.BadRequestError, "URLs are not fetched"),
    ({"messages": asked(by_id("http://127.0.0.1:1/a.mp4"))}, openai.BadRequestError, "URLs are not fetched"),
    ({"messages": asked(by_id("data:video/mp4;base64,@@@"))}, openai.BadRequestError, "is not base64"),
    ({"messages": asked(by_id("data:video/mp4;base64,AAAA"))}, openai.UnprocessableEntityError, "video.mp4: not a"),
    ({"messages": asked(by_id("file-" + "0" * 32))}, openai.NotFoundError, "upload it again"),
    ({"messages": asked({"type": "input_audio", "input_audio": {}})}, openai.BadRequestError, "'input_audio' is not"),
    ({"question": " "}, openai.BadRequestError, "the question is empty"),
])  # fmt: skip
def test_what_is_wrong_is_told(client, file, options, error, text):
    messages = asked(by_id(file), options.pop("question", QUESTION))
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "vidllm", "messages": messages, **options})
    assert text in caught.value.body["message"] and "\n" not in caught.value.body["message"]


def test_the_token_is_the_key(locked_site):
    with openai.OpenAI(base_url=f"{locked_site.address}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="a token is needed"):
            client.models.list()
        assert client.with_options(api_key=locked_site.token).models.list().data[0].id == "vidllm"


# ---- mcp -----------------------------------------------------------------------------------------------------------

NAMES = ["reconstruct", "ask", "ground", "describe", "inventory", "measure", "render_view"]


def told(result: Any) -> Any:
    """The JSON of a tool's result."""
    assert not result.is_error, result.content
    return json.loads(result.content[0].text)


async def session(client: Client, video: str, bad: str) -> None:
    """Reconstruct, ask, look; then a video that is not there."""
    assert [tool.name for tool in (await client.list_tools()).tools] == NAMES
    progress: list[str | None] = []

    async def hear(_: float, __: float | None, message: str | None) -> None:
        progress.append(message)

    made = told(await client.call_tool("reconstruct", {"video": video}, progress_callback=hear))
    assert made["frames"] == 4 and made["units"] == "m" and set(progress) <= {"queued", "decoding", "reconstructing",
                                                                              "ready"}  # fmt: skip
    answer = told(await client.call_tool("ask", {"video": made["video"], "question": QUESTION}))
    assert answer["question"] == QUESTION and answer["answer"]
    assert "boxes" in told(await client.call_tool("ground", {"video": made["video"], "expression": "the red chair"}))
    view = await client.call_tool("render_view", {"video": made["video"], "angle": 0.0})
    with Image.open(io.BytesIO(base64.b64decode(view.content[0].data))) as picture:
        assert picture.size == (640, 480) and view.content[0].mime_type == "image/png"
    wrong = await client.call_tool("ask", {"video": made["video"], "question": ""})
    assert wrong.is_error and "the question is empty" in wrong.content[0].text
    missing = await client.call_tool("ask", {"video": bad, "question": "a"})
    assert missing.is_error and len(missing.content[0].text.splitlines()) == 1
    assert "no such file" in missing.content[0].text or "paths are not opened" in missing.content[0].text


def test_an_agent_over_http(site, file, clip):
    async def run() -> None:
        async with Client(f"{site.address}/mcp") as client:
            await session(client, file, str(clip))

    asyncio.run(run())


@pytest.mark.slow
def test_an_agent_over_standard_input_and_output(tmp_path, clip):
    model = save_small_model(tmp_path / "model")
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = StdioServerParameters(command=sys.executable, args=["-m", "vidllm", "mcp", "--model", str(model)],
                                    env=environment)  # fmt: skip

    async def run() -> None:
        async with Client(stdio_client(command)) as client:
            await session(client, str(clip), "/nowhere.mp4")

    asyncio.run(run())
