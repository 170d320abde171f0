"""The processor: shapes of a batch, chat templates, points, refusals, and the round trip through a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from vidllm.model import prompts
from vidllm.model.huggingface import VidLLMProcessor, VidLLMVideoFrameProcessor
from vidllm.model.presets import tiny
from vidllm.model.text import build_tokenizer, encode_answer, encode_prompt

QUESTION = "how many chairs are there?"
PROMPT = prompts.qa_prompt(QUESTION)
CAPTION = prompts.caption_prompt()


@pytest.fixture(scope="module")
def processor():
    return VidLLMProcessor.from_config(tiny(), build_tokenizer([QUESTION, "two", "three"] * 20, vocab_size=400))


def clip(frames: int = 3, height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_one_question_on_one_clip(processor):
    batch = processor(text=PROMPT, videos=clip())
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    assert batch["input_ids"].tolist() == [encode_prompt(processor.tokenizer, PROMPT)]
    assert bool(batch["attention_mask"].all())
    pixels = batch["pixel_values"]
    assert pixels.shape[:3] == (1, 3, 3)
    assert pixels.shape[3] == 112 and pixels.shape[4] % 14 == 0
    assert pixels.is_floating_point() and 0 <= float(pixels.min()) < float(pixels.max()) <= 1


def test_frames_are_sampled_and_their_number_can_be_chosen(processor):
    assert processor(videos=clip(20))["pixel_values"].shape[1] == 8
    assert processor(videos=clip(20), num_frames=5)["pixel_values"].shape[1] == 5


def test_a_list_of_images_is_one_video(processor):
    frames = list(clip(4))
    whole = processor(text=PROMPT, videos=clip(4))["pixel_values"]
    assert torch.equal(processor(text=PROMPT, videos=frames)["pixel_values"], whole)
    assert torch.equal(processor(text=[PROMPT], videos=[frames])["pixel_values"], whole)
    assert processor(text=PROMPT, videos=frames[:1])["pixel_values"].shape[1] == 1


def test_a_batch_is_padded_on_the_left_and_equals_its_rows(processor):
    short = prompts.room_prompt()
    batch = processor(text=[PROMPT, short], videos=[clip(seed=1), clip(seed=2)])
    alone = processor(text=short, videos=clip(seed=2))
    length = alone["input_ids"].shape[1]
    pad = batch["input_ids"].shape[1] - length
    assert pad > 0 and batch["attention_mask"][1].tolist() == [0] * pad + [1] * length
    assert batch["input_ids"][1, :pad].tolist() == [0] * pad
    assert torch.equal(batch["input_ids"][1, pad:], alone["input_ids"][0])
    assert torch.equal(batch["pixel_values"][1], alone["pixel_values"][0])
    right = processor(text=[PROMPT, short], padding_side="right")
    assert right["attention_mask"][1].tolist() == [1] * length + [0] * pad


def test_points_follow_their_tokens(processor):
    one = processor(text=CAPTION, coordinates=(1.0, 1.6, 0.4))
    assert one["coordinates"].tolist() == [[[1.0, pytest.approx(1.6), pytest.approx(0.4)]]]
    mixed = processor(text=[CAPTION, PROMPT], coordinates=[[(1.0, 2.0, 3.0)], None])
    assert mixed["coordinates"].tolist() == [[[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]]]
    assert int((one["input_ids"] == processor.coord_token_id).sum()) == 1
    assert "coordinates" not in processor(text=PROMPT)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "neither"),
        ({"text": PROMPT, "images": clip(), "videos": clip()}, "received both"),
        ({"text": [PROMPT, PROMPT], "images": [clip()[0]]}, "images for 2 texts, received 1"),
        ({"text": [PROMPT, PROMPT], "images": [[clip()[0]], []]}, "text 1 has no image"),
        ({"text": PROMPT, "audio": [1]}, "received audio"),
        ({"text": PROMPT, "padding": "maximal"}, "padding must be one of"),
        ({"text": PROMPT, "truncation": "only_second"}, "truncation must be one of"),
        ({"text": PROMPT, "max_length": 9}, "no effect by itself"),
        ({"text": PROMPT, "padding": "max_length"}, "needs max_length"),
        ({"text": PROMPT, "padding": "max_length", "max_length": 3}, "pass truncation=True"),
        ({"text": PROMPT, "truncation": True, "max_length": 2}, "cut <video> off"),
        ({"text": CAPTION, "truncation": True, "max_length": 8, "coordinates": (1, 2, 3)}, "cut <coord> off"),
        ({"text": [PROMPT, prompts.room_prompt()], "padding": False}, "cannot be one tensor"),
        ({"text": "no scene", "videos": clip()}, "0 <video> tokens"),
        ({"text": PROMPT + "<video>", "videos": clip()}, "2 <video> tokens"),
        ({"text": [PROMPT, PROMPT], "videos": [clip()]}, "expected 2 videos"),
        ({"text": [PROMPT, PROMPT], "videos": [clip(3), clip(2)]}, "agree in frames"),
        ({"text": CAPTION}, "1 <coord> tokens but 0"),
        ({"text": PROMPT, "coordinates": (1.0, 2.0, 3.0)}, "0 <coord> tokens but 1"),
        ({"text": CAPTION, "coordinates": (1.0, 2.0)}, "received \\(1, 2\\)"),
        ({"text": CAPTION, "coordinates": (1.0, 2.0, float("inf"))}, "finite"),
        ({"text": [CAPTION, CAPTION], "coordinates": [(1.0, 2.0, 3.0)]}, "for 2 texts"),
        ({"videos": clip(), "coordinates": (1.0, 2.0, 3.0)}, "without a text"),
        ({"text": PROMPT, "do_sample_frames": False}, "num_frames"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(processor, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        processor(**arguments)


def test_padding_and_truncation_are_those_of_transformers(processor):
    short, videos = prompts.room_prompt(), [clip(seed=1), clip(seed=2)]
    wanted = processor(text=[PROMPT, short], videos=videos)
    given = processor(text=[PROMPT, short], videos=videos, padding=True, return_tensors="pt")
    assert set(given) == set(wanted) and all(torch.equal(given[k], wanted[k]) for k in wanted)
    length = wanted["input_ids"].shape[1]
    longer = processor(text=[PROMPT, short], padding="max_length", max_length=length + 3)
    assert longer["input_ids"][:, 3:].tolist() == wanted["input_ids"].tolist()
    assert longer["attention_mask"][:, :3].tolist() == [[0] * 3] * 2
    assert processor(text=PROMPT, pad_to_multiple_of=64)["input_ids"].shape == (1, 64)
    cut = processor(text=PROMPT, truncation=True, max_length=length - 2)
    assert cut["input_ids"][0].tolist() == encode_prompt(processor.tokenizer, PROMPT)[:-2]
    assert torch.equal(processor(text=PROMPT, truncation=True, max_length=99)["input_ids"], wanted["input_ids"][:1])
    rows = processor(text=[PROMPT, short], padding=False, return_tensors=None)["input_ids"]
    assert rows == [encode_prompt(processor.tokenizer, text) for text in (PROMPT, short)]
    with pytest.raises(TypeError, match="paddding"):
        processor(text=PROMPT, paddding=True)


def test_offsets_tell_which_characters_a_token_comes_from(processor):
    text = f"<s>{PROMPT}"
    batch = processor(text=[text, prompts.room_prompt()], return_offsets_mapping=True)
    (spans, other), ids = batch["offset_mapping"], batch["input_ids"][0].tolist()
    assert len(spans) == len(ids) == len(other) and other[0] == (0, 0)
    decode = processor.tokenizer.decode
    assert [text[a:b].strip().lower() for a, b in spans] == [decode([i]).strip() for i in ids]
    assert "".join(text[a:b] for a, b in spans).replace(" ", "") == text.replace(" ", "")


def test_the_images_of_a_text_are_one_scene(processor):
    frames = list(clip(3))
    wanted = processor(text=PROMPT, videos=[frames])
    for images in (frames, [frames]):
        assert torch.equal(processor(text=PROMPT, images=images)["pixel_values"], wanted["pixel_values"])
    assert processor(text=PROMPT, images=frames[0])["pixel_values"].shape[:2] == (1, 1)
    both = processor(text=[PROMPT, PROMPT], images=[frames[:2], frames[1:]])["pixel_values"]
    assert torch.equal(both[0], wanted["pixel_values"][0, :2]) and torch.equal(both[1], wanted["pixel_values"][0, 1:])


def test_a_tokenizer_without_our_tokens_is_refused(processor):
    frames = VidLLMVideoFrameProcessor(num_frames=2)
    bare = processor.tokenizer.__class__(
        tokenizer_object=type(processor.tokenizer.backend_tokenizer).from_str(
            processor.tokenizer.backend_tokenizer.to_str().replace("<video>", "<film>")
        )
    )
    with pytest.raises(ValueError, match="add_special_tokens_for"):
        VidLLMProcessor(frames, bare)


def talk(video: object, question: str = QUESTION) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]


def test_chat_template_writes_the_same_prompt(processor):
    assert processor.apply_chat_template(talk("x"), add_generation_prompt=True) == f"<s>{PROMPT}"
    turned = [{"role": "user", "content": list(reversed(talk("x")[0]["content"]))}]
    assert processor.apply_chat_template(turned, add_generation_prompt=True) == f"<s>{PROMPT}"
    told = [*talk("x"), {"role": "assistant", "content": "two"}, {"role": "user", "content": "and beds?"}]
    assert (
        processor.apply_chat_template(told, add_generation_prompt=True)
        == f"<s>{PROMPT} two</s>USER: and beds? ASSISTANT:"
    )
    advised = [{"role": "system", "content": "be brief."}, *talk("x")]
    assert processor.apply_chat_template(advised) == f"<s>{prompts.VISUAL_PREFIX}be brief. {QUESTION} "


def test_chat_template_decodes_the_video(processor):
    direct = processor(text=PROMPT, videos=clip())
    chat = processor.apply_chat_template(talk(clip()), add_generation_prompt=True, tokenize=True, return_dict=True)
    assert set(chat) == set(direct)
    assert all(torch.equal(chat[k], direct[k]) for k in direct)
    both = processor.apply_chat_template(
        [talk(clip()), talk(clip(seed=1))], add_generation_prompt=True, tokenize=True, return_dict=True,
        processor_kwargs={"num_frames": 2},
    )  # fmt: skip
    assert both["pixel_values"].shape[:2] == (2, 2)


def shown(images: list[object], question: str = QUESTION) -> list[dict[str, object]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


WHOLE = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}


def test_chat_template_takes_images(processor):
    frames = list(clip(3))
    direct = processor(text=PROMPT, videos=[frames])
    chat = processor.apply_chat_template(shown(frames), **WHOLE)
    assert set(chat) == set(direct) and all(torch.equal(chat[k], direct[k]) for k in direct)
    two = processor.apply_chat_template([shown(frames), shown(frames, "what?")], **WHOLE)
    assert two["pixel_values"].shape[:2] == (2, 3)
    mixed = [{"role": "user", "content": [*shown(frames)[0]["content"], {"type": "video", "video": clip()}]}]
    with pytest.raises(ValueError, match="received both"):
        processor.apply_chat_template(mixed, **WHOLE)


def test_chat_template_pads_and_cuts(processor):
    talks = [talk(clip()), talk(clip(seed=1), "and beds, and all the lamps?")]
    wanted = processor.apply_chat_template(talks, **WHOLE)
    for options in ({"padding": True}, {"processor_kwargs": {"padding": True}}):
        found = processor.apply_chat_template(talks, **WHOLE, **options)
        assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    options = {"padding": "max_length", "max_length": 60, "truncation": True}
    assert processor.apply_chat_template(talks, **WHOLE, processor_kwargs=options)["input_ids"].shape == (2, 60)


def test_the_assistants_tokens_are_masked_as_in_training(processor):
    told = [*talk(clip()), {"role": "assistant", "content": "two"}]
    longer = [*talk(clip()), {"role": "assistant", "content": "two, or three"}]
    batch = processor.apply_chat_template(
        [told, longer], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    for row, answer in enumerate(("two", "two, or three")):
        asked, told = encode_prompt(processor.tokenizer, PROMPT), encode_answer(processor.tokenizer, answer)
        ids = asked + told
        pad = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row, pad:].tolist() == ids
        mask = torch.as_tensor(batch["assistant_masks"][row]).tolist()
        assert mask == [0] * (pad + len(asked)) + [1] * len(told)


def test_answers_are_decoded(processor):
    ids = torch.tensor([[*processor.tokenizer.encode(" two", add_special_tokens=False), 2, 0, 0]])
    assert processor.decode_answers(ids) == ["two"]
    assert processor.decode_answers(ids.tolist()) == ["two"]


@pytest.mark.parametrize("loader", [VidLLMProcessor, AutoProcessor])
def test_a_saved_processor_gives_the_same_tensors(processor, loader, tmp_path):
    processor.save_pretrained(tmp_path)
    tiny(len(processor.tokenizer)).save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is VidLLMProcessor
    assert type(loaded.image_processor) is VidLLMVideoFrameProcessor
    first, again = (p(text=CAPTION, videos=clip(12), coordinates=(1, 2, 3)) for p in (processor, loaded))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert loaded.chat_template == processor.chat_template
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
