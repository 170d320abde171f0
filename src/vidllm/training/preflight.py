"""``vidllm train STAGE --dry-run``: check the inputs, count memory, time real steps, print a table; nothing is trained.

First the inputs of the run are checked: data, initial weights, teachers, disk space; headers and configurations are
read, never the weights themselves. Then the run's parameters are counted on the meta device. If weights, gradients and
moments fit the device, real steps are timed in a temporary folder and discarded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPModel

from vidllm.datasets.shards import PATTERN, Shard, check_shards, rooms_labels, shards_of
from vidllm.io.weight_files import model_of_run, open_checkpoint, settings_in
from vidllm.model.config_fields import flat
from vidllm.model.huggingface import VidLLMConfig
from vidllm.model.loading import check_weights, kind_of, load_config
from vidllm.model.text import read_tokenizer
from vidllm.profiling import LiveBytes, build_on_meta
from vidllm.training.checkpoints import list_checkpoints
from vidllm.training.config import TrainConfig, changed
from vidllm.training.data import RoomsData, check_frames
from vidllm.training.distillation import Projections
from vidllm.training.distributed import BLOCKS
from vidllm.training.language_teacher import LanguageTeacherConfig, LanguageTeacherRun, clip_config
from vidllm.training.loop import ALONE, autocast, train_step
from vidllm.training.lora import apply_lora
from vidllm.training.models import LANGUAGE_HALF, VOCABULARY, check_parts, freeze, fresh_settings, training_device
from vidllm.training.stage1 import Stage1Config, Stage1Run, teachers_of, trained_in_stage1
from vidllm.training.stage2 import Run
from vidllm.training.supervision import wanted
from vidllm.training.supervision.base import AuxiliaryHeads
from vidllm.training.texts import ExtraQuestions
from vidllm.training.trainable import Trainable

AnyConfig = TrainConfig | Stage1Config | LanguageTeacherConfig
FLOAT = 4  # bytes of a number in training
HALF = 2  # bytes of a number in the model folder that comes out
SAMPLED_STEPS = 40  # steps, spread over the run, whose kinds tell how often each occurs


@dataclass(frozen=True)
class Finding:
    """The result of one check: its name, whether it passed, and a description."""

    what: str
    good: bool
    told: str


@dataclass(frozen=True)
class Counts:
    """Parameters of a run: of its model, on the device, trained, and averaged; of each of the last three the part in
    blocks, which FSDP shards; and of the largest block.
    """

    model: int
    held: int
    trained: int
    averaged: int
    in_blocks: tuple[int, int, int]
    largest_block: int = 0

    def states(self, processes: int = 1) -> dict[str, int]:
        """Bytes of weights, gradients, AdamW's moments and averages in each of ``processes`` that shard the blocks."""
        held, trained, averaged = (
            whole - part + -(-part // processes)
            for whole, part in zip((self.held, self.trained, self.averaged), self.in_blocks, strict=True)
        )
        return {
            "weights": FLOAT * held, "gradients": FLOAT * trained, "AdamW's moments": 2 * FLOAT * trained,
            "averaged weights": FLOAT * averaged,
        }  # fmt: skip

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint on disk: weights, moments, averages."""
        return FLOAT * (self.held + 2 * self.trained + self.averaged)


@dataclass(frozen=True)
class Timing:
    """Real steps: seconds and share of each kind, and the peak bytes of activations."""

    device: str
    seconds: dict[str, float]
    shares: dict[str, float]
    peak: int

    @property
    def mean(self) -> float:
        """Seconds of a mean step."""
        return sum(self.shares[kind] * seconds for kind, seconds in self.seconds.items())


@dataclass(frozen=True)
class Report:
    """What a dry run found; ``memory``: bytes of each process by purpose; ``untimed``: why no step was taken."""

    config: AnyConfig
    gpus: int
    findings: list[Finding]
    counts: Counts
    memory: dict[str, int]
    timing: Timing | None
    untimed: str = ""

    @property
    def problems(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if not finding.good]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        timed = {} if self.timing is None else {
            "device": self.timing.device, "seconds_by_kind": self.timing.seconds, "shares": self.timing.shares,
            "seconds_of_a_mean_step": self.timing.mean, "hours": self.timing.mean * self.config.loop.steps / 3600,
        }  # fmt: skip
        return {
            "findings": [asdict(finding) for finding in self.findings], "parameters": asdict(self.counts),
            "gpus": self.gpus, "parallel": self.config.loop.parallel,
            "memory_bytes": {**self.memory, "total": sum(self.memory.values())}, "timing": timed,
            "untimed": self.untimed,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The table."""
        how = f"{self.gpus} GPUs, {self.config.loop.parallel}" if self.gpus > 1 else "one process"
        told = [f"{'ok' if f.good else 'WRONG':7s}{f.what:18s}{f.told}" for f in self.findings]
        told += ["", f"{self.counts.model:,} numbers in the model, {self.counts.trained:,} learn",
                 f"memory of each process ({how})"]  # fmt: skip
        told += [f"  {name:48s}{gib(size):>10s}" for name, size in self.memory.items()]
        told += [f"  {'total, without what the device keeps for itself':48s}{gib(sum(self.memory.values())):>10s}", ""]
        if self.timing is None:
            return [*told, f"no step was taken: {self.untimed}"]
        for kind, seconds in self.timing.seconds.items():
            told.append(f"  {self.timing.shares[kind]:4.0%} {kind}: {_duration(seconds)}")
        whole = _duration(self.timing.mean * self.config.loop.steps)
        return [*told, f"{self.config.loop.steps:,} steps of {_duration(self.timing.mean)}: {whole} "
                       f"(real steps on {self.timing.device})"]  # fmt: skip


def dry_run(
    config: AnyConfig, gpus: int = 1, extra_questions: ExtraQuestions | None = None, *, planned: bool = False
) -> Report:
    """Check, count and time; nothing is trained, and nothing is written into the run's folder.

    ``gpus``: processes with a GPU each, for the memory. ``planned``: data and initial model do not exist yet: the rest
    is checked, and the preset's sizes are counted. ValueError for ``gpus`` below 1.
    """
    if gpus < 1:
        raise ValueError(f"--gpus must be at least 1, received {gpus}")
    findings = list(look(config, planned=planned))
    if (planned and config.start.init_from) or any(f.what == "weights" and not f.good for f in findings):
        config = changed(config, init_from=None)
    counts = count_run(config)
    shares = config.loop.parallel == "fsdp" and gpus > 1
    memory = counts.states(gpus if shares else 1)
    if shares:
        memory["two blocks gathered whole"] = 2 * FLOAT * counts.largest_block
    untimed = _why_untimed(config, findings, gpus, sum(memory.values()))
    untimed = "data and initial model are still to be made (--planned)" if planned and not untimed else untimed
    timing = None if untimed else time_steps(config, extra_questions)
    if timing is not None:
        memory["activations at their peak"] = timing.peak
    return Report(config, gpus, findings, counts, memory, timing, untimed)


def _why_untimed(config: AnyConfig, findings: list[Finding], gpus: int, states: int) -> str:
    if not all(finding.good for finding in findings):
        return "something is wrong (above)"
    if gpus > 1:
        return f"this is one process and the run has {gpus}; start it with torchrun and look at its first log lines"
    device = training_device(config.loop.device)
    there = torch.cuda.mem_get_info()[1] if device.type == "cuda" else _host_memory()
    if states > 0.8 * there:
        return f"weights, gradients and moments take {gib(states)} and this {device.type} has {gib(there)}"
    return ""


def _host_memory() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


# ---- checks ------------------------------------------------------------------------------------------------------


def look(config: AnyConfig, *, planned: bool = False) -> Iterator[Finding]:
    """The results of all checks; ``planned``: except of inputs that do not exist yet."""
    checks: dict[str, Callable[[Any], str]] = {}
    if planned:
        config = changed(config, init_from=None) if config.start.init_from else config
    else:
        checks |= {"data": _check_data, "tokenizer": _check_tokenizer, "weights": _check_weights_of}
    if isinstance(config, Stage1Config):
        checks["teachers"] = _check_teachers
    checks["output"] = _check_output
    for what, tell in checks.items():
        try:
            yield Finding(what, True, tell(config))
        except (ValueError, OSError) as error:
            yield Finding(what, False, " ".join(str(error).split()))


def _check_data(config: AnyConfig) -> str:
    """Shards, scenes and frame sizes; ValueError where something is missing, damaged or does not fit."""
    folder = Path(config.loop.data)
    paths = shards_of(folder)
    check_shards(folder)
    sizes = check_frames(folder, model_settings(config).encoder.patch_size, flat(config)["clip_frames"])
    told = ", ".join(f"{n} scenes of {f} frames {h}x{w}" for (f, h, w), n in sorted(sizes.items()))
    return f"{folder}: {len(paths)} shards, {told}"


def _check_tokenizer(config: AnyConfig) -> str:
    own = Path(config.loop.out) / "tokenizer"
    if (own / "tokenizer.json").is_file():
        return f"{own}, the run's own"
    if (place := config.start.init_from) is not None:
        if Path(place).is_dir() and not any(Path(place).glob("tokenizer*")):
            raise ValueError(f"{place}: no tokenizer beside the weights; write the model with its processor")
        return f"that of {place}"
    first = next(iter(sorted(Path(config.loop.data).glob(PATTERN))), None)
    if first is None or not Shard(first).records[0].get("language"):
        raise ValueError(f"{config.loop.data}: no language to train a tokenizer on; render shards, or give --init-from")
    return "will be trained on the data's words"


def _check_weights_of(config: AnyConfig) -> str:
    start = config.start
    told = [f"fresh weights of {start.preset}"]
    if start.init_from:
        settings = load_config(start.init_from)
        check_weights(open_checkpoint(start.init_from), settings, kind_of(settings.model_type)[1])
        told = [f"{start.init_from}, whole"]
    if language := start.language_from:
        theirs = settings_in(model_of_run(language))
        if theirs is None:
            raise ValueError(f"{language}: no model here (config.json is missing); give --language-from a folder")
        forms = theirs.get("text_config", theirs), model_settings(config).text_config.to_dict()
        found, wanted = ((form.get("num_hidden_layers"), form.get("hidden_size")) for form in forms)
        if found != wanted:
            raise ValueError(f"{language}: its language model has (layers, width) {found}, this run's {wanted}")
        told.append(f"its language from {language}")
    if start.train_only:
        check_parts(start, build_on_meta(model_settings(config)))
    return ", ".join(told)


def _check_teachers(config: Stage1Config) -> str:
    found = teachers_of(config)
    named = {"geometry": found.geometry, "language": found.language}
    told = [
        f"{name} {part.source.name} {part.source.checkpoint.place}, {teacher.width} wide"
        for (name, teacher), part in zip(named.items(), found.parts, strict=True)
    ]
    return "; ".join([*told, f"structure {config.structure}"])


def _check_output(config: AnyConfig) -> str:
    out, counts = Path(config.loop.out), count_run(config)
    parent = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{out}: cannot write there ({parent} is not a writable folder)")
    need = counts.checkpoint_bytes * (config.loop.keep_checkpoints + 1) + HALF * counts.model
    free = shutil.disk_usage(parent).free
    if free < need:
        raise ValueError(f"{out}: {gib(need)} are needed ({config.loop.keep_checkpoints + 1} checkpoints of "
                         f"{gib(counts.checkpoint_bytes)} and the model) and {gib(free)} are free")  # fmt: skip
    saved = list_checkpoints(out / "checkpoints")
    resumed = f", goes on from {saved[-1].name}" if saved else ""
    return f"{out}: {gib(need)} needed at most, {gib(free)} free{resumed}"


def gib(size: int) -> str:
    """Bytes as GiB, or as MiB where there are few."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ---- parameters, without storage ---------------------------------------------------------------------------------


def model_settings(config: AnyConfig) -> VidLLMConfig:
    """The configuration of the model that a run trains, saved or new."""
    if config.start.init_from:
        return load_config(config.start.init_from)
    known = Path(config.loop.out) / "tokenizer"
    rows = len(read_tokenizer(known)) if (known / "tokenizer.json").is_file() else VOCABULARY
    return fresh_settings(config.start, rows)


def count_run(config: AnyConfig) -> Counts:
    """The numbers of a run, its modules built on the meta device."""
    model: Any = build_on_meta(model_settings(config)).train()
    on_device, averaged = _modules(config, model)
    rows = (on_device, False), (on_device, True), (averaged, False)
    held, trained, kept = (_numbers(modules, learns) for modules, learns in rows)
    first, second, third = (_numbers(_blocks(modules), learns) for modules, learns in rows)
    largest = max((_numbers([block]) for block in _blocks(on_device)), default=0)
    return Counts(_numbers([model]), held, trained, kept, (first, second, third), largest)


def _modules(config: AnyConfig, model: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules on the device, and those that are averaged."""
    with torch.device("meta"):
        if isinstance(config, TrainConfig):
            if config.start.lora_rank:
                apply_lora(model, config.start.lora_rank, config.start.lora_alpha)
            freeze(config.start, model)
            try:
                labels = RoomsData(Path(config.loop.data)).labels
            except ValueError:  # a check says so
                labels = rooms_labels()
            heads = [AuxiliaryHeads(model.config.encoder.hidden_size, *labels.sizes)]
            return [model, *(heads if wanted(config.supervision, labels) else [])], [model]
        if isinstance(config, Stage1Config):
            trained_in_stage1(model, tune_encoder=config.tune_encoder)
            modules: list[nn.Module] = [model.encoder, model.adapter]
            with suppress(ValueError):  # wrong teachers: a check says so
                found = teachers_of(config)
                width = model.config.encoder.hidden_size
                modules.append(Projections(width, found.geometry.width, found.language.width))
                modules += [found.geometry.model, found.language.model]
            return modules, []
        clip = CLIPModel(clip_config(config, model.config.encoder.hidden_size, model.config.text_config.vocab_size))
    model.requires_grad_(False)
    for name in LANGUAGE_HALF:
        model.get_submodule(name).requires_grad_(config.contrastive_steps < config.loop.steps)
    return [clip, model], []


def _numbers(modules: Iterable[nn.Module], only_trained: bool = False) -> int:
    parameters = (p for module in modules for p in module.parameters() if p.requires_grad or not only_trained)
    return sum({id(p): p.numel() for p in parameters}.values())


def _blocks(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [part for m in modules for part in m.modules() if BLOCKS.fullmatch(type(part).__name__)]


# ---- real steps --------------------------------------------------------------------------------------------------


def time_steps(config: AnyConfig, extra_questions: ExtraQuestions | None = None) -> Timing:
    """Seconds of a real step of each kind, after a warm-up step; the trained weights are discarded."""
    torch.set_num_threads(config.loop.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(config.loop.out) / "tokenizer"
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, Path(folder) / "tokenizer")
        here = changed(config, out=folder)
        run: Any
        if isinstance(here, TrainConfig):
            run = Run.build(here, extra_questions)
        else:
            run = Stage1Run.build(here) if isinstance(here, Stage1Config) else LanguageTeacherRun(here)
        train_step(run, 0)
        kinds: dict[str, list[int]] = {}
        for step in range(0, config.loop.steps, max(1, config.loop.steps // SAMPLED_STEPS)):
            kinds.setdefault(run.kind(run.draw(step, _rng(run, step))), []).append(step)
        seconds = {kind: _seconds(run, steps[-1]) for kind, steps in kinds.items()}
        slowest = kinds[max(seconds, key=lambda kind: seconds[kind])][-1]
        sampled = sum(map(len, kinds.values()))
        shares = {kind: len(steps) / sampled for kind, steps in kinds.items()}
        return Timing(run.device.type, seconds, shares, _peak(run, slowest))


def _seconds(run: Trainable, step: int) -> float:
    begin = time.perf_counter()
    train_step(run, step)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _rng(run: Trainable, step: int) -> np.random.Generator:
    return np.random.default_rng(ALONE.seeds(run.config.loop.seed, step, run.config.loop.accumulation)[0])


def _peak(run: Trainable, step: int) -> int:
    """Peak bytes of tensors in a step, other than weights, gradients and the optimiser's state."""
    rng = _rng(run, step)
    batch = run.draw(step, rng)
    forget = [p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None)) for p in run.parameters()]
    weights = [t for module in run.modules().values() for t in (*module.parameters(), *module.buffers())]
    with LiveBytes(weights) as counted:
        with autocast(run.config.loop.dtype, run.device.type):
            losses = run.losses(batch, step, rng)
        losses.total().backward()
    for handle in forget:
        handle.remove()
    return counted.peak
