"""Metric depth estimators for the cascade (``vidllm import --metric-depth``): those of transformers, and networks of
:data:`vidllm.baselines.geometry.METRIC_KINDS`, which are recognised by the keys of their weights.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import AutoModelForDepthEstimation

from vidllm.baselines.depth_estimator import DepthInput, depth_input, metric_config
from vidllm.io.weight_files import Checkpoint, LoadedCheckpoint
from vidllm.model.loading import load_with_report
from vidllm.pretrained import depth_anything_3, moge_2
from vidllm.pretrained.conversion import KeyMap, Source, Translate, source_beneath
from vidllm.pretrained.licences import Licence

#: Key map to the cascade's ``metric``.
RENAMES = ((r"(.+)", r"metric.network.\1"),)
#: Licence terms on the model cards of published estimators (the card of the given checkpoint takes precedence).
TERMS = {
    "zoedepth": ("ZoeDepth", "Intel's zoedepth-nyu-kitti: MIT; see the card of the checkpoint that was given.", None),
    "depth_anything": ("Depth Anything", "V2 Small Apache-2.0, the larger ones CC BY-NC 4.0 (non-commercial); see the "
                       "card of the checkpoint that was given.", None),
    "depth_pro": ("Depth Pro", "Apple Machine Learning Research Model licence (research only).", False),
    "glpn": ("GLPN", "its own: see the card of the checkpoint that was given.", None),
}  # fmt: skip
#: Where the cascade holds the network.
PREFIX = "metric.network."
_AS_IT_IS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean and deviation of colours: the network has its own


@dataclass(frozen=True)
class MetricImporter:
    """A published network of ours.

    keys: what one of its keys begins with. settings: its configuration by the headers, ValueError for another one.
    wants: its pictures. The rest as of :class:`~vidllm.pretrained.geometry_models.GeometryImporter`.
    """

    keys: str
    settings: Callable[[Checkpoint], dict[str, Any]]
    translate: Translate
    implied: tuple[str, ...]
    wants: DepthInput
    licence: Licence


#: The networks by their kind.
METRIC_NETWORKS = {
    "depth_anything_3_metric": MetricImporter(
        r"(?:model\.)?backbone\.pretrained\.", depth_anything_3.metric_settings, depth_anything_3.translate_metric,
        depth_anything_3.IMPLIED, DepthInput(504, 504, True, 14, *_AS_IT_IS),
        Licence("Depth Anything 3 (metric)", "DA3METRIC-LARGE: Apache-2.0, code and weights.", True),
    ),
    "moge_2": MetricImporter(
        r"encoder\.backbone\.", moge_2.settings, moge_2.translate, moge_2.IMPLIED,
        DepthInput(0, 0, False, 1, *_AS_IT_IS),
        Licence("MoGe-2", "code MIT (its DINOv2: Apache-2.0); weights as the card of the checkpoint says.", True),
    ),
}  # fmt: skip


def _network(checkpoint: Checkpoint) -> str | None:
    """The kind of one of :data:`METRIC_NETWORKS` whose keys these are; None for an estimator of transformers."""
    if "model_type" in (checkpoint.settings() or {}):
        return None
    keys = [key for key, _ in checkpoint.shapes()]
    known = (kind for kind, one in METRIC_NETWORKS.items() if any(re.match(one.keys, key) for key in keys))
    return next(known, None)


def depth_estimator_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of the cascade's configuration for an estimator; ValueError if its depth is not metric."""
    kind = _network(checkpoint)
    if kind is not None:
        importer = METRIC_NETWORKS[kind]
        settings = {"model_type": kind, **importer.settings(checkpoint)}
        return {"metric_depth": {"enabled": False}, "metric_model": settings, "metric_input": asdict(importer.wants)}
    config = metric_config(checkpoint.settings(), checkpoint.place)
    wants = depth_input(config.model_type, checkpoint.settings("preprocessor_config.json"), config)
    return {"metric_depth": {"enabled": False}, "metric_model": config.to_dict(), "metric_input": asdict(wants)}


def depth_estimator_source(checkpoint: Checkpoint) -> Source:
    """The estimator's weights for an import; ValueError where they are damaged or not all there."""
    kind = _network(checkpoint)
    if kind is not None:
        importer = METRIC_NETWORKS[kind]
        licence = replace(importer.licence, terms=_card(checkpoint) + importer.licence.terms)
        own = Source("metric depth estimator", checkpoint, importer.translate, (), licence)
        return source_beneath(PREFIX, own, importer.settings(checkpoint)["hidden_size"], importer.implied)
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
    """The licence in the model card beside the weights, as the first words of a line."""
    card = checkpoint.folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", text, re.M)
    return f"its card says {found[1]}. " if found else ""
