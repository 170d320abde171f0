"""The training loop of stage 2, stage 1, the teachers and fine-tuning (docs/method.md, section 9).

Every step consists of ``processes * accumulation`` micro-batches, and micro-batch m draws its random numbers from
(seed, step, m): a resumed run gives the same results, also with another number of processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.datasets.shards import check_shards, shards_of
from vidllm.io.processes import Stopped, StopRequest, folder_lock
from vidllm.model.config_fields import flat
from vidllm.model.precision import describe_dtype, resolve_dtype
from vidllm.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from vidllm.training.config import RunConfig
from vidllm.training.distributed import (
    ProcessGroup,
    check_processes,
    clip_gradients,
    gather_weights,
    is_sharded,
    shard_blocks,
)
from vidllm.training.lora import check_peft
from vidllm.training.progress import Clock, Trackers, check_trackers, trim_log, write_log
from vidllm.training.resuming import begin, check_tokenizer_of
from vidllm.training.trainable import RECENT, Trainable

Log = Callable[[str], None]
ALONE = ProcessGroup()


def drive(build: Callable[[], Trainable], config: RunConfig, log: Log | None = None) -> Path:
    """Run (or resume) what ``build`` makes; returns the path of the export.

    Raises:
        ValueError: a missing extra, another process in the folder, a folder of a run with other settings or data, a
            damaged shard, no readable checkpoint among the existing ones, a checkpoint that cannot be written, or too
            many skipped steps.
        Stopped: SIGINT or SIGTERM; a checkpoint of the last step has been written.
    """
    check_processes()
    values = flat(config)
    if values.get("lora", values.get("lora_rank", 0)):  # fine-tuning has both, and uses no rank without
        check_peft()
    check_trackers(config.loop.trackers)
    data = Path(config.loop.data)
    if not data.is_file():
        shards_of(data)
        check_shards(data)
    processes = ProcessGroup.from_environment(cpu=config.loop.device == "cpu")
    say = (log or to_stderr) if processes.rank == 0 else lambda _: None  # the others are silent
    lock = folder_lock(config.loop.out)
    processes.do_first(lock.__enter__)
    try:
        return _drive(build, config, processes, say)
    finally:
        if processes.rank == 0:
            lock.__exit__(None, None, None)


def _drive(build: Callable[[], Trainable], config: RunConfig, processes: ProcessGroup, say: Log) -> Path:
    loop, out = config.loop, Path(config.loop.out)
    told = processes.do_first(lambda: begin(config, processes.size))
    trackers = Trackers(config if processes.rank == 0 else None)
    torch.set_num_threads(loop.threads)
    torch.set_flush_denormal(True)
    with processes.in_turn():
        torch.manual_seed(loop.seed)
        run = build()
    processes.do_first(lambda: check_tokenizer_of(config))
    if loop.parallel == "fsdp" and processes.size > 1:
        shard_blocks(run, processes.size)  # before the optimiser is made, which is at its first use
        run.read_later()
    start, damaged = resume(run, out / "checkpoints")
    if start > loop.steps:
        raise ValueError(f"{out}: the run in it has taken {start} steps already, --steps asks for {loop.steps}; give "
                         "as many or more, or another --out")  # fmt: skip
    processes.do_first(lambda: trim_log(out / "log.jsonl", start))
    say(f"{out}: step {start} of {loop.steps}, {processes.size} process{'es' * (processes.size > 1)}")
    for line in [*told, *(f"{path}: damaged, an older checkpoint is taken" for path in damaged)]:
        say(f"warning: {line}")
    say(describe_dtype(loop.dtype, run.device))
    if start == 0:
        run.prepare(say)
    try:
        _steps(run, start, processes, trackers, say)
    finally:
        run.ahead.close()
    trackers.close()
    if is_sharded(run):
        gather_weights(run, keep=processes.rank == 0)
    return processes.first(run.export(out) if processes.rank == 0 else out)


def resume(run: Trainable, folder: Path) -> tuple[int, list[Path]]:
    """Load the newest undamaged checkpoint.

    Returns the step to resume from and the damaged checkpoints that were skipped. ValueError if there are checkpoints
    and none can be read.
    """
    damaged: list[Path] = []
    for path in reversed(list_checkpoints(folder)):
        start = load_checkpoint(run, path)
        if start is not None:
            return start, damaged
        damaged.append(path)
    if damaged:
        raise ValueError(
            f"{', '.join(map(str, damaged))}: damaged, and there is no other checkpoint to go on from; delete {folder} "
            "to train anew"
        )
    return 0, []


def _steps(run: Trainable, start: int, processes: ProcessGroup, trackers: Trackers, say: Log) -> None:
    """The steps from ``start`` on, with their log and checkpoints; a signal ends them with a checkpoint."""
    loop, out = run.config.loop, Path(run.config.loop.out)
    clock = Clock(loop, start)
    with StopRequest() as stop:
        for step in range(start, loop.steps):
            figures = train_step(run, step, processes, processes.first(clock.spent()))
            clock.add(figures)
            done = step + 1
            out_of_time = done < loop.steps and processes.first(clock.spent() >= 1)
            last = out_of_time or done == loop.steps
            if "skipped_steps" in figures:
                say(f"step {done} skipped: {run.spike_guard.reason}")
            if (done % loop.log_every == 0 or out_of_time) and processes.rank == 0:
                line = clock.line(done, run.bad_steps)
                write_log(out / "log.jsonl", line)
                trackers.log(line, done)
                say(clock.text)
            signals, due = zip(*processes.gather((stop.signum, clock.due(loop.save_minutes))), strict=True)
            if any(signals) or due[0] or last:
                save_checkpoint(run, out / "checkpoints", done, loop.keep_checkpoints, processes)
                run.refresh()
            if last:
                return
            if any(signals):
                trackers.close()
                say(f"stopped at step {done} of {loop.steps}; the same command goes on from there")
                raise Stopped(max(signals))


def to_stderr(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


# ---- one step ------------------------------------------------------------------------------------------------------


def train_step(run: Trainable, step: int, processes: ProcessGroup = ALONE, spent: float = 0.0) -> dict[str, float]:
    """One step of all processes; returns its figures, means over the micro-batches. A bad step is skipped and counted.

    ``spent``: the fraction of the run's ``minutes`` that has passed. All processes decide alike. ValueError if too many
    of the last steps were skipped.
    """
    loop = run.config.loop
    for group in run.optimizer.param_groups:
        group["lr"] = run.config.learning_rate(step, spent) * group["scale"]
    run.optimizer.zero_grad(set_to_none=True)
    seeds = processes.seeds(loop.seed, step, loop.accumulation)
    later = [each for n in range(1, loop.prefetch + 1)
             for each in ((step + n, seed) for seed in processes.seeds(loop.seed, step + n, loop.accumulation))]
    run.ahead.want([(step, seed) for seed in seeds] + later)  # fmt: skip
    told = [_micro_batch(run, step, seed) for seed in seeds]
    trained = list(run.parameters())
    processes.average_gradients(trained)
    norm = clip_gradients(trained, run.config.optimiser.clip_norm)
    gathered = processes.gather((told, norm))
    every = [figures for each, _ in gathered for _, figures in each]
    names = dict.fromkeys(name for each in every for name in each)
    figures = {name: float(np.mean([each[name] for each in every if name in each])) for name in names}
    figures = {"loss": figures["loss"], "norm": gathered[0][1], **figures}
    reason = run.spike_guard.judge(told[0][0], figures["loss"], figures["norm"])
    if reason is None:
        run.optimizer.step()
        run.average(step)
        return figures
    run.bad_steps += 1
    if run.spike_guard.skipped() > loop.max_bad_steps:
        raise ValueError(
            f"training stopped at step {step}: {run.spike_guard.skipped()} of the last {RECENT} steps were skipped "
            f"({reason}); lower --learning-rate or look at the data, then start again: it resumes from the last "
            f"checkpoint in {loop.out}"
        )
    return figures | {"skipped_steps": 1.0}


def _micro_batch(run: Trainable, step: int, seed: list[int]) -> tuple[str, dict[str, float]]:
    """Add a micro-batch's share to the gradients; its kind and its figures."""
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))  # for dropout, where there is any
    batch, rng = run.ahead.take(step, seed)
    with autocast(run.config.loop.dtype, run.device.type):
        losses = run.losses(batch, step, rng)
    total = losses.total()
    if total.requires_grad:  # with --train-only, steps of some kinds train nothing
        (total / run.config.loop.accumulation).backward()
    terms = {name: term.item() for name, term in losses.terms.items()}
    return run.kind(batch), {"loss": total.item(), **terms, **losses.figures}


def autocast(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Mixed precision of a configuration's ``dtype``; none for float32, also if "auto" resolves to it."""
    name, _ = resolve_dtype(dtype, device)
    return nullcontext() if name == "float32" else torch.autocast(device, dtype=getattr(torch, name))
