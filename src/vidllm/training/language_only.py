"""Train a language model on the rooms' texts without video: the language-only baseline, and an initial language model.

As the baseline (:mod:`vidllm.evaluation.baselines`) it shows how much can be answered from the texts alone. As initial
weights (``Start.language_from``) it replaces the pretrained language model of the larger presets: a small one with
random weights would spend most of the joint training on learning to read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vidllm.datasets.language import language_from_record
from vidllm.datasets.shards import Shard
from vidllm.io.atomic import atomic_folder
from vidllm.model.presets import preset
from vidllm.training.config import FLAT, Loop, Optimiser, RunConfig
from vidllm.training.data import RoomsData
from vidllm.training.loop import Log, drive
from vidllm.training.losses import Losses
from vidllm.training.models import VOCABULARY, training_device
from vidllm.training.packing import Text, pack
from vidllm.training.texts import TextMaker, load_or_build_tokenizer, scene_boxes, scene_from_room
from vidllm.training.trainable import Trainable


@dataclass(frozen=True)
class LanguageOnlyConfig(RunConfig):
    """Training of the language-only baseline: the same language model and questions, without the scene."""

    loop: Annotated[Loop, FLAT] = Loop(out="runs/blind", steps=1500, log_every=50)
    optimiser: Annotated[Optimiser, FLAT] = Optimiser(warmup_steps=50, final_fraction=0.0, beta2=0.98)
    tokenizer: str = "runs/tiny/tokenizer"  # folder of the tokenizer; if missing, it is trained on the data
    preset: str = "tiny"  # sizes of the model
    batch: int = 128  # texts per micro-batch


class LanguageOnlyRun(Trainable):
    """A causal language model and all texts of the data."""

    def __init__(self, config: LanguageOnlyConfig) -> None:
        self.config: LanguageOnlyConfig = config
        self.device = training_device(config.loop.device)
        data = RoomsData(Path(config.loop.data))
        maker = TextMaker(load_or_build_tokenizer(Path(config.tokenizer), data.paths, VOCABULARY))
        self.tokenizer = maker.tokenizer
        settings = preset(config.preset).text_config
        settings.vocab_size = len(self.tokenizer)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_config(settings)
        self.model.set_attn_implementation("eager")
        self.model.to(self.device)
        if config.loop.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.texts, self.mean_box = _texts(data, maker, np.random.default_rng(config.loop.seed))

    def modules(self) -> dict[str, nn.Module]:
        """The language model."""
        return {"model": self.model}

    def draw(self, step: int, rng: np.random.Generator) -> list[Text]:
        """Some of all texts."""
        return [self.texts[int(i)] for i in rng.integers(len(self.texts), size=self.config.batch)]

    def losses(self, batch: list[Text], step: int, rng: np.random.Generator) -> Losses:
        """Cross-entropy of the answers."""
        rows = pack([[text] for text in batch], loc_token_id=-1, max_tokens=sys.maxsize).to(self.device)
        mask = (rows.segment > 0).long()
        return Losses({"text": self.model(input_ids=rows.input_ids, attention_mask=mask, labels=rows.labels).loss}, {})

    def export(self, folder: Path) -> Path:
        """``model``, for ``--blind`` and ``--language-from``: in half precision, with its tokenizer."""
        self.model.config.mean_box = self.mean_box
        with atomic_folder(folder / "model") as part:
            self.model.half().save_pretrained(part)
            self.tokenizer.save_pretrained(part)
        return folder / "model"


def train_language_only(config: LanguageOnlyConfig, log: Log | None = None) -> Path:
    """Train (or resume) the baseline; returns the folder of its model."""
    return drive(lambda: LanguageOnlyRun(config), config, log)


def _texts(data: RoomsData, maker: TextMaker, rng: np.random.Generator) -> tuple[list[Text], list[float]]:
    """Every question and caption of the data as a text, and the mean target box of its references."""
    texts, boxes = [], []
    for path in data.paths:
        shard = Shard(path)
        for index, record in enumerate(shard.records):
            language = language_from_record(record)
            texts += [maker.question(q) for q in (*language.questions, *language.spatial)]
            placed = scene_boxes(record, scene_from_room(shard.tensors(index)["extrinsics"]))
            texts += [maker.caption(c, placed, rng) for c in language.captions]
            boxes += [placed[t] for r in language.references for t in r.targets]
    return texts, np.mean(boxes, 0).tolist() if boxes else [0.0] * 7
