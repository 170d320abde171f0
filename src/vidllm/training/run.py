"""What a run holds: model, auxiliary heads, optimiser, data and texts; and what one step of it computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from vidllm.io.atomic import atomic_path
from vidllm.model.configuration import EncoderConfig
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.outputs import VisualPrefix
from vidllm.training import packed_attention
from vidllm.training.activations import checkpoint_activations
from vidllm.training.augment import augment
from vidllm.training.config import TrainConfig
from vidllm.training.data import Batch, RoomsData, draw_texts
from vidllm.training.exporting import write_model
from vidllm.training.joint import Losses, geometry_losses, language_losses, true_geometry
from vidllm.training.losses.targets import normalise
from vidllm.training.packing import pack
from vidllm.training.posed_clips import PosedClips
from vidllm.training.schedule import true_geometry_share
from vidllm.training.starting import AUXILIARY_FILE, LANGUAGE_HALF, run_tokenizer, starting_auxiliary, starting_model
from vidllm.training.supervision import Parts, Supervision, build, terms_of
from vidllm.training.supervision.heads import AuxiliaryHeads
from vidllm.training.supervision.oracle_features import OracleFeatures
from vidllm.training.texts import ExtraQuestions, SceneQuestions, TextMaker
from vidllm.training.trainable import Trainable

PATCH_SIZE = EncoderConfig.patch_size  # that of every preset
PLAN = 1  # keeps the draws of a step's plan apart from those of its data
COIN = 2  # and these
GEOMETRY = ("window", "posed")  # kinds of steps without language


@dataclass
class Run(Trainable):
    """A training run in memory."""

    config: TrainConfig
    model: VidLLMForConditionalGeneration
    auxiliary: AuxiliaryHeads
    supervision: list[Supervision[Any]]
    optimizer: torch.optim.Optimizer
    data: RoomsData
    texts: TextMaker
    oracle: OracleFeatures
    device: torch.device
    posed: PosedClips | None = None

    @classmethod
    def build(cls, config: TrainConfig, extra_questions: ExtraQuestions | None = None) -> Run:
        """Fresh weights (or those of ``init_from``), optimiser and data of a configuration.

        ``extra_questions`` are drawn from at ``plain`` and ``places`` of 0 as well, so that a run with the same seed
        meets the same other texts.
        """
        _check_sharding(config)
        torch.manual_seed(config.seed)
        data = RoomsData(Path(config.data), PATCH_SIZE)
        texts = TextMaker(run_tokenizer(config, data), _questions_of_scene(config, extra_questions))
        device = training_device(config.device)
        model = starting_model(config, texts, data)
        model.to(device)  # type: ignore[arg-type]
        if model.device.type == "cpu":  # in blocks; the fused kernel has the slower backward pass there
            model.language_model.set_attn_implementation(packed_attention.NAME)
        width, labels = model.config.encoder.hidden_size, data.labels
        auxiliary = AuxiliaryHeads(width, *labels.sizes).to(device)
        if config.init_from:
            starting_auxiliary(auxiliary, config.init_from)
        supervision = build(Parts(config, model, auxiliary, labels, texts))
        if config.freeze_encoder:
            model.encoder.requires_grad_(False)
        if config.gradient_checkpointing:
            checkpoint_activations(model)
        if config.compile_blocks:
            _compile_blocks(model)
        optimizer = _optimizer(config, model, auxiliary)
        oracle = OracleFeatures(width, *labels.sizes).to(device)
        posed = PosedClips(Path(config.posed_clips)) if config.posed_clips else None
        return cls(config, model.train(), auxiliary, supervision, optimizer, data, texts, oracle, device, posed)

    def modules(self) -> dict[str, nn.Module]:
        """The model and the heads that only training has."""
        return {"model": self.model, "auxiliary": self.auxiliary}

    def averaging(self) -> nn.Module:
        """The model: its averaged weights are exported."""
        return self.model

    def refresh(self) -> None:
        """Look for new shards."""
        self.data.refresh()

    def draw(self, step: int, rng: np.random.Generator) -> tuple[Batch, str]:
        """The batch and its kind."""
        return batch_of_step(self, step, rng)

    def kind(self, batch: tuple[Batch, str]) -> str:
        """``window``, ``posed``, ``clip``, ``language`` or ``named``."""
        return batch[1]

    def losses(self, batch: tuple[Batch, str], step: int, rng: np.random.Generator) -> Losses:
        """Eq 8 on a batch."""
        losses = losses_of_step(self, *batch, step, rng)
        return Losses(losses.terms, losses.figures | {f"{batch[1]}_steps": 1.0})

    def export(self, folder: Path) -> Path:
        """``model``, of the averaged weights, and the auxiliary heads beside it, for a run that starts from it."""
        state = self.model.state_dict() | self.averaged
        compact = self.config.export == "int8"
        model = write_model(self.model, state, self.texts.tokenizer, folder / "model", compact=compact)
        with atomic_path(folder / AUXILIARY_FILE) as temporary:
            save_file(self.auxiliary.state_dict(), temporary)
        return model


def training_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one; ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for but torch sees no GPU; use --device cpu")
    return torch.device(name)


def _questions_of_scene(config: TrainConfig, extra: ExtraQuestions | None) -> SceneQuestions | None:
    if extra is not None:
        return lambda record, boxes, rng: extra(record, boxes, rng, config.plain, config.places)
    if config.plain or config.places:
        raise ValueError("plain and places ask template questions: give train() those of vidllm_rooms.language")
    return None


def _check_sharding(config: TrainConfig) -> None:
    """ValueError for sharded blocks together with what reads their weights from outside."""
    if config.parallel == "fsdp" and (config.guide_weight > 0 or config.word_weight > 0):
        raise ValueError(
            "parallel fsdp shards the weights that the guides read; give --guide-weight 0 --word-weight 0, or ddp"
        )


def _compile_blocks(model: VidLLMForConditionalGeneration) -> None:
    """Compile the encoder's and the geometry's blocks, each kind once for all shapes. Blocks that are listened to
    (the attention guide's) stay as they are.
    """
    blocks = [*model.encoder.blocks, *model.attention.frame_blocks, *model.camera_head.trunk]
    blocks += [b for b in model.attention.global_blocks if not b.attn._forward_pre_hooks]  # type: ignore[union-attr]
    for block in blocks:
        block.compile(dynamic=True)


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
    """The step's batch and its kind: ``window`` (geometry), ``posed`` (the same, on real
    clips), ``clip`` (geometry and language), ``language`` (alone) or
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
    side = int(plan.choice(config.sides)) if config.sides else None
    if run.posed is not None and plan.random() < config.posed_share:
        return run.posed.draw(rng, scenes, frames, side or run.model.config.shorter_side), "posed"
    return run.data.draw(rng, scenes, frames, window=not spread, side=side), "window"


def losses_of_step(run: Run, batch: Batch, kind: str, step: int, rng: np.random.Generator) -> Losses:
    """All losses of a step."""
    config = run.config
    count = batch.images.shape[1]
    dense = config.dense_frames if kind == "clip" else config.window_dense_frames
    batch = batch.to(run.model.device)
    if kind in ("language", "named"):
        return _language_alone(run, batch, step, rng, named=kind == "named")
    if kind in GEOMETRY and config.vary_share > 0:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batch = replace(batch, images=augment(batch.images, config.vary_share, generator))
    frames = torch.from_numpy(np.sort(rng.choice(count, min(count, dense), replace=False))).to(run.model.device)
    losses, features, cameras, targets = geometry_losses(run.model, run.supervision, batch, config, frames)
    if kind in GEOMETRY:
        return losses
    if rng.random() < true_geometry_share(step, config):
        geometry = true_geometry(targets, batch.up)
    else:
        with torch.no_grad():
            geometry = run.model.metric_geometry(features, cameras)
    said = _language(run, batch, run.model.build_visual_tokens(features, geometry), rng)
    return Losses(losses.terms | said.terms, losses.figures | said.figures)


def _language_alone(run: Run, batch: Batch, step: int, rng: np.random.Generator, *, named: bool) -> Losses:
    """Language losses on the vision as it stands, or on the patches' names, which are lifted with true geometry."""
    targets = normalise(batch.depth_m, batch.extrinsics, batch.intrinsics)
    geometry = true_geometry(targets, batch.up)
    if named:
        tokens = run.oracle.features(batch.category, batch.colour, batch.material)
        patch = run.model.config.encoder.patch_size
        rows, columns = (side // patch for side in batch.images.shape[-2:])
        positions, valid = run.model.patch_positions(geometry, (rows, columns))
        return _language(run, batch, run.model.pool_patches(tokens, None, positions, valid), rng)
    with torch.no_grad():
        features = run.model.encode(batch.images)
        if _coin(run.config, step, rng) >= true_geometry_share(step, run.config):
            geometry = run.model.metric_geometry(features, run.model.predict_cameras(features))
    return _language(run, batch, run.model.build_visual_tokens(features, geometry), rng)


def _coin(config: TrainConfig, step: int, rng: np.random.Generator) -> float:
    """A number in [0, 1) for each micro-batch; with sharded blocks one for all, since all call them or none."""
    own = float(rng.random())
    return float(np.random.default_rng([config.seed, step, COIN]).random()) if config.parallel == "fsdp" else own


def _language(
    run: Run,
    batch: Batch,
    prefix: VisualPrefix,
    rng: np.random.Generator,
) -> Losses:
    config = run.config
    texts = draw_texts(batch, run.texts, rng, config.questions, config.references, config.captions)
    device = run.model.device
    packed = pack(texts, run.model.config.loc_token_id, config.max_text_tokens).to(device)
    before, after = run.texts.prefix_ids
    supervision = partial(terms_of, run.supervision, batch=batch)
    return language_losses(run.model, prefix, packed, (before.to(device), after.to(device)), config, supervision)
