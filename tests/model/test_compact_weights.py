"""int8 weights: the round trip is near, loads as any checkpoint, and what is missing is said."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from small_model import save_small_model

from vidllm.model.compact_weights import dequantised, load_compact, quantised, save_compact
from vidllm.model.loading import load_pretrained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model saved as usual, and beside it with compact weights."""
    usual = save_small_model(tmp_path_factory.mktemp("usual"))
    compact = tmp_path_factory.mktemp("compact")
    save_compact(load_pretrained(usual)[0].state_dict(), compact, 0.25)
    for file in usual.iterdir():
        if file.suffix == ".json" or file.suffix == ".jinja":
            shutil.copy(file, compact / file.name)
    return usual, compact


@pytest.mark.parametrize("shape", [(96, 64), (1, 70, 96), (16, 3, 14, 14)])
def test_a_row_is_known_to_half_a_level(shape):
    weight = torch.randn(shape) * torch.logspace(-6, 2, shape[-1])
    kept = quantised("w", weight)
    assert kept["w"].dtype == torch.int8 and kept["w.scale"].dtype == torch.float16
    back = dequantised(kept["w"], kept["w.scale"])
    rows = (back - weight).reshape(len(kept["w.scale"]), -1).abs().amax(1)
    assert bool((rows <= 0.5001 * kept["w.scale"].float() + 1e-7).all())


def test_vectors_keep_half_precision_and_tiny_numbers_single():
    vector, tiny = torch.randn(50) + 3, torch.full((50,), 3e-7)
    assert quantised("v", vector)["v"].dtype == torch.float16
    assert torch.equal(quantised("t", tiny)["t"], tiny)
    stored = torch.tensor([3])  # as mapped from the file
    assert torch.equal(dequantised(stored, None), stored)
    assert all(dequantised(kept, None).data_ptr() != kept.data_ptr() for kept in (stored, tiny))


def test_a_model_loads_from_compact_weights_and_sees_nearly_the_same(saved):
    usual, compact = (load_pretrained(folder)[0] for folder in saved)
    assert not list(saved[1].glob("model.safetensors")) and len(list(saved[1].glob("model.int8-*"))) > 1
    assert sum(f.stat().st_size for f in saved[1].glob("*.safetensors")) < 0.4 * sum(
        f.stat().st_size for f in saved[0].glob("*.safetensors")
    )
    images = torch.rand(1, 2, 3, 56, 70)
    with torch.no_grad():
        depths = [model.encode_scene(images).geometry.depth_m for model in (usual, compact)]
    assert float((depths[1] / depths[0] - 1).abs().mean()) < 0.05
    assert compact.dtype == torch.float32 and compact.generation_config is not None
    again = load_pretrained(saved[1], dtype=torch.bfloat16)[0]
    assert again.dtype == torch.bfloat16


def test_a_missing_or_damaged_part_is_named(saved, tmp_path):
    folder = shutil.copytree(saved[1], tmp_path / "model")
    parts = sorted(folder.glob("model.int8-*"))
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.int8-00002-of-0000\d\.safetensors: truncated"):
        load_compact(folder)
    parts[1].unlink()
    with pytest.raises(ValueError, match=r"shards missing, such as model\.int8-00002"):
        load_pretrained(folder)
    with pytest.raises(ValueError, match="not finite, such as w"):
        save_compact({"w": torch.tensor([torch.nan])}, tmp_path / "none")


def test_the_encoders_older_names_become_ours(tmp_path):
    layer = "encoder.backbone.encoder.layer.0.attention."
    state = {f"{layer}{name}.weight": torch.ones(2) for name in ("attention.query", "output.dense")}
    state["language_model.layers.0.attention.output.dense.weight"] = torch.zeros(2)
    save_compact(state, tmp_path)
    ours = {f"{layer}q_proj.weight", f"{layer}o_proj.weight", "language_model.layers.0.attention.output.dense.weight"}
    assert set(load_compact(tmp_path)) == ours


def test_the_script_writes_a_model_that_loads(tmp_path, monkeypatch, capsys):
    source, target = save_small_model(tmp_path / "usual"), tmp_path / "compact"
    script = Path(__file__).parents[2] / "scripts" / "compact_weights.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(source), str(target), "--shard-mib", "0.5"])
    runpy.run_path(str(script), run_name="__main__")
    told = re.fullmatch(r"(.+) MiB in (\d) files, relative error of the matrices 0\.00\d+\n", capsys.readouterr().out)
    assert told and int(told[2]) == len(list(target.glob("*.safetensors")))
    before, after = (load_pretrained(folder)[0].state_dict() for folder in (source, target))
    name = "encoder.backbone.encoder.layer.0.mlp.fc1.weight"
    assert torch.allclose(before[name], after[name], atol=float(before[name].abs().max()) / 100)


def test_the_mean_of_two_models_weighs_every_part(saved, tmp_path):
    first = load_compact(saved[1])
    torch.manual_seed(3)
    second = {name: w + torch.randn_like(w) if w.is_floating_point() else w for name, w in first.items()}
    shutil.copytree(saved[1], tmp_path / "b", ignore=shutil.ignore_patterns("model.int8-*"))
    save_compact(second, tmp_path / "b")
    mean_of_models = runpy.run_path(str(ROOT / "recipes" / "mean_of_models.py"))["mean_of_models"]
    mean_of_models(saved[1], tmp_path / "b", tmp_path / "mean", ["0.25", "grounding=1"])
    made, second = load_compact(tmp_path / "mean"), load_compact(tmp_path / "b")
    for name, weight in made.items():
        share = 1.0 if name.startswith("grounding.") else 0.25
        expected = first[name] * (1 - share) + second[name] * share
        assert float((weight - expected).abs().max()) < 0.02 * float(expected.abs().max()), name
    assert load_pretrained(tmp_path / "mean")[0].config.to_dict() == load_pretrained(saved[1])[0].config.to_dict()
    (tmp_path / "b" / "seen.json").write_text('{"rooms": [[3, 5]], "scenes": [], "possibly": {}}')
    mean_of_models(saved[1], tmp_path / "b", tmp_path / "mean", ["0.5"])
    assert '[3, 5]' in (tmp_path / "mean" / "seen.json").read_text()
    with pytest.raises(ValueError, match=r"--share 1.5: a share lies in 0 to 1"):
        mean_of_models(saved[1], tmp_path / "b", tmp_path / "mean", ["1.5"])
    with pytest.raises(ValueError, match=r"--share metres: the models have no such part"):
        mean_of_models(saved[1], tmp_path / "b", tmp_path / "mean", ["0.5", "metres=1"])
