"""Everything that is wrong with a video, a recording or a request, through a running server: a status and one line."""

from __future__ import annotations

import errno
import io
import shutil
import socket
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from recordings import WRITERS
from test_web import call, message, send

from vidllm.io.video import write_video
from vidllm.serving import core
from vidllm_rooms.shards import render_scene


def film(folder: Path, frames: int, height: int, width: int) -> bytes:
    rng = np.random.default_rng(0)
    write_video(folder / "a.mp4", rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8))
    return (folder / "a.mp4").read_bytes()


def sound(folder: Path) -> bytes:
    """A film without a picture."""
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return (folder / "a.mp4").read_bytes()


def picture(form: str, height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (height, 1))).convert("RGB").save(file, form)
    return file.getvalue()


def archive(*members: tuple[str, bytes], link: str = "") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            packed.writestr(info, "/etc/passwd")
    return file.getvalue()


def recording(folder: Path, spoil: Any) -> bytes:
    """A packed recording of Polycam in which something is wrong."""
    made = WRITERS["polycam"](folder / "scan", render_scene(10000, 2, 56, 70)[0])
    spoil(made / "keyframes")
    return Path(shutil.make_archive(str(folder / "packed"), "zip", made)).read_bytes()


def first(folder: Path) -> Path:
    return min(folder.iterdir())


@pytest.mark.parametrize(("name", "make", "text"), [
    ("a.mp4", lambda d: b"no video", "not a readable video"),
    ("a.mp4", lambda d: film(d, 3, 56, 70)[:700], "a.mp4: "),
    ("a.mp4", sound, "no video track"),
    ("a.jpg", lambda d: picture("JPEG", 56, 70)[:200], "a.jpg: "),
    ("strip.png", lambda d: picture("PNG", 8, 60_000), "patches"),
    ("nan.npy", lambda d: np.full((2, 3), np.nan).tobytes(), "not a readable video"),
    ("a.zip", lambda d: archive(("../a.txt", b"x")), "leads out of the archive"),
    ("a.zip", lambda d: archive(link="rgb"), "is a link, a device or encrypted"),
    ("a.zip", lambda d: archive(("a", bytes(80 * 2**20))), "unpacks to over 20 times its size"),
    ("a.zip", lambda d: archive(("a.txt", b"x")), "an archive without a recording"),
    ("a.r3d", lambda d: archive(("metadata", b"{}"))[:60], "not a readable archive"),
    ("a.mcap", lambda d: b"\x89MCAP0\r\n" + bytes(20), "a.mcap: "),
    ("a.zip", lambda d: recording(d, lambda k: first(k / "corrected_cameras").write_text("[" * 9000)), "nested too d"),
    ("a.zip", lambda d: recording(d, lambda k: first(k / "corrected_cameras").unlink()), "lack a camera"),
    ("a.zip", lambda d: recording(d, lambda k: first(k / "corrected_images").write_bytes(b"x")), ".jpg"),
    ("a.zip", lambda d: recording(d, lambda k: first(k / "depth").write_bytes(b"x")), "not a readable depth picture"),
])  # fmt: skip
def test_what_cannot_be_reconstructed_is_one_line(site, tmp_path, name, make, text):
    """The status is 422; the line begins with the name as it was sent and holds no path of the server."""
    status, file = send(site.address, make(tmp_path), name)
    assert status == 200
    told = message(*call(site.address, f"/api/scenes/{file['id']}/ask", {"question": "two"}), 422)
    assert told.startswith(name) and text in told and str(site.core.folder) not in told and "vidllm-" not in told
    state = call(site.address, f"/api/scenes/{file['id']}")[1]
    assert (state["state"], state["error"]) == ("failed", told)
    assert call(site.address, f"/v1/files/{file['id']}", method="DELETE")[0] == 200
    assert not [path for path in site.core.folder.iterdir() if path.name.startswith(file["id"])]


@pytest.mark.parametrize(("name", "make", "frames"), [
    ("one.mp4", lambda d: film(d, 1, 56, 70), 1),
    ("small.mp4", lambda d: film(d, 3, 10, 10), 3),
    ("8K.jpg", lambda d: picture("JPEG", 4320, 7680), 1),
    ("a.png", lambda d: picture("PNG", 56, 70), 1),
])  # fmt: skip
def test_what_is_odd_is_reconstructed(site, tmp_path, name, make, frames):
    _, file = send(site.address, make(tmp_path), name)
    status, told = call(site.address, f"/api/scenes/{file['id']}/summary", {})
    assert (status, told["frames"]) == (200, frames)
    assert frames > 1 or any("the camera hardly moves" in warning for warning in told["warnings"])


@pytest.fixture(scope="module")
def ready(site, clip) -> str:
    _, file = send(site.address, clip.read_bytes(), "a.mp4")
    assert call(site.address, f"/api/scenes/{file['id']}/summary", {})[0] == 200
    return file["id"]


@pytest.mark.parametrize(("tool", "body", "status", "text"), [
    ("ask", {"question": "a" * 10_000}, 422, "10000"),
    ("ask", {"question": " \n"}, 422, "the question is empty"),
    ("ask", b'{"question": "\\ud800"}', 400, "an unpaired surrogate"),
    ("ground", {"expression": "<b>" * 5000}, 422, "15000"),
    ("ground", {"expression": "<loc>"}, 422, "<loc>"),
    ("measure", {"first": "99:1,1"}, 422, "frames are 0 to 3"),
    ("measure", {"first": "0:99999,1"}, 422, "lies outside"),
    ("inventory", {"names": [""]}, 422, "the name is empty"),
    ("describe", b'{"at": [NaN, 0, 0]}', 422, "three finite numbers"),
    ("describe", b'{"at": [1' + b"0" * 6000 + b', 0, 0]}', 400, ""),
    ("ask", b'{"question": "a", "question": ', 400, "JSON"),
    ("ask", b"\xef\xbb\xbf\x00", 400, ""),
])  # fmt: skip
def test_a_wrong_request_is_one_line(site, ready, tool, body, status, text):
    assert text in message(*call(site.address, f"/api/scenes/{ready}/{tool}", body), status)


@pytest.mark.parametrize(("body", "kind", "text"), [
    (b"", "multipart/form-data; boundary=X", "field file"),
    (b"no form", "multipart/form-data; boundary=X", ""),
    (b"", "multipart/form-data", ""),
    (b"{}", "application/json", "field file"),
    (b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--X--\r\n', "multipart/form-data; boundary=X",
     "field file"),
    (b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ntext', "multipart/form-data; boundary=X",
     "field file"),
])  # fmt: skip
def test_a_wrong_form_is_one_line(site, body, kind, text):
    assert text in message(*call(site.address, "/v1/files", body, "POST", content_type=kind), 400)


def test_methods_and_broken_http(site):
    assert call(site.address, "/v1/files", b"x", "PUT")[0] == 405
    for raw in (b"\x00\xff\r\n\r\n", b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", int(site.address.rsplit(":", 1)[1]))) as one:
            one.sendall(raw)
            assert b" 400 " in one.recv(1000)
    assert call(site.address, "/v1/models")[0] == 200


def test_a_full_disk_is_told(site, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(core.Core, "_make_room", full)
    status, told = send(site.address, b"never kept", "a.mp4")
    assert message(status, told, 507) == "no space is left on the server's disk; try again later"
    assert not list(site.core.folder.glob("part-*"))
