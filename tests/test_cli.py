"""The command line: JSON alone on standard output, one clear line for each bad input, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_model import save_small_model

from vidllm.cli import VERBS, explain, main
from vidllm.io.video import write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "room.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (6, 56, 70, 3), dtype=np.uint8))
    return str(path)


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def good(result):
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def refused(result, *fragments):
    code, out, err = result
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("vidllm: error: ") and err.count("\n") == 1 and "Traceback" not in err
    for fragment in fragments:
        assert fragment in err, err


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


# ---- what goes right -----------------------------------------------------------------------------------------------


def test_help_needs_nothing_heavy():
    heavy = {"torch", "transformers", "numpy", "av", "PIL", "fastapi", "mcp"}
    for verb, unwanted in ((), heavy | {"tyro"}), (("ask",), heavy):
        code = f"import sys; from vidllm.cli import main; main([*{verb}, '--help']); "
        code += f"assert not {unwanted} & {{*sys.modules}}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "video" in done.stdout, done.stderr


def test_the_help_has_every_verb_once_under_a_heading(run):
    lines = good(run("--help")).splitlines()
    assert sorted(line[2:18].strip() for line in lines if line.startswith("  ")) == sorted(VERBS)
    assert {"use a model on a video:", "models:", "training:", "evaluation and data:"} <= set(lines)


def test_every_verb_has_help(run):
    for verb in ("ask", "describe", "ground", "reconstruct", "demo", "serve", "mcp", "info", "rooms", "train"):
        assert f"vidllm {verb}" in good(run(verb, "--help"))
    assert "--learning-rate" in good(run("train", "stage2", "--help"))
    assert good(run("--version")).startswith("vidllm 0.")


def test_ask_prints_an_answer_a_line(run, video, model):
    assert len(good(run("ask", video, "How many chairs?", "Why?", "--model", model)).splitlines()) == 2


def test_a_terminal_is_told_what_is_done(run, video, model, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, out, told = run("ask", video, "Why?", "--model", model)
    assert told == f"vidllm: loading the model ...\nvidllm: reconstructing {video} ...\n" and "..." not in out


@pytest.mark.slow
def test_ask_json_is_one_object_or_a_list(run, video, model):
    one = json.loads(good(run("ask", video, "How many chairs?", "--json", "--model", model)))
    assert one["question"] == "How many chairs?" and isinstance(one["answer"], str)
    assert (one["frame"], one["units"]) == ("scene", "m")
    told = good(run("ask", video, "Why?", "Where?", "--situation", "I sit.", "--json", "--model", model))
    assert [(i["question"], i["situation"]) for i in json.loads(told)] == [("Why?", "I sit."), ("Where?", "I sit.")]


def test_describe_takes_points_with_a_minus(run, video, model):
    told = json.loads(good(run("describe", video, "--at", "-1,2,0.5", "--json", "--model", model)))
    assert told["at"] == [-1.0, 2.0, 0.5] and isinstance(told["description"], str)
    assert good(run("describe", video, "--model", model, "--frames", "1", "--dtype", "bfloat16")).endswith("\n")


@pytest.mark.slow
def test_ground_gives_boxes_and_a_picture(run, video, model, tmp_path, monkeypatch):
    from vidllm.answers import Box, Boxes
    from vidllm.scene import Scene

    boxes = Boxes([Box((2.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.5, 0.9)], ["a note"])
    monkeypatch.setattr(Scene, "ground", lambda *_: boxes)
    code, out, _ = run("ground", video, "the chair", "--json", "-o", tmp_path / "p.png", "--model", model)
    told = json.loads(out)
    assert code == 0 and size_of(tmp_path / "p.png")[0] > 500
    told.pop("warnings")
    assert told == {
        "expression": "the chair", "boxes": [boxes[0].as_dict()], "notes": ["a note"], "frame": "scene", "units": "m"
    }  # fmt: skip
    assert run("ground", video, "the chair", "--model", model)[1].startswith("1  centre (2.00, 0.00, 0.00) m  size (1.")
    boxes.clear()
    boxes.notes = ()
    assert run("ground", video, "the unicorn", "--model", model)[1] == "no such object: the unicorn\n"
    assert json.loads(run("ground", video, "a", "--json", "--model", model)[1])["boxes"] == []


@pytest.mark.slow
def test_reconstruct_writes_files_and_tells_the_scale(run, video, model, tmp_path):
    everything = "depth,cameras,tum,ply,overview,glb,colmap,nerfstudio"
    code, out, _ = run("reconstruct", video, "-o", tmp_path / "out", "--format", everything, "--json", "--model", model)
    told = json.loads(out)
    assert code == 0 and len(told["files"]) == 8 and all(os.path.exists(f) for f in told["files"])
    assert (told["frames"], told["processed_size"], told["original_size"]) == (4, [56, 70], [56, 70])
    assert (told["units"], told["frame"]) == ("m", "scene")
    assert {"scale", "scale_spread", "warnings", "median_depth", "camera_path_length"} <= set(told)
    code, out, _ = run("reconstruct", video, "-o", tmp_path / "out", "--ground", "the chair", "--model", model)
    assert code == 0 and "median depth" in out and "overview.png" in out
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_demo_tells_its_own_errors(run, model, tmp_path):
    code, out, _ = run("demo", "--json", "-o", tmp_path / "out", "--model", model)
    told = json.loads(out)
    assert code == 0 and told["geometry"]["depth_abs_rel"] > 0 and told["geometry"]["rotation_error_deg"] > 0
    assert told["questions"][0]["question"] == "How many chairs are there?"
    assert all(isinstance(item["right"], bool) for item in told["questions"] + told["references"])
    assert "abs-rel" in run("demo", "--model", model)[1]


def test_info_counts_presets_and_folders(run, model):
    assert "6,738,415,616" in good(run("info", "paper"))
    told = json.loads(good(run("info", model, "--json")))
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"]) < 10**6


@pytest.mark.slow
def test_info_tells_what_a_video_costs(run, model):
    told = json.loads(good(run("info", model, "--json", "--frames", 2, "--language-dtype", "int4")))
    assert told["flops"]["encoder"] > 1e6 and "weights: language model, int4" in told["bytes"]
    assert "peak of the whole" in good(run("info", model, "--frames", 2))
    refused(run("info", model, "--frames", 0), "--frames: expected at least 1, received 0")


def test_a_language_model_of_fewer_bits_answers(run, model, video):
    for more in (("--language-dtype", "int8"), ("--language-dtype", "int4", "--offload", "cpu")):
        assert good(run("ask", video, "Why?", "--model", model, *more)).endswith("\n")
    refused(run("ask", video, "Why?", "--model", model, "--language-dtype", "int2"), "int2")


@pytest.mark.slow
def test_rooms_become_folders_shards_and_tables(run, model, tmp_path):
    code, out, _ = run("rooms", "render", "--seeds", "3:4", "-o", tmp_path, "--frames", "2", "--size", "56x70")
    folder = tmp_path / "room_000003"
    assert (code, out.strip()) == (0, str(folder))
    record = json.loads((folder / "scene.json").read_text())
    assert record["seed"] == 3 and len(record["objects"][0]["box"]) == 7 and record["language"]["questions"]
    pose = np.loadtxt(folder / "pose" / "00001.txt")
    assert pose.shape == (4, 4) and 1 < pose[2, 3] < 2  # held at eye height above the floor
    assert size_of(folder / "depth" / "00000.png") == size_of(folder / "color" / "00000.jpg") == (70, 56)
    assert run("rooms", "shards", "--seeds", "10000:10001", "-o", tmp_path / "s", "--frames", "2")[0] == 0
    again = run("rooms", "shards", "--seeds", "10000:10001", "-o", tmp_path / "s", "--frames", "2")
    assert "1 of 1 shards exist already" in again[2]
    code, out, err = run("rooms", "eval", "--seeds", "1000:1001", "--frames", "2", "--model", model, "--json")
    measures = [row["measure"] for row in json.loads(out)["rows"]]
    assert code == 0 and "depth abs-rel" in measures and "rooms 1/1" in err


# ---- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ((), ("COMMAND",)),
        (("dance",), ("unknown command", "dance")),
        (("rooms",), ("COMMAND",)),
        (("rooms", "dance"), ("unknown command", "dance")),
        (("ask", "VIDEO", "Why?", "--refine", "--no-refine"), ("--refine and --no-refine",)),
        (("ask", "VIDEO", "Why?", "--window", "many"), ("--window: expected a whole number, received 'many'",)),
        (("reconstruct", "VIDEO"), ("--output",)),
        (("ask", "VIDEO"), ("question",)),
        (("ask", "VIDEO", ""), ("question is empty",)),
        (("ask", "VIDEO", "why " * 2500), ("at most 2000",)),
        (("ask", "VIDEO", "Why?", "--situation", " "), ("situation is empty",)),
        (("ask", "VIDEO", "Why?", "--frames", "0"), ("--frames", "at least 1")),
        (("ask", "VIDEO", "Why?", "--dtype", "int8"), ("--dtype", "int8")),
        (("ask", "VIDEO", "Why?", "--device", "toaster"), ("unknown device 'toaster'",)),
        (("ask", "no/such.mp4", "Why?"), ("no/such.mp4", "no such file")),
        (("ask", "", "Why?"), ("name is empty",)),
        (("describe", "VIDEO", "--at", "1,2"), ("--at", "X,Y,Z", "'1,2'")),
        (("describe", "VIDEO", "--at", "nan,0,0"), ("--at", "finite")),
        (("ground", "VIDEO", "the chair", "-o", "boxes.txt"), ("boxes.txt", ".png")),
        (("reconstruct", "VIDEO", "-o", "out", "--format", "obj"), ("unknown format obj", "ply")),
        (("reconstruct", "VIDEO", "-o", "VIDEO"), ("cannot write",)),
        (("reconstruct", "VIDEO", "-o", "VIDEO/below/out"), ("cannot write",)),
        (("info", "enormous"), ("enormous: no such folder",)),
        (("rooms", "render", "--seeds", "5:2", "-o", "out"), ("--seeds", "no seed")),
        (("rooms", "render", "--seeds", "a:b", "-o", "out"), ("--seeds", "A:B", "a:b")),
        (("rooms", "render", "--seeds", "0:1", "--size", "57x70", "-o", "out"), ("--size", "even")),
        (("rooms", "eval", "--seeds", "3:"), ("--seeds",)),
        (("train", "stage9"), ("stage9", "stage2")),
        (("train", "stage2", "--bogus", "1"), ("--bogus",)),
        (("train", "--steps", "many"), ("--steps", "many")),
        (("train", "--preset", "huge"), ("unknown preset 'huge'",)),
        (("train", "blind", "--data", "nowhere"), ("no training shards", "nowhere")),
    ],
)
def test_wrong_arguments_are_one_line(run, video, tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    refused(run(*(a.replace("VIDEO", video) for a in arguments)), *fragments)
    assert list(tmp_path.iterdir()) == []


def _text(path):
    path.write_text("this is not a film")


def _empty(path):
    path.write_bytes(b"")


def _folder(path):
    path.mkdir()


def _sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * 800)


@pytest.mark.parametrize(
    ("make", "fragment"),
    [(_text, "not a readable video"), (_empty, "empty"), (_folder, "no picture"), (_sound, "no video track")],
)
def test_what_is_no_video_is_refused_by_name(run, model, tmp_path, make, fragment):
    make(tmp_path / "film.mp4")
    refused(run("reconstruct", tmp_path / "film.mp4", "-o", tmp_path / "out", "--model", model), "film.mp4", fragment)
    assert not (tmp_path / "out").exists()


def test_a_cut_film_is_refused_or_warned_about(run, model, video, tmp_path):
    whole = Path(video).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    refused(run("ask", tmp_path / "cut.mp4", "Why?", "--model", model), "cut.mp4", "not a readable video")


@pytest.mark.slow
def test_small_and_large_pictures_are_read(run, model, tmp_path):
    for size in ((10, 10), (7680, 4320)):
        Image.new("RGB", size, (90, 120, 60)).save(tmp_path / f"{size[0]}.jpg")
        assert good(run("ask", tmp_path / f"{size[0]}.jpg", "Why?", "--model", model))


def test_a_missing_or_foreign_model_is_refused_by_name(run, video, tmp_path):
    refused(run("ask", video, "Why?", "--model", tmp_path / "nowhere"), "nowhere: no such folder")
    refused(run("ask", video, "Why?", "--model", tmp_path), "config.json is missing")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for command in (("ask", video, "Why?", "--model"), ("info",)):
        refused(run(*command, tmp_path), "type 'llama'")


def test_a_full_disk_leaves_nothing(run, video, model, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("vidllm.io.atomic._sync", full)
    for arguments in (
        ("reconstruct", video, "-o", tmp_path / "out", "--model", model),
        ("ground", video, "the chair", "-o", tmp_path / "out.png", "--model", model),
        ("rooms", "render", "--seeds", "3:4", "-o", tmp_path, "--frames", "2", "--size", "56x70"),
    ):
        code, out, err = run(*arguments)
        lines = [line for line in err.splitlines() if "warning" not in line]
        assert (code, out, len(lines)) == (2, "", 1) and "No space left" in lines[0] and ".part" not in lines[0]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_standard_output_is_an_error(model, video):
    code = f"import sys; from vidllm.cli import main; sys.exit(main(['info', {model!r}]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_surprises_are_one_line_and_traceable(run, video, model, monkeypatch):
    from vidllm.scene import Scene

    def fail(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Scene, "ask", fail)
    refused(run("ask", video, "Why?", "--model", model), "out of memory", "--frames")
    monkeypatch.setenv("VIDLLM_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run("ask", video, "Why?", "--model", model)
    told = "internal error: 'x'; please report it with the traceback that VIDLLM_DEBUG=1 shows"
    assert explain(KeyError("x")) == told
    assert len(explain(ValueError("x" * 9000))) < 700


@pytest.mark.slow
def test_demo_opens_its_page_where_there_is_a_desktop(run, tmp_path, monkeypatch):
    import sys
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    good(run("demo"))
    (page,) = tmp_path.glob("*-vidllm/demo/scene.html")
    assert opened == [page.as_uri()] and "How many chairs are there?" in page.read_text(encoding="utf-8")
