"""Fine-tuning on your own videos and texts (docs/fine_tuning.md): only the language half is trained.

Each video is encoded once (:class:`SceneCache`); every step packs several of its texts after its visual prefix, as
stage 2 does. The language model is trained whole or by LoRA. Encoder and geometry are frozen, so that depth, cameras
and scale are those of the initial model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidllm.datasets.jsonl import Example, check_jsonl
from vidllm.datasets.seen import Seen, seen_or_unknown, write_seen
from vidllm.io.atomic import atomic_path
from vidllm.io.files import has_file
from vidllm.io.weight_files import model_of_run
from vidllm.model.cross_task_adapter import Bridge, CrossAttention, CrossTaskAdapter
from vidllm.model.huggingface import VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import load_pretrained
from vidllm.model.outputs import VisualPrefix
from vidllm.scene import TINY
from vidllm.training.config import FLAT, Loop, LossWeights, Optimiser, RunConfig
from vidllm.training.joint import language_losses
from vidllm.training.loop import Log, drive, to_stderr
from vidllm.training.lora import apply_lora, lora_matrices, save_adapter, trained_share
from vidllm.training.losses import Losses
from vidllm.training.models import LANGUAGE_HALF, checkpoint_activations, training_device, write_model
from vidllm.training.packing import PACKED_ATTENTION, PackedTexts, pack
from vidllm.training.teachers import weights_name
from vidllm.training.texts import OwnTexts, TextMaker
from vidllm.training.trainable import Trainable

PROGRESS_LINES = 10  # while videos are encoded
Part = Literal["language_model", "projector", "grounding", "adapter"]


@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """One run of fine-tuning."""

    # ``data`` is a JSONL file of videos and texts
    loop: Annotated[Loop, FLAT] = Loop(data="data.jsonl", out="runs/finetune", steps=300)
    optimiser: Annotated[Optimiser, FLAT] = Optimiser(learning_rate=3e-4, warmup_steps=20, beta2=0.98)
    init_from: str | None = None  # folder or hub id of a model (default: the shipped model)
    frames: int | None = None  # frames per video, also of the resulting model (default: the model's number)
    train: tuple[Part, ...] = ("language_model", "projector", "grounding")  # parts to train
    lora: bool = False  # train the language model by LoRA, and all weights of the other parts
    lora_rank: int = 16  # rank of LoRA
    lora_alpha: float = 32.0  # scaling of LoRA: alpha / rank
    cache: str | None = None  # folder for the outputs of the frozen parts (default: OUT/cache)
    scenes: int = 4  # videos per step
    texts: int = 16  # texts per video and step
    max_text_tokens: int = 800  # tokens of all texts of a video


@dataclass
class FinetuneBatch:
    """Videos of one step with their packed sentences."""

    scenes: list[SeenScene]
    packed: PackedTexts


class FinetuneRun(Trainable):
    """A model, the encoded videos and their texts."""

    def __init__(self, config: FinetuneConfig, say: Log) -> None:
        self.config: FinetuneConfig = config
        self.device = training_device(config.loop.device)
        examples = checked(config.loop.data)
        self.model, processor = load_pretrained(config.init_from or TINY)
        if self.model.config.model_type != "vidllm":
            raise ValueError(f"{config.init_from}: only a Vid-LLM is fine-tuned; this is a {type(self.model).__name__}")
        self.model.to(self.device)  # type: ignore[arg-type]
        self.tokenizer = processor.tokenizer
        self.seen = SceneCache(self.model, processor, Path(config.cache or f"{config.loop.out}/cache"), config.frames)
        self.model.config.default_frames = self.seen.frames
        self.texts = OwnTexts(examples, TextMaker(self.tokenizer), config.max_text_tokens)
        self.seen.fill(self.texts.videos, say)
        self.parts = trained_parts(self.model, config)
        say("{:,} of {:,} numbers learn".format(*trained_share(self.model)))
        self.model.train()
        if self.device.type == "cpu":
            self.model.language_model.set_attn_implementation(PACKED_ATTENTION)
        if config.loop.gradient_checkpointing:
            checkpoint_activations(self.model.language_model)

    def modules(self) -> dict[str, nn.Module]:
        """The trained modules; of a language model with LoRA only its matrices."""
        return self.parts

    def draw(self, step: int, rng: np.random.Generator) -> FinetuneBatch:
        """Some videos, each with some of its texts; videos with many texts are drawn more often."""
        config, texts = self.config, self.texts
        count = min(config.scenes, len(texts.videos))
        chosen = rng.choice(len(texts.videos), count, replace=False, p=texts.shares(config.texts))
        scenes = [self.seen.scene(texts.videos[int(i)]).to(self.device) for i in chosen]
        rows = [texts.draw(int(i), config.texts, rng) for i in chosen]
        packed = pack(rows, self.model.config.loc_token_id, config.max_text_tokens)
        return FinetuneBatch(scenes, packed.to(self.device))

    def losses(self, batch: FinetuneBatch, step: int, rng: np.random.Generator) -> Losses:
        """L_VL: cross-entropy of the answers, and the grounding losses of the boxes."""
        prefix = side_by_side([self._lift(scene) for scene in batch.scenes])
        return language_losses(self.model, prefix, batch.packed, self.texts.maker.prefix_ids, LossWeights())

    def _lift(self, scene: SeenScene) -> VisualPrefix:
        streams = self.model.adapter(scene.tokens)
        return self.model.pool_patches(streams.language, streams.bridge, scene.positions, scene.valid)

    def export(self, folder: Path) -> Path:
        """``model``, which ``vidllm.load`` reads; with LoRA also ``adapter``, its matrices in peft's format."""
        model = write_model(self.model, self.model.state_dict(), self.tokenizer, folder / "model")
        videos = Seen(scenes=frozenset(video.stem for video in self.texts.videos))
        write_seen(model, seen_or_unknown(model_of_run(self.config.init_from or TINY)) | videos)
        if self.config.lora:
            save_adapter(self.model, folder / "adapter", self.config.init_from or str(TINY))
        return model


def checked(path: str) -> list[Example]:
    """The examples of a file; ValueError with the first error and the number of others."""
    report = check_jsonl(path, quick=True)
    if report.problems:
        others = f"; {len(report.problems) - 1} more: vidllm data check {path}" if len(report.problems) > 1 else ""
        raise ValueError(f"{report.problems[0].text}{others}")
    return report.examples


def trained_parts(model: VidLLMForConditionalGeneration, config: FinetuneConfig) -> dict[str, nn.Module]:
    """The trained modules by name; gradients are switched on for them only.

    Raises:
        ValueError: nothing to train, or LoRA for a language model that is not trained.
    """
    if not config.train:
        raise ValueError("nothing to train; give --train with one of language_model, projector, grounding, adapter")
    if config.lora and "language_model" not in config.train:
        raise ValueError("--lora trains the language model, which is not in --train; add language_model to it")
    model.requires_grad_(False)
    parts: dict[str, nn.Module] = {}
    if "language_model" in config.train:
        if config.lora:
            apply_lora(model, config.lora_rank, config.lora_alpha)
        parts["language_model"] = lora_matrices(model) if config.lora else model.language_model
    if "projector" in config.train:
        for name in ("projector", "position_embedding", "coordinate_embedding"):
            parts[name] = model.get_submodule(name)
    if "grounding" in config.train:
        parts["grounding"] = model.grounding
    if "adapter" in config.train:
        parts["adapter"] = language_side(model.adapter)
    for part in parts.values():
        part.requires_grad_(True)
    return parts


def language_side(adapter: CrossTaskAdapter) -> nn.Module:
    """The part of the adapter that only the language stream uses."""
    exchange = adapter.exchange
    if isinstance(exchange, Bridge):
        return exchange.write_language
    if isinstance(exchange, CrossAttention):
        return exchange.language_reads
    if exchange is None:
        return adapter.phi_language
    raise ValueError("this model's adapter has no weights for the language stream alone; take adapter out of --train")


def side_by_side(prefixes: Sequence[VisualPrefix]) -> VisualPrefix:
    """Prefixes of single scenes as one batch, padded to the longest."""

    def stacked(name: str, fill: int = 0) -> Tensor:
        values = [getattr(row, name)[0] for row in prefixes]
        return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)

    names = ("tokens", "mask", "patches", "patch_positions", "patch_mask")
    return VisualPrefix(**{name: stacked(name) for name in names}, patch_index=stacked("patch_index", -1))


def finetune(config: FinetuneConfig, log: Log | None = None) -> Path:
    """Run (or resume); returns the folder of the fine-tuned model."""
    checked(config.loop.data)  # before a run folder is made
    say = log or to_stderr
    return drive(lambda: FinetuneRun(config, say), config, say)


@dataclass
class SeenScene:
    """The outputs of the frozen parts for a video.

    tokens (1,F,P,C) of the encoder, positions (1,F,P,3) of the patches in the scene frame, metres, valid (1,F,P).
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> SeenScene:
        """The same on a device, tokens in single precision."""
        return SeenScene(self.tokens.to(device).float(), self.positions.to(device), self.valid.to(device))


def _checked(seen: SeenScene, width: int) -> SeenScene:
    """The scene; ValueError for tensors of other shapes or types than the encoder and the geometry give."""
    shape = seen.tokens.shape[:3]
    fits = (
        seen.tokens.ndim == 4 and seen.tokens.shape[-1] == width and seen.tokens.is_floating_point()
        and seen.positions.shape == (*shape, 3) and seen.positions.is_floating_point()
        and seen.valid.shape == shape and seen.valid.dtype == torch.bool
    )  # fmt: skip
    if not fits:
        raise ValueError("not the tokens of a scene")
    return seen


class SceneCache:
    """Outputs of the frozen parts, kept on disk; ``frames`` of each video are sampled (default: the model's number)."""

    def __init__(
        self, model: VidLLMForConditionalGeneration, processor: VidLLMProcessor, folder: Path, frames: int | None = None
    ) -> None:
        self.model, self.reader, self.folder = model, processor.image_processor, folder
        self.frames = frames or self.reader.num_frames
        seeing = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in LANGUAGE_HALF}
        about = f"{self.frames} {self.reader.shorter_side} {self.reader.resize_mode} {model.config.scale}"
        self.name = weights_name(seeing, about)

    def path(self, video: Path) -> Path:
        """The file of a video's outputs; another one if the video or the model has changed."""
        files = sorted(p for p in video.iterdir() if p.is_file()) if video.is_dir() else [video]
        stamps = [(str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
        key = hashlib.sha256(f"{self.name} {stamps}".encode()).hexdigest()[:16]
        return self.folder / f"{video.stem[:40]}-{key}.safetensors"

    def scene(self, video: Path) -> SeenScene:
        """The outputs for a video, computed if there is no file of them or it is damaged."""
        path = self.path(video)
        if has_file(path):
            try:
                return _checked(SeenScene(**load_file(path)), self.model.config.encoder.hidden_size)
            except (SafetensorError, OSError, TypeError, ValueError):
                path.unlink(missing_ok=True)
        seen = self._encode(video)
        with atomic_path(path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in vars(seen).items()}, temporary)
        return seen

    def fill(self, videos: Sequence[Path], say: Log) -> None:
        """Compute the outputs for all videos without a file."""
        missing = [video for video in videos if not self.path(video).exists()]
        for done, video in enumerate(missing, 1):
            self.scene(video)
            if done % -(-len(missing) // PROGRESS_LINES) == 0 or done == len(missing):
                say(f"{self.folder}: {done} of {len(missing)} videos seen")

    @torch.no_grad()
    def _encode(self, video: Path) -> SeenScene:
        parameter = next(self.model.encoder.parameters())
        images = self.reader.read(video, self.frames).images[None].to(parameter.device, parameter.dtype)
        features = self.model.encode(images)
        geometry = self.model.metric_geometry(features, self.model.predict_cameras(features))
        positions, valid = self.model.patch_positions(geometry, features.encoder.grid)
        tokens = features.encoder.tokens
        half = tokens.half()
        return SeenScene(half if bool(half.isfinite().all()) else tokens.float(), positions, valid)
