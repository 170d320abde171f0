"""A language half of a narrow model in a wide one: the same words and boxes where tokens are repeated."""

from __future__ import annotations

import copy

import pytest
import torch
from micro_start import save_start, short_run
from small_model import small_config

from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import load_pretrained
from vidllm.training.config import changed
from vidllm.training.data import RoomsData
from vidllm.training.models import _take_language_half, run_tokenizer, widened
from vidllm.training.supervision.geometry import BASE_WIDTH, OracleFeatures

IDS = {"<video>": 3, "<loc>": 4, "<coord>": 5}


def test_names_of_a_multiple_of_the_first_width_repeat():
    narrow, wide, other = (OracleFeatures(width, 5, 4, 3) for width in (BASE_WIDTH, 2 * BASE_WIDTH, 48))
    classes = torch.tensor([[[1, 4]]]), torch.tensor([[[0, 3]]]), torch.tensor([[[2, 1]]])
    assert torch.equal(wide.features(*classes), narrow.features(*classes).repeat(1, 1, 1, 2))
    assert other.features(*classes).shape[-1] == 48


def test_a_widened_half_reads_repeated_tokens_as_the_narrow_one_reads_them():
    config = small_config(64, IDS)
    wide_config = copy.deepcopy(config)
    wide_config.encoder.hidden_size, wide_config.encoder.num_heads = 96, 6
    narrow, wide = (VidLLMForConditionalGeneration(c).eval() for c in (config, wide_config))
    for parameter in narrow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    _take_language_half(wide, narrow)
    tokens, positions = torch.randn(1, 2, 12, 48), 2 * torch.randn(1, 2, 12, 3)
    valid = torch.ones(1, 2, 12, dtype=torch.bool)
    loc = torch.randn(1, 2, 64)
    with torch.no_grad():
        told = [
            model.pool_patches(x, None, positions, valid)
            for model, x in ((narrow, tokens), (wide, tokens.repeat(1, 1, 1, 2)))
        ]
        assert torch.allclose(told[0].tokens, told[1].tokens, atol=1e-3, rtol=1e-3)
        boxes = [model.ground(prefix, loc) for model, prefix in zip((narrow, wide), told, strict=True)]
    assert torch.allclose(boxes[0].logits, boxes[1].logits, atol=1e-2)
    assert torch.allclose(boxes[0].boxes[-1, ..., :3], boxes[1].boxes[-1, ..., :3], atol=1e-2)


@pytest.mark.parametrize("shape", [(5,), (4, 7), (4, 6, 1)])
def test_no_multiple_no_weight(shape):
    assert widened(torch.ones(4, 6), torch.Size(shape)) is None


@pytest.mark.slow
def test_the_words_are_those_of_the_language_model_that_is_taken(rooms_folder, tmp_path):
    spoken = save_start(tmp_path / "spoken", rooms_folder)
    config = changed(
        short_run(rooms_folder, spoken, tmp_path / "run"), init_from=None, language_from=str(spoken), preset="tiny"
    )
    told = run_tokenizer(tmp_path / "run", RoomsData(rooms_folder), config.start.init_from, config.start.language_from)
    assert told.get_vocab() == load_pretrained(spoken)[1].tokenizer.get_vocab()
