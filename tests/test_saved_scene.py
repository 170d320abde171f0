"""A scene that was saved and loaded gives the answers, boxes and exports of the one it was, and nothing else loads."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from small_model import noise_clip, save_small_model

import vidllm
from vidllm.cli import main
from vidllm.io.video import write_video
from vidllm.long_video.streaming import LongScene
from vidllm.model import prompts
from vidllm.scene_file import TENSORS, VALUES, fingerprint, is_saved_scene

QUESTION = "How many chairs are there?"
FILES = ("depth", "cameras", "tum", "ply", "overview", "colmap", "nerfstudio")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(place):
    return vidllm.load(place)


@pytest.fixture(scope="module")
def whole(model):
    return model.reconstruct(noise_clip())


@pytest.fixture(scope="module")
def long(model):
    return model.reconstruct(noise_clip(9), 9, window=5, overlap=2)


@pytest.fixture
def saved(whole, tmp_path):
    whole.save(tmp_path / "saved", ["scene"])
    return tmp_path / "saved"


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def assert_same(found, scene, tmp_path):
    assert type(found) is type(scene) and len(found) == len(scene)
    for name in ("depth", "extrinsics", "intrinsics", "scene_from_world"):
        assert torch.equal(getattr(found, name), getattr(scene, name)), name
    for field in dataclasses.fields(scene.geometry):
        mine, theirs = getattr(found.geometry, field.name), getattr(scene.geometry, field.name)
        if isinstance(theirs, torch.Tensor):
            assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype, field.name
        elif theirs is None:
            assert mine is None
    assert torch.equal(found.frames.images, scene.frames.images)
    assert torch.equal(found.frames.timestamps_s, scene.frames.timestamps_s)
    for name in ("names", "source", "original_size"):
        assert getattr(found.frames, name) == getattr(scene.frames, name)
    assert found.scale == scene.scale and found.summary() == scene.summary()
    assert torch.equal(found.logits(prompts.qa_prompt(QUESTION)), scene.logits(prompts.qa_prompt(QUESTION)))
    assert found.ask(QUESTION, max_new_tokens=6) == scene.ask(QUESTION, max_new_tokens=6)
    assert found.describe((1.0, 0.0, 0.5), 4) == scene.describe((1.0, 0.0, 0.5), 4)
    assert found.ground("the red chair") == scene.ground("the red chair")
    found.save(tmp_path / "found", FILES)
    scene.save(tmp_path / "made", FILES)
    assert contents(tmp_path / "found") == contents(tmp_path / "made")


@pytest.mark.parametrize("kind", ["whole", pytest.param("long", marks=pytest.mark.slow)])
def test_a_saved_scene_is_the_scene_it_was_without_its_video(kind, model, tmp_path, request):
    scene = request.getfixturevalue(kind)
    paths = scene.save(tmp_path / "saved", ["scene"])
    assert [p.name for p in paths] == [VALUES, TENSORS] and all(p.is_file() for p in paths)
    encoded = []
    hook = model.model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    found = vidllm.load_scene(tmp_path / "saved", model)
    assert_same(found, scene, tmp_path)
    hook.remove()
    assert not encoded
    found.save(tmp_path / "again", ["scene"])
    assert contents(tmp_path / "again") == contents(tmp_path / "saved")


def test_the_default_formats_hold_the_scene(whole, model, tmp_path):
    whole.save(tmp_path)
    assert is_saved_scene(tmp_path) and (tmp_path / "points.ply").is_file()
    assert torch.equal(vidllm.load_scene(str(tmp_path), model).depth, whole.depth)


def test_a_long_scene_without_maps_is_saved_without_them(model, tmp_path):
    scene = list(model.stream(noise_clip(9), window=5, overlap=2, keep_maps=False))[-1]
    scene.save(tmp_path, ["scene"])
    found = vidllm.load_scene(tmp_path, model)
    assert isinstance(found, LongScene) and torch.equal(found.extrinsics, scene.extrinsics)
    assert found.ask(QUESTION, max_new_tokens=6) == scene.ask(QUESTION, max_new_tokens=6)
    with pytest.raises(ValueError, match="keep_maps"):
        _ = found.depth


def test_what_a_scene_was_given_comes_back(model, whole, tmp_path):
    names = ("caf\udce9.png", "b\n.png", "c.png", "d.png")
    grey = torch.linspace(0, 1, 3 * 56 * 70).reshape(1, 3, 56, 70).expand(4, -1, -1, -1)  # not in whole 255ths
    frames = dataclasses.replace(whole.frames, names=names, images=grey, source="caf\udce9")
    geometry = dataclasses.replace(whole.geometry, metric_depth_m=None)
    model.with_geometry(frames, geometry).save(tmp_path, ["scene"])
    found = vidllm.load_scene(tmp_path, model)
    assert (found.frames.names, found.frames.source) == (names, "caf\udce9")
    assert torch.equal(found.frames.images, grey) and found.geometry.metric_depth_m is None


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"language_dtype": "int8"}])
def test_a_scene_finds_its_model_in_its_dtypes(options, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place.parent)
    model = vidllm.load(place.name, **options)  # a relative path, which means nothing elsewhere
    scene = model.reconstruct(noise_clip())
    scene.save(tmp_path, ["scene"])
    monkeypatch.chdir(tmp_path)
    found = vidllm.load_scene(tmp_path)
    assert torch.equal(found.depth, scene.depth)
    assert found.ask(QUESTION, max_new_tokens=4) == scene.ask(QUESTION, max_new_tokens=4)
    with pytest.raises(ValueError, match=r"came from .*(bfloat16|int8).*, but this model is .*float32"):
        vidllm.load_scene(tmp_path, vidllm.load(place))


def test_another_model_is_refused_by_name(model, place, saved, tmp_path):
    changed = vidllm.load(place)
    with torch.no_grad():
        changed.model.language_model.get_input_embeddings().weight[7, 3] += 1e-3
    with pytest.raises(ValueError, match="the scene came from") as refused:
        vidllm.load_scene(saved, changed)
    told = str(refused.value)
    assert str(place) in told and fingerprint(model.model)[:8] in told and fingerprint(changed.model)[:8] in told
    assert "\n" not in told
    other = vidllm.load(place)
    other.model.config.grounding = dataclasses.replace(other.model.config.grounding, max_boxes=3)
    with pytest.raises(ValueError, match="but this model is"):
        vidllm.load_scene(saved, other)


def test_layers_that_wait_in_the_host_are_the_same_model(model, place):
    pytest.importorskip("accelerate")
    assert fingerprint(vidllm.load(place, offload="cpu").model) == fingerprint(model.model)


def test_a_model_that_is_not_here_is_told(saved):
    values = json.loads((saved / VALUES).read_text())
    rewrite(saved, model={**values["model"], "place": "somebody/model"})
    with pytest.raises(ValueError, match=r"vidllm_scene.json: the scene's model is not here: somebody/model"):
        vidllm.load_scene(saved)


def rewrite(folder, **changes):
    """Change values of a saved scene, with the right checksum."""
    from vidllm.scene_file import _checksum

    values = json.loads((folder / VALUES).read_text()) | changes
    (folder / VALUES).write_text(json.dumps({**values, "checksum": _checksum(values)}))


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


DAMAGES = {
    "gone": None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped in front": lambda content: flipped(content, 12),
    "flipped in the middle": lambda content: flipped(content, len(content) // 2),
    "flipped at the end": lambda content: flipped(content, len(content) - 8),
    "a pickle": lambda content: b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00exitR.",
    "deep": lambda content: b"[" * 100_000,
    "a long number": lambda content: b'{"version": 1' + b"0" * 5000 + b"}",
    "a list": lambda content: b"[1]",
    "another object": lambda content: b'{"frames": []}',
}


@pytest.mark.parametrize("name", [VALUES, TENSORS])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_that_names_the_file(name, damage, model, saved):
    change, file = DAMAGES[damage], saved / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError) as refused:
        vidllm.load_scene(saved, model)
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)


def test_the_tensors_of_another_saving_are_refused(model, saved, tmp_path):
    model.reconstruct(noise_clip(3)).save(tmp_path / "other", ["scene"])
    (saved / TENSORS).write_bytes((tmp_path / "other" / TENSORS).read_bytes())
    with pytest.raises(ValueError, match=r"safetensors: damaged, or not the one that vidllm_scene.json"):
        vidllm.load_scene(saved, model)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"version": 2}, "has version 2, this vidllm reads 1"), ({"values": {}}, "does not describe a scene"),
     ({"kind": "long scene"}, "does not describe a scene")],
)  # fmt: skip
def test_a_form_that_is_not_ours_is_refused(changes, told, model, saved):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=f"{VALUES}: {told}"):
        vidllm.load_scene(saved, model)


def test_a_folder_without_a_scene_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="contains no saved scene"):
            vidllm.load_scene(folder)


def test_a_failed_saving_leaves_the_earlier_one(whole, saved, monkeypatch):
    before = contents(saved)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidllm.scene_file._save", full)
    with pytest.raises(OSError, match="No space left"):
        whole.save(saved, ["scene"])
    assert contents(saved) == before and [p.name for p in saved.parent.iterdir()] == ["saved"]


# ---- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line_asks_a_saved_scene(place, tmp_path, capsys):
    film, out, options = tmp_path / "walk.mp4", tmp_path / "out", ["--model", str(place)]
    write_video(film, noise_clip(5))

    def run(*arguments):
        code = main([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("reconstruct", film, "-o", out, "--format", "tum,scene", *options)[0] == 0
    for verb, *words in (("ask", QUESTION, "Why?"), ("describe",), ("describe", "--at", "1,0,0"), ("ground", "a bed")):
        there, here = run(verb, film, *words, *options)[:2], run(verb, out, *words)[:2]
        assert there == here and here[0] == 0
    film.unlink()
    assert run("reconstruct", out, "-o", tmp_path / "later", "--format", "tum,ply")[0] == 0
    assert (tmp_path / "later" / "trajectory.txt").read_text() == (out / "trajectory.txt").read_text()
    code, _, err = run("ask", out, "Why?", "--frames", "3", "--no-refine")
    assert code == 2 and err.count("\n") == 1 and "on which --frames, --refine has no effect;" in err
    (out / TENSORS).write_bytes(b"no")
    code, _, err = run("ask", out, "Why?")
    assert code == 2 and err.count("\n") == 1 and f"{out / TENSORS}: damaged" in err
