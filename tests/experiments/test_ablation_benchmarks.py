"""The real benchmarks in an ablation: every figure is found, and stands first and beside the paper's columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_model import save_small_model

from vidllm.experiments.measuring import FIGURES, measure_benchmarks
from vidllm.experiments.rows import MAIN
from vidllm.experiments.tables import measured, steps_of
from vidllm_rooms.official.export import export_rooms


def test_benchmarks_come_first_and_meet_the_papers_columns() -> None:
    values = [dict.fromkeys(FIGURES, 0.1 * row) | {"qa": 0.5} for row in range(len(MAIN.rows))]
    results = [[{"values": one}] for one in values]
    assert measured(results) == [*FIGURES, "qa"]
    told = {step.figure: step.column for step in steps_of(MAIN, results) if step.column}
    assert told == {
        "scanqa_cider": "ScanQA CIDEr", "scanqa_em": "ScanQA EM", "scanrefer_acc": "ScanRefer Acc@0.25",
    }  # fmt: skip


@pytest.mark.slow
def test_every_figure_is_found(tmp_path: Path) -> None:
    export_rooms(tmp_path / "root", [3], split="test", frames=2, height=56, width=70)
    model = Path(save_small_model(tmp_path / "model"))
    found = measure_benchmarks(model, tmp_path / "root", "test", tmp_path / "out", 2)
    assert list(found) == list(FIGURES) and all(value >= 0 for value in found.values())
