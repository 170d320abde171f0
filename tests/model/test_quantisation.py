"""Weights of fewer bits: bounds of their errors, bytes, and a language model that still says the same."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers import micro_model, video
from torch import nn

import vidllm
from vidllm.evaluation.demo import CLIP
from vidllm.model.prompts import question_prompt
from vidllm.model.quantisation import Int4Linear, Int8Linear, offload_layers, place, quantise
from vidllm.profiling import language_bytes

QUESTIONS = ("How many chairs are there?", "What colour is the table?", "Is there a sofa?", "What kind of room is it?")


def test_eight_bits_move_no_weight_by_more_than_half_a_step():
    linear = nn.Linear(96, 40)
    linear.weight.data[3] = 0  # a row without a size
    small = Int8Linear(linear)
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((small.dequantised() - linear.weight).abs() <= 0.5001 * step).all()
    assert small.weight.dtype == torch.int8
    x = torch.randn(2, 5, 96)
    torch.testing.assert_close(small(x), x @ small.dequantised().T + linear.bias)
    bound = x.abs().sum(-1, keepdim=True) * step[:, 0] / 2
    assert ((small(x) - linear(x)).abs() <= bound + 1e-5).all()


@pytest.mark.parametrize("columns", [64, 96, 352])  # one group of 64; the row and the group share 32
def test_four_bits_move_no_weight_by_more_than_half_a_step_of_its_group(columns):
    linear = nn.Linear(columns, 24, bias=False)
    small = Int4Linear(linear)
    groups = linear.weight.unflatten(1, (small.scale.shape[1], -1))
    step = (groups.amax(2) - groups.amin(2)) / 15
    error = (small.dequantised().unflatten(1, (small.scale.shape[1], -1)) - groups).abs()
    assert (error <= 0.5001 * step[..., None] + 1e-7).all()
    assert small.packed.shape == (24, columns // 2) and small.packed.dtype == torch.uint8
    x = torch.randn(3, columns)
    torch.testing.assert_close(small(x), x @ small.dequantised().T)


def test_the_ends_of_a_group_are_kept():
    linear = nn.Linear(64, 8, bias=False)
    small = Int4Linear(linear).dequantised()
    torch.testing.assert_close(small.amin(1), linear.weight.amin(1))
    torch.testing.assert_close(small.amax(1), linear.weight.amax(1))


def test_rows_of_an_odd_length_are_refused():
    with pytest.raises(ValueError, match="a row of 63 cannot be packed; use int8"):
        Int4Linear(nn.Linear(63, 8))


def bytes_of(module):
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_shipped_model_says_the_same_and_weighs_what_is_told(dtype):
    whole, small = vidllm.load().reconstruct(CLIP), vidllm.load(language_dtype=dtype).reconstruct(CLIP)
    asked = [(question, None) for question in QUESTIONS]
    same = [a == b for a, b in zip(whole.ask_all(asked), small.ask_all(asked), strict=True)]
    assert sum(same) >= 3
    logits = [scene.logits(question_prompt(QUESTIONS[0], None)) for scene in (whole, small)]
    assert torch.corrcoef(torch.stack(logits))[0, 1] > (0.9999 if dtype == "int8" else 0.99)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_bytes_are_as_told(dtype):
    network = vidllm.load(dtype="bfloat16").model
    lm = network.language_model
    assert quantise(lm, dtype) == 4 * 7
    assert lm.get_output_embeddings().weight.dtype == torch.bfloat16  # tied to the table, and left
    assert bytes_of(lm) == pytest.approx(language_bytes(network.config, dtype), rel=0.02)


def test_layers_that_wait_give_the_same_logits():
    model, other = micro_model(), micro_model()
    offload_layers(other.language_model, torch.device("cpu"))
    layers = other.language_model.model.layers
    assert {p.device.type for p in layers.parameters()} == {"meta"}  # nothing is there but while it runs
    assert other.language_model.model.embed_tokens.weight.device.type == "cpu"
    ids = torch.tensor([[1, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(other.language_model(ids).logits, model.language_model(ids).logits)


def test_a_small_model_that_waits_answers():
    scene = vidllm.load(language_dtype="int4", offload="cpu").reconstruct(CLIP, 2)
    assert scene.ask_all([("How many chairs are there?", None)]) == [scene.ask("How many chairs are there?")]


def test_choices_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="unknown language dtype 'int2'; expected int8 or int4"):
        place(micro_model(), torch.device("cpu"), "int2")
    with pytest.raises(ValueError, match="unknown offload 'disk'; expected cpu"):
        place(micro_model(), torch.device("cpu"), offload="disk")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ValueError, match="needs accelerate: pip install"):
        place(micro_model(), torch.device("cpu"), offload="cpu")


def test_the_video_is_not_touched():
    model = micro_model()
    images, before = video(), {name: id(p) for name, p in model.named_parameters() if "language_model" not in name}
    quantise(model.language_model, "int8")
    assert {name: id(p) for name, p in model.named_parameters() if "language_model" not in name} == before
    assert model.encode_scene(images).prefix.tokens.isfinite().all()
