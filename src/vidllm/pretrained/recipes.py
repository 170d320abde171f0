"""Recipes of imports: configuration and sources of the cascade, or of Vid-LLM initialised from other models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from vidllm.baselines.cascade import CascadeConfig
from vidllm.baselines.geometry import read_settings
from vidllm.baselines.reconstruction_only import ReconstructionOnlyConfig
from vidllm.io.weight_files import Checkpoint, open_checkpoint
from vidllm.model.configuration import TINY, EncoderConfig
from vidllm.model.huggingface import VidLLMConfig
from vidllm.model.loading import load_config, load_processor
from vidllm.model.presets import PRESETS, preset
from vidllm.pretrained import licences
from vidllm.pretrained.causal_lm import causal_lm_source, load_tokenizer, text_config
from vidllm.pretrained.clip import clip_config, clip_source
from vidllm.pretrained.conversion import KeyMap, Source
from vidllm.pretrained.depth_estimators import depth_estimator_fields, depth_estimator_source
from vidllm.pretrained.dinov2 import dinov2_config, dinov2_source
from vidllm.pretrained.geometry_models import find_geometry_model
from vidllm.pretrained.llava_3d import (
    DEFAULT_FRAMES,
    llava_3d_settings,
    llava_3d_source,
    llava_3d_text_config,
    tower_of,
)
from vidllm.pretrained.vggt import VGGTParts, parts_of, vggt_source

CASCADE, RECONSTRUCTION = "cascade", "reconstruction"
IMPORT_PRESETS = (CASCADE, RECONSTRUCTION, *PRESETS)
Place = str | Path | None

#: From a Vid-LLM to the cascade's metric depth model.
METRIC_RENAMES = (
    (r"encoder\.(.+)", r"metric.encoder.\1"),
    (r"metric_depth\.(.+)", r"metric.depth.\1"),
    (r".+", ""),
)


@dataclass(frozen=True)
class Ingredients:
    """The checkpoints: files, folders or hub ids.

    vggt, dinov2, llava_3d, lm, clip: as published; metric: a Vid-LLM's folder whose metric depth model the cascade
    takes; metric_depth: a depth estimator instead of it. camera_height_m: default of the cascade for videos of unknown
    scale. shorter_side: pixels of the frames, instead of the preset's. geometry: the name of another network instead
    of VGGT, geometry_weights: its checkpoint if not the published one (:mod:`vidllm.pretrained.geometry_models`).
    accept_licence: accept terms that must be accepted.
    """

    vggt: Place = None
    geometry: str | None = None
    geometry_weights: Place = None
    llava_3d: Place = None
    dinov2: Place = None
    lm: Place = None
    clip: Place = None
    metric: Place = None
    metric_depth: Place = None
    camera_height_m: float | None = None
    shorter_side: int | None = None
    accept_licence: bool = False


@dataclass(frozen=True)
class Recipe:
    """A model to be imported: configuration, tokenizer, sources in order of precedence, and notes for the report."""

    config: VidLLMConfig
    tokenizer: PreTrainedTokenizerBase
    sources: list[Source]
    notes: list[str]


def recipe(name: str, given: Ingredients) -> Recipe:
    """The recipe of a preset; ValueError where an ingredient is missing, superfluous or does not fit."""
    if name not in IMPORT_PRESETS:
        raise ValueError(f"unknown preset {name!r}; expected one of {', '.join(IMPORT_PRESETS)}")
    try:
        made = _RECIPES[name](given) if name in _RECIPES else _vid_llm(name, given)
        for source in made.sources if not given.accept_licence else ():
            if source.licence.agreement:
                raise ValueError(f"{source.checkpoint.place}: {source.licence.model} asks to agree to its terms: "
                                 f"{source.licence.terms} Add --accept-licence if you do")  # fmt: skip
        return made
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # of fields of a wrong type, wherever they are first used
        places = ", ".join(str(place) for place in (given.vggt, given.geometry_weights, given.llava_3d,
                                                            given.dinov2, given.lm) if place)  # fmt: skip
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{places}: no model can be made of the config.json there ({reason}); fetch them again"
                         ) from error  # fmt: skip


# ---- the cascade ------------------------------------------------------------------------------------------------


def _cascade(given: Ingredients) -> Recipe:
    if given.llava_3d is None or given.vggt is given.geometry is None:
        raise ValueError("the cascade is VGGT and LLaVA-3D: give both --vggt (or --geometry NAME) and --llava-3d")
    if given.lm is not None or given.dinov2 is not None:
        raise ValueError("the cascade takes its language model from LLaVA-3D and its encoder from VGGT; "
                         "leave --lm and --dinov2 out")  # fmt: skip
    llava = open_checkpoint(given.llava_3d)
    settings = llava_3d_settings(llava)
    geometry, networks, notes = _in_metres(given)
    text, tokenizer, before = _words(llava, llava_3d_text_config(settings, llava.place))
    tower, vision, clips = _tower(given, llava)
    config = CascadeConfig(
        vision_config=vision, vision_layer=settings.get("mm_vision_select_layer", -2), **geometry,
        adapter={"variant": "none"}, text_config=text, default_frames=settings.get("num_frames", DEFAULT_FRAMES),
        **_token_ids(tokenizer),
    )  # fmt: skip
    notes.insert(0, "scenes over the cap of patches: the voxel grows (LLaVA-3D drops patches at random)")
    first, *metric = networks
    return Recipe(config, tokenizer, [*clips, first, llava_3d_source(llava, text, before, tower), *metric], notes)


def _reconstruction_only(given: Ingredients) -> Recipe:
    if any(x is not None for x in (given.llava_3d, given.lm, given.dinov2, given.clip)):
        raise ValueError("a reconstruction has no language model: leave --llava-3d, --lm, --dinov2 and --clip out")
    if given.vggt is given.geometry is None:
        raise ValueError("give the reconstruction network: --geometry NAME or --vggt")
    geometry, networks, notes = _in_metres(given)
    tokenizer = load_processor(TINY).tokenizer  # a processor has one
    config = ReconstructionOnlyConfig(
        **geometry, adapter={"variant": "none"}, patches={"positions": False}, default_frames=DEFAULT_FRAMES,
        **_token_ids(tokenizer),
    )  # fmt: skip
    return Recipe(config, tokenizer, networks, [*notes, "no language model: it reconstructs, and answers nothing"])


_RECIPES = {CASCADE: _cascade, RECONSTRUCTION: _reconstruction_only}


def _in_metres(given: Ingredients) -> tuple[dict[str, Any], list[Source], list[str]]:
    """A reconstruction network and its metric depth model: fields of the configuration, sources, notes."""
    if given.metric is not None and given.metric_depth is not None:
        raise ValueError("give one metric depth model: --metric (of a vidllm model) or --metric-depth (an estimator)")
    geometry, network, side = _reconstruction(given)
    metric = None if given.metric is None else load_config(given.metric)
    estimator = None if given.metric_depth is None else open_checkpoint(given.metric_depth)
    fields: dict[str, Any] = {"metric_depth": {"enabled": False}}
    if estimator is not None:
        fields = depth_estimator_fields(estimator)
    elif metric is not None:
        if not metric.metric_depth.enabled:
            raise ValueError("the model given with --metric has no metric depth model")
        fields = {"metric_encoder": metric.encoder, "metric_depth": metric.metric_depth,
                  "metric_side": metric.shorter_side, "scale": metric.scale}  # fmt: skip
    fields |= {**geometry, "camera_height_m": given.camera_height_m, "shorter_side": given.shorter_side or side,
               "resize": "longer_side"}  # fmt: skip
    sources, notes = [network], []
    if given.metric is not None:
        sources.append(Source("metric depth model", open_checkpoint(given.metric), KeyMap(METRIC_RENAMES).translate,
                              ("metric.",), licences.METRIC))  # fmt: skip
    if estimator is not None:
        sources.append(depth_estimator_source(estimator))
    knows = "geometry_model" in geometry and getattr(read_settings(geometry["geometry_model"])[0], "metric", False)
    if metric is None and estimator is None and not knows:
        height = given.camera_height_m
        told = "metres need --scale, --camera-height or --known-length with each video"
        told = told if height is None else f"cameras are taken to be {height:g} m over the floor"
        notes.append(f"no metric depth model: {told}")
    return fields, sources, notes


def _reconstruction(given: Ingredients) -> tuple[dict[str, Any], Source, int]:
    """The cascade's geometry: its fields of the configuration, its weights and the longer side of its frames."""
    if given.vggt is not None and given.geometry is not None:
        raise ValueError("give one reconstruction network: --vggt or --geometry")
    if given.geometry is None:
        assert given.vggt is not None
        vggt = open_checkpoint(given.vggt)
        parts = parts_of(vggt)
        return _geometry_fields(parts, None), vggt_source(vggt, parts), parts.encoder.image_size
    settings, source, side = find_geometry_model(given.geometry, given.geometry_weights)
    _, network = read_settings(settings)
    fields = {"geometry_model": settings, "encoder": EncoderConfig(patch_size=network.patch_size)}
    return fields, source, side


def _tower(given: Ingredients, llava: Checkpoint) -> tuple[bool, Any, list[Source]]:
    """Whether LLaVA-3D's own tower is needed, CLIP's configuration, and CLIP's source where it comes from elsewhere."""
    if given.clip is not None:
        clip = open_checkpoint(given.clip)
        return False, clip_config(clip.settings(), clip.place), [clip_source(clip)]
    vision, source = tower_of(llava)
    within = source.checkpoint is llava
    return within, vision, [] if within else [source]


# ---- Vid-LLM ----------------------------------------------------------------------------------------------------


def _vid_llm(name: str, given: Ingredients) -> Recipe:
    if any(x is not None for x in (given.clip, given.metric, given.metric_depth, given.camera_height_m,
                                     given.geometry)):  # fmt: skip
        raise ValueError(f"--clip, --metric, --metric-depth, --camera-height and --geometry belong to the cascade; "
                         f"leave them out with {name}")  # fmt: skip
    if (given.llava_3d is None) == (given.lm is None):
        raise ValueError("give the language model: --llava-3d or --lm, one of the two")
    base, notes = preset(name), [
        "the adapter passes both streams through and its bridge tokens do not ride (adapter.geometry_rider, "
        "language_rider): geometry is VGGT's and the language half LLaVA-3D's until training changes them"
    ]
    sources, geometry = _vision(base, given, notes)
    text, tokenizer, language = _language(given)
    patches = base.patches
    if given.llava_3d is not None and patches.token_norm:
        patches = replace(patches, token_norm=False)
        notes.append("visual tokens are not normalised: LLaVA-3D's projector already speaks to its language model")
    width, most = geometry["encoder"].hidden_size, base.adapter.num_heads
    heads = max(n for n in range(1, most + 1) if width % n == 0)
    if heads != base.adapter.num_heads:
        notes.append(f"the adapter has {heads} heads, not {base.adapter.num_heads}: they must divide the width")
    adapter = replace(
        base.adapter, num_heads=heads, geometry_rider=False, language_rider=False, layer_scale_init=0.0
    )
    config = VidLLMConfig(
        **geometry, metric_depth=base.metric_depth, scale=base.scale, patches=patches, grounding=base.grounding,
        adapter=adapter, text_config=text, default_frames=base.default_frames,
        shorter_side=given.shorter_side or base.shorter_side, resize=base.resize, **_token_ids(tokenizer),
    )  # fmt: skip
    return Recipe(config, tokenizer, [*sources, language], notes)


def _vision(base: VidLLMConfig, given: Ingredients, notes: list[str]) -> tuple[list[Source], dict[str, Any]]:
    """Encoder and geometry: VGGT's, with DINOv2's encoder in place of VGGT's where that is given."""
    fields: dict[str, Any] = {"encoder": base.encoder, "attention": base.attention,
                              "camera_head": base.camera_head, "dense_head": base.dense_head}  # fmt: skip
    sources: list[Source] = []
    if given.vggt is not None:
        checkpoint = open_checkpoint(given.vggt)
        parts = parts_of(checkpoint)
        fields = _geometry_fields(parts, base)
        sources = [vggt_source(checkpoint, parts)]
    if given.dinov2 is not None:
        checkpoint = open_checkpoint(given.dinov2)
        fields["encoder"] = _tapped(dinov2_config(checkpoint), base.encoder)
        sources.insert(0, dinov2_source(checkpoint, fields["encoder"]))
        if given.vggt is not None:
            notes.append("the encoder is DINOv2's as given, not VGGT's: geometry is not VGGT's before training")
    if fields["encoder"] != base.encoder:
        notes.append("encoder and geometry have the size of the checkpoint, not the preset's")
    return sources, fields


def _geometry_fields(parts: VGGTParts, base: VidLLMConfig | None) -> dict[str, Any]:
    dense = replace(parts.dense, point_head=parts.dense.point_head and (base is None or base.dense_head.point_head))
    encoder = parts.encoder if base is None else _tapped(parts.encoder, base.encoder)
    return {"encoder": encoder, "attention": parts.attention, "camera_head": parts.camera, "dense_head": dense}


def _tapped(encoder: EncoderConfig, base: EncoderConfig) -> EncoderConfig:
    """The encoder with the preset's tapped layers, spread evenly if its depth differs."""
    taps = base.tap_layers
    if encoder.depth != base.depth:
        taps = tuple(max(0, round((n + 1) * encoder.depth / 4) - 1) for n in range(4))
    return replace(encoder, tap_layers=taps)


def _language(given: Ingredients) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, Source]:
    if given.llava_3d is not None:
        checkpoint = open_checkpoint(given.llava_3d)
        config = llava_3d_text_config(llava_3d_settings(checkpoint), checkpoint.place)
        text, tokenizer, before = _words(checkpoint, config)
        return text, tokenizer, llava_3d_source(checkpoint, text, before)
    assert given.lm is not None
    checkpoint = open_checkpoint(given.lm)
    text, tokenizer, before = _words(checkpoint, text_config(checkpoint.settings(), checkpoint.place))
    return text, tokenizer, causal_lm_source(checkpoint, text, before)


def _words(
    checkpoint: Checkpoint, config: PretrainedConfig
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, int]:
    """The configuration with a row for every token, the tokenizer, and the rows that the checkpoint has."""
    tokenizer, before = load_tokenizer(checkpoint, config), int(config.vocab_size)
    config.vocab_size = max(before, len(tokenizer))
    return config, tokenizer, before


def _token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    known = tokenizer.get_vocab()
    return {f"{name}_token_id": known[f"<{name}>"] for name in ("video", "loc", "coord")}
