"""Import of a model: recipe, plan, weights streamed into a folder, processor, report and model card."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from vidllm.io.atomic import atomic_folder
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import expected_weights, kind_of
from vidllm.pretrained.conversion import SHARD_BYTES, ShardWriter, plan, planned
from vidllm.pretrained.recipes import Ingredients, Recipe, recipe
from vidllm.pretrained.report import Report, model_card

REPORT_FILE = "import_report.json"


def import_model(
    preset: str, given: Ingredients, folder: str | Path, dtype: torch.dtype | None = None, seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Report:  # fmt: skip
    """Make a model folder of ``preset`` (one of ``IMPORT_PRESETS``) from published checkpoints.

    Weights are read and written tensor by tensor; ``dtype`` None keeps the sources' own. What no checkpoint gives is
    initialised with ``seed``. All of the folder is written or none of it.

    Raises ValueError, naming the checkpoint, when one is missing, damaged, another model's or of another size.
    """
    made, model, report = _planned(preset, given)
    with atomic_folder(folder) as part:
        tensors = chain(planned(report, made.sources), _initial(made.config, report.initial, seed))
        ShardWriter(part, shard_bytes, dtype).write(tensors)
        made.config.architectures = [type(model).__name__]
        made.config.save_pretrained(part)
        VidLLMProcessor.from_config(made.config, made.tokenizer).save_pretrained(part)
        (part / REPORT_FILE).write_text(json.dumps(report.as_dict(), indent=1))
        (part / "README.md").write_text(model_card(preset, report), encoding="utf-8")
        (part / "seen.json").write_text(json.dumps({"possibly": {"any": report.seen}}))  # vidllm.datasets.seen
    return report


def plan_import(preset: str, given: Ingredients, dtype: torch.dtype | None = None) -> tuple[Report, int]:
    """The report of an import that is not made, from headers alone, and the most bytes that its weights can take.

    Raises ValueError as :func:`import_model`.
    """
    _, model, report = _planned(preset, given)
    width = 4 if dtype is None else dtype.itemsize
    return report, sum(width * shape.numel() for shape in expected_weights(model).values())


def _planned(preset: str, given: Ingredients) -> tuple[Recipe, VidLLMForConditionalGeneration, Report]:
    made = recipe(preset, given)
    with torch.device("meta"):  # names and shapes alone
        model = kind_of(made.config.model_type)[1](copy.deepcopy(made.config))
    report = plan(expected_weights(model), made.sources)
    report.notes += made.notes
    return made, model, report


def _initial(config: VidLLMConfig, names: list[str], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Initial values of the weights that no checkpoint has, from a model whose other parts are small."""
    if not names:
        return
    small = copy.deepcopy(config)
    missing = {name.split(".")[0] for name in names}
    if "encoder" not in missing:
        small.encoder.depth, small.encoder.tap_layers = 1, (0,) * len(small.encoder.tap_layers)
    if "attention" not in missing:
        small.attention.depth = 1
    if "camera_head" not in missing:
        small.camera_head.trunk_depth = 1
    if "language_model" not in missing:
        small.text_config = AutoConfig.for_model(
            "llama", hidden_size=config.text_config.hidden_size, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, vocab_size=8,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = kind_of(config.model_type)[1](small).state_dict()
    for name in names:
        yield name, values[name]
