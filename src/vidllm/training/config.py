"""Training configuration: frozen dataclasses by subject, presets as functions, and the file that each run leaves.

A run's configuration is made of the parts that it needs. The command line names the fields without their part
(``--learning-rate``), so no two parts of a run have a field of the same name; :func:`flat` and :func:`changed` use
these names too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from vidllm.io.files import read_json_object
from vidllm.model.config_fields import flat
from vidllm.model.configuration import AdapterVariant

FLAT = tyro.conf.arg(name="")  # of a part: its fields are options without the part's name
C = TypeVar("C")


@dataclass(frozen=True)
class Loop:
    """Data, processes and bookkeeping of any run (docs/training.md)."""

    data: str = "runs/shards"  # folder of shards (vidllm rooms shards)
    out: str = "runs/run"  # run folder: config.json, log.jsonl, checkpoints, final model
    seed: int = 0
    steps: int = 2000
    minutes: float = 0.0  # above 0: stop after this time too, the learning rate falling towards it instead
    accumulation: int = 1  # micro-batches that each process adds up to a step
    gradient_checkpointing: bool = False  # less memory, a third more time
    parallel: Literal["ddp", "fsdp"] = "ddp"  # several processes: whole weights in each, or blocks sharded (FSDP2)
    dtype: str = "auto"  # autocast; "float32" switches it off; "auto": bfloat16 where the hardware has it
    device: str = "auto"  # "auto": a GPU where there is one
    threads: int = 1  # on a CPU
    prefetch: int = 0  # batches drawn ahead, each by a thread of its own; what is drawn is the same
    workers: int = 0  # processes that draw for those threads (stages 1 and 2): drawing does not hold the training up
    compile_blocks: bool = False  # torch.compile of the transformer blocks: a minute at the start, then faster on a GPU
    spike_factor: float = 10.0  # steps of this many times the median loss or gradient are skipped; 0: none is
    spike_window: int = 100  # steps of the running median
    max_bad_steps: int = 50  # of the last hundred: more, and the run stops
    log_every: int = 20
    save_minutes: float = 4.0
    keep_checkpoints: int = 2
    trackers: tuple[str, ...] = ()  # beside log.jsonl: "tensorboard", "wandb"


@dataclass(frozen=True)
class Optimiser:
    """AdamW [P: weight decay 0.05, clip 1.0], and the learning rate's rise, plateau and fall [D]."""

    learning_rate: float = 1e-3
    final_fraction: float = 0.02  # learning rate at the end, as a fraction of the peak
    warmup_steps: int = 100
    decay_fraction: float = 0.3  # the last part of the steps, over which the rate falls linearly
    weight_decay: float = 0.05
    beta2: float = 0.999
    clip_norm: float = 1.0


@dataclass(frozen=True)
class RunConfig:
    """What every run has."""

    loop: Annotated[Loop, FLAT] = Loop()
    optimiser: Annotated[Optimiser, FLAT] = Optimiser()

    def learning_rate(self, step: int, spent: float = 0.0) -> float:
        """Of step ``step`` (from 0): linear warm-up, constant, linear decay, so that a run can be prolonged.

        ``spent``: the share of the run's ``minutes`` that has passed.
        """
        loop, optimiser = self.loop, self.optimiser
        rise = min(1.0, (step + 1) / max(1, optimiser.warmup_steps))
        left = (loop.steps - step) / max(1, round(optimiser.decay_fraction * loop.steps))
        if loop.minutes > 0:
            left = min(left, (1 - spent) / max(1e-6, optimiser.decay_fraction))
        fall = optimiser.final_fraction + (1 - optimiser.final_fraction) * min(1.0, max(0.0, left))
        return optimiser.learning_rate * rise * fall


@dataclass(frozen=True)
class Start:
    """What the model starts from, and which of its parts learn."""

    preset: str = "tiny"
    adapter: AdapterVariant | None = None  # another variant than the preset's (teachers, ablation)
    bridge_tokens: int | None = None  # another K than the preset's (ablation); as the next three, of fresh weights
    metric_depth: bool = True  # without it (ablation) lengths are ``unit_m`` a unit of relative depth
    scale_alignment: bool = True  # without it (ablation) depth is the metric one, translations ``unit_m`` a unit
    unit_m: float = 1.0  # metres a unit of relative depth, where nothing measures it
    literal_streams: bool = False  # Eq 1 as it is written, without norm and residual; as the next two, of fresh weights
    point_head: bool = False  # also where the preset has none
    canonical_focal: float | None = None  # of metric depth, in shorter image sides, where cameras vary
    bridge_riders: bool = False  # bridge tokens join both branches, also of a model that was imported without
    scale_estimator: Literal["log_huber", "wls"] | None = None  # another than the model's; wls: the paper's literal one
    positions: bool = True  # without them (VG-LLM's setting) the language model is not told where its patches are
    init_from: str | None = None  # a saved model folder to start from (weights only)
    encoder_from: str | None = None  # DINOv2's weights for fresh ones: file, folder or hub id; the first layers of it
    geometry_from: str | None = None  # a narrower model whose attention and camera heads are taken (widening)
    fit_steps: int = 500  # in which the adapter is fitted to that model's geometric stream
    language_from: str | None = None  # where the LM comes from (vidllm train blind), or a model's whole language half
    lora_rank: int = 0  # of matrices beside the language model's layers, which alone learn there; 0: it learns whole
    lora_alpha: float = 32.0  # what they add is scaled by this over their rank
    freeze_encoder: bool = False  # Figure 3 freezes a pretrained encoder; tiny's starts from nothing
    vision_scale: float = 1.0  # learning rate of the parts that see, over that of those that speak


@dataclass(frozen=True)
class Batches:
    """Frames of a step: windows for geometry, whole clips with language."""

    window_scenes: int = 12
    window_frames: tuple[int, ...] = (2, 2, 3, 4, 6)
    spread_share: float = 0.0  # of the geometry steps: frames spread over the clip in place of a window
    sides: tuple[int, ...] = ()  # shorter side of the geometry steps' frames, one drawn a step; none: as rendered
    posed_clips: str | None = None  # folder of real RGB-D or posed clips (posed_clips)
    posed_share: float = 0.25  # of the geometry steps: on those
    vary_share: float = 0.0  # of the scenes of geometry steps: pictures varied as cameras vary them (augment)
    clip_images: int = 32  # frames of a step with whole clips, over its scenes
    clip_frames: tuple[int, ...] = (4, 4, 5, 8)  # frames a clip, spread over it; the first is always there


@dataclass(frozen=True)
class Curriculum:
    """The order of learning: geometry on short windows first, then everything on whole clips."""

    language_start: int = 2500  # first step with whole clips and language
    language_share: float = 0.75  # of the steps after that
    language_only_share: float = 0.4  # of the whole-clip steps: no gradient into the vision, true geometry; cheap
    named_share: float = 0.0  # of the language-only steps: on the patches' true names, with no vision
    true_geometry_until: int = 6000  # share of language steps lifted with true geometry falls from 1 to 0 until here

    def true_geometry_share(self, step: int) -> float:
        """Share of language steps lifted with true geometry."""
        span = max(1, self.true_geometry_until - self.language_start)
        return min(1.0, max(0.0, (self.true_geometry_until - step) / span))


@dataclass(frozen=True)
class Texts:
    """Texts of a scene and step."""

    questions: int = 22
    references: int = 8
    captions: int = 3
    plain: int = 0  # plain questions a scene on top: template questions
    places: int = 0  # and ones on places of these
    spatial: int = 0  # questions in VSI-Bench's form, of shards that have them
    max_text_tokens: int = 800


@dataclass(frozen=True)
class LossWeights:
    """Weights and forms of the paper's losses (docs/method.md, section 9)."""

    reconstruction: Literal["ours", "vggt"] = "ours"  # the form of L_recon
    dense_frames: int = 2  # frames a clip whose dense heads are supervised
    window_dense_frames: int = 1  # the same of a window
    camera_weight: float = 5.0
    rotation_weight: float = 6.0  # of the quaternion within the camera loss (VGGT: 1)
    translation_weight: float = 1.0  # of the translation within the camera loss (VGGT: 1)
    fov_weight: float = 0.5  # of the fields of view within the camera loss (VGGT: 0.5)
    depth_weight: float = 1.0
    point_weight: float = 1.0
    metric_weight: float = 1.0
    gravity_weight: float = 1.0
    text_weight: float = 2.0
    box_weight: float = 0.5
    proposal_weight: float = 0.0  # a choice among the scene's boxes (the paper's tables choose among Mask3D's)
    confidence_weight: float = 0.2
    inverse_depth: bool = True


@dataclass(frozen=True)
class SupervisionWeights:
    """Supervision beside the paper's losses, for small models that start from nothing; at weight 0 it is not built."""

    correspondence_weight: float = 0.2  # matching patches are alike
    guide_weight: float = 0.3  # where one head of global attention looks
    guide_layers: tuple[int, ...] = (1,)  # of these blocks
    patch_point_weight: float = 2.0  # the 3D point of each patch
    bearing_weight: float = 0.0  # of its direction from the first camera, within that loss
    semantic_weight: float = 1.0  # category and colour of each patch
    naming_weight: float = 1.0  # the semantic stream is drawn to the patches' names
    word_weight: float = 0.5  # where five heads of the language model look (words)
    resemble_weight: float = 0.3  # visual tokens are drawn to the words of what they show (words)
    place_weight: float = 0.3  # visual tokens, nouns and answers tell where things are (positions)
    represent_weight: float = 0.0  # 3DRS's: visual tokens tell a geometry model's features (representation)
    represent_from: str | None = None  # that model: VGGT, a cascade or one of ours


NO_SUPERVISION = SupervisionWeights(
    correspondence_weight=0.0, guide_weight=0.0, patch_point_weight=0.0, semantic_weight=0.0, naming_weight=0.0,
    word_weight=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One run of joint training, stage 2."""

    loop: Annotated[Loop, FLAT] = Loop(out="runs/tiny", steps=9000)
    optimiser: Annotated[Optimiser, FLAT] = Optimiser(learning_rate=1.2e-3, beta2=0.98)
    start: Annotated[Start, FLAT] = Start()
    batches: Annotated[Batches, FLAT] = Batches()
    curriculum: Annotated[Curriculum, FLAT] = Curriculum()
    texts: Annotated[Texts, FLAT] = Texts()
    weights: Annotated[LossWeights, FLAT] = LossWeights()
    supervision: Annotated[SupervisionWeights, FLAT] = SupervisionWeights()
    export: Literal["half", "int8"] = "half"  # the final model's weights: float16, or compact_weights


# ---- presets -------------------------------------------------------------------------------------------------------


def tiny() -> TrainConfig:
    """A small model from nothing, with all supervision that rooms give."""
    return TrainConfig()


def tiny_dinov2() -> TrainConfig:
    """The second generation of ``tiny``: its encoder is pretrained and frozen."""
    return changed(tiny(), preset="tiny-dinov2", freeze_encoder=True)


def compact() -> TrainConfig:
    """VGGT-1B and Qwen3-0.6B on one GPU (recipes/compact_1gpu.sh)."""
    return TrainConfig(
        Loop(out="runs/compact", steps=20_000, accumulation=4, gradient_checkpointing=True),
        Optimiser(learning_rate=5e-5, warmup_steps=500),
        Start("compact", freeze_encoder=True),
        Batches(window_scenes=2, window_frames=(2, 4), clip_images=4, clip_frames=(4,)),
        Curriculum(0, language_share=0.8, language_only_share=0.25, true_geometry_until=5000),
        weights=LossWeights("vggt", dense_frames=1, rotation_weight=1.0),
        supervision=NO_SUPERVISION,
    )


def paper() -> TrainConfig:
    """The paper's size on eight GPUs (recipes/paper_8gpu.sh); learning rate, batch and steps are ours."""
    return TrainConfig(
        Loop(out="runs/paper", steps=20_000, gradient_checkpointing=True, parallel="fsdp"),
        Optimiser(learning_rate=2e-5, warmup_steps=1000),
        Start("paper", freeze_encoder=True),
        Batches(clip_images=8, clip_frames=(8,)),
        Curriculum(0, language_share=1.0, language_only_share=0.0, true_geometry_until=5000),
        weights=LossWeights("vggt", rotation_weight=1.0),
        supervision=NO_SUPERVISION,
    )


#: Joint training by the model's preset: its options are changes of these.
PRESETS = {"tiny": tiny, "tiny-dinov2": tiny_dinov2, "compact": compact, "paper": paper}


def tiny_test() -> TrainConfig:
    """A few steps on a handful of scenes: for tests."""
    return changed(
        tiny(), steps=4, warmup_steps=1, language_start=2, language_share=1.0, language_only_share=0.0,
        true_geometry_until=3, window_scenes=2, clip_images=4, clip_frames=(2,), questions=3, references=2, captions=1,
        save_minutes=0.0, log_every=1, dtype="float32",
    )


# ---- fields by name, and the file ------------------------------------------------------------------------------------


def flat_file(values: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """As :func:`flat`, of what a file holds; ``like``: a configuration of its class. ValueError for a wrong part."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        part = getattr(like, name, None)
        if is_dataclass(part) and not isinstance(value, Mapping):
            raise ValueError(f"{name} must hold options, received {value!r:.60}")
        found |= flat_file(value, part) if is_dataclass(part) else {name: value}
    return found


def changed(config: C, **values: Any) -> C:
    """The configuration with other values of some fields; ValueError for a name that none of its parts has."""
    made: Any = config
    unknown = sorted(set(values) - set(flat(made)))
    if unknown:
        raise ValueError(f"unknown training option {unknown}; known are {sorted(flat(made))}")
    for name in [f.name for f in fields(made)]:
        part = getattr(made, name)
        own = {n: values[n] for n in flat(part) if n in values} if is_dataclass(part) else {}
        if own:
            made = replace(made, **{name: replace(part, **own)})
        elif name in values:
            made = replace(made, **{name: values[name]})
    result: C = made
    return result


def read_config(path: Path, kind: C) -> C:
    """The configuration that a run left in its folder as ``config.json``; ``kind``: one of the same class."""
    values = flat_file(read_json_object(path), kind).items()
    return changed(kind, **{name: tuple(value) if isinstance(value, list) else value for name, value in values})
