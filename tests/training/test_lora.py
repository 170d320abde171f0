"""LoRA: what gets a gradient, that folding in changes nothing, peft's format, and stage 2 with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import LOC, VIDEO, micro_config, micro_model, video
from peft import PeftModel
from torch.nn import functional as F

from vidllm.model.huggingface import VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.training import lora
from vidllm.training.config import changed, tiny_test
from vidllm.training.lora import apply_lora, lora_layers, lora_matrices, merged_state, save_adapter, weight_of
from vidllm.training.stage2 import Run
from vidllm.training.texts import load_or_build_tokenizer

IDS = torch.tensor([[1, VIDEO, 9, 10, 11, LOC, 2]])


def adapted(seed=0):
    """A model with LoRA that is no longer zero."""
    model = micro_model(seed)
    apply_lora(model, 3, 6.0)
    with torch.no_grad():
        for parameter in lora_matrices(model).parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def outputs(model):
    with torch.no_grad():
        return model(input_ids=IDS, pixel_values=video()).logits


def test_at_the_start_nothing_changes_and_only_the_matrices_learn_in_the_language_model():
    model = micro_model()
    before = outputs(model)
    learns = {name: p.requires_grad for name, p in model.named_parameters() if not name.startswith("language_model.")}
    apply_lora(model, 3, 6.0)
    assert torch.equal(outputs(model), before)
    assert {n: p.requires_grad for n, p in model.named_parameters() if not n.startswith("language_model.")} == learns
    model(input_ids=IDS, pixel_values=video(), labels=IDS).loss.backward()
    for name, parameter in model.language_model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name), name
        assert (parameter.grad is not None) == (".lora_" in name), name
    assert model.projector[0].weight.grad is not None
    names = {name.rsplit(".", 1)[-1] for name, _ in lora_layers(model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft still asks by the old name
def test_folded_in_and_in_pefts_format_it_gives_the_same_outputs(tmp_path):
    model = adapted()
    wanted = outputs(model)
    plain = VidLLMForConditionalGeneration(micro_config()).eval()
    plain.load_state_dict(dict(merged_state(model, model.state_dict())))  # strict: the names are a plain model's
    torch.testing.assert_close(outputs(plain), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wanted, outputs(micro_model()), atol=1e-3)
    loaded = PeftModel.from_pretrained(micro_model(), str(save_adapter(model, tmp_path / "adapter", "somewhere")))
    torch.testing.assert_close(outputs(loaded.eval()), wanted, atol=1e-5, rtol=1e-5)
    for _, layer in lora_layers(model):
        x = torch.randn(4, layer.in_features)
        torch.testing.assert_close(F.linear(x, weight_of(layer)), layer(x), atol=1e-5, rtol=1e-5)
    assert weight_of(model.projector[0]) is model.projector[0].weight


def test_what_cannot_be_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="rank of LoRA must be at least 1"):
        apply_lora(micro_model(), 0, 1.0)
    with pytest.raises(ValueError, match="no LoRA to write"):
        save_adapter(micro_model(), tmp_path / "adapter", "")
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'vidllm\[train\]'"):
        apply_lora(micro_model(), 3, 6.0)


@pytest.mark.slow
def test_stage_2_with_lora(rooms_folder, tmp_path):
    start = tmp_path / "start"
    tokenizer = load_or_build_tokenizer(start / "tokenizer", sorted(rooms_folder.iterdir()), 600)
    config = micro_config(len(tokenizer))
    VidLLMForConditionalGeneration(config).save_pretrained(start)
    VidLLMProcessor.from_config(config, tokenizer).save_pretrained(start)
    settings = changed(
        tiny_test(), data=str(rooms_folder), out=str(tmp_path / "run"), init_from=str(start), lora_rank=2, device="cpu"
    )
    run = Run.build(settings)
    rng = np.random.default_rng(0)
    batch = run.draw(3, rng)
    assert batch[1] == "clip"
    run.losses(batch, 3, rng).total().backward()
    for name, parameter in run.model.named_parameters():
        if name.startswith("language_model."):
            assert (parameter.grad is not None) == (".lora_" in name), name
    parts = {name.split(".")[0] for name, p in run.model.named_parameters() if p.grad is not None}
    assert {"encoder", "adapter", "projector", "grounding", "camera_head", "language_model"} <= parts
    run.optimizer.step()
    folder = run.export(tmp_path / "run")
    plain = VidLLMForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(outputs(plain), outputs(run.model.eval()), atol=2e-2, rtol=2e-2)  # half precision
