"""Intervals that hold what they promise (``vidllm rooms calibrate``)."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

import vidllm
from vidllm.cli import main
from vidllm.evaluation.demo import CLIP
from vidllm.model.calibration import DEVIATIONS, FILE, Calibration
from vidllm.model.configuration import TINY
from vidllm_rooms.calibration import Errors, measure, upper


def normal_errors(seed: int) -> Errors:
    """Errors of a model whose bins are half as wide, and whose images agree twice as well, as they should."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, 2000)
    centres, sizes = rng.exponential(0.1 * (2 - scores)), rng.exponential(0.2, 2000)
    boxes = list(zip(scores.tolist(), centres.tolist(), sizes.tolist(), strict=True))
    return Errors([np.abs(rng.normal(0, 2, 20000))], np.abs(rng.normal(0, 2, 2000)).tolist(), boxes)


def test_planted_factors_are_found_and_hold_for_other_errors():
    found = normal_errors(0).calibration("0:1")
    assert found.depth == pytest.approx(2, rel=0.03) and found.scale == pytest.approx(2, rel=0.1)
    assert [row[2] for row in found.boxes] == pytest.approx([0.2 * math.log(10)] * 3, rel=0.15)
    assert found.box_errors(0.1)[0] > found.box_errors(0.9)[0]
    for share, _ in normal_errors(1).coverage(found).values():
        assert share == pytest.approx(0.9, abs=0.025)


def test_the_quantile_holds_for_one_more():
    assert upper(np.arange(1.0, 20.0)) == 18.0  # 18 of 20 equally likely places lie below the 18th of 19
    assert upper(np.array([1.0, 2.0])) == 2.0


def test_scale_factor_where_all_images_agree():
    found = Calibration(1.0, 1.0, ((1.0, 0.1, 0.1),), "0:1")
    assert found.scale_factor(0.0) == pytest.approx(math.exp(DEVIATIONS * 0.05))


def test_a_calibration_belongs_to_its_weights(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder)
    found = Calibration(1.5, 2.0, ((0.5, 0.1, 0.2), (1.0, 0.05, 0.1)), "0:4")
    found.write(folder)
    assert Calibration.read(folder) == found
    shard = next(folder.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 4096)  # retraining changes every byte, or nearly
    data[middle] = bytes(byte ^ 1 for byte in data[middle])
    shard.write_bytes(data)
    assert Calibration.read(folder) is None
    (folder / FILE).write_text('{"weights": 1}')
    assert Calibration.read(folder) is None
    (folder / FILE).unlink()
    assert Calibration.read(folder) is None


def test_a_model_without_calibration_says_so(tmp_path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns(FILE))
    assert main(["rooms", "calibrate", str(folder), "--seeds", "600:601", "--check"]) == 2
    assert "no calibration" in capsys.readouterr().err
    scene = vidllm.load(folder).reconstruct(CLIP, 2)
    assert scene.summary()["uncertainty"] == "uncalibrated"
    assert scene.scale.interval is None and scene.ground("the table", several=False)[0].center_error is None
    assert scene.depth_std.shape == scene.depth.shape and bool((scene.depth_std > 0).all())


def test_the_shipped_model_is_calibrated(shipped_model, tmp_path):
    found = Calibration.read(TINY)
    assert found is not None
    scene = shipped_model.reconstruct(CLIP, 3)
    assert scene.depth_std.allclose(found.depth * scene.bins_std)
    low, high = scene.scale.interval
    assert low < scene.scale.value < high and low * high == pytest.approx(scene.scale.value**2)
    scene.save(tmp_path, ("depth", "scene"))
    assert len(list((tmp_path / "depth").glob("*_std.png"))) == 3
    assert vidllm.load_scene(tmp_path).depth_std.equal(scene.depth_std)
    box = scene.ground("the table", several=False)[0]
    assert json.dumps(box.as_dict()) and 0 < box.center_error < 10


@pytest.mark.slow
def test_intervals_hold_on_test_rooms(shipped_model):
    held = measure(shipped_model, range(1000, 1008)).coverage(Calibration.read(TINY))
    assert min(share for name, (share, _) in held.items() if name != "scale") >= 0.7, held
    assert held["scale"][0] >= 0.5  # five of these 8 rooms; the log has the shares of 40
