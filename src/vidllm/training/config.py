"""Training configuration: frozen dataclasses by subject, presets as functions, and ``config.json`` of a run folder.

The command line names the fields without their part (``--learning-rate``), so no two parts of a configuration have a
field of the same name; :func:`flat` and :func:`changed` use these names too. In comments, [P] marks a choice of the
paper and [D] one of ours.
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

FLAT = tyro.conf.arg(name="")  # the fields of the part are options without the part's name
C = TypeVar("C")


@dataclass(frozen=True)
class Loop:
    """Data, processes and bookkeeping of any run (docs/training.md)."""

    data: str = "runs/shards"  # folder of shards (vidllm rooms shards, vidllm data pack)
    out: str = "runs/run"  # run folder: config.json, log.jsonl, checkpoints, final model
    seed: int = 0  # seed of weights and batches
    steps: int = 2000  # training steps
    minutes: float = 0.0  # above 0: also stop after this time; the learning rate decays towards it
    accumulation: int = 1  # micro-batches per step and process
    gradient_checkpointing: bool = False  # less memory, a third more time
    parallel: Literal["ddp", "fsdp"] = "ddp"  # several processes: all weights in each (DDP), or blocks sharded (FSDP2)
    dtype: str = "auto"  # autocast dtype; float32: no autocast; auto: bfloat16 where the hardware supports it
    device: str = "auto"  # auto: a GPU if there is one
    threads: int = 1  # CPU threads
    prefetch: int = 0  # batches prepared ahead, one thread each; the batches are the same
    workers: int = 0  # processes that prepare these batches (stages 1 and 2)
    compile_blocks: bool = False  # torch.compile of the transformer blocks: a minute at the start, then faster on a GPU
    spike_factor: float = 10.0  # skip steps with a loss or gradient this many times the running median; 0: never
    spike_window: int = 100  # steps of the running median
    max_bad_steps: int = 50  # stop if more of the last hundred steps were skipped
    log_every: int = 20  # steps between lines of the log
    save_minutes: float = 4.0  # minutes between checkpoints
    keep_checkpoints: int = 2  # number of newest checkpoints to keep
    trackers: tuple[str, ...] = ()  # also log to tensorboard, wandb


@dataclass(frozen=True)
class Optimiser:
    """AdamW [P: weight decay 0.05, clip 1.0] and a learning rate with warm-up, plateau and linear decay [D]."""

    learning_rate: float = 1e-3  # peak learning rate
    final_fraction: float = 0.02  # final learning rate as a fraction of the peak
    warmup_steps: int = 100  # steps of linear warm-up
    decay_fraction: float = 0.3  # fraction of the steps, at the end, with linear decay
    weight_decay: float = 0.05  # of AdamW
    beta2: float = 0.999  # of AdamW
    clip_norm: float = 1.0  # maximum gradient norm


@dataclass(frozen=True)
class RunConfig:
    """The parts that every run has."""

    loop: Annotated[Loop, FLAT] = Loop()
    optimiser: Annotated[Optimiser, FLAT] = Optimiser()

    def learning_rate(self, step: int, spent: float = 0.0) -> float:
        """The learning rate of step ``step`` (from 0): linear warm-up, constant, linear decay.

        ``spent``: the fraction of the run's ``minutes`` that has passed.
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
    """Initial weights, variants of the model, and which parts are trained."""

    preset: str = "tiny"  # sizes of the model
    adapter: AdapterVariant | None = None  # variant of the adapter instead of the preset's (teachers, ablation)
    bridge_tokens: int | None = None  # K instead of the preset's (ablation); only for random initial weights
    metric_depth: bool = True  # off (ablation): the scale is unit_m; only for random initial weights
    scale_alignment: bool = True  # off (ablation): depth is the metric depth, translations are scaled by unit_m
    unit_m: float = 1.0  # metres per unit of relative depth without metric depth or scale alignment
    literal_streams: bool = False  # Eq 1 literally, without norm and residual; only for random initial weights
    point_head: bool = False  # add a point head; only for random initial weights
    canonical_focal: float | None = None  # canonical focal length of metric depth, in shorter image sides
    bridge_riders: bool = False  # bridge tokens are inputs of both branches, also of an imported model
    scale_estimator: Literal["log_huber", "wls"] | None = None  # estimator instead of the model's; wls: the paper's
    positions: bool = True  # off: no position embeddings of the patches in the language model (VG-LLM's setting)
    init_from: str | None = None  # folder of a model whose weights the training starts from
    encoder_from: str | None = None  # file, folder or hub id of DINOv2: initial weights of the encoder
    geometry_from: str | None = None  # a narrower model: initial weights of attention and camera heads, widened
    fit_steps: int = 500  # steps in which the adapter is fitted to the geometric stream of --geometry-from
    language_from: str | None = None  # a language model (vidllm train blind), or a model whose language half is used
    lora_rank: int = 0  # rank of LoRA on the language model's layers; 0: train all weights
    lora_alpha: float = 32.0  # scaling of LoRA: alpha / rank
    freeze_encoder: bool = False  # freeze the encoder (the paper's Figure 3)
    train_only: tuple[str, ...] = ()  # parts of the model (metric_depth, camera_head, ...); all others are frozen
    vision_scale: float = 1.0  # learning rate of encoder, adapter and geometry relative to that of the language half


@dataclass(frozen=True)
class Batches:
    """Frames of a step: windows of neighbouring frames for geometry steps, whole clips for language steps."""

    window_scenes: int = 12  # scenes of a geometry step
    window_frames: tuple[int, ...] = (2, 2, 3, 4, 6)  # frames per window, drawn from these
    spread_share: float = 0.0  # fraction of the geometry steps with frames spread over the clip instead of a window
    sides: tuple[int, ...] = ()  # shorter sides of the frames, one drawn per geometry step (default: as in the shards)
    posed_clips: str | None = None  # folder of real RGB-D or posed clips (docs/training.md)
    posed_share: float = 0.25  # fraction of the geometry steps on these clips
    vary_share: float = 0.0  # fraction of the scenes of geometry steps with augmented pictures
    clip_images: int = 32  # frames of a language step, over all its scenes
    clip_frames: tuple[int, ...] = (4, 4, 5, 8)  # frames per clip, drawn from these, spread over it from its first


@dataclass(frozen=True)
class Curriculum:
    """The order of training: geometry steps on short windows first, then also language steps on whole clips."""

    language_start: int = 2500  # first step that may be a language step
    language_share: float = 0.75  # fraction of language steps from there on
    language_only_share: float = 0.4  # fraction of the language steps with true geometry, no gradient in the vision
    named_share: float = 0.0  # fraction of these with oracle features: true labels instead of patch features
    true_geometry_until: int = 6000  # the fraction of language steps with true geometry falls from 1 to 0 until here

    def true_geometry_share(self, step: int) -> float:
        """Fraction of language steps with true geometry."""
        span = max(1, self.true_geometry_until - self.language_start)
        return min(1.0, max(0.0, (self.true_geometry_until - step) / span))


@dataclass(frozen=True)
class Texts:
    """Texts per scene and step."""

    questions: int = 22  # questions with answers
    references: int = 8  # expressions to ground
    captions: int = 3  # captions of objects or of the room
    plain: int = 0  # template questions on colour, material and counts
    places: int = 0  # template questions on positions and distances
    spatial: int = 0  # questions in VSI-Bench's form, from shards that contain them
    max_text_tokens: int = 800  # tokens of all texts of a scene


@dataclass(frozen=True)
class LossWeights:
    """Weights and forms of the paper's losses (docs/method.md, section 9)."""

    reconstruction: Literal["ours", "vggt"] = "ours"  # the form of L_recon
    dense_frames: int = 2  # frames per clip on which the dense heads are trained
    window_dense_frames: int = 1  # frames per window on which the dense heads are trained
    camera_weight: float = 5.0  # camera loss
    rotation_weight: float = 6.0  # quaternion within the camera loss (VGGT: 1)
    translation_weight: float = 1.0  # translation within the camera loss (VGGT: 1)
    fov_weight: float = 0.5  # fields of view within the camera loss (VGGT: 0.5)
    depth_weight: float = 1.0  # relative depth
    point_weight: float = 1.0  # 3D points, if the model has a point head
    metric_weight: float = 1.0  # L_MD, metric depth
    gravity_weight: float = 1.0  # up direction
    text_weight: float = 2.0  # cross-entropy of the texts
    box_weight: float = 0.5  # boxes of the grounding decoder
    proposal_weight: float = 0.0  # choice among all boxes of the scene (the paper's tables choose among Mask3D's)
    confidence_weight: float = 0.2  # log-confidence term of the depth and point losses
    inverse_depth: bool = True  # weight the depth errors by 1 + 1 / depth


@dataclass(frozen=True)
class SupervisionWeights:
    """Auxiliary losses for training from random weights (docs/method.md, section 9); 0 switches one off."""

    correspondence_weight: float = 0.2  # features of matching patches are similar
    guide_weight: float = 0.3  # one head of global attention attends to the matching patch
    guide_layers: tuple[int, ...] = (1,)  # blocks of global attention with such a head
    patch_point_weight: float = 2.0  # 3D point of each patch
    bearing_weight: float = 0.0  # its direction from the first camera, within that loss
    semantic_weight: float = 1.0  # category, colour and material of each patch
    naming_weight: float = 1.0  # semantic vectors of category, colour and material as patch features
    word_weight: float = 0.5  # heads of the language model attend to the patches that words refer to
    resemble_weight: float = 0.3  # visual tokens are similar to the embeddings of the words for what they show
    place_weight: float = 0.3  # positions of objects in the hidden states of visual tokens, nouns and answers
    represent_weight: float = 0.0  # 3DRS's loss: visual tokens predict the features of a geometry model
    represent_from: str | None = None  # that geometry model: VGGT, a cascade or one of ours


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
    export: Literal["half", "int8"] = "half"  # precision of the final weights: float16, or int8 (compact_weights)


# ---- presets -------------------------------------------------------------------------------------------------------


def tiny() -> TrainConfig:
    """A small model from random weights, with all auxiliary losses."""
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


#: Configurations of joint training by preset; options change single fields.
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
    """As :func:`flat`, for the content of a file; ``like``: a configuration of its class. Raises ValueError."""
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
