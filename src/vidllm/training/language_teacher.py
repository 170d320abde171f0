"""Teachers that are trained here, at the size of ``tiny`` (docs/method.md, section 8).

* geometry: a small VGGT, which is the geometric half without an adapter, trained by the geometry steps of stage 2
  (:func:`geometry_teacher` is its configuration);
* language: a vision tower of CLIP's form, trained contrastively with the rooms' captions and then, as LLaVA-3D's, by 3D
  instruction tuning on posed RGB-D (:class:`LanguageTeacherRun`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase

from vidllm.datasets.language import language_from_record
from vidllm.datasets.shards import LabelSpace
from vidllm.english import listing, with_article
from vidllm.geometry.precision import full_precision
from vidllm.io.atomic import atomic_folder
from vidllm.training.config import (
    FLAT,
    Loop,
    LossWeights,
    Optimiser,
    RunConfig,
    Start,
    Texts,
    TrainConfig,
    changed,
    tiny,
)
from vidllm.training.data import Batch, RoomsData, plan_of
from vidllm.training.distillation import resample_grid
from vidllm.training.joint import language_losses, true_geometry
from vidllm.training.loop import Log, drive
from vidllm.training.losses import Losses, normalise
from vidllm.training.models import (
    LANGUAGE_HALF,
    checkpoint_activations,
    run_tokenizer,
    starting_model,
    training_device,
    write_model,
)
from vidllm.training.packing import PACKED_ATTENTION, Tensors, pack
from vidllm.training.pictures import PATCH_SIZE
from vidllm.training.teachers import clip_pixels, clip_tokens
from vidllm.training.texts import TextMaker, draw_texts
from vidllm.training.trainable import Trainable

NEVER = 10**9
END = 1  # <s> ends a caption: CLIP reads its summary there (transformers takes an end token of id 2 for an old form)
MOST_NAMED = 6  # things in a list
LIST_SHARE = 0.5
MAX_LOGIT_SCALE = 4.6052  # log 100, as CLIP

#: (category, colour) as the classes of a patch.
Look = tuple[int, int]


def geometry_teacher() -> TrainConfig:
    """A small VGGT: encoder, global-frame attention and heads, without adapter, language and metric depth."""
    return changed(
        tiny(), out="runs/teacher_geometry", adapter="none", steps=4000, language_start=NEVER, spread_share=0.3,
        metric_weight=0.0, semantic_weight=0.0, naming_weight=0.0, word_weight=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class LanguageTeacherConfig(RunConfig):
    """Training of a small LLaVA-3D: contrastive on frames and captions, then instruction tuning with true geometry."""

    loop: Annotated[Loop, FLAT] = Loop(out="runs/teacher_language", steps=4000)
    optimiser: Annotated[Optimiser, FLAT] = Optimiser(beta2=0.98)
    preset: str = "tiny"  # preset of the student: width of the vision tower, language half
    init_from: str | None = None  # folder of a model: tokenizer and initial weights of the language half
    contrastive_steps: int = 2500  # steps of contrastive training; the others are instruction tuning
    image_size: int = 112  # side of the vision tower's square pictures in pixels
    depth: int = 6  # layers of the vision tower
    heads: int = 3  # attention heads
    text_depth: int = 3  # layers of the text tower
    text_length: int = 64  # tokens of a caption
    shards_a_step: int = 3  # shards per contrastive step
    scenes_a_shard: int = 16  # scenes per shard, one frame each
    tune_tower: bool = True  # train the vision tower in instruction tuning too
    clip_images: int = 16  # frames of a step of instruction tuning, over all its scenes
    clip_frames: tuple[int, ...] = (2, 4)  # frames per clip, drawn from these
    questions: int = 22  # questions per scene and step
    references: int = 8  # expressions per scene and step
    captions: int = 3  # captions per scene and step

    @property
    def start(self) -> Start:
        """What the model starts from."""
        return Start(self.preset, init_from=self.init_from)


# ---- contrast: a frame and what can be seen in it (the form of CLIP) -------------------------------------------------


@dataclass
class FramePairs(Tensors):
    """N frames with their texts: pixels (N,3,S,S) normalised for the tower; ids and mask (N,L); the texts."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    texts: list[str]


def draw_pairs(
    data: RoomsData, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, config: LanguageTeacherConfig
) -> FramePairs:
    """One frame of each of some scenes of some shards, with a text of it."""
    pixels, texts = [], []
    for _ in range(config.shards_a_step):
        batch = data.draw(rng, config.scenes_a_shard, 1, window=True)
        pixels.append(clip_pixels(batch.images[:, 0], config.image_size))
        texts += [frame_text(batch, b, data.labels, rng) for b in range(config.scenes_a_shard)]
    most = config.text_length - 1
    rows = [torch.tensor([*tokenizer.encode(text, add_special_tokens=False)[:most], END]) for text in texts]
    ids, mask = (pad_sequence(each, batch_first=True) for each in (rows, [torch.ones_like(row) for row in rows]))
    return FramePairs(torch.cat(pixels), ids, mask, texts)


def frame_text(batch: Batch, scene: int, labels: LabelSpace, rng: np.random.Generator) -> str:
    """A text for the first frame of a scene: a list of the visible objects, or the caption of one."""
    record = batch.records[scene]
    pairs = zip(batch.category[scene, 0].tolist(), batch.colour[scene, 0].tolist(), strict=True)
    seen = Counter(look for look in pairs if look[0] > 0)
    looks = {item["id"]: labels.classes(item)[:2] for item in record["objects"]}
    told = language_from_record(record).captions
    captions = [c for c in told if c.object_id is not None and looks[c.object_id] in seen]
    if captions and rng.random() >= LIST_SHARE:
        chosen = captions[int(rng.integers(len(captions)))]
        return chosen.texts[int(rng.integers(len(chosen.texts)))]
    return list_text(record, seen, looks)


def list_text(record: dict[str, Any], seen: Counter[Look], looks: dict[int, Look]) -> str:
    """The objects with most patches, largest first: "a red chair, a brown table and a white bed"."""
    named = {looks[item["id"]]: f"{item['colour']} {item['category'].replace('_', ' ')}" for item in record["objects"]}
    words = [with_article(named[look]) for look, _ in seen.most_common(MOST_NAMED) if look in named]
    return listing(words) if words else "an empty part of the room"


def contrastive_loss(clip: CLIPModel, pairs: FramePairs) -> tuple[Float[Tensor, ""], float]:
    """CLIP's loss, in which all frames of the same text are positives, and the fraction of frames whose text is
    retrieved.
    """
    out = clip(input_ids=pairs.ids, attention_mask=pairs.mask, pixel_values=pairs.pixels)
    with full_precision():
        image, text = (F.normalize(x.float(), dim=-1) for x in (out.image_embeds, out.text_embeds))
        logits = clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * image @ text.T
    number = {said: i for i, said in enumerate(dict.fromkeys(pairs.texts))}
    which = torch.tensor([number[said] for said in pairs.texts], device=logits.device)
    same = which[:, None] == which[None, :]
    target = same / same.sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = same.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    return loss, float(found)


# ---- the run -------------------------------------------------------------------------------------------------------


class LanguageTeacherRun(Trainable):
    """A CLIP model, and the language half that is trained on the patches of its vision tower."""

    def __init__(self, config: LanguageTeacherConfig) -> None:
        self.config: LanguageTeacherConfig = config
        self.device = training_device(config.loop.device)
        self.data = RoomsData(Path(config.loop.data))
        self.texts = TextMaker(run_tokenizer(Path(config.loop.out), self.data, config.init_from))
        self.model = starting_model(config.start, self.texts).train()
        self.model.to(self.device)
        width = self.model.config.encoder.hidden_size
        self.clip: Any = CLIPModel(clip_config(config, width, len(self.texts.tokenizer)))
        self.clip.to(self.device)  # type: ignore[arg-type]
        self.model.requires_grad_(False)
        self.language = nn.ModuleDict({name: self.model.get_submodule(name) for name in LANGUAGE_HALF})
        self.language.requires_grad_(config.contrastive_steps < config.loop.steps)
        if self.device.type == "cpu":
            self.clip.set_attn_implementation("eager")
            self.model.language_model.set_attn_implementation(PACKED_ATTENTION)
        if config.loop.gradient_checkpointing:
            for part in (self.clip, self.model.language_model):
                checkpoint_activations(part)

    def modules(self) -> dict[str, nn.Module]:
        """CLIP and the language half."""
        return {"clip": self.clip, "language": self.language}

    def draw(self, step: int, rng: np.random.Generator) -> FramePairs | Batch:
        """Frames with texts, later scenes; the number of frames per scene is the same in all processes."""
        config = self.config
        if step < config.contrastive_steps:
            return draw_pairs(self.data, self.texts.tokenizer, rng, config).to(self.device)
        plan = plan_of(config.loop.seed, step)
        return self.data.clips(plan, rng, config.clip_images, config.clip_frames).to(self.device)

    def losses(self, batch: FramePairs | Batch, step: int, rng: np.random.Generator) -> Losses:
        """The contrastive loss, later L_VL."""
        if isinstance(batch, Batch):
            return self._instruct(batch, rng)
        loss, right = contrastive_loss(self.clip, batch)
        return Losses({"contrast": loss}, {"retrieved": right, "pairs": float(len(batch.pixels))})

    def _instruct(self, batch: Batch, rng: np.random.Generator) -> Losses:
        """L_VL of the tower's patches, lifted with true depth and poses."""
        config = self.config
        rows, columns = (side // PATCH_SIZE for side in batch.images.shape[-2:])
        geometry = true_geometry(normalise(batch.depth_m, batch.extrinsics, batch.intrinsics), batch.up)
        prefix = self.model.pool_patches(
            self._patches(batch, (rows, columns)), None, *self.model.patch_positions(geometry, (rows, columns))
        )
        counts = Texts(config.questions, config.references, config.captions)
        texts = draw_texts(batch, self.texts, rng, counts)
        packed = pack(texts, self.model.config.loc_token_id, counts.max_text_tokens).to(self.device)
        return language_losses(self.model, prefix, packed, self.texts.prefix_ids, LossWeights())

    def _patches(self, batch: Batch, grid: tuple[int, int]) -> Tensor:
        """The tower's tokens (B,F,P,C) on the patch grid of the frames."""
        with torch.set_grad_enabled(self.config.tune_tower):
            tokens = clip_tokens(self.clip.vision_model, batch.images.flatten(0, 1))
        side = self.config.image_size // PATCH_SIZE
        return resample_grid(tokens.unflatten(0, batch.images.shape[:2]), (side, side), grid)

    def export(self, folder: Path) -> Path:
        """``model``: CLIP with the tokenizer; ``reader``: the language half, if trained, for ``language_from``."""
        with atomic_folder(folder / "model") as part:
            self.clip.save_pretrained(part)
            self.texts.tokenizer.save_pretrained(part)
        if self.config.contrastive_steps < self.config.loop.steps:
            write_model(self.model, self.model.state_dict(), self.texts.tokenizer, folder / "reader")
        return folder / "model"


def clip_config(config: LanguageTeacherConfig, width: int, vocabulary: int) -> CLIPConfig:
    """CLIP's form with the width of the encoder that its tower replaces."""
    both = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": config.heads}
    vision = {
        **both, "num_hidden_layers": config.depth, "image_size": config.image_size, "patch_size": PATCH_SIZE
    }  # fmt: skip
    text = {
        **both, "num_hidden_layers": config.text_depth, "max_position_embeddings": config.text_length,
        "vocab_size": vocabulary, "bos_token_id": END, "eos_token_id": END, "pad_token_id": 0,
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)


def train_language_teacher(config: LanguageTeacherConfig, log: Log | None = None) -> Path:
    """Run (or resume); returns the folder of the CLIP model, which ``stage1 --teacher-language`` takes."""
    if not 0 <= config.contrastive_steps <= config.loop.steps:
        raise ValueError(
            f"contrastive_steps must be 0 to steps ({config.loop.steps}), received {config.contrastive_steps}"
        )
    return drive(lambda: LanguageTeacherRun(config), config, log)
