"""The server over HTTP: who may ask, what is refused, that nothing from outside is opened, and what it gives."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.error import HTTPError

import pytest
from test_core import padded

from vidllm import reconstruction
from vidllm.inventory import NAMES, take
from vidllm.serving import web
from vidllm.serving.core import Refused
from vidllm.serving.web import arguments, bound

HOSTILE = '"><img src=x onerror=window.broken=1>.mp4'


def call(address: str, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status, and JSON or text."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address + path, sent, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, raw = answer.status, answer.read()
    except HTTPError as error:
        status, raw = error.code, error.read()
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw.decode(errors="replace")


def send(address: str, content: bytes, name: str = "a.mp4", **headers: str) -> tuple[int, Any]:
    """Upload a file as a form."""
    name = name.replace('"', "%22")
    head = f'--X\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return call(address, "/v1/files", head + content + b"\r\n--X--\r\n",
                content_type="multipart/form-data; boundary=X", **headers)  # fmt: skip


def message(status: int, told: Any, expected: int) -> str:
    """The one line of an error."""
    assert status == expected, told
    assert "\n" not in told["error"]["message"]
    return told["error"]["message"]


@pytest.fixture(scope="module")
def ready(site, clip) -> str:
    """The id of a video whose scene is there."""
    _, file = send(site.address, clip.read_bytes(), "b.mp4")
    status, begun = call(site.address, f"/api/scenes/{file['id']}", {})
    assert status == 202 and begun["state"] in ("queued", "decoding", "reconstructing", "ready")
    end = time.monotonic() + 240
    while call(site.address, f"/api/scenes/{file['id']}")[1]["state"] != "ready":
        assert time.monotonic() < end
        time.sleep(0.1)
    return file["id"]


def test_tools_give_what_the_scene_gives(site, ready, model, clip):
    scene = model.reconstruct(clip)
    status, told = call(site.address, f"/api/scenes/{ready}/ground", {"expression": "the red chair"})
    assert status == 200
    assert told["boxes"] == json.loads(json.dumps([box.as_dict() for box in scene.ground("the red chair")]))
    assert told["units"] == "m" and told["up"] == "z"
    status, told = call(site.address, f"/api/scenes/{ready}/ask", {"question": "two"})
    assert (status, told["answer"]) == (200, str(scene.ask("two")))
    assert call(site.address, f"/api/scenes/{ready}/summary", {})[1]["frames"] == 4
    status, told = call(site.address, f"/api/scenes/{ready}/measure", {"first": "1:20,20", "second": "1:40,20"})
    ends = [scene.data.point_at(1, u, 20) for u in (20, 40)]
    distance = sum((a - b) ** 2 for a, b in zip(*ends, strict=True)) ** 0.5
    assert status == 200 and told["centres"]["value"] == pytest.approx(distance, abs=1e-5)


def test_the_page_holds_the_scene_and_its_scripts_are_served(site, ready):
    status, page = call(site.address, f"/scenes/{ready}")
    assert status == 200 and "@" not in re.sub(r"@media", "", page.split('id="scene">')[0])
    scripts = re.findall(r'<script src="([^"]+)"', page)
    assert scripts == ["/viewer/three.min.js", "/viewer/viewer.js", "/viewer/served.js"]
    assert all(call(site.address, script)[0] == 200 for script in scripts)
    status, shown = call(site.address, f"/api/scenes/{ready}/show", {"expression": "the red chair"})
    assert status == 200 and len(shown["pictures"]) == 4
    assert base64.b64decode(shown["pictures"][0].removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8"
    status, text = call(site.address, f"/api/scenes/{ready}/export/tum")
    assert status == 200 and len([line for line in text.splitlines() if line[0] != "#"]) == 4
    status, page = call(site.address, f"/api/scenes/{ready}/export/colmap")
    assert status == 200 and page.startswith("PK")


def test_the_inventory_is_taken_once_a_scene(site, clip, monkeypatch):
    taken = []
    monkeypatch.setattr(reconstruction, "take", lambda scene, names: taken.append(names) or take(scene, names))
    _, file = send(site.address, padded(clip, 2**20).getvalue(), "c.mp4")
    for path, body in (("show", {}), ("inventory", {}), ("export/boxes", None), ("export/html", None), ("show", {})):
        assert call(site.address, f"/api/scenes/{file['id']}/{path}", body)[0] == 200
    assert taken == [NAMES]


@pytest.mark.parametrize(("path", "body", "status", "text"), [
    ("/api/scenes/{id}/ask", {"question": ""}, 422, "the question is empty"),
    ("/api/scenes/{id}/ask", {"question": 5}, 400, "ask: question: Input should be a valid string"),
    ("/api/scenes/{id}/ask", {"question": "a", "x": 1}, 400, "ask: x: Extra inputs are not permitted"),
    ("/api/scenes/{id}/describe", {"at": [1, 2]}, 400, "describe: at"),
    ("/api/scenes/{id}/describe", {"at": [1, 2, float("inf")]}, 422, "three finite numbers"),
    ("/api/scenes/{id}/inventory", {"names": ["a"] * 300}, 422, "300 names, at most 200"),
    ("/api/scenes/{id}/__class__", {}, 404, "there is no tool"),
    ("/api/scenes/{id}/ask", b"[1]", 400, "expected a JSON object, got list"),
    ("/api/scenes/{id}/ask", b"[" * 100_000, 400, "nested too deeply"),
    ("/api/scenes/{id}/ask", b"\xff\xfe", 400, "not UTF-8"),
    ("/api/scenes/file-0/ask", {"question": "a"}, 404, "there is no video 'file-0'"),
    ("/api/scenes/..%2f..%2fetc%2fpasswd", None, 404, ""),
    ("/viewer/..%2fpage.html", None, 404, ""),
    ("/viewer/page.html", None, 404, "there is no such file"),
    ("/scenes/%2fetc%2fpasswd", None, 404, ""),
    ("/api/scenes/{id}/export/..%2f..", None, 404, ""),
    ("/api/scenes/{id}/export/passwd", None, 422, "unknown format 'passwd'"),
    ("/nothing", None, 404, "Not Found"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(site, ready, path, body, status, text):
    assert text in message(*call(site.address, path.replace("{id}", ready), body), status)


def test_names_are_only_names(site, clip):
    status, file = send(site.address, clip.read_bytes() + b"\0" * 8, "../../etc/" + HOSTILE)
    assert status == 200 and "/" not in file["filename"] and "passwd" not in str(sorted(site.core.folder.iterdir()))
    assert all(re.fullmatch(r"file-[0-9a-f]{32}|part-.*", path.name) for path in site.core.folder.iterdir())
    site.core.submit(site.core.video(file["id"]), len).result()
    _, page = call(site.address, f"/scenes/{file['id']}")
    assert "<img" not in page and "\\u003cimg src=x" in page
    assert call(site.address, f"/v1/files/{file['id']}", method="DELETE")[1]["deleted"]
    assert "upload it again" in message(*call(site.address, f"/v1/files/{file['id']}"), 404)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04../../etc/passwd", b"#EXTM3U\nfile:///etc/passwd\n"])
def test_a_bad_upload_is_told_and_the_server_lives(site, content):
    status, told = send(site.address, content, "bad.mp4")
    if content:
        job = site.core.submit(site.core.video(told["id"]), len)
        with pytest.raises(Refused, match=r"^bad\.mp4: "):
            job.result()
        assert call(site.address, f"/api/scenes/{told['id']}")[1]["state"] == "failed"
    else:
        assert message(status, told, 400) == "bad.mp4: the file is empty; record it again"
    assert call(site.address, "/v1/models")[0] == 200


def test_large_and_slow_requests_are_refused(site, monkeypatch):
    host = site.address.removeprefix("http://")
    with closing(http.client.HTTPConnection(host)) as one:
        one.putrequest("POST", "/v1/files")
        one.putheader("content-length", str(2**40))
        one.endheaders()
        assert one.getresponse().status == 413
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with closing(http.client.HTTPConnection(host)) as one:
        one.request("POST", "/v1/files", iter([head, *[b"x" * 2**20] * 8]),
                    {"content-type": "multipart/form-data; boundary=X"}, encode_chunked=True)  # fmt: skip
        answer = one.getresponse()
        assert answer.status == 413 and b"over 5,242,880 bytes" in answer.read()
    monkeypatch.setattr(web, "STALL_S", 0.2)
    with closing(http.client.HTTPConnection(host)) as one:
        one.putrequest("POST", "/v1/chat/completions")
        one.putheader("content-length", "100")
        one.endheaders(b"{")
        assert one.getresponse().status == 408
    monkeypatch.setattr(web, "IN_FLIGHT", 10)
    assert "too much is being received" in message(*send(site.address, b"x" * 100), 503)


def test_pages_of_elsewhere_may_not_ask(site):
    assert "this server is not" in message(*call(site.address, "/v1/files", Host="evil.example"), 421)
    assert "is none" in message(*call(site.address, "/v1/files", Host="[evil"), 400)
    assert "another origin" in message(*call(site.address, "/v1/files", Origin="http://evil.example"), 403)
    assert call(site.address, "/v1/files", Origin=site.address)[0] == 200
    port = site.address.rsplit(":", 1)[1]
    assert call(site.address, "/v1/files", Host=f"localhost:{port}")[0] == 200


def test_a_token_is_needed_everywhere(locked_site):
    address = locked_site.address
    for path in ("/", "/v1/files", "/viewer/viewer.js", "/mcp", "/openapi.json", "/?token=wrong", "/?token=ü"):
        assert "a token is needed" in message(*call(address, path.replace("ü", "%C3%BC")), 401)
    assert "a token is needed" in message(*call(address, "/v1/files", Authorization="Bearer wrong"), 401)
    assert call(address, "/v1/files", Authorization=f"Bearer {locked_site.token}", Host="any.example")[0] == 200
    with closing(http.client.HTTPConnection(address.removeprefix("http://"))) as one:
        one.request("GET", f"/?token={locked_site.token}")
        answer = one.getresponse()
        cookie = answer.getheader("set-cookie")
        assert (answer.status, answer.getheader("location")) == (303, "/")
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert call(address, "/", Cookie=cookie.split(";")[0])[0] == 200


def test_answers_forbid_scripts_of_elsewhere(site):
    with urllib.request.urlopen(site.address) as answer:
        policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe-eval" not in policy and "frame-ancestors 'none'" in policy


def test_a_hundred_at_once_are_held_or_told(site, clip, ready):
    go = threading.Event()
    blocker = site.core.submit(site.core.video(ready), lambda _: go.wait(60))

    def one(number: int) -> tuple[int, Any]:
        _, file = send(site.address, padded(clip, 8 + 8 * number).getvalue(), f"{number}.mp4")
        return call(site.address, f"/api/scenes/{file['id']}/ask", {"question": "two"})

    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(one, number) for number in range(100)]
        while sum(job.done() for job in asked) < 94:  # six wait
            time.sleep(0.05)
        go.set()
        answers = [job.result() for job in asked]
    assert blocker.result()
    assert sorted({status for status, _ in answers}) == [200, 503]
    assert sum(status == 200 for status, _ in answers) == 6
    lines = {message(status, told, 503) for status, told in answers if status == 503}
    assert lines == {"6 requests wait already; try again in some seconds"}


def test_a_client_that_goes_away_does_not_keep_its_place(site, ready):
    go, begun, video = threading.Event(), threading.Event(), site.core.video(ready)
    blocker = site.core.submit(video, lambda _: begun.set() or go.wait(60))
    assert begun.wait(60)  # from here on the queue holds what comes later alone
    host, port = site.address.removeprefix("http://").split(":")
    body = b'{"question": "two"}'
    with socket.create_connection((host, int(port))) as gone:
        head = f"POST /api/scenes/{ready}/ask HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        gone.sendall(head.encode() + body)
        while video.jobs < 2:
            time.sleep(0.02)
    asked = site.core._jobs.queue[0][2]
    end = time.monotonic() + 20
    while not asked.cancelled():
        assert time.monotonic() < end
        time.sleep(0.05)
    go.set()
    assert blocker.result()
    assert call(site.address, f"/api/scenes/{ready}/ask", {"question": "two"})[0] == 200


def test_arguments_and_sockets():
    assert arguments("ask", {"question": "a"}) == {"question": "a", "situation": None}
    with bound("127.0.0.1", 0) as taken, pytest.raises(ValueError, match="cannot listen on 127"):
        bound("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ValueError, match="cannot listen"):
        bound("127.0.0.1", 70_000)
