"""The paper's ablations as data: what each row changes, what it is compared with, what the paper measured; and what all
rows share, which none of them may choose for itself (:class:`AblationConfig`).

A row names only its difference from the full model (the preset with adapter, metric depth and both stages), so that
rows of several tables that are the same model are trained once (:meth:`Row.key`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidllm.model.config_fields import flat
from vidllm.model.presets import preset
from vidllm.training.config import TrainConfig, changed, tiny
from vidllm.training.stage1 import Stage1Config

SUBMISSION = "the paper's submission (arXiv 2509.24385, first version), component ablation"
TABLE_6 = "the paper's Table 6 (ICLR 2026) as quoted second-hand, means over each benchmark's metrics"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    ``changes`` are options of stage 2; ``stage1`` those of stage 1, None for a row that is trained
    in a single stage; ``scale`` fields of ``ScaleConfig`` that only the evaluation changes. ``against`` are the
    numbers of the rows in the table that this one is compared with; ``paper`` the paper's own numbers by column.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    stage1: dict[str, Any] | None = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)
    against: tuple[int, ...] = ()
    paper: dict[str, float] = field(default_factory=dict)

    def of(self, preset_name: str) -> Row:
        """The row without changes to what the preset has anyway."""
        usual = preset(preset_name).adapter
        same: dict[str, Any] = {"adapter": usual.variant, "bridge_tokens": usual.bridge_tokens}
        return replace(self, changes={k: v for k, v in self.changes.items() if k not in same or same[k] != v})

    def key(self, preset_name: str) -> str:
        """A folder's name for what is trained and measured; rows that amount to the same model have the same one."""
        said = [f"{k}-{v}" for k, v in sorted(self.of(preset_name).changes.items())]
        stages = ["single_stage"] if self.stage1 is None else [f"{k}-{v}" for k, v in sorted(self.stage1.items())]
        voted = [f"{k}-{v}" for k, v in sorted(self.scale.items())]
        return "_".join(said + stages + voted).lower() or "full"


@dataclass(frozen=True)
class Table:
    """Rows, and how the paper's columns relate to ours: column -> our figure (absent: we measure nothing like it).

    ``trained``: whether its rows are models of their own; otherwise one model is evaluated in several ways.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    source: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    trained: bool = True


def _components(cider: float, em: float, acc: float) -> dict[str, float]:
    return {"ScanQA CIDEr": cider, "ScanQA EM": em, "ScanRefer Acc@0.25": acc}


_BARE: dict[str, Any] = {"adapter": "none", "metric_depth": False}

MAIN = Table(
    "main", "component ablation",
    (
        Row("baseline", _BARE, None, paper=_components(89.3, 22.1, 47.6)),
        Row("+ CTA", {"metric_depth": False}, None, against=(0,), paper=_components(95.4, 24.8, 51.2)),
        Row("+ CTA + MDM", {}, None, against=(1,), paper=_components(99.1, 26.3, 53.7)),
        Row("+ CTA + MDM + two-stage distillation", against=(2,), paper=_components(101.9, 27.6, 55.8)),
    ),
    SUBMISSION, {"ScanQA EM": "qa", "ScanRefer Acc@0.25": "acc_25"},
)  # fmt: skip


def _bridge(tokens: int, against: tuple[int, ...], paper: dict[str, float]) -> Row:
    return Row(f"bridge, K = {tokens}", {"adapter": "bridge", "bridge_tokens": tokens}, against=against, paper=paper)


ADAPTER = Table(
    "adapter", "adapter variants",
    (
        Row("no adapter", {"adapter": "none"}, paper={"ScanQA": 42.1, "Scan2Cap": 48.6, "ScanRefer": 44.2}),
        Row("concat self-attention", {"adapter": "concat_self_attention"}, against=(0,), paper={"ScanQA": 43.1}),
        Row("cross-attention", {"adapter": "cross_attention"}, against=(0,), paper={"ScanQA": 42.9}),
        _bridge(4, (0, 5), {"ScanQA": 43.8}),
        _bridge(8, (0, 5), {"ScanQA": 44.5}),
        _bridge(16, (0, 1, 2), {"ScanQA": 45.7, "Scan2Cap": 53.2, "ScanRefer": 48.4}),
        _bridge(32, (0, 5), {"ScanQA": 45.3}),
    ),
    TABLE_6, {"ScanQA": "qa", "ScanRefer": "acc_25"},
)  # fmt: skip

METRIC = Table(
    "metric", "metric depth variants",
    (
        Row("without metric depth", {"metric_depth": False}, paper={"ScanQA": 44.8, "ScanNet F": 0.568}),
        Row("without alignment", {"scale_alignment": False}, against=(0,), paper={"ScanNet F": 0.574}),
        Row("full", against=(0, 1), paper={"ScanQA": 45.7, "ScanNet F": 0.582}),
    ),
    f"{TABLE_6}; F-score of the points on ScanNet", {"ScanQA": "qa", "ScanNet F": "abs_rel"},
)  # fmt: skip

STAGES = Table(
    "stages", "training in one or two stages",
    (
        Row("single stage", {}, None, paper={"ScanQA EM": 26.3, "ScanRefer Acc@0.25": 53.7}),
        Row("two stages without L_sc", {}, {"structure_weight": 0.0}, against=(0,)),
        Row("two stages", against=(0, 1), paper={"ScanQA EM": 27.6, "ScanRefer Acc@0.25": 55.8}),
    ),
    f"{SUBMISSION}; of L_sc it shows convergence curves only", {"ScanQA EM": "qa", "ScanRefer Acc@0.25": "acc_25"},
)  # fmt: skip

SCALE = Table(
    "scale", "scale estimators, one model",
    (
        Row("least squares, median of 16 images", scale={"estimator": "wls", "frames": 16}),
        Row("least squares, median of all images", scale={"estimator": "wls", "frames": "all"}, against=(0,)),
        Row("robust, median of 16 images", scale={"estimator": "log_huber", "frames": 16}, against=(0,)),
        Row("robust, median of all images", scale={"estimator": "log_huber", "frames": "all"}, against=(2,)),
    ),
    trained=False,
)  # fmt: skip

TABLES = {table.name: table for table in (MAIN, ADAPTER, METRIC, STAGES, SCALE)}


def table_named(name: str) -> Table:
    """ValueError names the known ones."""
    if name not in TABLES:
        raise ValueError(f"unknown ablation {name!r}; expected one of {', '.join(TABLES)}")
    return TABLES[name]


OWN = ("data", "out", "preset", "seed", "steps", "init_from")  # what the ablation decides for its runs
JOINT_OWN = (
    *OWN, "language_start", "true_geometry_until", "language_from", "adapter", "bridge_tokens", "metric_depth",
    "scale_alignment", "unit_m",
)  # fmt: skip
STAGE1_OWN = (*OWN, "teacher_geometry", "teacher_language")


def ablation_joint() -> TrainConfig:
    """Joint training of a row: short clips, and a gradient from both branches in every joint step."""
    return changed(
        tiny(), warmup_steps=30, window_scenes=8, window_frames=(2, 2, 3), clip_images=16, clip_frames=(4, 8),
        language_share=1.0, language_only_share=0.0, spread_share=0.3, questions=16, references=6, captions=2,
        keep_checkpoints=1, log_every=10,
    )  # fmt: skip


def ablation_stage1() -> Stage1Config:
    """Distillation of a row."""
    return changed(
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
    benchmarks: str | None = None  # also measure ScanQA, SQA3D, Scan2Cap and ScanRefer on the data under this folder
    benchmark_split: str = "val"
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
                if flat(given)[name] != flat(usual)[name]:
                    raise ValueError(f"--{part}.{name.replace('_', '-')}: the ablation decides this for every row")
