"""The geometric half of a narrow model in a wide one: the same cameras where channels stand side by side."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from micro_start import quiet, save_start, short_run
from small_model import small_config

from vidllm.datasets.seen import ANY, read_seen
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.training.config import changed
from vidllm.training.stage2 import train
from vidllm.training.widening import fit_adapter, spread_channels, take_geometry_half

IDS = {"<video>": 3, "<loc>": 4, "<coord>": 5}


def two_models(*, depth: int | None = None) -> tuple[VidLLMForConditionalGeneration, VidLLMForConditionalGeneration]:
    config = small_config(64, IDS)
    wide = copy.deepcopy(config)
    wide.encoder.hidden_size *= 2
    for part in (wide.encoder, wide.attention, wide.camera_head, wide.adapter):
        part.num_heads *= 2
    wide.attention.mlp_ratio /= 2  # the hidden layers are as wide as before
    wide.attention.depth = depth or wide.attention.depth
    torch.manual_seed(0)
    models = [VidLLMForConditionalGeneration(c).eval() for c in (config, wide)]
    for parameter in models[0].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return models[0], models[1]


def test_cameras_of_repeated_channels_are_those_of_the_narrow_model():
    narrow, wide = two_models()
    take_geometry_half(wide, narrow)
    tokens = torch.randn(2, 3, 12, narrow.config.encoder.hidden_size)
    bridge = torch.randn(2, 3, 4, narrow.config.encoder.hidden_size)
    layers = narrow.config.dense_head.tap_layers
    with torch.no_grad():
        before = narrow.attention(tokens, (3, 4), layers, bridge)
        after = wide.attention(spread_channels(tokens, 2), (3, 4), layers, spread_channels(bridge, 2))
        heads = [
            [model.camera_head(out.special[:, :, 0])[-1], model.gravity_head(out.special[:, 0, 0])]
            for model, out in ((narrow, before), (wide, after))
        ]
    for layer in layers:
        wanted = spread_channels(before.intermediate_features[layer], 2)
        assert torch.allclose(after.intermediate_features[layer], wanted, rtol=1e-3, atol=1e-3)
    for told, wanted in zip(heads[1], heads[0], strict=True):
        assert torch.allclose(told, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_adapter_learns_the_narrow_geometric_stream_and_keeps_the_semantic_one():
    narrow, wide = two_models()
    take_geometry_half(wide, narrow)
    pictures = torch.rand(8, 2, 3, 28, 28, generator=torch.Generator().manual_seed(1))

    def some(step: int) -> torch.Tensor:
        return pictures[torch.from_numpy(np.random.default_rng(step).integers(0, 8, 2))]

    with torch.no_grad():
        semantic = wide.encode(pictures).streams.language
    error = fit_adapter(wide, narrow, some, steps=400)
    with torch.no_grad():
        after = wide.encode(pictures).streams
        wanted = spread_channels(narrow.encode(pictures).streams.geometry, 2)
    assert error < 0.2
    assert (after.geometry - wanted).square().mean() < 0.2 * wanted.var()
    assert (after.language - semantic).square().mean() < 0.1 * semantic.var()


def test_another_depth_is_refused():
    narrow, wide = two_models(depth=1)
    with pytest.raises(ValueError, match="the attention of the two models has other layers"):
        take_geometry_half(wide, narrow)


@pytest.mark.slow
def test_a_run_begins_with_the_geometric_half_and_fits_once(rooms_folder, tmp_path):
    start = save_start(tmp_path / "start", rooms_folder)
    narrow = shutil.copytree(start, tmp_path / "narrow")
    lines: list[str] = []
    run = changed(
        short_run(rooms_folder, start, tmp_path / "run"), geometry_from=str(narrow), fit_steps=50, language_start=9
    )
    model = train(run, lines.append)
    seen = read_seen(model)
    assert seen is not None and seen.possibly == {ANY: "narrow has no seen.json"}  # the last of those it began with
    train(changed(run, steps=6), lines.append)
    assert sum("the adapter is fitted" in line for line in lines) == 1
    assert sum(line.startswith("adapter, step 50 of 50") for line in lines) == 1
    with pytest.raises(ValueError, match="geometry_from widens whole weights"):
        train(changed(run, parallel="fsdp", guide_weight=0.0, word_weight=0.0, out=str(tmp_path / "other")), quiet)
