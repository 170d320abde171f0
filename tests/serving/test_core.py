"""Videos, scenes and jobs: order, bounds, and what becomes of a decoder that is killed."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tempfile
import threading
import time
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recordings import WRITERS, write_record3d_exr
from small_model import noise_clip

from vidllm.io.frames import joined
from vidllm.io.video import load_frames
from vidllm.model.prompts import qa_prompt
from vidllm.serving import decoding
from vidllm.serving.core import Core, Limits, Refused, held_bytes, refusal
from vidllm.serving.decoding import Plan, decoded
from vidllm_rooms.shards import render_scene

PLAN = Plan(4, 8, 56, "shorter_side", 14, 60.0, 2**32)


@pytest.fixture(scope="module")
def room():
    return render_scene(10000, 4, 56, 70)[0]


def padded(clip: Path, number: int) -> io.BytesIO:
    """The clip as another file: readers skip what is appended."""
    return io.BytesIO(clip.read_bytes() + number.to_bytes(4, "big") + b"free" + bytes(8))


def test_a_video_from_a_decoder_is_what_the_reader_reads(clip, tmp_path):
    heard: list[int] = []
    found = decoded(clip, tmp_path / "frames", PLAN, heard.append)
    own = load_frames(clip, 4, shorter_side=56)
    assert torch.equal(found.frames.images, own.images) and torch.equal(found.frames.affine, own.affine)
    assert (heard, found.warnings, found.cameras, found.frames.names) == ([1, 2, 3, 4], [], None, own.names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [*WRITERS, "exr"])
def test_a_recording_is_used_as_reconstruct_uses_it(model, room, tmp_path, form, monkeypatch):
    """Frames, cameras, depth and the level frame of an uploaded archive; nothing of it stays unpacked."""
    write = {**WRITERS, "exr": write_record3d_exr}[form]
    file = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", write(tmp_path / form, room)))
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "own"))  # of this test alone
    own, left = model.reconstruct(file), set((tmp_path / "own").glob("vidllm-capture-*"))
    with Core(model) as core:
        video = core.keep(io.BytesIO(file.read_bytes()), file.name)
        served = core.submit(video, lambda scene: scene).result()
        assert [path.name for path in core.folder.iterdir()] == [video.path.name]
    assert set((tmp_path / "own").glob("vidllm-capture-*")) == left
    for what in ("depth", "extrinsics", "intrinsics", "scene_from_world", "depth_std"):
        torch.testing.assert_close(getattr(served, what), getattr(own, what), rtol=0, atol=1e-6)
    assert served.scale.value == pytest.approx(own.scale.value) and served.scale.warnings == own.scale.warnings
    known = torch.from_numpy(room.depth_m).clamp(min=0)
    assert (served.depth - known).abs()[known > 0].median() < 1e-3


def test_what_is_wrong_in_a_recording_is_said_of_the_upload(model, room, tmp_path):
    folder = WRITERS["polycam"](tmp_path / "scan", room)
    sorted((folder / "keyframes/corrected_cameras").iterdir())[1].write_text("{}")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../../out.txt", "x")
    with Core(model) as core:
        shutil.make_archive(str(tmp_path / "scan"), "zip", folder)
        for name, text in (
            ("scan.zip", r"scan\.zip/corrected_cameras/.*json: fx: expected a number"),
            ("out.zip", r"holds '../../out.txt', which leads out of the archive"),
        ):
            video = core.keep(io.BytesIO((tmp_path / name).read_bytes()), name)
            with pytest.raises(Refused, match=text) as caught:
                core.submit(video, len).result()
            assert caught.value.status == 422 and "/tmp" not in str(caught.value).replace("'../../out.txt'", "")
            assert str(core.folder) not in str(caught.value) and str(caught.value).startswith(video.name)
        assert len(list(core.folder.iterdir())) == 2


def test_lost_frames_of_a_recording_are_told(model, room, tmp_path):
    folder = WRITERS["polycam"](tmp_path / "scan", room)
    lost = sorted((folder / "keyframes/corrected_cameras").iterdir())[1]
    lost.write_text(lost.read_text().replace('"t_03": ', '"t_03": NaN, "was": '))
    with Core(model) as core:
        file = shutil.make_archive(str(tmp_path / "scan"), "zip", folder)
        video = core.keep(io.BytesIO(Path(file).read_bytes()), "scan.zip")
        assert core.submit(video, len).result() == 3
        assert "scan.zip: 1 of 4 frames have no pose (tracking was lost) and are left out" in video.warnings


def test_frames_one_by_one_are_the_frames(clip):
    own = load_frames(clip, 4, shorter_side=56)
    again = joined(list(own.singly()))
    assert torch.equal(again.images, own.images) and again.names == own.names
    assert torch.equal(again.indices, own.indices) and torch.equal(again.timestamps_s, own.timestamps_s)


@pytest.mark.parametrize("content", [b"no video at all", b"PK\x03\x04../../etc/passwd", b"#EXTM3U\nhttp://a/b.ts\n"])
def test_what_is_no_video_is_one_line(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable (video|archive)|contains no video track"):
        decoded(path, tmp_path / "frames", PLAN, len)


def test_a_decoder_that_takes_too_long_or_too_much_is_ended(clip, tmp_path):
    with pytest.raises(ValueError, match="not decoded within 0 s"):
        decoded(clip, tmp_path / "frames", replace(PLAN, seconds=0.0), lambda _: None)
    with pytest.raises(ValueError, match=r"bytes of memory|was killed|no frame could be decoded|absurd sizes"):
        decoded(clip, tmp_path / "frames", replace(PLAN, memory=2**20), lambda _: None)


def test_a_decoder_that_is_killed_is_begun_again(clip, tmp_path, monkeypatch):
    killed = []
    attempt = decoding._attempt

    def killing(path, result, plan, progress):
        def kill(_: int) -> None:
            if not killed:
                killed.extend(child.pid for child in decoding.multiprocessing.active_children())
                os.kill(killed[0], signal.SIGKILL)
                time.sleep(0.2)

        return attempt(path, result, plan, kill)

    monkeypatch.setattr(decoding, "_attempt", killing)
    assert len(decoded(clip, tmp_path / "frames", PLAN, len).frames) == 4 and len(killed) == 1


def test_a_scene_is_made_once_and_asked_often(model, clip):
    with Core(model) as core:
        video = core.keep(padded(clip, 8), "../../a<b>\n.mp4")
        first = core.submit(video, lambda scene: (scene, scene.ask("how many chairs are there?"))).result()
        second = core.submit(video, lambda scene: (scene, scene.ask("how many chairs are there?"))).result()
        assert first == second and first[0] is second[0]
        expected = model.reconstruct(clip).ask("how many chairs are there?")
        assert first[1] == expected
        assert (video.name, video.state, video.done, video.jobs) == ("a<b> .mp4", "ready", 4, 0)
        assert core.keep(padded(clip, 8), "b.mp4") is video
        assert core.keep(padded(clip, 8), "b.MCAP").path.suffix == ".mcap"  # the reader of bags goes by it
        assert first[0].data.originals is None  # nothing decodes the upload again
        folder = core.folder
    assert not folder.exists()


def test_scenes_stay_within_their_memory_and_come_back(model, clip):
    with Core(model) as core:
        one = core.keep(padded(clip, 8), "a")
        core.submit(one, lambda scene: scene.ask("two")).result()
        time.sleep(0.2)
        size = one.held
    assert size > sum(t.nbytes for t in (one.scene.geometry.depth_m, one.scene.frames.images))
    with Core(model, Limits(memory=int(2.5 * size))) as core:
        videos = [core.keep(padded(clip, 8 + 8 * n), f"{n}") for n in range(4)]
        said = [core.submit(video, lambda scene: scene.ask("two")).result() for video in videos]
        core.submit(videos[3], len).result()
        assert [video.scene is not None for video in videos] == [False, False, True, True]
        assert [video.state for video in videos] == ["stored", "stored", "ready", "ready"]
        assert core.submit(videos[0], lambda scene: scene.ask("two")).result() == said[0]


def test_bytes_are_counted_once(model):
    scene = model.reconstruct(noise_clip())
    before = held_bytes(scene)
    scene.twice = scene.frames.images  # a second name for the same memory
    assert held_bytes(scene) == before


def test_only_so_many_jobs_wait(model, clip):
    begun, go = threading.Event(), threading.Event()

    def block(_: object) -> None:
        begun.set()
        go.wait()

    with Core(model, Limits(waiting=2)) as core:
        video = core.keep(padded(clip, 8), "a")
        jobs = [core.submit(video, block)]
        begun.wait()
        jobs += [core.submit(video, len) for _ in range(2)]
        with pytest.raises(Refused, match="2 requests wait already") as caught:
            core.submit(video, len)
        assert caught.value.status == 503 and video.jobs == 3
        with pytest.raises(Refused, match="being worked on"):
            core.remove(video.id)
        go.set()
        assert [job.result() for job in jobs] == [None, 4, 4]


def test_uploads_are_bounded(model, clip):
    size = clip.stat().st_size
    with Core(model, Limits(upload=size, disk=2 * size)) as core:
        first, second = (core.keep(io.BytesIO(bytes(size - 1) + bytes([n])), "a") for n in (1, 2))
        core.video(first.id)
        third = core.keep(io.BytesIO(bytes(size)), "c")
        assert [video.id for video in core.videos()] == [third.id, first.id]  # the second was used least recently
        assert len(list(core.folder.iterdir())) == 2
        with pytest.raises(Refused, match="there is no video"):
            core.video(second.id)
        with pytest.raises(Refused, match=r"over .* bytes"):
            core.keep(io.BytesIO(bytes(size + 1)), "d")
        with pytest.raises(Refused, match="the file is empty"):
            core.keep(io.BytesIO(), "e")
        first.jobs = third.jobs = 1
        with pytest.raises(Refused, match="no room"):
            core.keep(io.BytesIO(b"x" + bytes(size - 1)), "f")
        first.jobs = third.jobs = 0
        core.remove(third.id)
        assert len(core.videos()) == 1 == len(list(core.folder.iterdir()))


def test_errors_name_the_video_and_no_path(model, tmp_path):
    with Core(model) as core:
        video = core.keep(io.BytesIO(b"nothing"), "holiday.mp4")
        job = core.submit(video, len)
        with pytest.raises(Refused, match=r"^holiday\.mp4: not a readable video") as caught:
            job.result()
        assert caught.value.status == 422 and str(core.folder) not in str(caught.value)
        assert (video.state, video.error) == ("failed", str(caught.value))
        assert refusal(KeyError("secret"), video).status == 500
        assert "secret" not in str(refusal(KeyError("secret"), video))
        assert refusal(MemoryError(), video).status == 507
        with pytest.raises(ValueError, match="no such file"):
            core.local(str(tmp_path / "none.mp4"))


def test_an_answer_is_heard_as_it_grows(model):
    scene, heard = model.reconstruct(noise_clip()), []
    answer = scene.ask("two", max_new_tokens=6, heard=heard.append)
    assert heard[-1] == answer or answer.startswith(heard[-1])
    assert len(heard) >= 2 and all(b.startswith(a) for a, b in pairwise(heard))
    assert scene.ask("two", max_new_tokens=6) == answer

    def stop(_: str) -> None:
        raise Refused("enough")

    with pytest.raises(Refused):
        scene.ask("two", max_new_tokens=6, heard=stop)
    assert scene.ask("two", max_new_tokens=6) == answer


def test_tokens_are_counted(model):
    scene = model.reconstruct(noise_clip())
    before, after = scene._model.encode_parts(model.processor.tokenizer, qa_prompt("two"))
    seen = scene._prefix.tokens.shape[1]
    read, wrote = scene.count_tokens("two", "two")
    assert read == len(before) - 1 + seen + len(after)  # <video> stands for the scene
    assert wrote >= 2  # the word and the end
