"""The notebook of examples/: its cells run in order, and what they show is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_cells_run_in_order(tmp_path, monkeypatch, capsys):
    shutil.copy(EXAMPLES / "room.mp4", tmp_path)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    said = capsys.readouterr().out
    assert "What kind of room is this? dining room" in said and "distance between the table and pixel 100,120" in said
    assert names["boxes"] and names["found"].counts["table"] == 1
    assert {"out", "boxes.png"} <= {path.name for path in tmp_path.iterdir()}
