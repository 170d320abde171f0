"""The shipped model: it fits its limits, it loads, and it answers about the bundled clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vidllm
from vidllm.english import answer_matches
from vidllm.evaluation.baselines import LANGUAGE_ONLY, load_language_only
from vidllm.evaluation.demo import CLIP, load_truth, report
from vidllm.model.prompts import CHAT_TEMPLATE
from vidllm.scene import TINY, VidLLM

ROOT = Path(__file__).parent.parent
MB = 1e6


@pytest.fixture(scope="module")
def model(shipped_model: VidLLM) -> VidLLM:
    """The default model."""
    return shipped_model


def test_sizes() -> None:
    weights = [p for p in TINY.parent.rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in weights) <= 16 * MB
    assert sum(p.stat().st_size for p in TINY.iterdir()) <= 48 * MB
    assert sum(p.stat().st_size for p in weights) <= 56 * MB


def test_model_card_tells_how_it_was_made() -> None:
    card = (TINY / "README.md").read_text(encoding="utf-8")
    for needed in ("vidllm train stage2", "seed", "abs-rel", "rotation", "licen", "1000:1"):
        assert needed in card, needed
    assert json.loads((TINY / "config.json").read_text())["model_type"] == "vidllm"


def test_chat_templates_are_the_codes_own() -> None:
    for folder in (TINY, LANGUAGE_ONLY):
        assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


def test_the_main_job_answers_rightly(model: VidLLM) -> None:
    truth = load_truth()
    room = next(q for q in truth.questions if "kind of room" in q["question"])
    scene = model.reconstruct(ROOT / "examples" / "room.mp4")
    assert answer_matches(scene.ask("What kind of room is this?"), room["answers"])


def test_the_demo_measures_itself(model: VidLLM) -> None:
    told = report(model.reconstruct(CLIP), load_truth())
    assert told["geometry"]["depth_abs_rel"] < 0.3
    assert told["geometry"]["scale_error"] < 0.3
    assert told["geometry"]["rotation_error_deg"] < 20
    assert any(item["right"] for item in told["questions"])


def test_the_language_only_baseline_answers() -> None:
    blind = load_language_only(LANGUAGE_ONLY)
    assert blind is not None
    said = blind.answers([("Is there a chair?", None), ("How many red chairs do you see?", None)])
    assert said[0] in ("yes", "no")
    assert said[1].isdigit()
    assert len(blind.mean_box) == 7


def test_what_was_not_seen_is_said(model: VidLLM) -> None:
    scene = model.reconstruct(CLIP, 3)
    far = scene.describe(at=(40.0, 0.0, 0.0))
    assert far.startswith("Nothing was seen at this point: the nearest surface is 3")
    assert "Nothing was seen" not in scene.describe(at=scene.ground("the table", several=False)[0].center)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 3])
def test_black_frozen_and_faint_videos_are_said_to_be_so(model: VidLLM, window: int | None, tmp_path: Path) -> None:
    count = 2 if window is None else 6
    noise = np.random.default_rng(0).integers(0, 3, (count, 112, 140, 3), dtype=np.uint8)
    scene = model.reconstruct(noise, count, window=window)
    assert any("of one colour" in warning for warning in scene.scale.warnings)
    assert scene.describe() == "I see nothing: the pictures are of one colour."
    assert scene.ask("How many chairs are there?") == scene.describe()
    assert scene.ground("the table") == [] and "I see nothing" in scene.ground("the table").notes[0]
    scene.save(tmp_path, ("scene",))
    assert vidllm.load_scene(tmp_path).ask("Is there a sofa?") == scene.describe()
    faint = model.reconstruct(noise * 20, count, window=window)
    assert not any("of one colour" in warning for warning in faint.scale.warnings)
