"""What a run holds: model, auxiliary heads, optimiser, data and texts; and what one step of it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidllm.model.modeling import VidLLMForConditionalGeneration, VisualPrefix
from vidllm.rooms.catalogue import CATALOGUE
from vidllm.rooms.types import COLOURS
from vidllm.training import packed_attention
from vidllm.training.attention_guide import AttentionGuide
from vidllm.training.auxiliary import AuxiliaryHeads
from vidllm.training.config import TrainConfig
from vidllm.training.data import COLOUR_INDEX, MATERIAL_INDEX, Batch, RoomsData, draw_texts
from vidllm.training.joint import Losses, geometry_losses, language_losses, true_geometry
from vidllm.training.losses.targets import normalise
from vidllm.training.named_patches import NamedPatches
from vidllm.training.packing import pack
from vidllm.training.schedule import true_geometry_share
from vidllm.training.starting import LANGUAGE_HALF, run_tokenizer, starting_auxiliary, starting_model
from vidllm.training.texts import TextMaker
from vidllm.training.word_guide import Vocabulary, WordGuide, pooled_names

PATCH_SIZE = 14
PLAN = 1  # keeps the draws of a step's plan apart from those of its data
CATEGORY_INDEX = {name: i + 1 for i, name in enumerate(sorted(CATALOGUE))}


@dataclass
class Run:
    """A training run in memory."""

    config: TrainConfig
    model: VidLLMForConditionalGeneration
    auxiliary: AuxiliaryHeads
    optimizer: torch.optim.Optimizer
    data: RoomsData
    texts: TextMaker
    names: NamedPatches
    averaged: dict[str, Tensor] = field(default_factory=dict)
    word_guide: WordGuide | None = None
    steps_averaged: int = 0
    bad_steps: int = 0

    @classmethod
    def build(cls, config: TrainConfig) -> Run:
        """Fresh weights (or those of ``init_from``), optimiser and data of a configuration."""
        torch.manual_seed(config.seed)
        data = RoomsData(Path(config.data), PATCH_SIZE, CATEGORY_INDEX)
        texts = TextMaker(run_tokenizer(config, data))
        device = training_device(config.device)
        model = starting_model(config, texts)
        model.to(device)  # type: ignore[arg-type]
        _plain_attention_on_cpu(model)
        auxiliary = AuxiliaryHeads(model.config.encoder.hidden_size, len(CATALOGUE) + 1, len(COLOURS) + 1).to(device)
        if config.init_from:
            starting_auxiliary(auxiliary, config.init_from)
        auxiliary.names = names = NamedPatches(
            model.config.encoder.hidden_size, len(CATALOGUE) + 1, len(COLOUR_INDEX) + 1, len(MATERIAL_INDEX) + 1
        ).to(device)
        if config.guide_weight > 0:
            auxiliary.guide = AttentionGuide(model.attention, min(config.guide_layer, model.config.attention.depth - 1))
        if config.freeze_encoder:
            model.encoder.requires_grad_(False)
        optimizer = _optimizer(config, model, auxiliary)
        run = cls(config, model.train(), auxiliary, optimizer, data, texts, names)
        if config.word_weight > 0:
            words = Vocabulary(texts.tokenizer, sorted(CATALOGUE), list(COLOURS))
            run.word_guide = WordGuide(model.language_model, words, *texts.special_ids[1:])
        return run

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every trained parameter."""
        for module in (self.model, self.auxiliary):
            yield from (p for p in module.parameters() if p.requires_grad)

    def average(self, step: int, every: int = 5, decay: float = 0.995) -> None:
        """Exponential moving average of the model's weights (what is exported), taken every few steps."""
        if step % every:
            return
        decay = min(decay, (1 + self.steps_averaged) / (10 + self.steps_averaged))
        self.steps_averaged += 1
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                if name not in self.averaged:
                    self.averaged[name] = value.detach().clone()
                self.averaged[name].lerp_(value.detach(), 1 - decay)

    def state(self, step: int) -> dict[str, Any]:
        """Everything that resuming needs, as tensors and plain values."""
        return {
            "step": step,
            "model": self.model.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "steps_averaged": self.steps_averaged,
            "bad_steps": self.bad_steps,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.model.load_state_dict(state["model"])
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.steps_averaged, self.bad_steps = state["steps_averaged"], state["bad_steps"]


def training_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one; ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for but torch sees no GPU; use --device cpu")
    return torch.device(name)


def _plain_attention_on_cpu(model: VidLLMForConditionalGeneration) -> None:
    """Attention written out (the language model's in blocks): a CPU's fused kernel has the slower backward pass."""
    if model.device.type == "cpu":
        model.language_model.set_attn_implementation(packed_attention.NAME)
        model.encoder.backbone.set_attn_implementation("eager")


def _optimizer(config: TrainConfig, model: nn.Module, auxiliary: nn.Module) -> torch.optim.Optimizer:
    """AdamW; tensors of two and more dimensions decay, vectors (norms, biases, scales) do not. The parts that see
    (and the auxiliary heads) learn at ``vision_scale`` times the rate of those that speak.
    """
    groups = []
    for speaks in (False, True):
        parts: list[nn.Module] = [m for name, m in model.named_children() if (name in LANGUAGE_HALF) == speaks]
        trained = [p for m in ([*parts] if speaks else [*parts, auxiliary]) for p in m.parameters() if p.requires_grad]
        scale = 1.0 if speaks else config.vision_scale
        groups += [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay, "scale": scale},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, "scale": scale},
        ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def batch_of_step(run: Run, step: int, rng: np.random.Generator) -> tuple[Batch, str]:
    """The step's batch and its kind: ``window`` (geometry), ``clip`` (geometry and language), ``language`` (alone) or
    ``named`` (language alone, on the patches' names).

    The kind and the number of frames are drawn apart from ``rng``, so that all processes of a step agree on them.
    """
    config = run.config
    plan = np.random.default_rng([config.seed, step, PLAN])
    if step >= config.language_start and plan.random() < config.language_share:
        frames = int(plan.choice(config.clip_frames))
        kind = "language" if plan.random() < config.language_only_share else "clip"
        if kind == "language" and plan.random() < config.named_share:
            kind = "named"
        return run.data.draw(rng, max(1, config.clip_images // frames), frames, window=False), kind
    spread = plan.random() < config.spread_share
    frames = int(plan.choice(config.clip_frames if spread else config.window_frames))
    scenes = max(1, config.window_scenes * min(config.window_frames) // frames)
    return run.data.draw(rng, scenes, frames, window=not spread), "window"


def losses_of_step(run: Run, batch: Batch, kind: str, step: int, rng: np.random.Generator) -> Losses:
    """All losses of a step."""
    config = run.config
    count = batch.images.shape[1]
    dense = config.dense_frames if kind == "clip" else config.window_dense_frames
    batch = batch.to(run.model.device)
    if kind in ("language", "named"):
        return _language_alone(run, batch, step, rng, named=kind == "named")
    frames = torch.from_numpy(np.sort(rng.choice(count, min(count, dense), replace=False))).to(run.model.device)
    losses, features, cameras, targets = geometry_losses(run.model, run.auxiliary, batch, config, frames)
    if kind == "window":
        return losses
    if rng.random() < true_geometry_share(step, config):
        geometry = true_geometry(targets, batch.up)
    else:
        with torch.no_grad():
            geometry = run.model.assemble(features, cameras)
    said = _language(run, batch, run.model.lift(features, geometry), rng)
    return Losses(losses.terms | said.terms, losses.figures | said.figures)


def _language_alone(run: Run, batch: Batch, step: int, rng: np.random.Generator, *, named: bool) -> Losses:
    """Language losses on the vision as it stands, or on the patches' names, which are lifted with true geometry."""
    targets = normalise(batch.depth_m, batch.extrinsics, batch.intrinsics)
    geometry = true_geometry(targets, batch.up)
    if named:
        tokens = run.names.features(batch.category, batch.colour, batch.material)
        rows, columns = (side // PATCH_SIZE for side in batch.images.shape[-2:])
        return _language(run, batch, run.model.lift_tokens(tokens, None, (rows, columns), geometry), rng)
    with torch.no_grad():
        features = run.model.see(batch.images)
        if rng.random() >= true_geometry_share(step, run.config):
            geometry = run.model.reconstruct_features(features)
    return _language(run, batch, run.model.lift(features, geometry), rng)


def _language(
    run: Run,
    batch: Batch,
    prefix: VisualPrefix,
    rng: np.random.Generator,
) -> Losses:
    config = run.config
    texts = draw_texts(batch, run.texts, rng, config.questions, config.references, config.captions, config.plain)
    device = run.model.device
    packed = pack(texts, run.model.config.loc_token_id, config.max_text_tokens).to(device)
    before, after = run.texts.prefix_ids
    guide = None
    if run.word_guide is not None:
        counts = (len(CATALOGUE) + 1, len(COLOURS) + 1)
        names = pooled_names(prefix.patch_index, batch.category, batch.colour, counts, prefix.patch_mask.shape[1])
        guide = run.word_guide, names
    return language_losses(run.model, prefix, packed, (before.to(device), after.to(device)), config, guide)
