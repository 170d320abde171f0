"""Every command of every recipe is one that the real parser takes: they are recorded by stand-ins and parsed here."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vidllm.cli import read_verb
from vidllm.cli.options import parse
from vidllm.cli.training import Plot, configuration, split_stage
from vidllm.experiments.rows import AblationConfig, table_named
from vidllm.model.config_fields import flat

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.sh"))
# A command is one write: two of them run side by side (`&`) and must not end up in one line.
RECORDER = "#!/usr/bin/env bash\nIFS=$'\\x1f'\nprintf '%s\\n' \"$*\" >> \"$RECORD\"\n"
LAUNCHER = '#!/usr/bin/env bash\nwhile [ "$1" != vidllm ]; do shift; done\nshift\nexec vidllm "$@"\n'


def recorded(recipe: Path, folder: Path, *arguments: str, **variables: str) -> list[list[str]]:
    """The commands that a recipe would run."""
    for name, text in (("vidllm", RECORDER), ("torchrun", LAUNCHER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for place in ("runs", "runs/tiny"):  # what `train blind` writes
        (folder / place / "tokenizer").mkdir(parents=True, exist_ok=True)
    record = folder / "record"
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **variables, "RECORD": str(record), "PATH": path}
    done = subprocess.run(
        ["bash", str(recipe), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\x1f") for line in record.read_text().splitlines()]


def parsed(argv: list[str]) -> Any:
    """What the command line makes of a command, without running it."""
    return parsed_once(tuple(argv))


@cache
def parsed_once(words: tuple[str, ...]) -> Any:
    """Recipes share many of their commands, and their options are many."""
    argv = list(words)
    if argv[0] == "ablate":
        return parse(AblationConfig, f"vidllm ablate {table_named(argv[1]).name}", argv[2:])
    if argv[0] != "train":
        return read_verb(argv)
    stage, rest = split_stage(argv[1:])
    if stage == "plot":
        return parse(Plot, "vidllm train plot", rest)
    return configuration(stage, rest)[0]


def arguments_of(recipe: Path) -> list[str]:
    """Folders for what a recipe asks to be given."""
    given = {
        "compact_1gpu": ["weights"], "paper_8gpu": ["weights", "scannet"], "tiny_dinov2_cpu": ["facebook/dinov2-small"]
    }  # fmt: skip
    return [*given.get(recipe.stem, []), "runs"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_command_is_understood(recipe: Path, tmp_path: Path) -> None:
    commands = recorded(recipe, tmp_path, *arguments_of(recipe))
    assert len(commands) > 4
    stages = [split_stage(argv[1:])[0] for argv in commands if argv[0] == "train"]
    assert stages.count("stage2") >= 1
    for argv in commands:
        parsed(argv)


@pytest.mark.parametrize("name", [
    "tiny_cpu", "paper_8gpu",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("tiny_dinov2_cpu", "tiny_gpu", "compact_1gpu")),
])  # fmt: skip
def test_a_dry_recipe_trains_nothing(name: str, tmp_path: Path) -> None:
    recipe = next(path for path in RECIPES if path.stem == name)
    commands = recorded(recipe, tmp_path, *arguments_of(recipe), DRY="1")
    trained = [argv for argv in commands if argv[0] == "train"]
    assert len(trained) == (1 if name.endswith("_cpu") else 2) and all("--planned" in argv for argv in trained)
    assert all("--dry-run" in argv or argv[:2] == ["data", "check"] for argv in commands)
    for argv in commands:
        parsed(argv)


def test_what_is_trained_is_what_was_looked_at(tmp_path: Path) -> None:
    """The dry run of a stage has the options of the stage, but for what it starts from."""
    recipe = next(path for path in RECIPES if path.stem == "paper_8gpu")
    runs = [argv for argv in recorded(recipe, tmp_path, *arguments_of(recipe), LORA="16") if argv[0] == "train"]
    looked = {a[1]: flat(parsed(a)) for a in runs if "--dry-run" in a}
    trained = {a[1]: flat(parsed(a)) for a in runs if "--dry-run" not in a and a[1] != "plot"}
    assert set(looked) == set(trained) == {"stage1", "stage2"}
    for stage, config in trained.items():
        assert {k: v for k, v in config.items() if looked[stage][k] != v}.keys() <= {"init_from"}
    assert trained["stage2"]["lora_rank"] == 16 and trained["stage2"]["parallel"] == "fsdp"
