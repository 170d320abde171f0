"""``vidllm eval TASK --data ROOT``: run a model on a benchmark as it was downloaded, and print one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidllm.cli import reading

__all__ = ["run"]


def run(options: argparse.Namespace, protocols: Sequence[str]) -> None:
    """Predict, gather and score under the protocols named; only the first of several processes prints."""
    frames = reading.frames(options.frames)
    if not options.output:
        raise ValueError("-o OUT: give a folder for the predictions, from which an interrupted run resumes")
    out = reading.writable_folder(options.output)
    scenes = reading.words(options.scenes) or ()
    from vidllm.training.distributed import check_processes

    check_processes()
    from vidllm.evaluation.harness import own_device
    from vidllm.evaluation.results import lines_of
    from vidllm.scene import load

    model = load(options.model, own_device(options.device), options.dtype, refine=options.refine)
    if options.task == "reconstruction":
        from vidllm.evaluation.reconstruction import ReconstructionPlan, evaluate_reconstruction

        where = ReconstructionPlan(Path(options.data), out, options.split, scenes, frames)
        results = evaluate_reconstruction(where, model, options.model, reading.progress("scenes"))
    else:
        from vidllm.evaluation.harness import Plan, evaluate

        plan = Plan(
            options.task, Path(options.data), out, tuple(protocols), options.split, scenes, frames,
            reading.words(options.setting), options.proposals, _baselines(options.baselines), **_blind(options),
        )  # fmt: skip
        results = evaluate(plan, model, options.model, reading.progress("scenes"))
    if results is None:
        return
    if options.json:
        reading.print_json(results)
    else:
        print("\n".join(lines_of(results)))


def _baselines(given: list[str] | None) -> tuple[str, ...] | None:
    words = reading.words(given)
    return () if words == ("none",) else words


def _blind(options: argparse.Namespace) -> dict[str, Any]:
    from vidllm.io.weight_files import model_of_run

    return {"blind": model_of_run(options.blind)} if options.blind else {}
