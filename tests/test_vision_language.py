"""A vision-language model in place of the model's own words: small random ones of the real classes, and one that
answers from a table in place of an able one.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import noise_clip, save_small_model
from small_vlms import MAKERS, save_vlm, without_torchvision

import vidllm
from vidllm.answers import Box, Boxes, Scale
from vidllm.baselines.vision_language import MAX_PICTURES, Shown, VisionLanguageModel, load_vision_language
from vidllm.cli import main
from vidllm.export.geometry import SceneData
from vidllm.inventory import Inventory, Room, Thing
from vidllm.model.prompts import format_coordinate
from vidllm.scene_in_words import SceneInWords


@pytest.fixture(autouse=True)
def no_torchvision(monkeypatch):
    without_torchvision(monkeypatch)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_torchvision(patch)
        return {kind: save_vlm(kind, tmp_path_factory.mktemp(kind)) for kind in MAKERS}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def pictures(count):
    draws = (np.random.default_rng(number) for number in range(count))
    return tuple(Image.fromarray(draw.integers(0, 255, (48, 64, 3), np.uint8)) for draw in draws)


@pytest.mark.parametrize("kind", MAKERS)
def test_answers_are_transformers_own_on_the_same_conversation(kind, folders):
    speaker, shown = load_vision_language(folders[kind], dtype="float32"), Shown(pictures(3), "Room: 12.0 m")
    text = (
        "The frames show a room, in the order of a video. Measured in this room:\nRoom: 12.0 m\n\nI sit. How many?\n"
        "Answer with the option's letter, a number, a word or a short phrase alone."
    )
    content = [*({"type": "image", "image": one} for one in shown.pictures), {"type": "text", "text": text}]
    inputs = speaker.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt", processor_kwargs=dict(speaker._uncut),
    )  # fmt: skip
    said = speaker.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    wanted = speaker.processor.decode(said, skip_special_tokens=True).strip()
    assert speaker.answers(shown, [("How many?", "I sit.")], 6) == [wanted]
    assert len(said) and inputs["pixel_values"].numel()


@pytest.mark.parametrize("kind", MAKERS)
def test_pictures_and_facts_reach_the_model(kind, folders):
    speaker = load_vision_language(folders[kind], dtype="float32")

    def logits(shown):
        return speaker.model(**speaker.inputs(shown, "Where?")).logits[0, -1]

    base = logits(Shown(pictures(2), "one"))
    assert not torch.equal(base, logits(Shown(pictures(2)[::-1], "one")))
    assert not torch.equal(base, logits(Shown(pictures(2), "two")))
    assert len(speaker.inputs(Shown((), "one"), "Where?")["input_ids"][0]) > 10  # text alone


def test_thoughts_are_no_part_of_an_answer(folders, monkeypatch):
    speaker = load_vision_language(folders["idefics3"])
    monkeypatch.setattr(speaker.processor, "batch_decode", lambda *_, **__: ["<think>2 or 3</think>\n\n3"])
    assert speaker.reply(Shown(()), "How many?", 1) == "3"


# ---- a scene -------------------------------------------------------------------------------------------------------

TABLE = Box((4.0, 1.0, -1.5), (1.0, 2.0, 0.8), 0.0, 0.9)
CHAIR = Box((4.0, -2.0, -1.5), (0.5, 0.5, 1.0), 0.3, 0.6)
ROOM = Room(np.zeros((0, 2)), 12.5, -1.5, 2.4)


class Able:
    """Says what a table has for the end of a request, and keeps what it was asked."""

    def __init__(self, **said):
        self.said, self.asked = said, []

    def reply(self, shown, request, max_new_tokens):
        self.asked.append((shown, request))
        return next((answer for part, answer in self.said.items() if part in request), "none")

    answers = VisionLanguageModel.answers


class Data:
    """Frames without originals."""

    originals, evenly, pictures = None, SceneData.evenly, SceneData.pictures

    def __init__(self, frames):
        self.rgb = noise_clip(frames)

    def __len__(self):
        return len(self.rgb)


class OwnScene:
    """What the scene's own model finds."""

    def __init__(self, frames=3):
        self.data = Data(frames)

    def inventory(self, names):
        things = (Thing("table", "brown", TABLE, 3), Thing("chair", "red", CHAIR, 2)) if names else ()
        return Inventory(things, ROOM, np.zeros((2, 3)), Scale(1.0, 0.1, ()))

    def ground(self, expression, several):
        return Boxes([CHAIR])


def test_it_is_told_what_was_measured():
    able = Able(**{"How many": "2"})
    scene = SceneInWords(OwnScene(40), able)
    assert scene.answers([("How many chairs?", None)], 8) == ["2"]
    shown, request = able.asked[0]
    assert len(shown.pictures) == MAX_PICTURES and shown.pictures[0].size == (70, 56)
    assert "1. brown table: centre (4.00, 1.00, -1.50)" in shown.facts and "12.5 square metres" in shown.facts
    assert request.startswith("How many chairs?\n")
    assert SceneInWords(OwnScene(), able, metres=False).shown.facts == ""


def test_a_cascade_that_finds_no_things_tells_the_room_and_not_that_it_is_empty():
    facts = SceneInWords(OwnScene(), Able(), finds=False).shown.facts
    assert "12.5 square metres" in facts and "Counts" not in facts and "nothing was found" not in facts


def test_boxes_are_those_whose_numbers_it_names():
    able = Able(**{"the seats": "2, 1 and 7", "the red chair": "Number 2.", "a lamp": "none"})
    scene = SceneInWords(OwnScene(), able)
    assert list(scene.ground("the seats", several=True)) == [CHAIR, TABLE]
    assert list(scene.ground("the red chair", several=True)) == [CHAIR]
    assert list(scene.ground("a lamp", several=True)) == []
    talk = SceneInWords(OwnScene(), Able(**{"the seats": "In room 2 there is 1."})).ground("the seats", several=True)
    assert list(talk) == [] and talk.notes == ("the reply names no listed thing: In room 2 there is 1.",)
    one = scene.ground("a lamp", several=False)  # one is wanted: the own model's, and it is said
    assert list(one) == [CHAIR] and one.notes == ("none of the 2 listed things was named: none",)


def test_of_given_boxes_the_overlapping_one_is_chosen_else_the_nearest():
    scene = SceneInWords(OwnScene(), Able(**{"the chair": "2", "the table": "1"}))
    wide, far = [4.0, -1.0, -1.5, 1.0, 3.0, 1.0, 0.0], [9.0, 9.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    near = [4.0, -2.6, -1.5, 0.1, 0.1, 0.1, 0.0]  # nearer to the chair than the centre of the one that holds it
    assert scene.choose("the chair", [far, near, wide], several=True) == [(2, CHAIR.score)]
    assert scene.choose("the chair", [far, near], several=False) == [(1, CHAIR.score)]


def test_a_scene_is_asked_through_it_and_its_inventory_is_the_own_models(small, folders, tmp_path):
    own = vidllm.load(small)
    wanted = own.reconstruct(noise_clip()).inventory(("chair", "table"))
    model = vidllm.load(small, vlm=folders["idefics3"], dtype="float32")
    scene = model.reconstruct(noise_clip())
    assert scene.inventory(("chair", "table")).as_text() == wanted.as_text()
    shown = scene.in_words.shown
    assert len(shown.pictures) == 4 and shown.facts == scene.inventory().as_text()
    assert scene.ask("Where?", max_new_tokens=4) == model.model.speaker.answers(shown, [("Where?", None)], 4)[0]
    point = scene.points[len(scene.points) // 2].tolist()
    assert scene.describe(point, 4) == model.model.speaker.reply(
        shown, f"Describe the object at {format_coordinate(point)}.", 4
    )
    assert scene.describe(max_new_tokens=4) == model.model.speaker.reply(shown, "Describe the room.", 4)
    scene.save(tmp_path / "saved", ("scene",))
    again = vidllm.load_scene(tmp_path / "saved", model)
    assert again.ask("Where?", max_new_tokens=4) == scene.ask("Where?", max_new_tokens=4)


def test_from_the_command_line(small, folders, tmp_path, capsys):
    for number, frame in enumerate(noise_clip()):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    words = ["ask", str(tmp_path), "Where?", "--model", str(small), "--vlm", str(folders["qwen3_vl"]), "--json"]
    assert main([*words, "--dtype", "float32"]) == 0
    said = json.loads(capsys.readouterr().out)
    scene = vidllm.load(small, vlm=folders["qwen3_vl"], dtype="float32").reconstruct(tmp_path)
    assert said["answer"] == scene.ask("Where?")


# ---- bad input -----------------------------------------------------------------------------------------------------


def refused(place):
    with pytest.raises(ValueError, match=str(place)) as told:
        load_vision_language(place)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_folders_of_other_kinds(small, tmp_path):
    assert "of type 'vidllm', no vision-language model" in refused(small)
    assert "no weights" in refused(tmp_path)
    assert "expected" in refused(tmp_path / "nowhere")


def test_a_model_of_one_picture_and_one_without_conversations(folders, tmp_path, monkeypatch):
    processor = type(load_vision_language(folders["idefics3"]).processor)

    def one_alone(self, images, **_):
        raise ValueError(f"one picture, received {len(images[0])}\nsee the docs")

    with monkeypatch.context() as patch:
        patch.setattr(processor, "__call__", one_alone)
        assert "does not take 2 pictures with a question (one picture, received 2)" in refused(folders["idefics3"])
    for file in folders["idefics3"].iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "no chat template here" in refused(tmp_path)


def test_what_is_missing_on_the_machine(folders, monkeypatch):
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    def lacking(*_, **__):
        raise ValueError("requires `torchvision` to be installed")

    monkeypatch.setattr(AutoVideoProcessor, "from_pretrained", lacking)
    assert refused(folders["qwen3_vl"]).endswith("pip install 'vidllm[vlm]'")


def test_options_without_an_effect(capsys, tmp_path):
    assert main(["inventory", str(tmp_path), "--vlm", "x"]) == 2
    assert "--vlm: no effect here; the model itself takes the inventory" in capsys.readouterr().err
    assert main(["eval", "reconstruction", "--data", str(tmp_path), "-o", str(tmp_path / "o"), "--vlm", "x"]) == 2
    assert "--vlm: no effect here; reconstruction has no questions" in capsys.readouterr().err
