"""Loading a checkpoint: what is there comes back, what is not there is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import load_pretrained, register
from vidllm.model.presets import tiny
from vidllm.model.text import build_tokenizer


def fresh_model():
    torch.manual_seed(0)
    return VidLLMForConditionalGeneration(tiny(300))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    fresh_model().save_pretrained(folder)
    VidLLMProcessor.from_config(tiny(300), build_tokenizer(["how many chairs?"], 300)).save_pretrained(folder)
    return folder


def copy_with(checkpoint, folder, **changes):
    """The checkpoint with other bytes in some files; None leaves a file out."""
    for path in checkpoint.iterdir():
        content = changes.get(path.stem, path.read_bytes())
        if content is not None:
            (folder / path.name).write_bytes(content)
    return folder


def test_weights_and_processor_come_back(checkpoint):
    model, processor = load_pretrained(checkpoint)
    assert not model.training and processor.video_token_id == 3
    state, saved = model.state_dict(), fresh_model().state_dict()
    assert set(state) == set(saved)
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    assert load_pretrained(str(checkpoint), dtype=torch.bfloat16)[0].dtype is torch.bfloat16


def test_auto_classes_know_the_checkpoint(checkpoint):
    register()
    register()
    assert type(AutoConfig.from_pretrained(checkpoint)) is VidLLMConfig
    assert type(AutoProcessor.from_pretrained(checkpoint)) is VidLLMProcessor
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert type(auto.from_pretrained(checkpoint)) is VidLLMForConditionalGeneration


def test_what_is_not_a_checkpoint_is_refused_by_name(checkpoint, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    for place, reason in [
        (tmp_path / "nowhere", "nowhere: no such folder"),
        ("./nowhere/at/all", "all: no such folder"),
        (tmp_path / "film.mp4", "received a file"),
        (tmp_path, "config.json is missing"),
    ]:
        with pytest.raises(ValueError, match=reason):
            load_pretrained(place)
    with pytest.raises(ValueError, match="torch dtype"):
        load_pretrained(checkpoint, dtype=None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": json.dumps({"model_type": "llama"}).encode()}, "type 'llama', expected 'vidllm'"),
        ({"config": b"{"}, "config.json: not JSON at character 2"),
        ({"model": None}, "no weights here"),
        ({"model": b"\0" * 64}, "model.safetensors: truncated or not safetensors"),
        ({"tokenizer": None}, "processor cannot be loaded"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused(checkpoint, tmp_path, changes, reason):
    with pytest.raises(ValueError, match=reason):
        load_pretrained(copy_with(checkpoint, tmp_path, **changes))


def test_missing_weights_are_never_filled_in(checkpoint, tmp_path, capfd):
    folder = copy_with(checkpoint, tmp_path)
    kept = load_file(folder / "model.safetensors")
    lost = next(name for name in kept if name.startswith("camera_head"))
    save_file({n: t for n, t in kept.items() if n != lost}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"camera_head has .* numbers in the weights.*{lost} is missing"):
        load_pretrained(folder)
    assert capfd.readouterr() == ("", "")  # the error is all that is said
