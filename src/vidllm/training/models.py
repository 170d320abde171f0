"""Initial models of a run (random weights, a saved model, another language half), and the exported model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vidllm.io.atomic import atomic_folder
from vidllm.io.weight_files import model_of_run, open_checkpoint, settings_in, weights_of_model
from vidllm.model.compact_weights import is_compact, save_compact
from vidllm.model.encoder import newer_names
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import load_causal_lm, load_pretrained, load_processor, tied_weights, unread_model
from vidllm.model.presets import preset
from vidllm.model.text import read_tokenizer
from vidllm.pretrained.conversion import SHARD_BYTES, ShardWriter
from vidllm.pretrained.dinov2 import fit_final_norm, load_encoder
from vidllm.training.config import Start
from vidllm.training.data import RoomsData
from vidllm.training.lora import apply_lora, merged_state
from vidllm.training.supervision.base import LABEL_HEADS, AuxiliaryHeads
from vidllm.training.texts import TextMaker, keep_tokenizer, load_or_build_tokenizer, saved_tokenizer

VOCABULARY = 1536
FITTED_SCENES = 16  # whose pictures the final norm of a shortened encoder is fitted to
AUXILIARY_FILE = "auxiliary.safetensors"  # in the run folder, beside the model
TWIN_COSINE = 0.6
KEPT = 0.5  # of a twin's own direction; the random part makes up its length
LARGEST_MIB = 15.0  # of a file of compact weights
SMALL = 10**9  # numbers of a model that is written in files of at most
SMALL_FILE = 15 * 10**6  # bytes each
#: The parts that are trained by texts and boxes; the others are encoder and geometry.
LANGUAGE_HALF = ("position_embedding", "projector", "coordinate_embedding", "language_model", "grounding")


def run_tokenizer(
    out: Path, data: RoomsData, init_from: str | None, language_from: str | None = None
) -> PreTrainedTokenizerBase:
    """The run's own tokenizer, that of ``language_from`` or else ``init_from``, or one trained on the data."""
    folder = out / "tokenizer"
    found = saved_tokenizer(folder)
    if found is not None:
        return found
    language = model_of_run(language_from) if language_from else None
    if language is not None and (language / "tokenizer.json").exists():
        return keep_tokenizer(read_tokenizer(language), folder)
    if init_from:
        return keep_tokenizer(load_processor(init_from).tokenizer, folder)
    return load_or_build_tokenizer(folder, data.paths, VOCABULARY)


def may_be_read_later(start: Start) -> bool:
    """Whether all weights are those of ``init_from``, so that they can be read after sharding."""
    elsewhere = start.language_from or start.geometry_from
    return bool(start.init_from) and not elsewhere and not is_compact(Path(str(start.init_from)))


def starting_model(
    start: Start, texts: TextMaker, data: RoomsData | None = None, *, unread: bool = False
) -> VidLLMForConditionalGeneration:
    """Random weights of the preset or those of ``init_from``, then the language half of ``language_from``, and LoRA.

    Random weights take the encoder of ``encoder_from``; if that has more layers, the final norm is fitted to pictures
    of ``data``. ``unread``: do not read the weights of ``init_from`` yet (:func:`may_be_read_later`). ValueError if the
    tokens of either model are not the run's.
    """
    if start.init_from:
        model = _saved(start.init_from, texts, unread)
    else:
        settings = fresh_settings(start, len(texts.tokenizer))
        settings.video_token_id, settings.loc_token_id, settings.coord_token_id = texts.special_ids
        model = VidLLMForConditionalGeneration(settings)
    change_forms(model.config, start)
    if start.encoder_from and not start.init_from:
        layers = load_encoder(model.encoder, start.encoder_from)
        if layers > model.config.encoder.depth and data is not None:
            fit_final_norm(model.encoder, data.draw(np.random.default_rng(0), FITTED_SCENES, 2, window=False).images)
    if start.language_from:
        place = str(model_of_run(start.language_from))
        if (settings_in(place) or {}).get("model_type") == "vidllm":
            _take_language_half(model, _saved(place, texts))
        else:
            wanted = model.token_table().shape
            model.language_model = load_causal_lm(place)
            if (table := model.token_table()).shape != wanted:
                raise ValueError(f"{place} has a token table of {tuple(table.shape)}, expected that of this preset and "
                                 f"tokenizer: {tuple(wanted)}")  # fmt: skip
            part_twins(table)
    if start.lora_rank:
        apply_lora(model, start.lora_rank, start.lora_alpha)
    return model


def starting_auxiliary(auxiliary: AuxiliaryHeads, init_from: str) -> None:
    """Load the auxiliary heads next to ``init_from``, if there are any; heads of another label space keep random
    weights.
    """
    path = Path(init_from).parent / AUXILIARY_FILE
    if path.exists():
        known = auxiliary.state_dict()
        for name, value in open_checkpoint(path).tensors():
            if name in known and value.shape == known[name].shape:
                known[name] = value
            elif name in known and name.split(".")[0] not in LABEL_HEADS:
                raise ValueError(f"{path}: {name} is {tuple(value.shape)}, this run's {tuple(known[name].shape)}; "
                                 "delete it for fresh auxiliary heads")  # fmt: skip
        auxiliary.load_state_dict(known)


def fresh_settings(start: Start, vocabulary: int) -> VidLLMConfig:
    """The preset's configuration with the run's changes and a token table of ``vocabulary`` rows."""
    settings = preset(start.preset)
    settings.adapter.variant = start.adapter or settings.adapter.variant
    settings.adapter.bridge_tokens = start.bridge_tokens or settings.adapter.bridge_tokens
    settings.metric_depth.enabled, settings.scale.unit_m = start.metric_depth, start.unit_m
    settings.adapter.residual = not start.literal_streams
    settings.dense_head.point_head |= start.point_head
    settings.metric_depth.canonical_focal = start.canonical_focal or settings.metric_depth.canonical_focal
    if not start.scale_alignment:
        settings.scale.estimator = "none"
    change_forms(settings, start)
    settings.text_config.vocab_size = vocabulary
    return settings


def change_forms(config: VidLLMConfig, start: Start) -> None:
    """Apply the run's changes that do not change the shape of any weight, to a new or a saved model.

    ValueError for bridge tokens in the branches if the adapter has none, and for ``geometry_from`` with an adapter
    without residual.
    """
    if start.bridge_riders:
        if config.adapter.variant != "bridge":
            raise ValueError(f"--bridge-riders: the adapter has no bridge tokens (variant {config.adapter.variant}); "
                             "leave it out")  # fmt: skip
        config.adapter.geometry_rider = config.adapter.language_rider = True
    if start.geometry_from and not config.adapter.residual:
        raise ValueError("--geometry-from fits an adapter with a residual, and this one has Eq 1 as it is written "
                         "(--literal-streams); leave one of them out")  # fmt: skip
    config.scale.estimator = start.scale_estimator or config.scale.estimator
    config.patches.positions &= start.positions


def _saved(folder: str, texts: TextMaker, unread: bool = False) -> VidLLMForConditionalGeneration:
    model = unread_model(folder) if unread else load_pretrained(folder)[0]
    told = (model.config.video_token_id, model.config.loc_token_id, model.config.coord_token_id)
    if told != texts.special_ids or model.config.text_config.vocab_size < len(texts.tokenizer):
        raise ValueError(
            f"the run's tokenizer is not that of {folder} (special tokens {texts.special_ids} and {told}); "
            "choose a new run folder"
        )
    return model


def _take_language_half(model: VidLLMForConditionalGeneration, other: VidLLMForConditionalGeneration) -> None:
    """Load the language half of another model; widened, if its encoder is narrower (:func:`widened`)."""
    for name in LANGUAGE_HALF:
        part, source = model.get_submodule(name).state_dict(), other.get_submodule(name).state_dict()
        fitting = {key: widened(source[key], part[key].shape) for key in part if key in source}
        if len(fitting) < len(part) or any(value is None for value in fitting.values()):
            raise ValueError(f"the {name} of the model in language_from has other sizes; train it with the same preset")
        model.get_submodule(name).load_state_dict(fitting)


def widened(weight: Tensor, shape: torch.Size) -> Tensor | None:
    """A weight for tokens that repeat narrower ones n times; None if the shape is not a multiple of its own.

    Rows (outputs) and columns (inputs, divided by n) are repeated, so that on repeated tokens a layer gives its old
    outputs, repeated.
    """
    if weight.ndim != len(shape) or any(wide % own for wide, own in zip(shape, weight.shape, strict=True) if own):
        return None
    times = [wide // own if own else 1 for wide, own in zip(shape, weight.shape, strict=True)]
    return weight.repeat(times) / (times[1] if len(times) > 1 else 1) if max(times, default=1) > 1 else weight


def part_twins(table: Float[Tensor, "V D"]) -> int:
    """Separate, in place, embeddings of words that text alone cannot distinguish (ours); returns their number.

    A small language model trained on texts alone gives "red" and "blue", or "left" and "right", nearly equal embeddings
    (cosines of 0.9 and 0.98), since they occur in the same contexts. As the table is tied to the output, the model then
    cannot tell which of them a question or an answer means, and the gradient that would separate them is small. Each
    such embedding is replaced by half of itself and a random vector.
    """
    with torch.no_grad():
        directions = F.normalize(table.float(), dim=1)
        cosine = (directions @ directions.T).fill_diagonal_(-1)
        twins = (cosine > TWIN_COSINE).any(1)
        noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(0)).to(table.device)
        own = F.normalize(noise, dim=1) * table.float().norm(dim=1, keepdim=True)
        table[twins] = (KEPT * table.float() + (1 - KEPT**2) ** 0.5 * own)[twins].to(table.dtype)
    return int(twins.sum())


def write_model(
    model: VidLLMForConditionalGeneration,
    state: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype = torch.float16,
    *,
    compact: bool = False,
    untouched: str | None = None,
) -> Path:
    """Write a model's configuration with the weights of ``state``, and its processor; the model itself is not changed.

    ``state`` may contain averaged weights. LoRA is merged. ``compact``: in int8 (:mod:`vidllm.model.compact_weights`).
    ``untouched``: the folder with the weights that ``state`` lacks. Weights are written one by one, without a second
    copy of the model in memory.
    """
    config, tied = copy.deepcopy(model.config), tied_weights(model)
    config.architectures = [type(model).__name__]
    weights = ((name, value) for name, value in merged_state(model, state) if name not in tied)
    with atomic_folder(folder) as part:
        if compact:
            save_compact(dict(weights), part, LARGEST_MIB)
        else:
            config.dtype = dtype
            numbers = sum(value.numel() for value in model.state_dict().values())
            largest = SMALL_FILE if numbers < SMALL else SHARD_BYTES
            ShardWriter(part, largest, dtype).write(chain(weights, _others(untouched, state)))
        config.save_pretrained(part)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(part)
        VidLLMProcessor.from_config(config, tokenizer).save_pretrained(part)
    return folder


def _others(folder: str | None, but: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model's folder whose names are not there already, read one by one."""
    if folder is not None:
        checkpoint = weights_of_model(Path(folder))
        names = {key: next(iter(newer_names({key: shape}))) for key, shape in checkpoint.shapes()}
        keys = {key for key, name in names.items() if name not in but}
        yield from ((names[key], tensor) for key, tensor in checkpoint.tensors(keys))


def check_parts(start: Start, model: nn.Module) -> None:
    """ValueError if ``train_only`` names a part that the model does not have."""
    parts = [name for name, _ in model.named_children()]
    if unknown := [name for name in start.train_only if name not in parts]:
        raise ValueError(f"--train-only {unknown[0]}: this model has no such part; it has {', '.join(parts)}")


def freeze(start: Start, model: nn.Module) -> None:
    """Freeze the encoder, or all parts but ``train_only``, as the run asks."""
    for name, part in model.named_children():
        if (start.freeze_encoder and name == "encoder") or (start.train_only and name not in start.train_only):
            part.requires_grad_(False)


def training_device(name: str) -> torch.device:
    """``auto`` is a GPU if there is one; ValueError for a device that does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for but torch sees no GPU; use --device cpu")
    return torch.device(name)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Switch on activation checkpointing in all blocks that support it; results do not change."""
    switched: Any = model  # transformers renamed the switch during its fifth version
    enable = getattr(switched, "activation_checkpointing_enable", None) or switched.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    switched.disable_input_require_grads()  # it wants them of every input: frozen parts would compute a backward pass
