"""The teachers that we train ourselves at ``tiny``, where no released one fits (docs/method.md, section 8).

* geometry: a small VGGT, which is our geometric half without an adapter, trained by stage 2's own loop on geometry
  alone (:func:`geometry_teacher` is its configuration);
* language: a CLIP-form image tower, trained by contrast with the rooms' captions and then, as LLaVA-3D's, by 3D
  instruction tuning on posed RGB-D (:class:`LanguageTeacherRun`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from vidllm.io.atomic import atomic_folder
from vidllm.training import packed_attention
from vidllm.training.activations import checkpoint_activations
from vidllm.training.config import TrainConfig
from vidllm.training.contrast import END, FramePairs, contrastive_loss, draw_pairs
from vidllm.training.data import Batch, RoomsData, draw_texts
from vidllm.training.driver import LoopConfig, Trainable, adamw, drive
from vidllm.training.exporting import write_model
from vidllm.training.joint import Losses, language_losses, true_geometry
from vidllm.training.losses.distillation import resample_grid
from vidllm.training.losses.targets import normalise
from vidllm.training.packing import pack
from vidllm.training.run import CATEGORY_INDEX, PATCH_SIZE, PLAN, training_device
from vidllm.training.stage1 import as_train_config
from vidllm.training.starting import LANGUAGE_HALF, run_tokenizer, starting_model
from vidllm.training.teachers import clip_tokens
from vidllm.training.texts import TextCounts, TextMaker

NEVER = 10**9


def geometry_teacher() -> TrainConfig:
    """A small VGGT: encoder, global-frame attention and heads, no adapter, no words, no metres."""
    return replace(
        TrainConfig(), out="runs/teacher_geometry", adapter="none", steps=4000, language_start=NEVER, spread_share=0.3,
        metric_weight=0.0, semantic_weight=0.0, naming_weight=0.0, word_weight=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class LanguageTeacherConfig(LoopConfig):
    """A small LLaVA-3D: contrast of frames and captions first, then instruction tuning with true depth and poses."""

    out: str = "runs/teacher_language"
    preset: str = "tiny"  # whose width the tower has, and whose language half reads it
    init_from: str | None = None  # a model folder whose tokenizer and language half to begin with
    steps: int = 4000
    contrastive_steps: int = 2500  # the rest is instruction tuning; equal to ``steps``: none
    image_size: int = 112  # the tower's square
    depth: int = 6
    heads: int = 3
    text_depth: int = 3
    text_length: int = 64  # tokens of a caption
    shards_a_step: int = 3  # of the contrast: frames of that many shards, one frame a scene
    scenes_a_shard: int = 16
    tune_tower: bool = True  # in instruction tuning
    clip_images: int = 16
    clip_frames: tuple[int, ...] = (2, 4)
    questions: int = 22
    references: int = 8
    captions: int = 3
    beta2: float = 0.98


def language_teacher() -> LanguageTeacherConfig:
    """The shipped recipe's language teacher."""
    return LanguageTeacherConfig()


class LanguageTeacherRun(Trainable):
    """A CLIP model, and the language half that reads its tower's patches."""

    def __init__(self, config: LanguageTeacherConfig) -> None:
        self.config: LanguageTeacherConfig = config
        self.device = training_device(config.device)
        self.data = RoomsData(Path(config.data), PATCH_SIZE, CATEGORY_INDEX)
        start = as_train_config(config, config.preset, config.init_from)
        self.start = replace(start, word_weight=0.0)
        self.texts = TextMaker(run_tokenizer(start, self.data))
        self.model = starting_model(start, self.texts).train()
        self.model.to(self.device)
        width = self.model.config.encoder.hidden_size
        self.clip: Any = CLIPModel(clip_config(config, width, len(self.texts.tokenizer)))
        self.clip.to(self.device)  # type: ignore[arg-type]
        self.model.requires_grad_(False)
        self.language = nn.ModuleDict({name: self.model.get_submodule(name) for name in LANGUAGE_HALF})
        self.language.requires_grad_(config.contrastive_steps < config.steps)
        if self.device.type == "cpu":
            self.clip.set_attn_implementation("eager")
            self.model.language_model.set_attn_implementation(packed_attention.NAME)
        if config.gradient_checkpointing:
            for part in (self.clip, self.model.language_model):
                checkpoint_activations(part)
        self.optimizer = adamw(config, self.modules())

    def modules(self) -> dict[str, nn.Module]:
        """CLIP and the language half."""
        return {"clip": self.clip, "language": self.language}

    def draw(self, step: int, rng: np.random.Generator) -> FramePairs | Batch:
        """Frames with their texts, then scenes; how many frames a scene has is the same in every process."""
        config = self.config
        if step < config.contrastive_steps:
            return draw_pairs(
                self.data, self.texts.tokenizer, rng, config.shards_a_step, config.scenes_a_shard, config.image_size,
                config.text_length,
            ).to(self.device)  # fmt: skip
        frames = int(np.random.default_rng([config.seed, step, PLAN]).choice(config.clip_frames))
        scenes = max(1, config.clip_images // frames)
        return self.data.draw(rng, scenes, frames, window=False).to(self.device)

    def losses(self, batch: FramePairs | Batch, step: int, rng: np.random.Generator) -> Losses:
        """Contrast, then instruction."""
        if isinstance(batch, Batch):
            return self._instruct(batch, rng)
        loss, right = contrastive_loss(self.clip, batch)
        return Losses({"contrast": loss}, {"retrieved": right, "pairs": float(len(batch.pixels))})

    def _instruct(self, batch: Batch, rng: np.random.Generator) -> Losses:
        """L_VL of the tower's patches, lifted with true depth and poses."""
        config = self.config
        rows, columns = (side // PATCH_SIZE for side in batch.images.shape[-2:])
        geometry = true_geometry(normalise(batch.depth_m, batch.extrinsics, batch.intrinsics), batch.up)
        prefix = self.model.lift_tokens(self._patches(batch, (rows, columns)), None, (rows, columns), geometry)
        texts = draw_texts(batch, self.texts, rng, TextCounts(config.questions, config.references, config.captions))
        packed = pack(texts, self.model.config.loc_token_id, self.start.max_text_tokens).to(self.device)
        before, after = (ids.to(self.device) for ids in self.texts.prefix_ids)
        return language_losses(self.model, prefix, packed, (before, after), self.start)

    def _patches(self, batch: Batch, grid: tuple[int, int]) -> Tensor:
        """The tower's tokens (B,F,P,C) on the patch grid of the frames."""
        with torch.set_grad_enabled(self.config.tune_tower):
            tokens = clip_tokens(self.clip.vision_model, batch.images.flatten(0, 1))
        side = self.config.image_size // PATCH_SIZE
        return resample_grid(tokens.unflatten(0, batch.images.shape[:2]), (side, side), grid)

    def export(self, folder: Path) -> Path:
        """``model``: CLIP with the tokenizer; ``reader``: the language half, for ``language_from``, where trained."""
        with atomic_folder(folder / "model") as part:
            self.clip.save_pretrained(part)
            self.texts.tokenizer.save_pretrained(part)
        if self.config.contrastive_steps < self.config.steps:
            write_model(self.model, self.model.state_dict(), self.texts.tokenizer, folder / "reader")
        return folder / "model"


def clip_config(config: LanguageTeacherConfig, width: int, vocabulary: int) -> CLIPConfig:
    """CLIP's form, as wide as the encoder whose place its tower takes before the language half."""
    vision = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads, "image_size": config.image_size, "patch_size": PATCH_SIZE,
    }  # fmt: skip
    text = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": config.text_depth,
        "num_attention_heads": config.heads, "max_position_embeddings": config.text_length, "vocab_size": vocabulary,
        "bos_token_id": END, "eos_token_id": END, "pad_token_id": 0,
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)


def train_language_teacher(config: LanguageTeacherConfig, log: Callable[[str], None] | None = None) -> Path:
    """Run (or resume); returns the folder of the CLIP model, which ``stage1 --teacher-language`` takes."""
    if not 0 <= config.contrastive_steps <= config.steps:
        raise ValueError(
            f"contrastive_steps must be 0 to steps ({config.steps}), received {config.contrastive_steps}"
        )
    return drive(lambda: LanguageTeacherRun(config), config, log)
