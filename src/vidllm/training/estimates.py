"""Memory and time of a training run before it begins: what it holds by arithmetic, what a step needs by walking it.

Weights, gradients, AdamW's two moments and the averaged weights are counted in float32, as the loop holds them. With
FSDP the blocks' share of all four is divided by the processes; the rest, and what a step computes, is whole in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPVisionModel

from vidllm.io.weight_files import settings_in
from vidllm.model.auto import load_config
from vidllm.model.configuration import EncoderConfig, VidLLMConfig
from vidllm.model.encoder import DinoEncoder
from vidllm.model.summary import build_on_meta
from vidllm.model.text import read_tokenizer
from vidllm.pretrained.clip import clip_config as tower_config
from vidllm.training import packed_attention
from vidllm.training.activations import checkpoint_activations
from vidllm.training.auxiliary import auxiliary_heads
from vidllm.training.config import TrainConfig
from vidllm.training.lora import apply_lora
from vidllm.training.losses.distillation import Projections
from vidllm.training.sharding import BLOCKS
from vidllm.training.stage1 import Stage1Config, as_train_config, trained_in_stage1
from vidllm.training.starting import LANGUAGE_HALF, VOCABULARY, fresh_settings
from vidllm.training.step_costs import StepCost, Walk, fake_module, measure_step, no_storage
from vidllm.training.step_walks import (
    StepPlan,
    language_teacher_step,
    mean_cost,
    plans,
    stage1_step,
    stage2_step,
)
from vidllm.training.teacher_runs import LanguageTeacherConfig, clip_config

AnyConfig = TrainConfig | Stage1Config | LanguageTeacherConfig
Step = Callable[[Walk], Tensor]
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Counts:
    """Numbers of a run: all of its model, those on the device, those that learn, those averaged; and of each of the
    last three the part that lies in blocks, which FSDP shards, and the largest block.
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
class Estimate:
    """A run's numbers and what each kind of its steps costs on one process."""

    counts: Counts
    size: tuple[int, int]
    steps: list[tuple[StepPlan, StepCost]]
    accumulation: int = 1

    @property
    def largest(self) -> tuple[StepPlan, StepCost]:
        """The kind of step that needs most memory."""
        return max(self.steps, key=lambda pair: pair[1].activations)

    def flops(self) -> dict[str, tuple[int, int]]:
        """Operations of each part in a mean step, forward and backward."""
        forward, backward = (
            mean_cost([(plan.share * self.accumulation, getattr(cost, way)) for plan, cost in self.steps])
            for way in ("forward", "backward")
        )
        return {name: (forward[name], backward[name]) for name in dict.fromkeys([*forward, *backward])}

    def total_flops(self) -> int:
        """Of a mean step of one process."""
        return sum(a + b for a, b in self.flops().values())


@dataclass
class _FakeRun:
    """The modules of a run without storage: what learns, what else lies on the device, what is averaged."""

    model: nn.Module
    on_device: list[nn.Module]
    averaged: nn.Module | None = None
    steps: dict[str, Step] = field(default_factory=dict)


def model_settings(config: AnyConfig) -> VidLLMConfig:
    """The configuration of the model that a run trains, whether it starts from a saved one or from nothing."""
    start = config if isinstance(config, TrainConfig) else as_train_config(config, config.preset, config.init_from)
    if start.init_from:
        return load_config(start.init_from)
    known = Path(start.out) / "tokenizer"
    rows = len(read_tokenizer(known)) if (known / "tokenizer.json").is_file() else VOCABULARY
    return fresh_settings(start, rows)


def estimate(config: AnyConfig, size: tuple[int, int], device: str = "cuda") -> Estimate:
    """What a run on frames of ``size`` (H, W) pixels needs; nothing is allocated.

    ``device``: "cuda", or "cpu" for the attention that a CPU writes out.
    """
    made, run = [], _fake_run(config, size, device)
    with no_storage():
        modules = [fake_module(module) for module in run.on_device]
        for plan in plans(config):
            made.append((plan, measure_step(modules, run.steps[plan.kind], config.dtype, device)))
    return Estimate(_counts(run), size, made, config.accumulation)


def count_run(config: AnyConfig) -> Counts:
    """The numbers of a run alone."""
    return _counts(_fake_run(config, (14, 14), "cuda"))


def _counts(run: _FakeRun) -> Counts:
    averaged = [] if run.averaged is None else [run.averaged]
    rows = (run.on_device, [True, False]), (run.on_device, [True]), (averaged, [True, False])
    held, trained, kept = (_numbers(modules, learns) for modules, learns in rows)
    first, second, third = (_numbers(_blocks(modules), learns) for modules, learns in rows)
    model = _numbers([run.model], [True, False])
    largest = max((_numbers([block], [True, False]) for block in _blocks(run.on_device)), default=0)
    return Counts(model, held, trained, kept, (first, second, third), largest)


def _numbers(modules: Iterable[nn.Module], learns: list[bool]) -> int:
    found = {id(p): p.numel() for m in modules for p in m.parameters() if p.requires_grad in learns}
    return sum(found.values())


def _blocks(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [part for m in modules for part in m.modules() if BLOCKS.fullmatch(type(part).__name__)]


# ---- runs without storage -----------------------------------------------------------------------------------------


def _fake_run(config: AnyConfig, size: tuple[int, int], device: str) -> _FakeRun:
    model: Any = build_on_meta(model_settings(config)).train()
    if device == "cpu":
        model.language_model.set_attn_implementation(packed_attention.NAME)
        model.encoder.backbone.set_attn_implementation("eager")
    if isinstance(config, TrainConfig):
        return _stage2(config, model, size)
    if isinstance(config, Stage1Config):
        return _stage1(config, model, size)
    return _language_teacher(config, model, device)


def _stage2(config: TrainConfig, model: Any, size: tuple[int, int]) -> _FakeRun:
    if config.lora_rank:
        apply_lora(model, config.lora_rank, config.lora_alpha)
    if config.freeze_encoder:
        model.encoder.requires_grad_(False)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    with torch.device("meta"):
        auxiliary = auxiliary_heads(model.config.encoder.hidden_size)
    steps = {plan.kind: stage2_step(model, auxiliary, config, plan, size) for plan in plans(config)}
    return _FakeRun(model, [model, auxiliary], model, steps)


def _stage1(config: Stage1Config, model: Any, size: tuple[int, int]) -> _FakeRun:
    trained_in_stage1(model, tune_encoder=config.tune_encoder)
    model.encoder.gradient_checkpointing = config.gradient_checkpointing
    geometry, tower = teacher_settings(config)
    with torch.device("meta"):
        teachers: list[nn.Module] = [DinoEncoder(geometry), CLIPVisionModel(tower)]
        wide = geometry.hidden_size * (1 if config.geometry_source == "encoder" else 2)
        projections = Projections(model.config.encoder.hidden_size, wide, tower.hidden_size)
    for teacher in teachers:
        teacher.eval().requires_grad_(False)
    running = [] if config.teacher_cache else teachers
    steps = {p.kind: stage1_step(model, projections, running, config, p, size) for p in plans(config)}
    return _FakeRun(model, [model.encoder, model.adapter, projections, *teachers], None, steps)


def teacher_settings(config: Stage1Config) -> tuple[EncoderConfig, Any]:
    """The geometry teacher's encoder and the language teacher's tower, as their folders say (else VGGT-1B, CLIP-L)."""
    kind = (settings_in(config.teacher_geometry) or {}).get("model_type")
    geometry = load_config(config.teacher_geometry).encoder if kind == "vidllm" else EncoderConfig()
    settings = settings_in(config.teacher_language)
    if settings is not None and not str(settings.get("model_type")).startswith("clip"):
        settings = None  # LLaVA-3D's folder: the tower is CLIP-L's
    return geometry, tower_config(settings, config.teacher_language)


def _language_teacher(config: LanguageTeacherConfig, model: Any, device: str) -> _FakeRun:
    start = as_train_config(config, config.preset, config.init_from)
    start = replace(start, questions=config.questions, references=config.references)
    with torch.device("meta"):
        clip = CLIPModel(clip_config(config, model.config.encoder.hidden_size, model.config.text_config.vocab_size))
    model.requires_grad_(False)
    for name in LANGUAGE_HALF:
        model.get_submodule(name).requires_grad_(config.contrastive_steps < config.steps)
    if device == "cpu":
        clip.set_attn_implementation("eager")
    if config.gradient_checkpointing:
        for part in (clip, model.language_model):
            checkpoint_activations(part)
    steps = {plan.kind: language_teacher_step(model, clip, config, start, plan) for plan in plans(config)}
    return _FakeRun(model, [clip, model], None, steps)
