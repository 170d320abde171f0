"""A pickle in the place of every file that a command opens does not run, and torch's advice to let it is not shown."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small_model import noise_clip, save_small_model

from vidllm.cli import main
from vidllm.datasets.scannet_mesh import read_proposals
from vidllm.evaluation.baselines import LANGUAGE_ONLY, load_language_only
from vidllm.evaluation.demo import load_truth
from vidllm.io.video import write_video
from vidllm.training.checkpoints import load_checkpoint
from vidllm.training.trainable import Trainable


class Planted:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def forms(mark: Path) -> Iterator[bytes]:
    """A pickle as it is, as torch.save writes it (both forms), and in numpy's two."""
    value = Planted(mark)
    yield pickle.dumps(value)
    yield pickle.dumps({"model": value}, protocol=2)
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(1), "b": value}, buffer, _use_new_zipfile_serialization=zipped)
        yield buffer.getvalue()
    for save in (np.save, np.savez):
        array: Any = np.array([value], dtype=object)
        buffer = io.BytesIO()
        save(buffer, array)
        yield buffer.getvalue()


@pytest.fixture
def mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """The folder that a pickle would make; at the end it is not there and nothing was advised."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()
    said = "".join(capsys.readouterr())
    assert "weights_only" not in said and "Traceback" not in said, said


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "room.mp4", noise_clip()) or Path()


def run(*arguments: object) -> int:
    code = main([str(a) for a in arguments])
    assert code in (0, 2), arguments
    return code


MODEL_FILES = (
    "config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_folder(model, mark, tmp_path, name):
    for content in forms(mark):
        folder = shutil.copytree(model, tmp_path / "m", dirs_exist_ok=True)
        if name not in ("config.json", "tokenizer.json") and not (model / name).exists():
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)
        assert run("ask", tmp_path / "no.mp4", "How many?", "--model", folder) == 2
        run("info", folder)


@pytest.mark.parametrize("option", ["--vggt", "--dinov2", "--lm", "--llava-3d", "--clip", "--metric", "--metric-depth"])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "pytorch_model.bin", "model.safetensors"])
def test_what_is_imported(mark, tmp_path, option, name):
    kinds = {"--vggt": "vggt", "--dinov2": "dinov2_with_registers", "--lm": "llama", "--llava-3d": "llava_llama",
             "--clip": "clip", "--metric": "vidllm", "--metric-depth": "glpn"}  # fmt: skip
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kinds[option]}))
    preset = "cascade" if option in ("--clip", "--metric", "--metric-depth") else "tiny"
    other = {"cascade": ("--vggt", folder, "--llava-3d", folder), "tiny": ("--vggt", folder, "--lm", folder)}[preset]
    for content in list(forms(mark))[:4]:
        (folder / name).write_bytes(content)
        options = dict(zip(other[::2], other[1::2], strict=True)) | {option: folder}
        if option == "--llava-3d":
            options.pop("--lm", None)
        given = [item for pair in options.items() for item in pair]
        assert run("import", "--preset", preset, *given, "-o", tmp_path / "out") == 2


@pytest.mark.slow
def test_videos_cameras_and_files_of_data(model, film, mark, tmp_path):
    (tmp_path / "pictures").mkdir()
    raw, *_, npz = forms(mark)
    for content in (raw, npz):
        for name in ("x.mp4", "x.json", "x.txt", "x.jsonl", "x.npy", "x.npz", "pictures/0.png"):
            (tmp_path / name).write_bytes(content)
        for video in ("x.mp4", "x.npz", "x.npy", "pictures"):
            run("ask", tmp_path / video, "How many?", "--model", model)
        for option in ("--poses", "--intrinsics"):
            for name in ("x.json", "x.txt") if content is raw else ("x.npy",):
                run("reconstruct", film, "-o", tmp_path / "o", "--model", model, option, tmp_path / name)
        run("data", "check", tmp_path / "x.jsonl")
        for name in ("x.json", "x.jsonl"):
            run("eval", "scanqa", "--predictions", tmp_path / name, "--references", tmp_path / "x.json")
        run("data", "pack", tmp_path, "-o", tmp_path / "packed")


def test_scans_of_scannet(mark, tmp_path):
    scene = tmp_path / "scans" / "scene0000_00"
    scene.mkdir(parents=True)
    for content in forms(mark):
        for ending in (".sens", ".txt", "_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json",
                       "_vh_clean.aggregation.json", "_vh_clean_2.labels.ply", ".mask.npz"):  # fmt: skip
            (scene / f"scene0000_00{ending}").write_bytes(content)
        for name in ("ScanQA_v1.0_val.json", "ScanRefer_filtered_val.json", "scannetv2-labels.combined.tsv"):
            (tmp_path / name).write_bytes(content)
        run("data", "check", tmp_path)
        run("data", "pack", tmp_path, "-o", tmp_path / "packed")
        with pytest.raises(ValueError):
            read_proposals(scene / "scene0000_00.mask.npz")


@pytest.mark.slow
def test_runs_shards_and_caches(model, mark, tmp_path, rooms_folder):
    rooms = shutil.copytree(rooms_folder, tmp_path / "rooms")
    shard = sorted(rooms.iterdir())[0]
    whole, out = shard.read_bytes(), tmp_path / "run"
    (out / "checkpoints" / "step_0000003").mkdir(parents=True)
    (out / "tokenizer").mkdir()
    for content in forms(mark):
        for name in ("checkpoints/step_0000002.pt", "checkpoints/step_0000003/.metadata",
                     "checkpoints/step_0000003/run.json", "checkpoints/step_0000003/__0_0.distcp",
                     "config.json", "log.jsonl", "auxiliary.safetensors", "tokenizer/tokenizer.json"):  # fmt: skip
            (out / name).write_bytes(content)
        for name in ("step_0000003", "step_0000002.pt"):
            assert load_checkpoint(Mock(spec=Trainable), out / "checkpoints" / name) is None
        for place in (("--init-from", out), ("--init-from", model)):
            assert run("train", "stage2", "--preset", "tiny", "--data", rooms, "--out", out, *place) == 2
        shard.write_bytes(content)
        assert run("train", "stage2", "--preset", "tiny", "--data", rooms, "--out", tmp_path / "other") == 2
        shard.write_bytes(whole)
        run("train", "plot", out)


def test_what_is_shipped(mark, tmp_path):
    truth = tmp_path / "demo"
    blind = shutil.copytree(LANGUAGE_ONLY, tmp_path / "blind")
    truth.mkdir()
    for content in forms(mark):
        (truth / "truth.json").write_text("{}")
        (truth / "truth.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"truth\.npz"):
            load_truth(truth)
        for name in ("model.safetensors", "tokenizer.json", "config.json"):
            (blind / name).write_bytes(content)
            with pytest.raises(ValueError, match="blind"):
                load_language_only(blind)
            shutil.copy(LANGUAGE_ONLY / name, blind / name)


def test_the_plant_runs_where_nothing_guards(tmp_path):
    """What the other tests plant would be seen."""
    load: Callable[[bytes], Any] = pickle.loads
    load(next(forms(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()
