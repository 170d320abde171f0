"""The processor: shapes of a batch, chat templates, points, refusals, and the round trip through a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from vidllm.model import prompts
from vidllm.model.configuration import tiny
from vidllm.model.processing import VidLLMProcessor, VidLLMVideoFrameProcessor
from vidllm.model.text import build_tokenizer, encode_prompt

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
        ({"text": PROMPT, "images": [1]}, "one video"),
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


def test_answers_are_decoded(processor):
    ids = torch.tensor([[*processor.tokenizer.encode(" two", add_special_tokens=False), 2, 0, 0]])
    assert processor.decode_answers(ids) == ["two"]
    assert processor.decode_answers(ids.tolist()) == ["two"]


@pytest.mark.parametrize("loader", [VidLLMProcessor, AutoProcessor])
def test_a_saved_processor_gives_the_same_tensors(processor, loader, tmp_path):
    from vidllm.model import auto

    auto.register()
    processor.save_pretrained(tmp_path)
    tiny(len(processor.tokenizer)).save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is VidLLMProcessor
    assert type(loaded.image_processor) is VidLLMVideoFrameProcessor
    first, again = (p(text=CAPTION, videos=clip(12), coordinates=(1, 2, 3)) for p in (processor, loaded))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert loaded.chat_template == processor.chat_template
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
