"""A reconstructed video: shapes and frames of its geometry, and that asking again costs no second reconstruction."""

from __future__ import annotations

import dataclasses
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import noise_clip, save_small_model

import vidllm
from vidllm.export import OutputError
from vidllm.model import prompts
from vidllm.model.priors import KnownScale
from vidllm.model.text import encode_prompt

QUESTIONS = ("How many chairs are there?", "What color is the red chair?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vidllm.load(save_small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scene(model):
    return model.reconstruct(noise_clip())


@pytest.mark.parametrize(("frames", "height", "width", "size"), [(4, 56, 70, (56, 70)), (1, 90, 60, (84, 56))])
def test_geometry_has_its_shapes_frames_and_units(model, frames, height, width, size):
    scene = model.reconstruct(noise_clip(frames, height, width))
    assert scene.depth.shape == (frames, *size) and bool((scene.depth > 0).all())
    assert scene.extrinsics.shape == (frames, 4, 4) and scene.intrinsics.shape == (frames, 3, 3)
    assert torch.allclose(scene.extrinsics[0], torch.eye(4), atol=1e-6)  # the world is the first camera
    assert torch.allclose(scene.intrinsics[:, :2, 2], torch.tensor([size[1] / 2, size[0] / 2]).expand(frames, 2))
    turn = scene.scene_from_world[:3, :3]
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-5)
    assert scene.points.shape == (frames * size[0] * size[1], 3)
    assert scene.scale.value > 0


def test_num_frames_samples_evenly(model):
    assert model.reconstruct(noise_clip(9), num_frames=3).frames.indices.tolist() == [0, 4, 8]
    with pytest.raises(ValueError, match="at least 1"):
        model.reconstruct(noise_clip(), num_frames=0)


def test_the_cached_prefix_gives_the_logits_of_reading_everything_anew(model, scene):
    tokenizer = model.processor.tokenizer
    scene.ask(QUESTIONS[1], max_new_tokens=5)  # leaves tokens behind that the next question must not see
    for question in QUESTIONS:
        prompt = prompts.qa_prompt(question)
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        with torch.no_grad():
            anew = model.model(input_ids=ids, pixel_values=scene.frames.images[None]).logits[0, -1]
        assert torch.allclose(scene.logits(prompt), anew, atol=1e-4)


def test_answers_do_not_depend_on_what_was_asked_before(model, scene):
    fresh = model.reconstruct(noise_clip()).ask(QUESTIONS[0], max_new_tokens=8)
    scene.describe(at=(1.0, 0.0, -1.0), max_new_tokens=3)
    scene.ground("the red chair")
    assert scene.ask(QUESTIONS[0], max_new_tokens=8) == fresh
    assert scene.ask(QUESTIONS[0], "I sit on the red chair.", max_new_tokens=2) is not None


def test_a_scene_is_encoded_once_for_many_questions(model):
    encoded, read = [], []
    hooks = [
        model.model.encoder.register_forward_hook(lambda *_: encoded.append(1)),
        model.model.language_model.register_forward_pre_hook(
            lambda _, __, given: read.append(given["inputs_embeds"].shape[1]), with_kwargs=True
        ),
    ]
    scene = model.reconstruct(noise_clip())
    for question in QUESTIONS:
        scene.ask(question, max_new_tokens=1)
    for hook in hooks:
        hook.remove()
    assert len(encoded) == 1
    prefix, *suffixes = read  # the visual prefix once, then each question alone
    assert len(suffixes) == len(QUESTIONS) and max(suffixes) < prefix


def test_boxes_are_plain_numbers_in_the_scene_frame(scene):
    boxes = scene.ground("the red chair")
    assert len(scene.ground("the red chair", several=False)) == 1
    for box in boxes:
        told = box.as_dict()
        assert set(told) == {"center", "size", "yaw", "score"}
        assert all(side > 0 for side in told["size"]) and 0 <= told["score"] <= 1


def test_save_writes_everything_or_nothing(scene, tmp_path, monkeypatch):
    paths = scene.save(tmp_path / "out", boxes=scene.ground("the red chair", several=False))
    assert [p.name for p in paths] == [
        "depth", "cameras.json", "trajectory.txt", "points.ply", "overview.png", "vidllm_scene.json",
        "vidllm_scene.safetensors",
    ]  # fmt: skip
    assert all(p.exists() for p in paths) and len(list((tmp_path / "out" / "depth").iterdir())) == 12
    with pytest.raises(ValueError, match="unknown export format"):
        scene.save(tmp_path / "other", formats=["obj"])
    monkeypatch.setattr("vidllm.export.points.write_points", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        scene.save(tmp_path / "full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def _full_disk(*_, **__):
    raise OutputError("points.ply: cannot write (No space left on device)")


def test_doubts_about_the_scale_are_told(model, scene):
    found = model.reconstruct(np.repeat(noise_clip(1), 4, 0))
    still = dataclasses.replace(found.geometry, extrinsics=torch.eye(4)[None, None, :3].repeat(1, 4, 1, 1))
    doubts = model.with_geometry(found.frames, still).scale.warnings
    assert any("hardly moves" in doubt for doubt in doubts)
    torn = dataclasses.replace(scene.geometry.scale, spread=torch.tensor([0.8]))
    doubts = model.with_geometry(scene.frames, dataclasses.replace(scene.geometry, scale=torn)).scale.warnings
    assert any("disagree about the metric scale by 80%" in doubt for doubt in doubts)
    void = dataclasses.replace(scene.geometry.scale, valid=torch.tensor([False]))
    doubts = model.with_geometry(scene.frames, dataclasses.replace(scene.geometry, scale=void)).scale.warnings
    assert any("not in metres" in doubt for doubt in doubts)


STILL = {
    "noise": noise_clip(1),
    "black": np.zeros((1, 56, 70, 3), np.uint8),
    "white": np.full((1, 56, 70, 3), 255, np.uint8),
    "grey": np.full((1, 56, 70, 3), 128, np.uint8),
    "smooth": np.broadcast_to(np.linspace(0, 255, 70).astype(np.uint8)[None, None, :, None], (1, 56, 70, 3)),
}


@pytest.mark.parametrize("options", [{}, {"window": 4, "overlap": 2}, {"known": KnownScale(factor=2.0)}], ids=str)
@pytest.mark.parametrize("name", STILL)
def test_a_still_camera_is_told_and_has_no_spread(name, options, model):
    for count in (1, 2, 8):
        scene = model.reconstruct(np.repeat(STILL[name], count, 0), count, **options)
        far = scene.extrinsics.clone()
        far[1:, 0, 3] = 5.0  # whatever cameras were predicted
        scene.__class__ = type("Moved", (type(scene),), {"extrinsics": far, "_parallax": lambda _: 5.0})
        assert any("camera hardly moves" in doubt for doubt in scene.scale.warnings)
        assert math.isnan(scene.scale.spread)
        assert "known" in options or any("a single view tells" in doubt for doubt in scene.scale.warnings)


def test_a_still_camera_is_told_after_refinement(model):
    scene = model.reconstruct(np.repeat(noise_clip(1), 2, 0), refine=True)
    assert any("camera hardly moves" in doubt for doubt in scene.scale.warnings) and math.isnan(scene.scale.spread)


def test_a_view_that_is_shown_twice_votes_once(model):
    scene = model.reconstruct(noise_clip(3))
    votes = scene.geometry.scale.per_image[:, [0, 0, 0, 1, 2]]
    frames = dataclasses.replace(
        scene.frames, images=scene.frames.images[[0, 0, 0, 1, 2]], timestamps_s=torch.arange(5.0).double(),
        indices=torch.arange(5), names=(),
    )  # fmt: skip
    told = dataclasses.replace(scene.geometry.scale, per_image=votes, spread=torch.zeros(1))
    geometry = dataclasses.replace(scene.geometry, scale=told)
    again = vidllm.Scene(model.model, model.processor, frames, geometry, scene._prefix)
    assert again.scale.spread == pytest.approx(scene.scale.spread, rel=1e-5) and again.scale.spread > 0


def test_the_summary_is_in_metres_and_of_the_right_sizes(model):
    told = model.reconstruct([Image.fromarray(f) for f in noise_clip(3, 112, 140)]).summary()
    assert (told["frames"], told["units"], told["frame"]) == (3, "m", "scene")
    assert (told["processed_size"], told["original_size"]) == ([56, 70], [112, 140])
    assert told["median_depth"] > 0 and told["camera_path_length"] >= 0


def test_bad_input_is_refused(model, scene, tmp_path):
    with pytest.raises(ValueError, match="NaN"):
        model.reconstruct(np.full((2, 56, 56, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="no frame"):
        model.reconstruct([])
    for bad in ("", " ", "why " * 2600, "a <video>"):
        with pytest.raises(ValueError, match="question"):
            scene.ask(bad)
    with pytest.raises(ValueError, match="three finite numbers"):
        scene.describe(at=(0.0, float("nan"), 1.0))
    with pytest.raises(ValueError, match="unknown device"):
        vidllm.load(tmp_path, device="toaster")
    with pytest.raises(ValueError, match="cuda:63"):
        vidllm.load(tmp_path, device="cuda:63")


def test_asking_all_at_once_gives_the_answers_of_asking_one_by_one(model, scene):
    pairs = [(QUESTIONS[0], None), (QUESTIONS[1], "I sit."), ("Why?", None)]
    one_by_one = [scene.ask(*pair, max_new_tokens=6) for pair in pairs]
    assert model.reconstruct(noise_clip()).ask_all(pairs, max_new_tokens=6) == one_by_one


# ---- many callers, and callers that stop in the middle --------------------------------------------------------------


def test_threads_wait_for_each_other(model, scene):
    inside, most, alone = [], [], [scene.ask(q, max_new_tokens=4) for q in QUESTIONS]
    told, boxes = scene.describe((1.0, 0.0, 0.5), 4), scene.ground("the red chair")
    first, last = model.model.language_model.model.layers[0], model.model.language_model.model.layers[-1]
    hooks = [
        first.register_forward_pre_hook(lambda *_: (inside.append(1), most.append(len(inside)))[0]),
        last.register_forward_hook(lambda *_: inside.pop() and None),
    ]
    fresh = model.reconstruct(noise_clip())
    calls = [
        *[lambda q=q: fresh.ask(q, max_new_tokens=4) for q in QUESTIONS], lambda: fresh.describe((1.0, 0.0, 0.5), 4),
        lambda: fresh.ground("the red chair"), lambda: fresh.ask_all([(q, None) for q in QUESTIONS], 4),
        lambda: scene.ask(QUESTIONS[0], max_new_tokens=4),
    ]  # fmt: skip
    started = threading.Barrier(len(calls))
    with ThreadPoolExecutor(len(calls)) as pool:
        results = list(pool.map(lambda call: (started.wait(), call())[1], calls))
    for hook in hooks:
        hook.remove()
    assert results == [*alone, told, boxes, alone, alone[0]] and max(most) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_a_question_that_stops_in_the_middle_changes_nothing(error, model):
    scene, right = model.reconstruct(noise_clip()), model.reconstruct(noise_clip())
    prompt, pairs = prompts.qa_prompt(QUESTIONS[0]), [(q, None) for q in QUESTIONS]
    expected = right.logits(prompt), right.ask_all(pairs, 4), right.ground("the red chair")
    asked = (
        lambda: scene.ask(QUESTIONS[1], max_new_tokens=4), lambda: scene.describe((1.0, 0.0, 0.5), 4),
        lambda: scene.ground("a bed"), lambda: scene.ask_all(pairs, 4),
    )  # fmt: skip
    for stop in range(1, 4):  # the forward pass that stops, between its first layer and its second
        for ask in asked:
            passes = []

            def stopped(*_, passes=passes, stop=stop):
                passes.append(1)
                if len(passes) == stop:
                    raise error

            hook = model.model.language_model.model.layers[1].register_forward_pre_hook(stopped)
            try:
                ask()
            except error:
                pass
            finally:
                hook.remove()
            assert torch.equal(scene.logits(prompt), expected[0])
    assert (scene.ask_all(pairs, 4), scene.ground("the red chair")) == expected[1:]


def test_pickling_says_what_to_do_instead(scene):
    with pytest.raises(TypeError, match=r"not pickled; keep it with scene.save\(folder\) and vidllm.load_scene"):
        pickle.dumps(scene)


def test_a_line_break_inside_a_question_changes_nothing(scene):
    for gap in ("\n", " \r\n ", "\u2028", "\t", "  ", "\n\n"):
        broken = f"How many{gap}chairs are there?{gap}"
        for make in (prompts.qa_prompt, prompts.grounding_prompt, lambda text: prompts.situated_prompt(text, text)):
            assert make(broken) == make("How many chairs are there?")
    assert scene.ask("How many\nchairs?", "I\nsit.", 4) == scene.ask("How many chairs?", "I sit.", 4)
