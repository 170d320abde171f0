"""Bad models, one clear line and exit code 2 each: for every source of an import, and for a folder given to --model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import write_llava_3d, write_vggt
from safetensors.torch import load_file, save_file
from small_model import save_small_model

from vidllm.cli import main
from vidllm.io.video import write_video
from vidllm.model.auto import load_pretrained

Told = Callable[..., str]


class _Code:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """The one line of a command that fails with 2, without network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def call(*arguments: object) -> str:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        said = capsys.readouterr()
        assert (code, said.out) == (2, ""), said
        lines = said.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("vidllm: error: ") and "Traceback" not in lines[0], lines
        return lines[0]

    return call


@pytest.fixture(scope="module")
def places(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    model = save_small_model(folder / "model")
    load_pretrained(model)[0].save_pretrained(folder / "sharded", max_shard_size="300KB")
    for file in model.iterdir():
        if file.name != "model.safetensors" and not (folder / "sharded" / file.name).exists():
            shutil.copy(file, folder / "sharded" / file.name)
    (folder / "film").mkdir()
    write_video(folder / "film" / "room.mp4", np.zeros((2, 56, 70, 3), np.uint8))
    return {"vggt": write_vggt(folder / "vggt", golden), "llava": write_llava_3d(folder / "llava", golden),
            "model": model, "sharded": folder / "sharded", "film": folder / "film" / "room.mp4"}  # fmt: skip


def code_in(folder: Path, settings: dict[str, Any], name: str = "pytorch_model.bin") -> Path:
    folder.mkdir()
    torch.save({"weight": torch.zeros(2), "more": _Code()}, folder / name)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_bad_folder_given_to_model(places: dict[str, Path], tmp_path: Path, told: Told):
    def ask(model: object) -> str:
        return told("ask", places["film"], "How many?", "--model", model)

    folder = shutil.copytree(places["sharded"], tmp_path / "sharded")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    assert shard.name in ask(folder)
    shard.write_bytes(content[: len(content) // 2])
    assert f"{shard.name}: truncated or not safetensors" in ask(folder)
    pickled = shutil.copytree(places["model"], tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({"encoder.x": _Code()}, pickled / "pytorch_model.bin")
    line = ask(pickled)
    assert "refused" in line and "code" in line and "system" in line, line
    other = code_in(tmp_path / "other", {"model_type": "llama"})
    assert "holds a model of type 'llama'" in ask(other)
    assert "nobody/nothing: no such folder, and it cannot be fetched" in ask("nobody/nothing")
    assert "nobody/nothing" in told("info", "nobody/nothing")


def test_each_source_of_an_import_is_told_by_its_place(places: dict[str, Path], tmp_path: Path, told: Told):
    out = tmp_path / "m"
    base = {"cascade": ("--vggt", places["vggt"], "--llava-3d", places["llava"]), "tiny": ("--vggt", places["vggt"])}

    def take(preset: str, option: str, place: object) -> str:
        return told("import", "--preset", preset, *base[preset], option, place, "-o", out)

    bert = tmp_path / "bert"
    bert.mkdir()
    save_file({"bert.embeddings.weight": torch.zeros(3, 3)}, bert / "model.safetensors")
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for preset, option in (("cascade", "--clip"), ("cascade", "--metric"), ("cascade", "--metric-depth"),
                           ("tiny", "--lm"), ("tiny", "--llava-3d")):  # fmt: skip
        assert "nobody/nothing" in take(preset, option, "nobody/nothing")
        assert str(bert) in take(preset, option, bert) or "bert" in take(preset, option, bert)
        assert "nowhere" in take(preset, option, tmp_path / "nowhere")
    line = take("cascade", "--clip", code_in(tmp_path / "clip", {"model_type": "clip"}))
    assert "refused" in line and "system" in line
    line = take("cascade", "--metric-depth", code_in(tmp_path / "glpn", {"model_type": "glpn"}))
    assert "refused" in line and "system" in line
    shape = {"model_type": "dinov2_with_registers", "hidden_size": 192, "num_hidden_layers": 6,
             "num_attention_heads": 3, "image_size": 112, "patch_size": 14}  # fmt: skip
    dino = code_in(tmp_path / "dino", shape)
    line = told("import", "--preset", "tiny", "--llava-3d", places["llava"], "--dinov2", dino, "-o", out)
    assert "refused" in line and "system" in line
    cut = tmp_path / "cut"
    shutil.copytree(places["vggt"], cut)
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[:-1000])
    assert "truncated" in told("import", "--preset", "cascade", "--vggt", cut, "--llava-3d", places["llava"], "-o", out)
    assert load_file(places["vggt"] / "model.safetensors")
    assert not out.exists()
