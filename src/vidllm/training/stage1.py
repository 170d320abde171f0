"""Stage 1: encoder and adapter are distilled from two frozen teachers (Eqs 5 to 7).

The geometric stream learns from VGGT's encoder, the semantic one from LLaVA-3D's CLIP. The result is a model folder for
stage 2 (``vidllm train stage2 --init-from RUN/model``); its other parts are unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from safetensors.torch import save_file
from torch import nn

from vidllm.io.atomic import atomic_path
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import read_weights
from vidllm.training.config import FLAT, Loop, Optimiser, RunConfig, Start
from vidllm.training.data import Batch, ClipDraw, RoomsData, check_frames
from vidllm.training.distillation import Projections, Streams, distillation_losses
from vidllm.training.loop import Log, drive
from vidllm.training.losses import Losses
from vidllm.training.models import may_be_read_later, run_tokenizer, starting_model, training_device, write_model
from vidllm.training.teachers import CachedTeacher, FoundTeachers, Teacher, find_teachers
from vidllm.training.texts import TextMaker
from vidllm.training.trainable import Trainable

LEARNED = ("encoder", "adapter")  # the parts that stage 1 trains
PROJECTIONS_FILE = "projections.safetensors"  # in the run folder


@dataclass(frozen=True)
class Stage1Config(RunConfig):
    """One run of dual-teacher distillation (docs/method.md, section 8)."""

    loop: Annotated[Loop, FLAT] = Loop(out="runs/stage1")
    preset: str = "tiny"  # sizes of the model
    init_from: str | None = None  # folder of a model whose weights the training starts from
    teacher_geometry: str = ""  # VGGT, DINOv2, a cascade, or a model of vidllm: file, folder or hub id
    teacher_language: str = ""  # CLIP, LLaVA-3D or a cascade, of which CLIP is used: file, folder or hub id
    geometry_source: str = "encoder"  # tokens of the geometry teacher: encoder [P], or attention (its last block)
    teacher_cache: str | None = None  # folder that keeps the teachers' tokens (default: compute them every step)
    tune_encoder: bool = True  # [P] train the encoder as well as the adapter
    clip_images: int = 32  # frames of a step, over all its scenes
    clip_frames: tuple[int, ...] = (2, 4, 8)  # frames per clip, drawn from these, spread over it
    geometry_weight: float = 1.0  # L_geo of Eq 6
    language_weight: float = 1.0  # L_lang of Eq 6
    structure_weight: float = 1.0  # [D] lambda of Eq 5; 0 leaves L_sc out (ablation)
    structure: str = "joint"  # Eq 7 over the tokens of both streams (joint), or for each stream (streams)

    @property
    def start(self) -> Start:
        """What the model starts from."""
        return Start(self.preset, init_from=self.init_from)


def compact_stage1() -> Stage1Config:
    """From VGGT-1B and CLIP-L on one GPU (recipes/compact_1gpu.sh)."""
    return Stage1Config(
        Loop(out="runs/compact_stage1", steps=10_000, accumulation=4, gradient_checkpointing=True),
        Optimiser(learning_rate=1e-4, warmup_steps=500), "compact", clip_images=4, clip_frames=(4,),
    )  # fmt: skip


def paper_stage1() -> Stage1Config:
    """The paper's size, from VGGT-1B and LLaVA-3D-7B on eight GPUs; learning rate, batch and steps are ours."""
    return Stage1Config(
        Loop(out="runs/paper_stage1", steps=20_000, gradient_checkpointing=True),
        Optimiser(learning_rate=1e-4, warmup_steps=1000), "paper", clip_images=16, clip_frames=(8, 16),
    )  # fmt: skip


#: By the student's preset: the options are changes of these.
STAGE1_PRESETS = {"compact": compact_stage1, "paper": paper_stage1}


class Stage1Run(Trainable):
    """A student, its projections and two teachers."""

    def __init__(
        self,
        config: Stage1Config,
        model: VidLLMForConditionalGeneration,
        teachers: tuple[Teacher, Teacher],
        data: RoomsData,
        texts: TextMaker,
    ) -> None:
        self.config: Stage1Config = config
        self.device = training_device(config.loop.device)
        self.data, self.texts = data, texts
        geometry, language = (teacher.to(self.device) for teacher in teachers)
        self.model = trained_in_stage1(model, tune_encoder=config.tune_encoder)
        for part in (self.model.encoder, self.model.adapter):  # the other parts are not used
            part.to(self.device)
        self.model.encoder.gradient_checkpointing = config.loop.gradient_checkpointing
        width = model.config.encoder.hidden_size
        self.projections = Projections(width, geometry.width, language.width).to(self.device)
        self.geometry, self.language = self._cached(geometry), self._cached(language)
        comparable = geometry.width == language.width or config.structure_weight > 0
        self.structure = config.structure if comparable else "streams"  # of the logged value, if it is not trained

    @classmethod
    def build(cls, config: Stage1Config) -> Stage1Run:
        """Everything that the configuration names; ValueError as :func:`teachers_of`."""
        teachers = teachers_of(config)
        data = RoomsData(Path(config.loop.data))
        texts = TextMaker(run_tokenizer(Path(config.loop.out), data, config.init_from))
        later = may_be_read_later(config.start)
        model = starting_model(config.start, texts, unread=later)
        check_frames(data.folder, model.config.encoder.patch_size, config.clip_frames)
        if later:
            read_weights(model, str(config.init_from), training_device(config.loop.device), LEARNED)
        return cls(config, model, teachers.load(), data, texts)

    def _cached(self, teacher: Teacher) -> CachedTeacher | Teacher:
        cache = self.config.teacher_cache
        return CachedTeacher(teacher, Path(cache)) if cache is not None and teacher.per_frame else teacher

    def modules(self) -> dict[str, nn.Module]:
        """The trained parts."""
        parts: dict[str, nn.Module] = {"adapter": self.model.adapter, "projections": self.projections}
        return {"encoder": self.model.encoder, **parts} if self.config.tune_encoder else parts

    @property
    def drawer(self) -> ClipDraw:
        """Draws the steps' batches; the number of frames per scene is the same in all processes."""
        config = self.config
        return ClipDraw(self.data, config.loop.seed, config.clip_images, config.clip_frames)

    def losses(self, batch: Batch, step: int, rng: np.random.Generator) -> Losses:
        """Eq 5 on a batch."""
        config = self.config
        batch = batch.to(self.device)
        features = self.model.encode(batch.images)
        teacher = Streams(*(each.on_grid(batch, features.encoder.grid) for each in (self.geometry, self.language)))
        student = self.projections(features.streams.geometry, features.streams.language)
        found = distillation_losses(student, teacher, self.structure)
        weights = {
            "geo": config.geometry_weight, "lang": config.language_weight, "structure": config.structure_weight
        }
        terms = {name: weights[name] * value for name, value in found.items() if weights[name] > 0}
        left_out = {f"{name}_now": float(value.detach()) for name, value in found.items() if name not in terms}
        return Losses(terms, left_out)

    def export(self, folder: Path) -> Path:
        """A model folder for stage 2, with the projections beside it."""
        with atomic_path(folder / PROJECTIONS_FILE) as temporary:
            save_file(self.projections.state_dict(), temporary)
        state = self.model.state_dict()
        untouched = self.config.init_from if may_be_read_later(self.config.start) else None
        if untouched is not None:  # only the trained parts were read
            state = {name: value for name, value in state.items() if name.split(".")[0] in LEARNED}
        return write_model(self.model, state, self.texts.tokenizer, folder / "model", untouched=untouched)


def teachers_of(config: Stage1Config) -> FoundTeachers:
    """A run's teachers, from headers alone; ValueError as :func:`~vidllm.training.teachers.find_teachers`."""
    structure = config.structure if config.structure_weight > 0 else None
    return find_teachers(config.teacher_geometry, config.teacher_language, config.geometry_source, structure)


def trained_in_stage1(
    model: VidLLMForConditionalGeneration, *, tune_encoder: bool
) -> VidLLMForConditionalGeneration:
    """The model with gradients for its adapter (and encoder) alone, in training mode."""
    model.train().requires_grad_(False)
    model.adapter.requires_grad_(True)
    model.encoder.requires_grad_(tune_encoder)
    return model


def train_stage1(config: Stage1Config, log: Log | None = None) -> Path:
    """Run (or resume) stage 1; returns the folder of the model that stage 2 starts from."""
    return drive(lambda: Stage1Run.build(config), config, log)
