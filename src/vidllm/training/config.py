"""Training configuration: frozen dataclasses; presets are functions; the resolved one is written into every run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from vidllm.io.files import read_json_object
from vidllm.model.configuration import AdapterVariant
from vidllm.training.loop_config import LoopConfig, write_config


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """One run of joint training (docs/method.md, section 9) on pre-rendered rooms."""

    out: str = "runs/tiny"  # run folder: config.json, log.jsonl, checkpoints, final model
    preset: str = "tiny"
    adapter: AdapterVariant | None = None  # another variant than the preset's (teachers, ablation)
    bridge_tokens: int | None = None  # another K than the preset's (ablation); as the next three, of fresh weights
    metric_depth: bool = True  # without it (ablation) lengths are ``unit_m`` a unit of relative depth
    scale_alignment: bool = True  # without it (ablation) depth is the metric one, translations ``unit_m`` a unit
    unit_m: float = 1.0  # metres a unit of relative depth, where nothing measures it
    init_from: str | None = None  # a saved model folder to start from (weights only)
    encoder_from: str | None = None  # DINOv2's weights for fresh ones: file, folder or hub id; the first layers of it
    language_from: str | None = None  # where the LM comes from (vidllm train blind), or a model's whole language half
    lora_rank: int = 0  # of matrices beside the language model's layers, which alone learn there; 0: it learns whole
    lora_alpha: float = 32.0  # what they add is scaled by this over their rank
    steps: int = 9000
    learning_rate: float = 1.2e-3
    beta2: float = 0.98
    vision_scale: float = 1.0  # learning rate of the parts that see, over that of those that speak
    # order of learning: geometry on short windows first, then everything on whole clips
    window_scenes: int = 12
    window_frames: tuple[int, ...] = (2, 2, 3, 4, 6)
    spread_share: float = 0.0  # of the geometry steps: frames spread over the clip in place of a window
    sides: tuple[int, ...] = ()  # shorter side of the geometry steps' frames, one drawn a step; none: as rendered
    posed_clips: str | None = None  # folder of real RGB-D or posed clips (posed_clips)
    posed_share: float = 0.25  # of the geometry steps: on those
    vary_share: float = 0.0  # of the scenes of geometry steps: pictures varied as cameras vary them (augment)
    clip_images: int = 32  # frames of a step with whole clips, over its scenes
    clip_frames: tuple[int, ...] = (4, 4, 5, 8)  # frames a clip, spread over it; the first is always there
    language_start: int = 2500  # first step with whole clips and language
    language_share: float = 0.75  # of the steps after that
    language_only_share: float = 0.4  # of the whole-clip steps: no gradient into the vision, true geometry; cheap
    named_share: float = 0.0  # of the language-only steps: on the patches' true names, with no vision (oracle_features)
    dense_frames: int = 2  # frames a clip whose dense heads are supervised
    window_dense_frames: int = 1  # the same of a window
    true_geometry_until: int = 6000  # share of language steps lifted with true geometry falls from 1 to 0 until here
    questions: int = 22
    references: int = 8
    captions: int = 3
    plain: int = 0  # plain questions a scene on top: template questions
    places: int = 0  # and ones on places of these
    max_text_tokens: int = 800
    reconstruction: Literal["ours", "vggt"] = "ours"  # the form of L_recon: losses/camera and dense, or losses/vggt
    # weights of the loss terms
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
    correspondence_weight: float = 0.2  # auxiliary, small-scale training only
    guide_weight: float = 0.3  # auxiliary: where one head of global attention looks
    guide_layers: tuple[int, ...] = (1,)  # of these blocks
    patch_point_weight: float = 2.0  # auxiliary: the 3D point of each patch
    bearing_weight: float = 0.0  # of its direction from the first camera, within that loss
    semantic_weight: float = 1.0  # auxiliary: category and colour of each patch
    naming_weight: float = 1.0  # auxiliary: the semantic stream is drawn to the patches' names
    word_weight: float = 0.5  # auxiliary: where five heads of the language model look (words)
    resemble_weight: float = 0.3  # auxiliary: visual tokens are drawn to the words of what they show (words)
    place_weight: float = 0.3  # auxiliary: visual tokens, nouns and answers tell where things are (positions)
    confidence_weight: float = 0.2
    inverse_depth: bool = True
    export: Literal["half", "int8"] = "half"  # the final model's weights: float16, or compact_weights
    freeze_encoder: bool = False  # Figure 3 freezes a pretrained encoder; tiny's starts from nothing

    def write(self, path: Path) -> None:
        """Write as JSON."""
        write_config(self, path)


def read_config(path: Path) -> TrainConfig:
    """The configuration that a run of stage 2 left in its folder as ``config.json``."""
    return from_dict(read_json_object(path))


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """From plain values; unknown names are an error that lists the known ones."""
    known = {f.name for f in fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown training option {unknown}; known are {sorted(known)}")
    known_values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return TrainConfig(**known_values)


def tiny_test() -> TrainConfig:
    """A few steps on a handful of scenes: for tests."""
    return replace(
        TrainConfig(), steps=4, warmup_steps=1, language_start=2, language_share=1.0, language_only_share=0.0,
        true_geometry_until=3, window_scenes=2, clip_images=4, clip_frames=(2,), questions=3, references=2, captions=1,
        save_minutes=0.0, log_every=1, dtype="float32",
    )
