"""Folders of a model that cannot be right: one line that names the file, before anything is allocated."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import save_small_model

from vidllm.model.loading import check_finite, load_config, load_pretrained
from vidllm.model.presets import tiny
from vidllm.scene import VidLLM

HUGE = 10**9


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def refused(folder: Path, name: str, seconds: float = 10) -> str:
    """The one line of a folder that cannot be loaded; it names ``name`` and takes little time and memory."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as caught:
        load_pretrained(folder)
    line = str(caught.value)
    assert str(folder) in line and name in line and "\n" not in line and "weights_only" not in line, line
    assert time.monotonic() - begun < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    return line


def change(folder: Path, path: str, value: Any) -> Path:
    """Another value in config.json at PART.FIELD."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    *parts, last = path.split(".")
    inner = config
    for part in parts:
        inner = inner[part]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config", KeyError), ("text_config", None), ("text_config", 3), ("text_config", {}),
        ("text_config.model_type", "nothing"), ("text_config.model_type", KeyError), ("text_config.hidden_size", "a"),
        ("text_config.num_hidden_layers", 10**7), ("text_config.num_hidden_layers", 900),
        ("text_config.vocab_size", HUGE), ("text_config.hidden_size", HUGE), ("text_config.num_attention_heads", 0),
        ("encoder", []), ("encoder", "dinov2"), ("encoder.depth", 10**7), ("encoder.depth", 900),
        ("encoder.depth", -1), ("encoder.depth", "six"), ("encoder.depth", 4.5), ("encoder.depth", True),
        ("encoder.depth", None), ("encoder.hidden_size", HUGE), ("encoder.hidden_size", 0), ("encoder.num_heads", 0),
        ("encoder.image_size", HUGE), ("encoder.patch_size", 0), ("encoder.mlp_ratio", "4"),
        ("encoder.mlp_ratio", 1e300),
        ("encoder.tap_layers", 3), ("encoder.tap_layers", ["a"]), ("encoder.unheard_of", 1),
        ("attention.depth", HUGE), ("camera_head.iterations", HUGE), ("camera_head.trunk_depth", 10**7),
        ("dense_head.out_channels", [8, 8]), ("dense_head.features", HUGE), ("metric_depth.num_bins", HUGE),
        ("metric_depth.ordinal", "other"), ("metric_depth.enabled", "no"), ("scale.huber_rounds", HUGE),
        ("grounding.num_queries", 0), ("grounding.num_layers", 10**7), ("adapter.variant", "other"),
        ("adapter.bridge_tokens", HUGE), ("default_frames", "many"), ("shorter_side", None), ("video_token_id", "3"),
        ("refine", 1), ("auto_map", {"AutoConfig": "x.Y"}), ("transformers_weights", "other.bin"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_is_refused(folder, path, value):
    refused(change(folder, path, value), "config.json" if path not in ("auto_map", "transformers_weights") else path)


def test_a_whole_number_stands_for_a_fraction(folder):
    assert load_config(change(folder, "encoder.mlp_ratio", 4)).encoder.mlp_ratio == 4.0


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
                                  "generation_config.json", "model.safetensors"])  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", None])
def test_a_damaged_file_is_named(folder, name, content):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    refused(folder, name)


@pytest.mark.parametrize("content", [b'{"model": {}}', b'{"version": "1.0", "model": {"type": "Other"}}'])
def test_a_tokenizer_that_is_json_of_another_kind_is_named(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    refused(folder, "tokenizer.json")


def test_bins_that_are_empty_foreign_or_expanded_and_indices_that_leave_the_folder(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    file = folder / "pytorch_model.bin"
    for value in (None, {"args": 3}, [1], {"a": torch.zeros(3)}, {n: torch.zeros(1).expand(w.shape) for n, w in
                                                                   weights.items()}):  # fmt: skip
        file.write_bytes(b"")
        if value is not None:
            torch.save(value, file)
        refused(folder, "")
    torch.save(weights, file)
    load_pretrained(folder)
    file.rename(tmp_path / "outside.bin")
    for name in ("../outside.bin", str(tmp_path / "outside.bin"), "nowhere.bin", 3):
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(weights, name)}))
        refused(folder, "nowhere.bin" if name == "nowhere.bin" else "pytorch_model.bin.index.json")


def test_numbers_that_are_not_finite_are_named_with_their_folder(folder):
    for value in (float("nan"), float("inf")):
        weights = load_file(folder / "model.safetensors")
        weights["projector.norm.weight" if "projector.norm.weight" in weights else sorted(weights)[0]][0] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        assert "not finite" in refused(folder, "")


def test_large_but_finite_numbers_are_not_taken_for_infinite(tmp_path):
    module = torch.nn.Linear(4, 4)
    with torch.no_grad():
        module.weight.fill_(3e38)
    check_finite(module, "here")
    with torch.no_grad():
        module.weight[2, 3] = float("-inf")
    with pytest.raises(ValueError, match="here: weight holds numbers that are not finite in float32"):
        check_finite(module, "here")


@pytest.mark.filterwarnings("ignore:.past_key_values")
def test_logits_that_are_not_finite_stop_with_the_folder(saved):
    model, processor = load_pretrained(saved)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 56, 70, 3), np.uint8)
    scene = VidLLM(model, processor).reconstruct(pictures)
    with torch.no_grad():
        model.language_model.get_output_embeddings().weight.mul_(3e38)
        model.language_model.get_output_embeddings().weight.mul_(3e38)
    for ask in (lambda: scene.ask("how many?"), lambda: scene.ask_all([("how many?", None)]),
                lambda: scene.ground("the chair")):  # fmt: skip
        with pytest.raises(ValueError, match="logits are not finite") as caught:
            ask()
        assert str(saved) in str(caught.value)
    given = processor(text="USER: <video>\nhow many? ASSISTANT:", videos=[np.zeros((4, 56, 70, 3), np.uint8)])
    for more in ({}, {"do_sample": True}, {"num_beams": 2}, {"use_cache": False}):
        with pytest.raises(ValueError, match="logits are not finite"):
            model.generate(**given, max_new_tokens=2, **more)


@pytest.mark.parametrize("part", ["camera_head", "gravity_head"])
def test_cameras_and_up_that_are_not_finite_stop_with_the_folder(saved, part):
    model, processor = load_pretrained(saved)
    with torch.no_grad():
        for weight in getattr(model, part).parameters():
            weight.fill_(3e38)
    scene, film = VidLLM(model, processor), np.random.default_rng(0).integers(0, 256, (6, 56, 70, 3), np.uint8)
    given = processor(text="USER: <video>\nhow many? ASSISTANT:", videos=[film])
    for run in (lambda: scene.reconstruct(film), lambda: scene.reconstruct(film, window=4, overlap=2),
                lambda: list(scene.stream(film, window=4, overlap=2)),
                lambda: model.generate(**given, max_new_tokens=2)):  # fmt: skip
        with pytest.raises(ValueError, match="cameras, depth or up direction are not finite") as caught:
            run()
        assert str(saved) in str(caught.value)


def test_a_folder_that_does_not_exist_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("vidllm.model.loading.fetch", lambda name: pytest.fail(f"asked the hub for {name}"))
    for place in ("runs/model", "./model", "model", "a/b/c", tmp_path / "model", "runs/", "../model"):
        with pytest.raises(ValueError, match=r"no such folder|no checkpoint here"):
            load_config(place)


def test_the_hub_is_asked_once(monkeypatch):
    asked = []

    def info(self: Any, name: str, timeout: float) -> None:
        asked.append((name, timeout))
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    with pytest.raises(ValueError, match=r"nobody/nothing: no such folder, and it cannot be fetched.*no network"):
        load_config("nobody/nothing")
    assert len(asked) == 1 and asked[0][1] <= 10


def test_configurations_made_in_python_are_checked_too():
    with pytest.raises(ValueError, match=r"encoder\.depth: expected int, received 'six'"):
        type(tiny())(encoder={"depth": "six"})
