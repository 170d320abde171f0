"""Train a language model on the rooms' language without the video: the baseline, and the start of the joint training.

As the language-only baseline (:mod:`vidllm.evaluation.blind`) it shows what the words give away. As the start
(``TrainConfig.language_from``) it stands for the pretrained language model that every larger preset has: a small one
that begins at nothing spends most of its joint training on learning to read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from vidllm.model.configuration import preset
from vidllm.rooms.shards import Shard, language_from_record
from vidllm.training.data import RoomsData, scene_boxes, scene_from_room
from vidllm.training.packing import IGNORE, Text
from vidllm.training.texts import TextMaker, load_or_build_tokenizer


@dataclass(frozen=True)
class BlindConfig:
    """Language-only training: same language model, same questions, no scene."""

    data: str = "runs/shards"
    out: str = "runs/blind"
    tokenizer: str = "runs/tiny/tokenizer"
    preset: str = "tiny"
    steps: int = 1500
    batch: int = 128
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 1


def train_blind(config: BlindConfig) -> Path:
    """Train and save the baseline; returns its folder."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    data = RoomsData(Path(config.data), 14, {})
    maker = TextMaker(load_or_build_tokenizer(Path(config.tokenizer), data.paths, 1536))
    settings = preset(config.preset).text_config
    settings.vocab_size = len(maker.tokenizer)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(settings)
    model.set_attn_implementation("eager")
    texts, mean_box = _texts(data, maker, np.random.default_rng(config.seed))
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    rng = np.random.default_rng(config.seed)
    for step in range(config.steps):
        rate = min(1.0, (step + 1) / 50, (config.steps - step) / (0.3 * config.steps))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate
        loss = _step(model, [texts[int(i)] for i in rng.integers(len(texts), size=config.batch)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"blind step {step + 1}/{config.steps} loss {float(loss):.4f}", file=sys.stderr, flush=True)
    model.config.mean_box = mean_box
    out = Path(config.out)
    model.half().save_pretrained(out)
    maker.tokenizer.save_pretrained(out)
    return out


def _texts(data: RoomsData, maker: TextMaker, rng: np.random.Generator) -> tuple[list[Text], list[float]]:
    """Every question and caption of the data as a text, and the mean target box of its references."""
    texts, boxes = [], []
    for path in data.paths:
        shard = Shard(path)
        for index, record in enumerate(shard.records):
            language = language_from_record(record)
            texts += [maker.question(q) for q in language.questions]
            placed = scene_boxes(record, scene_from_room(shard.tensors(index)["extrinsics"]))
            texts += [maker.caption(c, placed, rng) for c in language.captions]
            boxes += [placed[t] for r in language.references for t in r.targets]
    return texts, np.mean(boxes, 0).tolist() if boxes else [0.0] * 7


def _step(model: PreTrainedModel, texts: Sequence[Text]) -> torch.Tensor:
    longest = max(len(t.ids) for t in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORE)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        known = torch.tensor(text.ids)
        ids[row, : len(known)], mask[row, : len(known)] = known, 1
        labels[row, : len(known)] = torch.where(torch.tensor(text.scored), known, IGNORE)
    with torch.autocast("cpu", torch.bfloat16):
        loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss
