"""``vidllm train STAGE --dry-run``: look at everything, estimate memory and time, print a table, train nothing.

Time is operations over a stated rate; a small model is timed instead, by real steps in a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.training.config import TrainConfig
from vidllm.training.dry_run_checks import Finding, gib, largest_frame, look
from vidllm.training.estimates import AnyConfig, Estimate, count_run, estimate
from vidllm.training.loop_config import LoopConfig
from vidllm.training.run import Run, training_device
from vidllm.training.stage1 import Stage1Config, Stage1Run
from vidllm.training.step_walks import StepPlan, plans
from vidllm.training.steps import ALONE, train_step
from vidllm.training.teacher_runs import LanguageTeacherRun
from vidllm.training.trainable import Trainable

#: TFLOP/s of a GPU that training reaches: 40 % of an H100's 989 (dense bfloat16, NVIDIA's data sheet).
TFLOPS = 400.0
#: What a run calls a kind of step where it is not the plan's own word.
RUNS_NAME = {"spread": "window", "contrast": "FramePairs", "instruct": "Batch", "distil": "Batch"}
TIMED_UP_TO = 100_000_000  # numbers of a model that is timed by real steps


@dataclass(frozen=True)
class Report:
    """What a dry run found. ``seconds`` of a mean step, and how they are known; memory in bytes of each process."""

    config: AnyConfig
    gpus: int
    findings: list[Finding]
    estimate: Estimate
    memory: dict[str, int]
    seconds: float
    rate: str
    by_kind: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[Finding]:
        """What must be mended first."""
        return [finding for finding in self.findings if not finding.good]

    @property
    def total(self) -> int:
        """Bytes of one process."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        flops = {name: {"forward": a, "backward": b} for name, (a, b) in self.estimate.flops().items()}
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "parameters": asdict(self.estimate.counts),
            "frame_size": self.estimate.size,
            "gpus": self.gpus,
            "parallel": self.config.parallel,
            "memory_bytes": {**self.memory, "total": self.total},
            "steps": [
                {**asdict(plan), "activation_bytes": cost.activations, "flops": cost.flops, "seconds":
                 self.by_kind.get(plan.kind)}
                for plan, cost in self.estimate.steps
            ],
            "flops_of_a_mean_step": flops,
            "seconds_of_a_mean_step": self.seconds,
            "rate": self.rate,
            "hours": self.seconds * self.config.steps / 3600,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The table."""
        return [*_finding_lines(self.findings), "", *_memory_lines(self), "", *_time_lines(self)]


def dry_run(config: AnyConfig, gpus: int = 1, tflops: float | None = None) -> Report:
    """Look, estimate and return; nothing is trained and nothing written in the run's folder.

    ``gpus`` processes with a GPU each; ``tflops``: what each of them does in a second, in place of :data:`TFLOPS`, or
    of timing a small model. Raises ValueError for numbers that make no sense.
    """
    if gpus < 1 or (tflops is not None and not tflops > 0):
        raise ValueError(f"--gpus must be at least 1 and --tflops positive, received {gpus} and {tflops}")
    findings = list(look(config, lambda: count_run(config)))
    on_gpu = gpus > 1 or config.device.startswith("cuda") or torch.cuda.is_available() or config.preset != "tiny"
    device = "cpu" if config.device == "cpu" or not on_gpu else "cuda"
    startable = _startable(config, findings)
    told = estimate(startable, largest_frame(startable), device)
    memory = _memory(config, told, gpus)
    if tflops is None and told.counts.model <= TIMED_UP_TO and gpus == 1 and all(f.good for f in findings):
        by_kind = time_steps(config)
        mean = sum(plan.share * by_kind[plan.kind] for plan in plans(config))
        how = f"real steps timed on this machine's {training_device(config.device).type}"
        return Report(config, gpus, findings, told, memory, mean, how, by_kind)
    rate = tflops or TFLOPS
    seconds = told.total_flops() / (rate * 1e12)
    return Report(config, gpus, findings, told, memory, seconds, f"at {rate:g} TFLOP/s a GPU, nothing else counted")


def _startable(config: AnyConfig, findings: list[Finding]) -> AnyConfig:
    """The configuration without what a finding says is not there or does not fit, so that the rest can be estimated."""
    if config.init_from and not (Path(config.init_from) / "config.json").is_file():
        config = replace(config, init_from=None)
    if isinstance(config, Stage1Config) and any(f.what == "teachers" and not f.good for f in findings):
        config = replace(config, structure="streams")
    return config


def _memory(config: AnyConfig, told: Estimate, gpus: int) -> dict[str, int]:
    shares = config.parallel == "fsdp" and gpus > 1
    plan, cost = told.largest
    rows = told.counts.states(gpus if shares else 1)
    if shares:
        rows["two blocks gathered whole"] = 2 * 4 * told.counts.largest_block
    rows["half-precision copies of weights"] = cost.copies
    rows[f"activations ({plan.kind}, {_extent(plan)})"] = cost.activations - cost.copies
    return rows


# ---- real steps ---------------------------------------------------------------------------------------------------


def time_steps(config: AnyConfig) -> dict[str, float]:
    """Seconds of a step of each kind, after one that warms up; its weights are lost afterwards."""
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(config.out) / "tokenizer"
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, Path(folder) / "tokenizer")
        run = _build(replace(config, out=folder))
        train_step(run, 0)
        return {plan.kind: _seconds(run, plan) for plan in plans(config)}


def _build(config: AnyConfig) -> Trainable:
    if isinstance(config, TrainConfig):
        return Run.build(config)
    return Stage1Run.build(config) if isinstance(config, Stage1Config) else LanguageTeacherRun(config)


def _seconds(run: Trainable, plan: StepPlan) -> float:
    wanted = RUNS_NAME.get(plan.kind, plan.kind)
    step = next((step for step in _candidates(run.config) if _kind(run, step) == wanted), 0)
    begin = time.perf_counter()
    train_step(run, step)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _kind(run: Trainable, step: int) -> str:
    seed = ALONE.seeds(run.config.seed, step, run.config.accumulation)[0]
    return run.kind(run.draw(step, np.random.default_rng(seed)))


def _candidates(config: LoopConfig) -> Iterator[int]:
    """Steps spread over a run, then those of its last part."""
    yield from range(0, config.steps, max(1, config.steps // 30))
    yield from range(max(0, config.steps - 30), config.steps)


# ---- the table ----------------------------------------------------------------------------------------------------


def _finding_lines(findings: list[Finding]) -> list[str]:
    return [f"{'ok' if finding.good else 'WRONG':7s}{finding.what:18s}{finding.told}" for finding in findings]


def _memory_lines(report: Report) -> list[str]:
    counts, config = report.estimate.counts, report.config
    how = f"{report.gpus} GPUs, {config.parallel}" if report.gpus > 1 else "one process"
    lines = [f"{counts.model:,} numbers in the model, {counts.trained:,} learn",
             f"memory of each process ({how}), an estimate"]  # fmt: skip
    lines += [f"  {name:48s}{gib(size):>10s}" for name, size in report.memory.items()]
    return [*lines, f"  {'total, without what the device keeps for itself':48s}{gib(report.total):>10s}"]


def _time_lines(report: Report) -> list[str]:
    lines = [f"a mean step of each process, 10^9 operations {'forward':>14s}{'backward':>12s}"]
    for name, (forward, backward) in report.estimate.flops().items():
        lines.append(f"  {name:42s}{forward / 1e9:14,.1f}{backward / 1e9:12,.1f}")
    for plan, cost in report.estimate.steps:
        spent = f", {report.by_kind[plan.kind]:.1f} s" if plan.kind in report.by_kind else ""
        activations = gib(cost.activations)
        lines.append(f"  {plan.share:4.0%} {plan.kind}: {_extent(plan)}, {activations} of activations{spent}")
    hours = report.seconds * report.config.steps / 3600
    lines.append(f"{report.config.steps:,} steps of {_duration(report.seconds)}: {_duration(3600 * hours)} "
                 f"({report.rate})")  # fmt: skip
    return lines


def _extent(plan: StepPlan) -> str:
    return f"{plan.scenes} x {plan.frames} frames"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
