"""Depth estimators of transformers that give metres, for the cascade (``vidllm import --metric-depth``)."""

from __future__ import annotations

import re
import warnings
from dataclasses import asdict
from typing import Any

from transformers import AutoModelForDepthEstimation

from vidllm.baselines.depth_estimator import depth_input, metric_config
from vidllm.io.weight_files import Checkpoint, LoadedCheckpoint
from vidllm.model.loading import load_with_report
from vidllm.pretrained.conversion import KeyMap, Source
from vidllm.pretrained.licences import Licence

#: Key map to the cascade's ``metric``.
RENAMES = ((r"(.+)", r"metric.network.\1"),)
#: What published estimators say of their terms on their model cards (the card that was given counts).
TERMS = {
    "zoedepth": ("ZoeDepth", "Intel's zoedepth-nyu-kitti: MIT; see the card of the checkpoint that was given.", None),
    "depth_anything": ("Depth Anything", "V2 Small Apache-2.0, the larger ones CC BY-NC 4.0 (non-commercial); see the "
                       "card of the checkpoint that was given.", None),
    "depth_pro": ("Depth Pro", "Apple Machine Learning Research Model licence (research only).", False),
    "glpn": ("GLPN", "its own: see the card of the checkpoint that was given.", None),
}  # fmt: skip


def depth_estimator_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the cascade's configuration says of an estimator; ValueError where it gives no metres."""
    config = metric_config(checkpoint.settings(), checkpoint.place)
    wants = depth_input(config.model_type, checkpoint.settings("preprocessor_config.json"), config)
    return {"metric_depth": {"enabled": False}, "metric_model": config.to_dict(), "metric_input": asdict(wants)}


def depth_estimator_source(checkpoint: Checkpoint) -> Source:
    """The estimator's weights for an import; ValueError where they are damaged or not all there."""
    for _ in checkpoint.shapes():  # told in one line where a shard is missing, cut or holds code
        pass
    config = metric_config(checkpoint.settings(), checkpoint.place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, told = load_with_report(AutoModelForDepthEstimation, checkpoint.folder, config=config)
    missing = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in told.get(kind) or ())
    if missing:
        raise ValueError(f"{checkpoint.place}: {config.model_type} lacks {len(missing)} weights, such as {missing[0]}; "
                         "is the checkpoint complete?")  # fmt: skip
    name, terms, commercial = TERMS[config.model_type]
    # transformers knows the older names of its keys; estimators are small
    loaded = LoadedCheckpoint(checkpoint.place, checkpoint.folder, checkpoint.shards, model.state_dict())
    licence = Licence(name, _card(checkpoint) + terms, commercial)
    return Source("metric depth estimator", loaded, KeyMap(RENAMES).translate, ("metric.",), licence)


def _card(checkpoint: Checkpoint) -> str:
    """The licence that the model card beside the weights names, as the beginning of a line."""
    card = checkpoint.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", text, re.M)
    return f"its card says {found[1]}. " if found else ""
