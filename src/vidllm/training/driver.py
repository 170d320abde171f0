"""The training loop, one for every run: stage 2, stage 1, the teachers, fine-tuning (docs/method.md, "The loop").

Every step is made of ``processes * accumulation`` micro-batches, and micro-batch m draws its random numbers from
(seed, step, m): a run that was stopped goes on as an unbroken one, also with another number of processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from vidllm.model.dtypes import describe_dtype
from vidllm.training.checkpoints import list_checkpoints, read_checkpoint, save_checkpoint
from vidllm.training.loop_config import LoopConfig
from vidllm.training.progress import Clock, trim_log, write_log
from vidllm.training.shard_check import check_shards
from vidllm.training.sharded_checkpoints import is_whole, load_sharded, save_sharded
from vidllm.training.sharding import gather_weights, is_sharded, shard_blocks
from vidllm.training.steps import train_step
from vidllm.training.trackers import Trackers
from vidllm.training.trainable import Trainable, adamw
from vidllm.training.world import World

__all__ = ["LoopConfig", "Trainable", "adamw", "drive", "resume", "train_step"]


def drive(build: Callable[[], Trainable], config: LoopConfig, log: Callable[[str], None] | None = None) -> Path:
    """Run (or resume) what ``build`` makes; returns where it was exported.

    Raises:
        ValueError: a damaged shard, a tracker that is not installed, a checkpoint that cannot be written, or too many
            steps whose loss or gradient was not finite or jumped.
    """
    world = World.from_environment(cpu=config.device == "cpu")
    say = (log or _to_stderr) if world.rank == 0 else _nothing
    check_shards(Path(config.data))
    trackers = Trackers(config if world.rank == 0 else None)
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with world.in_turn():
        torch.manual_seed(config.seed)
        run = build()
    start = resume(run, out / "checkpoints", world)
    if world.rank == 0:
        (out / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
        trim_log(out / "log.jsonl", start)
    say(f"{out}: step {start} of {config.steps}, {world.size} process{'es' * (world.size > 1)}")
    say(describe_dtype(config.dtype, run.device))
    _steps(run, start, world, trackers, say)
    trackers.close()
    if is_sharded(run):
        gather_weights(run, keep=world.rank == 0)
    return world.first(run.export(out) if world.rank == 0 else out)


def _steps(run: Trainable, start: int, world: World, trackers: Trackers, say: Callable[[str], None]) -> None:
    """The steps from ``start`` on, with their log and checkpoints."""
    config, out = run.config, Path(run.config.out)
    clock = Clock(config, start)
    for step in range(start, config.steps):
        figures = train_step(run, step, world, world.first(clock.spent()))
        clock.add(figures)
        done = step + 1
        last = done == config.steps or world.first(clock.spent() >= 1)
        if "skipped_steps" in figures:
            say(f"step {done} skipped: {run.watch.reason}")
        if (done % config.log_every == 0 or last) and world.rank == 0:
            line = clock.line(done, run.bad_steps)
            write_log(out / "log.jsonl", line)
            trackers.log(line, done)
            say(clock.text)
        if world.first(clock.due(config.save_minutes) or last):
            _save(run, done, world)
            run.refresh()
        if last:
            return


def _save(run: Trainable, done: int, world: World) -> None:
    folder, keep = Path(run.config.out) / "checkpoints", run.config.keep_checkpoints
    if is_sharded(run):
        save_sharded(run, folder, done, keep, world)
    elif world.rank == 0:
        save_checkpoint(folder, done, run.state(done), keep)


def resume(run: Trainable, folder: Path, world: World) -> int:
    """Load the newest whole checkpoint, of one file or sharded, and shard the run where its configuration says so;
    returns the step to go on with.
    """
    shards = run.config.parallel == "fsdp" and world.size > 1
    for path in reversed(list_checkpoints(folder)):
        if path.is_dir() and is_whole(path):
            if shards:
                shard_blocks(run, world.size)
            return load_sharded(run, path)
        if not path.is_dir() and (state := read_checkpoint(path)) is not None:
            start = run.load_state(state)
            if shards:
                shard_blocks(run, world.size)
            return start
    if shards:
        shard_blocks(run, world.size)
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _nothing(_: str) -> None:
    """Processes but the first are silent."""
