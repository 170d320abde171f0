"""The script of five minutes on a GPU: what fails or takes too long leaves the others and what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_5min.sh"
TABLES = ["agreement", "paper", "paper_resized", "paper_lora_steps", "compact_llava", "paper_vggt_size",
          "compact_sharded_steps", "compact_steps", "compact_compiled", "paper_graphs", "compact_all",
          "paper_forms"]  # fmt: skip
#: In place of python: small programs are run, the first table of sizes is begun and then does what is given.
STAND_IN = """#!/usr/bin/env bash
case "$1" in
  -c) [[ $2 == *torch* ]] || exec {python} "$@" ;;
  full_size.py) echo "| half a table |" > "${{@: -1}}"; {then} ;;
  *) echo "no GPU here" >&2; exit 3 ;;
esac
"""


def told(folder: Path, then: str, **variables: str) -> list[str]:
    """The script's progress, with a stand-in for python that knows each benchmark by name only."""
    stand_in = folder / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable, then=then))
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    done = subprocess.run(["bash", str(SCRIPT), str(folder / "out")], env=environment, capture_output=True, check=True)
    assert b"half a table" in done.stdout
    return (folder / "out" / "progress.txt").read_text().splitlines()


def test_a_table_that_fails_leaves_the_others(tmp_path: Path) -> None:
    lines = told(tmp_path, "exit 1", DEVICE="cuda")
    failed = [line.split(":")[0].split()[-1] for line in lines if "failed with" in line]
    assert failed == TABLES and any("rooms were not rendered" in line for line in lines)
    assert "half a table" in (tmp_path / "out" / "paper.txt").read_text()
    assert (tmp_path / "out" / "agreement.log").read_text() == "no GPU here\n"


@pytest.mark.slow
def test_time_runs_out_and_what_was_written_stays(tmp_path: Path) -> None:
    lines = told(tmp_path, "sleep 60", DEVICE="cpu", MINUTES="0.25")
    assert any("paper: ended after its 1" in line for line in lines), lines
    assert sum("no time left" in line for line in lines) == 9
    assert any("graphs: skipped, CUDA graphs need a CUDA device" in line for line in lines)
    assert "half a table" in (tmp_path / "out" / "paper.txt").read_text()
