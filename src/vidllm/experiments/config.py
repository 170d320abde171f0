"""What all rows of an ablation share, and what none of them may choose for itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from vidllm.training.config import TrainConfig
from vidllm.training.stage1 import Stage1Config

OWN = ("data", "out", "preset", "seed", "steps", "init_from")  # what the ablation decides for its runs
JOINT_OWN = (
    *OWN, "language_start", "true_geometry_until", "language_from", "adapter", "bridge_tokens", "metric_depth",
    "scale_alignment", "unit_m",
)  # fmt: skip
STAGE1_OWN = (*OWN, "teacher_geometry", "teacher_language")


def ablation_joint() -> TrainConfig:
    """Joint training of a row: short clips, and a gradient from both branches in every joint step."""
    return replace(
        TrainConfig(), warmup_steps=30, window_scenes=8, window_frames=(2, 2, 3), clip_images=16, clip_frames=(4, 8),
        language_share=1.0, language_only_share=0.0, spread_share=0.3, questions=16, references=6, captions=2,
        keep_checkpoints=1, log_every=10,
    )  # fmt: skip


def ablation_stage1() -> Stage1Config:
    """Distillation of a row."""
    return replace(
        Stage1Config(), warmup_steps=20, clip_images=16, clip_frames=(4, 8), keep_checkpoints=1, log_every=10
    )


@dataclass(frozen=True)
class AblationConfig:
    """What all rows of an ablation share."""

    data: str = "runs/shards"  # folder of shards (vidllm rooms shards)
    out: str = "runs/ablation"  # runs, teachers and tables; several tables may share it
    preset: str = "tiny"
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 900  # optimiser steps of every row, both stages together
    stage1_steps: int = 200  # of those: distillation, in rows of two stages
    language_steps: int = 450  # of those: the last ones, geometry and language jointly
    eval_seeds: str = "0:64"  # rooms A to B - 1 that the rows are measured on
    eval_frames: int | None = None  # a room; the model's own number, or 24 for the scale estimators
    init_from: str | None = None  # all rows begin with this model's weights, but for adapter and metric depth
    language_from: str | None = None  # all rows begin with this language model, or this model's language half
    teacher_geometry: str | None = None  # None: trained once, below OUT/teachers
    teacher_language: str | None = None
    teacher_steps: int = 1200  # of each teacher trained here
    blind: str | None = None  # the language-only model measured beside the rows; None: the shipped one
    model: str | None = None  # whose scale is estimated (scale); None: the shipped model
    jobs: int = 1  # rows trained side by side, a process each
    joint: TrainConfig = field(default_factory=ablation_joint)
    distil: Stage1Config = field(default_factory=ablation_stage1)

    def check(self) -> None:
        """ValueError for steps that do not fit, no seed, or a choice that is the ablation's own."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds: expected different whole numbers, received {self.seeds}")
        if min(self.language_steps, self.stage1_steps) < 0 or self.language_steps + self.stage1_steps > self.steps:
            raise ValueError(
                f"--steps {self.steps} cannot hold {self.stage1_steps} steps of stage 1 and {self.language_steps} "
                "joint ones; give more steps, or fewer of those"
            )
        if self.blind and not (Path(self.blind) / "config.json").exists():
            raise ValueError(f"--blind {self.blind}: no language-only model here (config.json is missing)")
        parts = ("joint", self.joint, ablation_joint(), JOINT_OWN), ("distil", self.distil, Stage1Config(), STAGE1_OWN)
        for part, given, usual, names in parts:
            for name in names:
                if getattr(given, name) != getattr(usual, name):
                    raise ValueError(f"--{part}.{name.replace('_', '-')}: the ablation decides this for every row")
