"""A table of which option has an effect in which mode. Without an effect, commands refuse it and training warns.

An option counts as given if its value is not the default. Other errors (options that contradict each other, values out
of range) are raised where the value is read.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Effect:
    """Options of a verb (by attribute), the mode in which they have an effect, and its description."""

    verb: str
    options: tuple[str, ...]
    where: str
    applies: Callable[[Any], bool]


def _speaks(config: Any) -> bool:
    return config.language_start < config.steps and config.language_share > 0


def _has_windows(config: Any) -> bool:
    return config.language_start > 0 or config.language_share < 1


def _has_geometry(config: Any) -> bool:
    return _has_windows(config) or config.language_only_share < 1


def _baseline(options: Any) -> bool:
    words = ",".join(options.baselines) if options.baselines else "language-only"
    return options.task in ("scanqa", "sqa3d", "scan2cap") and "language-only" in words.split(",")


def _several_processes(_: Any) -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


#: Verbs read with argparse: an option without an effect is refused.
VERBS = (
    Effect("evaluate", ("output", "split", "scenes", "setting", "proposals", "baselines", "blind", "model", "frames",
                        "refine", "device", "dtype"),
           "not used for scoring files; they need --data ROOT, which runs a model", lambda o: bool(o.data)),
    Effect("evaluate", ("predictions", "references", "per_item"),
           "--data runs a model, these options score files: give one of the two", lambda o: not o.data),
    Effect("evaluate", ("setting", "proposals", "baselines", "blind", "protocol"),
           "reconstruction has one setting, one baseline and one protocol", lambda o: o.task != "reconstruction"),
    Effect("evaluate", ("proposals",), "answers in words need no boxes", lambda o: o.task not in ("scanqa", "sqa3d")),
    Effect("evaluate", ("blind",), "it needs the baseline language-only of scanqa, sqa3d or scan2cap", _baseline),
    Effect("info", ("language_dtype",), "it needs --frames, and affects the memory", lambda o: o.frames is not None),
    Effect("import", ("every_key",), "--json lists every key anyway", lambda o: not o.json),
)  # fmt: skip

_GEOMETRY = (
    "camera_weight", "rotation_weight", "translation_weight", "fov_weight", "depth_weight", "point_weight",
    "metric_weight", "gravity_weight", "correspondence_weight", "guide_weight", "patch_point_weight", "semantic_weight",
    "naming_weight", "vision_scale",
)  # fmt: skip
_LANGUAGE = (
    "clip_images", "dense_frames", "language_only_share", "true_geometry_until", "questions", "references", "captions",
    "plain", "places", "max_text_tokens", "text_weight", "box_weight", "word_weight", "resemble_weight", "place_weight",
)  # fmt: skip

#: Runs of training, by the class of their configuration: an option without an effect is warned about.
TRAINING = (
    Effect("RunConfig", ("spike_window",), "--spike-factor above 0", lambda c: c.spike_factor > 0),
    Effect("RunConfig", ("parallel",), "several processes (torchrun)", _several_processes),
    Effect("TrainConfig", ("adapter", "bridge_tokens", "metric_depth", "scale_alignment", "unit_m"),
           "fresh weights, without --init-from", lambda c: not c.init_from),
    Effect("TrainConfig", ("bridge_tokens",), "--adapter bridge", lambda c: c.adapter in (None, "bridge")),
    Effect("TrainConfig", ("unit_m",), "--no-metric-depth or --no-scale-alignment",
           lambda c: not (c.metric_depth and c.scale_alignment)),
    Effect("TrainConfig", ("lora_alpha",), "--lora-rank above 0", lambda c: c.lora_rank > 0),
    Effect("TrainConfig", ("window_scenes", "window_frames", "window_dense_frames", "spread_share", "vary_share"),
           "steps of geometry: --language-start above 0 or --language-share below 1", _has_windows),
    Effect("TrainConfig", ("clip_frames",), "steps with whole clips: --language-start below --steps, or --spread-share",
           lambda c: _speaks(c) or c.spread_share > 0),
    Effect("TrainConfig", ("language_share",), "--language-start below --steps", lambda c: c.language_start < c.steps),
    Effect("TrainConfig", _LANGUAGE, "steps of language: --language-start below --steps", _speaks),
    Effect("TrainConfig", ("named_share",), "--language-only-share above 0", lambda c: c.language_only_share > 0),
    Effect("TrainConfig", _GEOMETRY, "steps of geometry: --language-only-share below 1, or --language-start above 0",
           _has_geometry),
    Effect("TrainConfig", ("dense_frames",), "--language-only-share below 1", lambda c: c.language_only_share < 1),
    Effect("TrainConfig", ("rotation_weight", "translation_weight", "fov_weight", "confidence_weight", "inverse_depth"),
           "--reconstruction ours", lambda c: c.reconstruction == "ours"),
    Effect("TrainConfig", ("guide_layers",), "--guide-weight above 0", lambda c: c.guide_weight > 0),
    Effect("TrainConfig", ("bearing_weight",), "--patch-point-weight above 0", lambda c: c.patch_point_weight > 0),
    Effect("TrainConfig", ("resemble_weight", "place_weight"), "--word-weight above 0", lambda c: c.word_weight > 0),
    Effect("Stage1Config", ("structure",), "--structure-weight above 0", lambda c: c.structure_weight > 0),
    Effect("FinetuneConfig", ("lora_rank", "lora_alpha"), "--lora", lambda c: c.lora),
    Effect("LanguageTeacherConfig", ("clip_images", "clip_frames", "questions", "references", "captions", "tune_tower"),
           "instruction tuning: --contrastive-steps below --steps", lambda c: c.contrastive_steps < c.steps),
    Effect("LanguageTeacherConfig", ("shards_a_step", "scenes_a_shard"), "contrast: --contrastive-steps above 0",
           lambda c: c.contrastive_steps > 0),
    Effect("AblationConfig", ("model",), "the table scale", lambda c: not c.trained),
    Effect("AblationConfig", ("data", "steps", "stage1_steps", "language_steps", "init_from", "language_from", "blind",
                              "teacher_geometry", "teacher_language", "teacher_steps", "jobs", "joint", "distil"),
           "tables whose rows are trained", lambda c: c.trained),
    Effect("AblationConfig", ("stage1_steps", "teacher_geometry", "teacher_language", "teacher_steps", "distil"),
           "tables with rows of two stages", lambda c: c.two_stages),
    Effect("AblationConfig", ("teacher_steps",), "a teacher trained here: without --teacher-geometry or "
           "--teacher-language", lambda c: not (c.teacher_geometry and c.teacher_language)),
)  # fmt: skip


def check_options(options: Namespace, parser: ArgumentParser) -> None:
    """ValueError for options of a verb that have no effect in the mode chosen; ``parser`` has their defaults."""
    usual = {name: parser.get_default(name) for name in vars(options)}
    for names, effect in _without(VERBS, (options.command,), options, usual):
        raise ValueError(f"{', '.join(map(_option, names))}: no effect here; {effect.where}")


def idle_options(
    config: type, values: dict[str, Any], usual: dict[str, Any], but: tuple[str, ...] = ()
) -> list[str]:
    """A line for every kind of option of a configuration that has no effect; ``usual`` has the defaults.

    ``values`` may hold more that predicates need; options in ``but`` are not looked at.
    """
    classes = tuple(kind.__name__ for kind in config.__mro__)
    found = _without(TRAINING, classes, Namespace(**values), usual)
    lines = []
    for names, effect in found:
        told = [_option(name) for name in names if name not in but]
        if told:
            lines.append(f"{', '.join(told)}: no effect here; {'it needs' if len(told) == 1 else 'they need'} "
                         f"{effect.where}")  # fmt: skip
    return lines


def _without(
    table: tuple[Effect, ...], verbs: tuple[str, ...], mode: Any, usual: dict[str, Any]
) -> Iterator[tuple[list[str], Effect]]:
    """Options that were given and have no effect, each once."""
    told: set[str] = set()
    for effect in table:
        if effect.verb in verbs and not effect.applies(mode):
            names = [n for n in effect.options if n not in told and getattr(mode, n) != usual[n]]
            told.update(names)
            if names:
                yield names, effect


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
