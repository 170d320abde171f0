"""The training loop, one for every run: stage 2, stage 1, the teachers, fine-tuning (docs/method.md, "The loop").

Every step is made of ``processes * accumulation`` micro-batches, and micro-batch m draws its random numbers from
(seed, step, m): a run that was stopped goes on as an unbroken one, also with another number of processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vidllm.datasets.shards import check_shards, shards_of
from vidllm.io.atomic import clear_leftovers_of
from vidllm.io.processes import Stopped, StopRequest, folder_lock
from vidllm.model.dtypes import describe_dtype
from vidllm.training.checkpoints import (
    clear_unfinished,
    list_checkpoints,
    passes_checksums,
    read_checkpoint,
    save_checkpoint,
)
from vidllm.training.loop_config import LoopConfig
from vidllm.training.lora import check_peft
from vidllm.training.progress import Clock, trim_log, write_log
from vidllm.training.resuming import begin, check_tokenizer_of
from vidllm.training.sharded_checkpoints import is_whole, load_sharded, save_sharded
from vidllm.training.sharding import gather_weights, is_sharded, shard_blocks
from vidllm.training.steps import train_step
from vidllm.training.trackers import Trackers, check_trackers
from vidllm.training.trainable import Trainable, adamw
from vidllm.training.world import World, check_processes

__all__ = ["LoopConfig", "Trainable", "adamw", "drive", "resume", "train_step"]


def drive(build: Callable[[], Trainable], config: LoopConfig, log: Callable[[str], None] | None = None) -> Path:
    """Run (or resume) what ``build`` makes; returns where it was exported.

    Raises:
        ValueError: an extra that is not installed, another process in the folder, a folder that was begun with other
            settings or data, a damaged shard, no readable checkpoint among those there, a checkpoint that cannot be
            written, or too many steps whose loss or gradient was not finite or jumped.
        Stopped: SIGINT or SIGTERM came while steps were taken; a checkpoint of the last one is written.
    """
    check_extras(config)
    if not Path(config.data).is_file():
        shards_of(Path(config.data))
        check_shards(Path(config.data))
    world = World.from_environment(cpu=config.device == "cpu")
    say = (log or _to_stderr) if world.rank == 0 else _nothing
    lock = folder_lock(config.out)
    world.do_first(lock.__enter__)
    try:
        return _drive(build, config, world, say)
    finally:
        if world.rank == 0:
            lock.__exit__(None, None, None)


def check_extras(config: LoopConfig) -> None:
    """ValueError for the first package that a run needs and that is not installed, with the extra that brings it."""
    check_processes()
    if getattr(config, "lora", getattr(config, "lora_rank", 0)):  # fine-tuning has both, and uses no rank without
        check_peft()
    check_trackers(config.trackers)


def _drive(build: Callable[[], Trainable], config: LoopConfig, world: World, say: Callable[[str], None]) -> Path:
    out = Path(config.out)
    told = world.do_first(lambda: _begin(config, world.size))
    trackers = Trackers(config if world.rank == 0 else None)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    with world.in_turn():
        torch.manual_seed(config.seed)
        run = build()
    world.do_first(lambda: check_tokenizer_of(config))
    start, damaged = resume(run, out / "checkpoints", world)
    if start > config.steps:
        raise ValueError(f"{out}: the run there has taken {start} steps already, --steps asks for {config.steps}; give "
                         "as many or more, or another --out")  # fmt: skip
    world.do_first(lambda: trim_log(out / "log.jsonl", start))
    say(f"{out}: step {start} of {config.steps}, {world.size} process{'es' * (world.size > 1)}")
    for line in [*told, *(f"{path}: damaged, an older checkpoint is taken" for path in damaged)]:
        say(f"warning: {line}")
    say(describe_dtype(config.dtype, run.device))
    _steps(run, start, world, trackers, say)
    trackers.close()
    if is_sharded(run):
        gather_weights(run, keep=world.rank == 0)
    return world.first(run.export(out) if world.rank == 0 else out)


def _begin(config: LoopConfig, processes: int) -> list[str]:
    """What the first process does before anything is loaded."""
    clear_leftovers_of(config.out)
    clear_unfinished(Path(config.out) / "checkpoints")
    return begin(config, processes)


def _steps(run: Trainable, start: int, world: World, trackers: Trackers, say: Callable[[str], None]) -> None:
    """The steps from ``start`` on, with their log and checkpoints; a signal ends them with a checkpoint."""
    config, out = run.config, Path(run.config.out)
    clock = Clock(config, start)
    with StopRequest() as stop:
        for step in range(start, config.steps):
            figures = train_step(run, step, world, world.first(clock.spent()))
            clock.add(figures)
            done = step + 1
            out_of_time = done < config.steps and world.first(clock.spent() >= 1)
            last = out_of_time or done == config.steps
            if "skipped_steps" in figures:
                say(f"step {done} skipped: {run.watch.reason}")
            if (done % config.log_every == 0 or out_of_time) and world.rank == 0:
                line = clock.line(done, run.bad_steps)
                write_log(out / "log.jsonl", line)
                trackers.log(line, done)
                say(clock.text)
            signals, due = zip(*world.gather((stop.signum, clock.due(config.save_minutes))), strict=True)
            if any(signals) or due[0] or last:
                _save(run, done, world)
                run.refresh()
            if last:
                return
            if any(signals):
                trackers.close()
                say(f"stopped at step {done} of {config.steps}; the same command goes on from there")
                raise Stopped(max(signals))


def _save(run: Trainable, done: int, world: World) -> None:
    folder, keep = Path(run.config.out) / "checkpoints", run.config.keep_checkpoints
    if is_sharded(run):
        save_sharded(run, folder, done, keep, world)
    elif world.rank == 0:
        save_checkpoint(folder, done, run.state(done), keep)


def resume(run: Trainable, folder: Path, world: World) -> tuple[int, list[Path]]:
    """Load the newest whole checkpoint, of one file or sharded, and shard the run where its configuration says so.

    Returns the step to go on with and the damaged checkpoints that were passed over. ValueError where there are
    checkpoints and none can be read.
    """
    shards = run.config.parallel == "fsdp" and world.size > 1
    known, damaged = list_checkpoints(folder), list[Path]()
    for path in reversed(known):
        state = None
        if path.is_dir():
            whole = is_whole(path)
        else:
            state = read_checkpoint(path) if passes_checksums(path) else None
            whole = state is not None
        if not whole:
            damaged.append(path)
            continue
        if state is None and shards:
            shard_blocks(run, world.size)
        start = _loaded(run, path, state)
        if state is not None and shards:
            shard_blocks(run, world.size)
        return start, damaged
    if damaged:
        raise ValueError(
            f"{', '.join(map(str, damaged))}: damaged, and there is no other checkpoint to go on from; delete {folder} "
            "to train anew"
        )
    if shards:
        shard_blocks(run, world.size)
    return 0, []


def _loaded(run: Trainable, path: Path, state: dict[str, Any] | None) -> int:
    """The step of a checkpoint that the run has taken over; ValueError where it is another run's."""
    try:
        return load_sharded(run, path) if state is None else run.load_state(state)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not a checkpoint of this run ({type(error).__name__}: {reason}); delete it, or give another --out"
        ) from error


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _nothing(_: str) -> None:
    """Processes but the first are silent."""
