"""What a run starts from: fresh weights, a saved model, a language half learned elsewhere, or both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vidllm.io.weight_files import model_of_run, open_checkpoint, settings_in
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration
from vidllm.model.loading import load_causal_lm, load_pretrained
from vidllm.model.presets import preset
from vidllm.model.text import read_tokenizer
from vidllm.pretrained.dinov2 import fit_final_norm, load_encoder
from vidllm.training.config import TrainConfig
from vidllm.training.data import RoomsData
from vidllm.training.lora import apply_lora
from vidllm.training.supervision.heads import LABEL_HEADS, AuxiliaryHeads
from vidllm.training.texts import TextMaker, keep_tokenizer, load_or_build_tokenizer, saved_tokenizer
from vidllm.training.twins import part_twins

VOCABULARY = 1536
FITTED_SCENES = 16  # whose pictures the final norm of a shortened encoder is fitted to
AUXILIARY_FILE = "auxiliary.safetensors"  # in the run folder, beside the model
#: The parts that read, say and ground; the others see.
LANGUAGE_HALF = ("position_embedding", "projector", "coordinate_embedding", "language_model", "grounding")


def run_tokenizer(config: TrainConfig, data: RoomsData) -> PreTrainedTokenizerBase:
    """The run's own, that of the language model it starts from (whose ids the weights know), or one trained on the
    data: that of ``language_from``, where it has one, goes before that of ``init_from``.
    """
    folder = Path(config.out) / "tokenizer"
    found = saved_tokenizer(folder)
    if found is not None:
        return found
    language = model_of_run(config.language_from) if config.language_from else None
    if language is not None and (language / "tokenizer.json").exists():
        return keep_tokenizer(read_tokenizer(language), folder)
    if config.init_from:
        return keep_tokenizer(load_pretrained(config.init_from)[1].tokenizer, folder)
    return load_or_build_tokenizer(folder, data.paths, VOCABULARY)


def starting_model(
    config: TrainConfig, texts: TextMaker, data: RoomsData | None = None
) -> VidLLMForConditionalGeneration:
    """Fresh weights of the preset, or those of ``init_from``; then the language half of ``language_from``, and LoRA.

    Fresh ones begin with the encoder of ``encoder_from``; where that has more layers, the final norm is fitted to
    pictures of ``data``. Raises ValueError when the tokens of either are not the run's.
    """
    model = _saved(config.init_from, config, texts) if config.init_from else _fresh(config, texts)
    if config.encoder_from and not config.init_from:
        _take_encoder(model, config.encoder_from, data)
    if config.language_from:
        place = str(model_of_run(config.language_from))
        if _is_whole_model(Path(place)):
            _take_language_half(model, _saved(place, config, texts))
        else:
            _take_language_model(model, place)
    if config.lora_rank:
        apply_lora(model, config.lora_rank, config.lora_alpha)
    return model


def starting_auxiliary(auxiliary: AuxiliaryHeads, init_from: str) -> None:
    """Take the auxiliary heads of the run that left ``init_from``, where they lie beside it; others stay fresh, as do
    those of another label space.
    """
    path = Path(init_from).parent / AUXILIARY_FILE
    if path.exists():
        known = auxiliary.state_dict()
        found = {
            name: value for name, value in open_checkpoint(path).tensors()
            if name in known and (value.shape == known[name].shape or name.split(".")[0] not in LABEL_HEADS)
        }  # fmt: skip
        odd = next((name for name, value in found.items() if value.shape != known[name].shape), None)
        if odd is not None:
            raise ValueError(f"{path}: {odd} is {tuple(found[odd].shape)}, this run's {tuple(known[odd].shape)}; "
                             "delete it for fresh auxiliary heads")  # fmt: skip
        auxiliary.load_state_dict(known | found)


def fresh_settings(config: TrainConfig, vocabulary: int) -> VidLLMConfig:
    """The preset's configuration with what the run changes of it; a token table of ``vocabulary`` rows."""
    settings = preset(config.preset)
    settings.adapter.variant = config.adapter or settings.adapter.variant
    settings.adapter.bridge_tokens = config.bridge_tokens or settings.adapter.bridge_tokens
    settings.metric_depth.enabled, settings.scale.unit_m = config.metric_depth, config.unit_m
    if not config.scale_alignment:
        settings.scale.estimator = "none"
    settings.text_config.vocab_size = vocabulary
    return settings


def _fresh(config: TrainConfig, texts: TextMaker) -> VidLLMForConditionalGeneration:
    settings = fresh_settings(config, len(texts.tokenizer))
    settings.video_token_id, settings.loc_token_id, settings.coord_token_id = texts.special_ids
    return VidLLMForConditionalGeneration(settings)


def _saved(folder: str, config: TrainConfig, texts: TextMaker) -> VidLLMForConditionalGeneration:
    model, _ = load_pretrained(folder)
    told = (model.config.video_token_id, model.config.loc_token_id, model.config.coord_token_id)
    if told != texts.special_ids or model.config.text_config.vocab_size < len(texts.tokenizer):
        raise ValueError(
            f"the tokenizer in {config.out} is not that of {folder} (special tokens {texts.special_ids} "
            f"and {told}); choose a new run folder"
        )
    return model


def _take_encoder(model: VidLLMForConditionalGeneration, place: str, data: RoomsData | None) -> None:
    layers = load_encoder(model.encoder, place)
    if layers > model.config.encoder.depth and data is not None:
        pictures = data.draw(np.random.default_rng(0), FITTED_SCENES, 2, window=False).images
        fit_final_norm(model.encoder, pictures)


def _is_whole_model(folder: Path) -> bool:
    return (settings_in(folder) or {}).get("model_type") == "vidllm"


def _take_language_half(model: VidLLMForConditionalGeneration, other: VidLLMForConditionalGeneration) -> None:
    """The parts that read and speak; of a model with a narrower encoder they are widened (:func:`widened`)."""
    for name in LANGUAGE_HALF:
        part, source = model.get_submodule(name).state_dict(), other.get_submodule(name).state_dict()
        fitting = {key: widened(source[key], part[key].shape) for key in part if key in source}
        if len(fitting) < len(part) or any(value is None for value in fitting.values()):
            raise ValueError(f"the {name} of the model in language_from has other sizes; train it with the same preset")
        model.get_submodule(name).load_state_dict(fitting)


def widened(weight: Tensor, shape: torch.Size) -> Tensor | None:
    """A weight for tokens that repeat the narrower ones n times; None where the shape is no multiple of its own.

    Rows (outputs) are repeated, columns (inputs) too, over n: on repeated tokens a layer gives what it gave, repeated.
    """
    if weight.ndim != len(shape) or any(wide % own for wide, own in zip(shape, weight.shape, strict=True) if own):
        return None
    times = [wide // own if own else 1 for wide, own in zip(shape, weight.shape, strict=True)]
    return weight.repeat(times) / (times[1] if len(times) > 1 else 1) if max(times, default=1) > 1 else weight


def _take_language_model(model: VidLLMForConditionalGeneration, folder: str) -> None:
    wanted = model.token_table().shape
    model.language_model = load_causal_lm(folder)
    table = model.token_table().shape
    if table != wanted:
        raise ValueError(
            f"{folder} has a token table of {tuple(table)}, expected that of this preset and tokenizer: {tuple(wanted)}"
        )
    part_twins(model.token_table())
