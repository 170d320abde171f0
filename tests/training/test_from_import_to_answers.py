"""The whole way of a researcher, on small checkpoints in their published forms and through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_files import write_llava_3d, write_vggt
from safetensors.torch import load_file

from vidllm.cli import main

CLIP = Path(__file__).parents[2] / "examples" / "room.mp4"


@pytest.mark.slow
def test_import_stage_1_stage_2_eval_ask(golden, tmp_path, capsys):
    vggt = str(write_vggt(tmp_path / "vggt", golden))
    llava = str(write_llava_3d(tmp_path / "llava", golden, mm_hidden_size=64))
    start, shards, first, second = (str(tmp_path / name) for name in ("start", "shards", "stage1", "stage2"))
    rooms = ["rooms", "shards", "--seeds", "10000:10004", "--frames", "4", "--shorter-side", "56", "-o", shards]
    made = ["import", "--preset", "tiny", "--vggt", vggt, "--llava-3d", llava, "--shorter-side", "56", "-o", start]
    run = ["--data", shards, "--steps", "2", "--warmup-steps", "1", "--clip-images", "4", "--clip-frames", "2",
           "--device", "cpu"]  # fmt: skip
    stage1 = ["train", "stage1", *run, "--out", first, "--init-from", start, "--teacher-geometry", vggt,
              "--teacher-language", llava]  # fmt: skip

    for command in (rooms, made, [*stage1, "--planned"]):  # nothing is there yet, and nothing is written
        assert main([*command, "--dry-run"]) == 0, capsys.readouterr()
    assert {path.name for path in tmp_path.iterdir()} == {"vggt", "llava"}

    assert main([*rooms, "--jobs", "2"]) == 0 and main(made) == 0
    assert main([*stage1, "--dry-run"]) == 0
    assert main([*stage1, "--prefetch", "2", "--workers", "1"]) == 0
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (start, f"{first}/model"))
    assert set(after) == set(before)
    unmoved = [name for name in before if not name.startswith(("encoder.", "adapter."))]
    assert unmoved and all(bool((after[n] == before[n].half()).all()) for n in unmoved)
    silent = [f"--{name}-weight" for name in ("correspondence", "guide", "patch-point", "semantic", "naming", "word")]
    assert main(["train", "stage2", *run, "--out", second, "--init-from", f"{first}/model", "--language-start", "0",
                 "--language-share", "1", "--language-only-share", "0", "--questions", "2", "--references", "1",
                 "--captions", "1", *(word for option in silent for word in (option, "0"))]) == 0  # fmt: skip
    capsys.readouterr()

    model = ["--model", f"{second}/model", "--frames", "2"]
    root, out = str(tmp_path / "scans"), tmp_path / "eval"
    assert main(["rooms", "export", "--seeds", "1000:1001", "--frames", "4", "--size", "96x128", "-o", root]) == 0
    assert main(["eval", "sqa3d", "--data", root, "-o", str(out), *model]) == 0
    assert "raw_prediction_string / overall" in capsys.readouterr().out
    told = json.loads((out / "results.json").read_text())["sqa3d.val"]
    assert told["items"] and {"system": "vidllm", "setting": "raw"} in told["columns"]
    assert main(["ask", str(CLIP), "how many chairs are there ?", *model]) == 0
    assert capsys.readouterr().out.endswith("\n")
