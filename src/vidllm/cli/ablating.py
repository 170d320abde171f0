"""The verb ablate: train and measure variants of the model."""

from __future__ import annotations

import shlex
from pathlib import Path

from vidllm.cli import reading
from vidllm.cli.effects import idle_options
from vidllm.cli.models import options_of

ABLATE_HELP = """usage: vidllm ablate main|adapter|metric|stages|scale --data SHARDS --out FOLDER [--OPTION VALUE ...]

main      baseline, + adapter, + metric depth, + two-stage distillation
adapter   no adapter, concat self-attention, cross-attention, bridge of 4, 8, 16, 32 tokens
metric    without metric depth, without alignment, full
stages    one stage, two without L_sc, two; with convergence curves
scale     scale estimators of one model (no training)

The same command resumes a stopped ablation.
Every field of the configuration is an option: vidllm ablate main --help."""


def ablate(argv: list[str]) -> None:
    """``vidllm ablate TABLE ...``: train and measure its rows; the table on standard output and below --out."""
    if not argv or argv[0] in ("-h", "--help"):
        print(ABLATE_HELP)
        return
    from vidllm.experiments.rows import AblationConfig, table_named

    table = table_named(argv[0])
    config = options_of(AblationConfig, f"vidllm ablate {table.name}", argv[1:])
    known = {"trained": table.trained, "two_stages": any(row.stage1 is not None for row in table.rows)}
    for line in idle_options(AblationConfig, vars(config) | known, vars(AblationConfig())):
        reading.note(f"vidllm: warning: {line}")
    seeds = reading.seeds(config.eval_seeds)
    out = reading.writable_folder(config.out)
    from functools import partial

    from vidllm.experiments.measuring import Rooms
    from vidllm.experiments.runs import ablate as run
    from vidllm.experiments.runs import publish
    from vidllm_rooms.evaluation import evaluate, remembered_clip, remembered_room
    from vidllm_rooms.language.template_questions import template_questions

    rooms = Rooms(remembered_clip, partial(evaluate, render=remembered_room), template_questions)
    results = run(table, config, seeds, rooms, reading.note)
    command = f"vidllm ablate {shlex.join(argv)}"
    print("\n".join(publish(table, config, results, Path(out), command)))
