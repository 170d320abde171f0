"""The network as a model of transformers: configuration, model, processors. Only this file uses its modelling classes.

``from_pretrained``, ``generate``, Auto classes, pipelines, PEFT, ``Trainer`` and any causal language model of the hub
are supported here. The network itself is ``modeling.Network``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache as memoised
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BatchFeature,
    Cache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_processing_backends import PilBackend
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.processing_utils import ImagesKwargs
from transformers.utils.generic import TransformersKwargs

from vidllm.io.frames import Resize
from vidllm.model.compact_weights import is_compact, load_compact
from vidllm.model.config_fields import check_loops
from vidllm.model.configuration import FIELDS, PARTS, ModelConfig
from vidllm.model.encoder import OLDER_NAMES
from vidllm.model.generation import CACHE_NAMES, cache_of, check_logits, innermost, run_language_model
from vidllm.model.modeling import Network
from vidllm.model.outputs import VisualPrefix
from vidllm.model.processing import FrameProcessor, Processor, TextOptions, encode_batch, points_of, sources_of
from vidllm.model.prompts import CHAT_TEMPLATE
from vidllm.model.text import forget_origin

ALIGNMENT = 64  # bytes; where torch's own allocations begin
#: The name under which outputs of the installed transformers carry the cache.
OUTPUT_CACHE = next(name for name in CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)})


# ---- configuration ------------------------------------------------------------------------------------------------


class VidLLMConfig(ModelConfig, PretrainedConfig):
    """Configuration of :class:`VidLLMForConditionalGeneration`: :class:`ModelConfig` in the form of transformers.

    ``text_config`` is the configuration of any causal language model of transformers.
    """

    sub_configs = {"text_config": AutoConfig}

    def __init__(self, text_config: PretrainedConfig | dict[str, Any] | None = None, **kwargs: Any) -> None:
        own = {name: kwargs.pop(name) for name in FIELDS if name in kwargs}
        ModelConfig.__init__(self, _text_config(text_config), **own)
        PretrainedConfig.__init__(self, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; the inverse of ``from_dict``."""
        plain = super().to_dict()
        for name in PARTS:
            plain[name] = asdict(getattr(self, name))
        plain["text_config"] = self.text_config.to_dict()
        return plain


def _text_config(value: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    if isinstance(value, PretrainedConfig):
        return value
    given = {"model_type": "llama"} if value is None else value
    if not isinstance(given, dict) or not isinstance(given.get("model_type"), str):
        raise ValueError(f"text_config: expected the configuration of a language model with its model_type, received "
                         f"{given!r:.60}")  # fmt: skip
    check_loops(given, "text_config")
    try:
        return AutoConfig.for_model(**given)
    except Exception as error:  # transformers and huggingface_hub have errors of their own for a wrong field
        raise ValueError(f"text_config: {' '.join(str(error).split())[:200]}") from error


# ---- model --------------------------------------------------------------------------------------------------------


@dataclass
class VidLLMOutput(CausalLMOutputWithPast):
    """Loss and logits as of any causal LM (over the spliced sequence), with the hidden states of ``<loc>`` tokens."""

    # of any precision and on any device, which older versions of transformers do not say
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    loc_hidden: Tensor | None = None

    @classmethod
    def of(cls, output: Any, with_states: bool, is_loc: Tensor | None) -> VidLLMOutput:
        """A language model's output, with all its hidden states or without; ``is_loc`` (B,S) marks ``<loc>``."""
        cached: Any = {OUTPUT_CACHE: cache_of(output)}
        return cls(
            loss=output.loss, logits=output.logits, attentions=output.attentions,
            hidden_states=output.hidden_states if with_states else None,
            loc_hidden=None if is_loc is None else output.hidden_states[-1][is_loc], **cached,
        )  # fmt: skip


class CheckedLogits(LogitsProcessor):
    """:func:`check_logits` in Hugging Face generation, at every step; the scores stay as they are."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores; ValueError where they are not finite."""
        check_logits(scores, self.name)
        return scores


class VidLLMPreTrainedModel(PreTrainedModel):
    """Common base: configuration class, weight initialisation, gradient checkpointing."""

    config: VidLLMConfig
    config_class = VidLLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["Block", "EncoderBlock", "LlamaDecoderLayer"]

    _built_on_meta = False  # loading builds a model of empty weights

    def _init_weights(self, module: nn.Module) -> None:
        """Our modules initialise themselves in their constructors; the LM by its own class."""

    def initialize_weights(self) -> None:
        """Called after construction, and after loading: there, missing weights are initialised."""
        super().initialize_weights()
        if self._built_on_meta and not next(self.parameters()).is_meta:
            _fill_from_twin(self)
            _align(self)


    @classmethod
    def from_pretrained(cls, place: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As in transformers. ``place`` may also be a folder with compact weights, and the encoder's weights may have
        older names.
        """
        inherited: Any = super()
        kwargs["key_mapping"] = {**OLDER_NAMES, **(kwargs.get("key_mapping") or {})}
        folder = None if place is None else Path(place)
        if folder is None or kwargs.get("state_dict") is not None or not is_compact(folder):
            return inherited.from_pretrained(place, *args, **kwargs)
        if kwargs.get("config") is None:
            kwargs["config"] = cls.config_class.from_pretrained(folder)
        loaded = inherited.from_pretrained(None, *args, state_dict=load_compact(folder), **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return loaded


class VidLLMForConditionalGeneration(Network, VidLLMPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The :class:`Network` with transformers' own language model: text generation, training, saving and loading."""

    def __init__(self, config: VidLLMConfig) -> None:
        VidLLMPreTrainedModel.__init__(self, config)
        self._build(config)
        self._built_on_meta = self.grounding.none.is_meta
        self.post_init()

    def _language_model(self) -> nn.Module:
        """The class of transformers."""
        language_model: nn.Module = AutoModelForCausalLM.from_config(self.config.text_config)
        return language_model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        coordinates: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> VidLLMOutput | tuple[Any, ...]:
        """Next-token logits over the spliced sequence, as any causal LM.

        input_ids (B,L) with one ``<video>`` a row, pixel_values (B,F,3,H,W) in [0,1], coordinates (B,N,3) scene
        points in metres for ``<coord>`` tokens, labels (B,L) with -100 where not scored. ``cache`` and
        ``past_key_values`` are one argument (transformers renamed it in 5.24). Other keywords go to the language model;
        TypeError for one that it does not know, ValueError for a scene that would not be read.
        """
        cache, is_loc = one_cache(cache, past_key_values), None
        states, as_tuple = bool(kwargs.pop("output_hidden_states", False)), kwargs.pop("return_dict", None) is False
        has_read = cache is not None and int(cache.get_seq_length()) > 0
        if inputs_embeds is None and input_ids is not None and not has_read:
            whole = self.prepare(input_ids, attention_mask, pixel_values, coordinates, labels)
            inputs_embeds, attention_mask, labels = whole.embeddings, whole.attention_mask, whole.labels
            position_ids, is_loc = whole.position_ids, whole.token_ids == self.config.loc_token_id
        elif pixel_values is not None:
            raise ValueError("pixel_values go with the input_ids of the first call: not with inputs_embeds, nor behind "
                             "a cache that holds tokens")  # fmt: skip
        elif inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed_text(input_ids, coordinates)
        kind: Any = type(innermost(self.language_model))
        unknown = sorted(set(kwargs) - _arguments(kind))
        if unknown:
            raise TypeError(f"{kind.__name__}.forward() got an unexpected keyword argument {unknown[0]!r}")
        out = run_language_model(
            self.language_model, cache=cache, use_cache=use_cache, inputs_embeds=inputs_embeds, labels=labels,
            attention_mask=attention_mask, position_ids=position_ids,
            output_hidden_states=states or is_loc is not None, **kwargs,
        )  # fmt: skip
        output = VidLLMOutput.of(out, states, is_loc)
        return output.to_tuple() if as_tuple else output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        coordinates: Tensor | None = None,
        prefix: VisualPrefix | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hugging Face generation from video and text; returns the new tokens only (B, L')."""
        mixin: Any = super()
        given = kwargs.get("logits_processor") or ()
        kwargs["logits_processor"] = LogitsProcessorList([*given, CheckedLogits(self.name_or_path)])
        if input_ids is None:
            input_ids = kwargs.pop("inputs", None)
        if input_ids is None:
            if pixel_values is not None or prefix is not None or coordinates is not None:
                raise ValueError("a scene or coordinates were given without input_ids; pass the text as input_ids")
            return mixin.generate(attention_mask=attention_mask, **kwargs)
        whole = self.prepare(input_ids, attention_mask, pixel_values, coordinates, prefix=prefix)
        return mixin.generate(inputs_embeds=whole.embeddings, attention_mask=whole.attention_mask, **kwargs)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head (after the vocabulary has grown)."""
        self.language_model.set_output_embeddings(new_embeddings)


def _align(model: nn.Module) -> None:
    """Copy weights that are not aligned in memory (as in a mapped file): kernels choose their order of summation by
    alignment, and a loaded model must give exactly the outputs of the saved one.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def _fill_from_twin(model: VidLLMPreTrainedModel) -> None:
    """Initialise our weights that no checkpoint has, from a new model (with a small language model)."""
    tensors = model.state_dict(keep_vars=True)
    missing = [
        name for name, tensor in tensors.items()
        if not name.startswith("language_model.") and not getattr(tensor, "_is_hf_initialized", False)
    ]  # fmt: skip
    if not missing:
        return
    config = copy.deepcopy(model.config)
    config.text_config = AutoConfig.for_model(
        "llama", hidden_size=config.text_config.hidden_size, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, vocab_size=8,
    )
    fresh = type(model)(config).state_dict()
    for name in missing:
        tensors[name].data.copy_(fresh[name])


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache given under either name; ValueError for two different ones."""
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of one argument, received both; pass cache alone")
    return past_key_values if cache is None else cache


@memoised
def _arguments(kind: Any) -> frozenset[str]:
    """What a model's ``forward`` may be given: what it names, and what all of transformers' models understand."""
    named = inspect.signature(kind.forward).parameters.values()
    return frozenset(p.name for p in named if p.kind is not p.VAR_KEYWORD) | TransformersKwargs.__optional_keys__


# ---- processors ---------------------------------------------------------------------------------------------------


class VideoFrameKwargs(ImagesKwargs, total=False):
    """Options of :class:`VidLLMVideoFrameProcessor` that a call may override."""

    num_frames: int
    shorter_side: int
    resize_mode: Resize
    patch_size: int


class VidLLMVideoFrameProcessor(FrameProcessor, PilBackend):
    """:class:`FrameProcessor` as an image processor of transformers."""

    valid_kwargs = VideoFrameKwargs
    model_input_names = ["pixel_values"]
    num_frames = 32
    shorter_side = 518
    resize_mode: Resize = "shorter_side"
    patch_size = 14
    do_normalize = False  # ImageNet's mean and deviation are applied inside the encoder

    def __init__(self, **kwargs: Any) -> None:
        PilBackend.__init__(self, **kwargs)

    def preprocess(
        self, images: Sequence[Any], num_frames: int | None = None, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """``pixel_values`` (B,F,3,H,W) of B sources; ValueError when they differ in frames or size."""
        return BatchFeature({"pixel_values": self.batch(images, num_frames)}, tensor_type=return_tensors)


class VidLLMProcessor(Processor, ProcessorMixin):
    """Frames, text and coordinates of a batch as the model's inputs; ``save_pretrained`` and ``from_pretrained``.

    The tokenizer must have ``<video>``, ``<loc>`` and ``<coord>`` (``add_special_tokens_for``); ValueError otherwise.
    """

    image_processor: VidLLMVideoFrameProcessor

    def __init__(
        self,
        image_processor: VidLLMVideoFrameProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ) -> None:
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.read_token_ids()

    @classmethod
    def from_config(cls, config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> VidLLMProcessor:
        """The processor of a configuration: its frames, sizes and patch."""
        frames = VidLLMVideoFrameProcessor(
            num_frames=config.default_frames,
            shorter_side=config.shorter_side,
            resize_mode=config.resize,
            patch_size=config.encoder.patch_size,
        )
        return cls(frames, forget_origin(tokenizer))

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        coordinates: Any = None,
        num_frames: int | None = None,
        do_sample_frames: bool = True,
        return_tensors: str | None = "pt",
        **text_options: Any,
    ) -> BatchFeature:
        """A batch of texts and their scenes.

        text: one prompt or B. videos: one source for one text (file, folder, list of images, array), or a list of B.
        images: in place of videos, one image or a list of them for one text, or a list of B; a text's images are one
        scene. coordinates: scene points in metres, (3) or (N,3) for one text, B of them for B; one a ``<coord>``.
        text_options: the fields of :class:`TextOptions` (``padding``, ``truncation``, ``max_length``, ...).

        Returns ``input_ids`` and ``attention_mask`` (B,L), ``pixel_values`` (B,F,3,H,W) in [0,1] with a scene, and
        ``coordinates`` (B,N,3) with points (rows with fewer are filled with zeros at the end). Frames are always
        sampled; ValueError where texts, scenes and points do not fit together, TypeError for an unknown option.
        """
        options = TextOptions(**text_options)
        if audio is not None:
            raise ValueError("expected text with videos or images, received audio; leave it out")
        if images is not None and videos is not None:
            raise ValueError("a scene is a video or its images, received both; pass one of them")
        if not do_sample_frames:
            raise ValueError("frames are always sampled uniformly; pass num_frames to choose how many")
        if text is None and videos is None and images is None:
            raise ValueError("expected text, videos or both; received neither")
        data: dict[str, Any] = {}
        single = text is None or isinstance(text, str)
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        if texts:
            data.update(encode_batch(self.tokenizer, texts, options, to_tensors=return_tensors is not None))
        offsets = data.pop("offset_mapping", None)
        if videos is not None or images is not None:
            sources = sources_of(videos, images, texts, single)
            data.update(self.image_processor.preprocess(sources, num_frames, return_tensors=None))
        points = points_of(texts, [coordinates] if single else coordinates)
        if points is not None:
            data["coordinates"] = points
        batch = BatchFeature(data, tensor_type=return_tensors)
        if offsets is not None:
            batch["offset_mapping"] = offsets  # as lists: rows of pairs
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """Names of all tensors a call may return."""
        return ["input_ids", "attention_mask", "pixel_values", "coordinates"]


# ``from_pretrained`` of a processor finds its parts through the Auto classes.
def register(config: type[VidLLMConfig], model: type[VidLLMForConditionalGeneration]) -> None:
    """Register the Auto classes of a ``model_type``; calling it again has no effect."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoImageProcessor.register(config, image_processor_classes={"pil": VidLLMVideoFrameProcessor}, exist_ok=True)
    AutoProcessor.register(config, VidLLMProcessor, exist_ok=True)
    for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto.register(config, model, exist_ok=True)
