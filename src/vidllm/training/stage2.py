"""Stage 2: joint training of geometry and language: a run, its kinds of steps and their losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidllm.datasets.seen import Seen, seen_or_unknown, write_seen
from vidllm.io.atomic import atomic_path
from vidllm.io.weight_files import model_of_run
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import load_pretrained, read_weights
from vidllm.model.outputs import VisualPrefix
from vidllm.training.config import TrainConfig
from vidllm.training.data import Batch, RoomsData, plan_of
from vidllm.training.distributed import several_processes
from vidllm.training.joint import geometry_losses, language_losses, true_geometry
from vidllm.training.loop import Log, drive
from vidllm.training.losses import Losses, normalise
from vidllm.training.models import (
    AUXILIARY_FILE,
    LANGUAGE_HALF,
    check_parts,
    checkpoint_activations,
    freeze,
    may_be_read_later,
    run_tokenizer,
    starting_auxiliary,
    starting_model,
    training_device,
    write_model,
)
from vidllm.training.packing import PACKED_ATTENTION, PackedTexts, pack
from vidllm.training.pictures import PATCH_SIZE, augment
from vidllm.training.posed_clips import PosedClips
from vidllm.training.supervision import wanted
from vidllm.training.supervision.base import AuxiliaryHeads, Parts, Supervision
from vidllm.training.supervision.geometry import OracleFeatures
from vidllm.training.texts import ExtraQuestions, TextMaker, draw_texts
from vidllm.training.trainable import Trainable
from vidllm.training.widening import fit_adapter, take_geometry_half

StepBatch = tuple[Batch, str, PackedTexts | None]
COIN, FIT = 2, 3  # keep these draws apart from those of a step's plan (data.PLAN) and data
GEOMETRY = ("window", "posed")  # kinds of steps without language


def train(config: TrainConfig, log: Log | None = None, extra_questions: ExtraQuestions | None = None) -> Path:
    """Run (or resume) joint training; returns the folder of the final model.

    ``extra_questions`` make the template questions of ``plain`` and ``places`` (of ``vidllm_rooms.language``).
    Raises ValueError as :func:`~vidllm.training.loop.drive`.
    """
    return drive(lambda: Run.build(config, extra_questions), config, log)


@dataclass
class Run(Trainable):
    """A training run in memory; ``auxiliary`` are the heads of its supervision, where there is any."""

    config: TrainConfig
    model: VidLLMForConditionalGeneration
    auxiliary: AuxiliaryHeads | None
    supervision: list[Supervision[Any]]
    data: RoomsData
    texts: TextMaker
    device: torch.device
    oracle: OracleFeatures | None = None
    posed: PosedClips | None = None
    unread: bool = False  # the weights of init_from are still to be read

    @classmethod
    def build(cls, config: TrainConfig, extra_questions: ExtraQuestions | None = None) -> Run:
        """Fresh weights (or those of ``init_from``) and the data of a configuration.

        ``extra_questions`` are drawn from at ``plain`` and ``places`` of 0 as well, so that a run with the same seed
        meets the same other texts.
        """
        _check_sharding(config)
        if extra_questions is None and (config.texts.plain or config.texts.places):
            raise ValueError("plain and places ask template questions: give train() those of vidllm_rooms")
        loop, start = config.loop, config.start
        torch.manual_seed(loop.seed)
        data = RoomsData(Path(loop.data))
        tokenizer = run_tokenizer(Path(loop.out), data, start.init_from, start.language_from)
        texts = TextMaker(tokenizer, extra_questions)
        device = training_device(loop.device)
        kinds = wanted(config.supervision, data.labels)
        unread = loop.parallel == "fsdp" and several_processes() and not kinds and may_be_read_later(start)
        model = starting_model(start, texts, data, unread=unread)
        if not unread:  # else blocks are sharded first
            model.to(device)  # type: ignore[arg-type]
        if device.type == "cpu":  # in blocks; the fused kernel has the slower backward pass there
            model.language_model.set_attn_implementation(PACKED_ATTENTION)
        width, labels = model.config.encoder.hidden_size, data.labels
        auxiliary = AuxiliaryHeads(width, *labels.sizes).to(device) if kinds else None
        if start.init_from and auxiliary is not None:
            starting_auxiliary(auxiliary, start.init_from)
        parts = None if auxiliary is None else Parts(config.supervision, model, auxiliary, labels, texts)
        supervision = [] if parts is None else [kind(parts) for kind in kinds]
        check_parts(start, model)
        freeze(start, model)
        if start.train_only and auxiliary is not None:
            auxiliary.requires_grad_(False)
        if loop.gradient_checkpointing:
            checkpoint_activations(model)
        if loop.compile_blocks:
            _compile_blocks(model)
        oracle = OracleFeatures(width, *labels.sizes).to(device) if config.curriculum.named_share > 0 else None
        posed = PosedClips(Path(config.batches.posed_clips), labels) if config.batches.posed_clips else None
        return cls(config, model.train(), auxiliary, supervision, data, texts, device, oracle, posed, unread)

    def modules(self) -> dict[str, nn.Module]:
        """The model, and the heads that only training has."""
        return {"model": self.model} | ({} if self.auxiliary is None else {"auxiliary": self.auxiliary})

    def rates(self) -> list[tuple[float, list[nn.Parameter]]]:
        """All parts but the language half have ``vision_scale`` times its learning rate."""
        parts = dict(self.model.named_children()) | {n: m for n, m in self.modules().items() if n != "model"}
        rates = []
        for speaks, scale in ((False, self.config.start.vision_scale), (True, 1.0)):
            chosen = [module for name, module in parts.items() if (name in LANGUAGE_HALF) == speaks]
            rates.append((scale, [p for module in chosen for p in module.parameters() if p.requires_grad]))
        return rates

    def read_later(self) -> None:
        """The weights of ``init_from``, of sharded blocks the part of this process."""
        if self.unread:
            read_weights(self.model, str(self.config.start.init_from), self.device)

    def averaging(self) -> nn.Module:
        """The model: its averaged weights are exported."""
        return self.model

    def prepare(self, say: Log) -> None:
        """Load and widen the geometric half of ``geometry_from``, if given, and fit the adapter to it; log the depths
        and labels of real clips.
        """
        if self.posed is not None:
            say(self.posed.told())
        start, seed = self.config.start, self.config.loop.seed
        if start.geometry_from is None:
            return

        def pictures(step: int) -> Tensor:
            return self.draw(step, np.random.default_rng([seed, step, FIT]))[0].images.to(self.device)

        other = load_pretrained(str(model_of_run(start.geometry_from)))[0]
        other.to(self.device)  # type: ignore[arg-type]
        take_geometry_half(self.model, other)
        fit_adapter(self.model, other, pictures, start.fit_steps, say=say)

    def refresh(self) -> None:
        """Look for new shards."""
        if self.data.refresh():
            self.draw_anew()

    def export(self, folder: Path) -> Path:
        """``model``, of the averaged weights and with the scenes they have seen, and the auxiliary heads beside it."""
        state = self.model.state_dict() | self.averaged
        compact = self.config.export == "int8"
        model = write_model(self.model, state, self.texts.tokenizer, folder / "model", compact=compact)
        start, seen = self.config.start, self.data.seen()
        if self.posed is not None:
            seen |= Seen(scenes=frozenset(Path(clip.where).name for clip in self.posed.clips))
        for begun in filter(None, (start.init_from, start.geometry_from, start.language_from, start.encoder_from)):
            seen |= seen_or_unknown(model_of_run(begun))
        write_seen(model, seen)
        if self.auxiliary is not None:
            with atomic_path(folder / AUXILIARY_FILE) as temporary:
                save_file(self.auxiliary.state_dict(), temporary)
        return model

    def kind(self, batch: StepBatch) -> str:
        """``window``, ``posed``, ``clip``, ``language`` or ``named``."""
        return batch[1]

    @property
    def drawer(self) -> StepDraw:
        """What draws the steps' batches."""
        return StepDraw(self.config, self.data, self.posed, self.model.config.shorter_side, self.texts)

    def losses(self, batch: StepBatch, step: int, rng: np.random.Generator) -> Losses:
        """Eq 8 on a batch."""
        scenes, kind, texts = batch[0].to(self.device), batch[1], batch[2]
        texts = None if texts is None else texts.to(self.device)
        if texts is None or kind == "clip":
            losses = self._geometry(scenes, kind, texts, step, rng)
        else:
            losses = self._language_alone(scenes, texts, step, rng, named=kind == "named")
        return Losses(losses.terms, losses.figures | {f"{kind}_steps": 1.0})

    def _geometry(
        self, batch: Batch, kind: str, texts: PackedTexts | None, step: int, rng: np.random.Generator
    ) -> Losses:
        """Losses of a step with vision, and of language after it where there are texts."""
        weights, share = self.config.weights, self.config.batches.vary_share
        if kind in GEOMETRY and share > 0:
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            batch = replace(batch, images=augment(batch.images, share, generator))
        count, dense = batch.images.shape[1], weights.dense_frames if kind == "clip" else weights.window_dense_frames
        frames = torch.from_numpy(np.sort(rng.choice(count, min(count, dense), replace=False))).to(self.device)
        losses, features, cameras, targets = geometry_losses(self.model, batch, weights, frames, self.supervision)
        if texts is None:
            return losses
        if rng.random() < self.config.curriculum.true_geometry_share(step):
            geometry = true_geometry(targets, batch.up)
        else:
            with torch.no_grad():
                geometry = self.model.metric_geometry(features, cameras)
        said = self._language(batch, self.model.build_visual_tokens(features, geometry), texts)
        return Losses(losses.terms | said.terms, losses.figures | said.figures)

    def _language_alone(
        self, batch: Batch, texts: PackedTexts, step: int, rng: np.random.Generator, *, named: bool
    ) -> Losses:
        """Language losses without gradient in the vision; ``named``: on oracle features with true geometry."""
        geometry = true_geometry(normalise(batch.depth_m, batch.extrinsics, batch.intrinsics), batch.up)
        if named:
            assert self.oracle is not None
            tokens = self.oracle.features(batch.category, batch.colour, batch.material)
            grid = batch.images.shape[-2] // PATCH_SIZE, batch.images.shape[-1] // PATCH_SIZE
            positions, valid = self.model.patch_positions(geometry, grid)
            return self._language(batch, self.model.pool_patches(tokens, None, positions, valid), texts)
        with torch.no_grad():
            features = self.model.encode(batch.images)
            coin, loop = float(rng.random()), self.config.loop
            if loop.parallel == "fsdp":  # one for all processes: all call the sharded blocks, or none
                coin = float(np.random.default_rng([loop.seed, step, COIN]).random())
            if coin >= self.config.curriculum.true_geometry_share(step):
                geometry = self.model.metric_geometry(features, self.model.predict_cameras(features))
        return self._language(batch, self.model.build_visual_tokens(features, geometry), texts)

    def _language(self, batch: Batch, prefix: VisualPrefix, texts: PackedTexts) -> Losses:
        weights, supervision = self.config.weights, self.supervision
        return language_losses(self.model, prefix, texts, self.texts.prefix_ids, weights, supervision, batch)


@dataclass(frozen=True)
class StepDraw:
    """Draws the batch of a step; ``shorter_side``: of real clips, where no side is drawn."""

    config: TrainConfig
    data: RoomsData
    posed: PosedClips | None
    shorter_side: int
    texts: TextMaker

    def __call__(self, step: int, rng: np.random.Generator) -> StepBatch:
        """The step's batch, its kind and its texts: ``window`` (geometry), ``posed`` (the same, on real clips),
        ``clip`` (geometry and language), ``language`` (alone) or ``named`` (language alone, on oracle features).

        The kind and the number of frames are drawn apart from ``rng``, so that all processes of a step agree on them.
        """
        batch, kind = self._scenes(step, rng)
        if kind in GEOMETRY:
            return batch, kind, None
        counts = self.config.texts
        texts = draw_texts(batch, self.texts, rng, counts)
        return batch, kind, pack(texts, self.texts.special_ids[1], counts.max_text_tokens)

    def _scenes(self, step: int, rng: np.random.Generator) -> tuple[Batch, str]:
        order, sizes = self.config.curriculum, self.config.batches
        plan = plan_of(self.config.loop.seed, step)
        if step >= order.language_start and plan.random() < order.language_share:
            batch = self.data.clips(plan, rng, sizes.clip_images, sizes.clip_frames)
            kind = "language" if plan.random() < order.language_only_share else "clip"
            if kind == "language" and plan.random() < order.named_share:
                kind = "named"
            return batch, kind
        spread = plan.random() < sizes.spread_share
        frames = int(plan.choice(sizes.clip_frames if spread else sizes.window_frames))
        scenes = max(1, sizes.window_scenes * min(sizes.window_frames) // frames)
        side = int(plan.choice(sizes.sides)) if sizes.sides else None
        if self.posed is not None and plan.random() < sizes.posed_share:
            return self.posed.draw(rng, scenes, frames, side or self.shorter_side), "posed"
        return self.data.draw(rng, scenes, frames, window=not spread, side=side), "window"


def _check_sharding(config: TrainConfig) -> None:
    """ValueError for sharded blocks together with what reads their weights from outside."""
    if config.loop.parallel == "fsdp" and (config.supervision.guide_weight > 0 or config.supervision.word_weight > 0):
        raise ValueError(
            "parallel fsdp shards weights that attention supervision needs; give --guide-weight 0 --word-weight 0, "
            "or --parallel ddp"
        )
    if config.loop.parallel == "fsdp" and config.start.geometry_from:
        raise ValueError("geometry_from widens whole weights, which parallel fsdp shards; use --parallel ddp")


def _compile_blocks(model: VidLLMForConditionalGeneration) -> None:
    """Compile the blocks of encoder and geometry, each kind once for all shapes; not blocks with hooks (of attention
    supervision).
    """
    blocks = [*model.encoder.blocks, *model.attention.frame_blocks, *model.camera_head.trunk]
    blocks += [b for b in model.attention.global_blocks if not b.attn._forward_pre_hooks]  # type: ignore[union-attr]
    for block in blocks:
        block.compile(dynamic=True)
