"""The shipped weights give the outputs on record (tests/golden/shipped, written by scripts/record_shipped.py).

On the machine that wrote the record they agree to the last bit; other processors sum in another order, so numbers are
compared with a tolerance. Refinement is a long descent and amplifies the last bit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vidllm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from record_shipped import observe  # noqa: E402

RECORD = json.loads((ROOT / "tests" / "golden" / "shipped" / "room.json").read_text(encoding="utf-8"))
CLIP = ROOT / "examples" / "room.mp4"
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "refined": {"refine": True},
    "windows": {"num_frames": 12, "window": 6},
}
TEXTS = ("answers", "situated", "together", "room", "object")
NUMBERS = ("scale", "extrinsics", "intrinsics", "scene_from_world", "depth_grid")


@pytest.mark.parametrize("mode", [pytest.param(m, marks=[pytest.mark.slow] * (m == "refined")) for m in RECORD])
def test_outputs_of_the_bundled_clip_are_those_on_record(mode: str) -> None:
    wanted, tolerance = RECORD[mode], 2e-2 if mode == "refined" else 1e-3
    found = observe(vidllm.load().reconstruct(CLIP, **OPTIONS[mode]))
    assert {key: found[key] for key in TEXTS} == {key: wanted[key] for key in TEXTS}
    for key in NUMBERS:
        torch.testing.assert_close(
            torch.tensor(found[key]), torch.tensor(wanted[key]), rtol=tolerance, atol=tolerance, msg=f"{mode} {key}"
        )
    for expression, boxes in wanted["boxes"].items():
        assert len(found["boxes"][expression]) == len(boxes), expression
        for now, before in zip(found["boxes"][expression], boxes, strict=True):
            assert now["center"] == pytest.approx(before["center"], abs=5 * tolerance)
            assert now["size"] == pytest.approx(before["size"], abs=5 * tolerance)
