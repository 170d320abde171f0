"""Small random vision-language models of transformers' real classes, with processors made on the spot, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.video_processing_utils import VideoProcessorMixin

TEXT = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
SPECIAL = ("<|im_start|>", "<|im_end|>", "<image>", "<video>", "<fake_token_around_image>", "<global-img>",
           "<end_of_utterance>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>",
           "<img>", "</img>", "<IMG_CONTEXT>", "<pad>")  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}IMAGE\n"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class NoVideo(VideoProcessorMixin):
    """In place of a processor of videos, which needs torchvision: frames are given as pictures."""

    model_input_names: tuple[str, ...] = ()
    num_frames, fps, size = 8, 1, {"longest_edge": 32}

    def __init__(self, **_: Any) -> None:
        super().__init__()


def without_torchvision(patch: pytest.MonkeyPatch) -> None:
    """Let processors that have one of videos be made and read where torchvision and num2words are not installed."""
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.models.smolvlm import processing_smolvlm

    patch.setattr(transformers, "VideoProcessorMixin", VideoProcessorMixin, raising=False)
    patch.setattr(AutoVideoProcessor, "from_pretrained", classmethod(lambda cls, *_, **__: NoVideo()))
    patch.setattr(processing_smolvlm, "num2words", str)


def tokenizer(picture: str, **names: str) -> PreTrainedTokenizerFast:
    """A token a byte, and the special ones; ``picture``: how a picture stands in a conversation."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|im_end|>", extra_special_tokens=names
    )
    made.add_tokens(list(SPECIAL), special_tokens=True)
    made.chat_template = TEMPLATE.replace("IMAGE", picture)
    return made


def _vision(**more: Any) -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, **more}


def qwen3_vl() -> tuple[Any, Any]:
    words = tokenizer("<|vision_start|><|image_pad|><|vision_end|>")
    ids = dict(zip(SPECIAL, words.convert_tokens_to_ids(SPECIAL), strict=True))
    config = Qwen3VLConfig(
        text_config={**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1],
                                                 "mrope_interleaved": True, "rope_theta": 1e4}},
        vision_config={"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 4, "out_hidden_size": 32,
                       "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
                       "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    pictures = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 4096}
    )
    template = words.chat_template
    return Qwen3VLForConditionalGeneration(config), Qwen3VLProcessor(pictures, words, NoVideo(), template)


def _idefics(config: Any, model: Any) -> tuple[Any, Any]:
    words = tokenizer("<image>")
    ids = words.convert_tokens_to_ids(["<image>", "<pad>"])
    made = config(
        text_config={"model_type": "llama", **TEXT}, vision_config=_vision(image_size=32, patch_size=8), scale_factor=2,
        image_token_id=ids[0], pad_token_id=ids[1],
    )  # fmt: skip
    return model(made), words


def idefics3() -> tuple[Any, Any]:
    model, words = _idefics(Idefics3Config, Idefics3ForConditionalGeneration)
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return model, Idefics3Processor(pictures, words, image_seq_len=4, chat_template=words.chat_template)


def smolvlm() -> tuple[Any, Any]:
    model, words = _idefics(SmolVLMConfig, SmolVLMForConditionalGeneration)
    pictures = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return model, SmolVLMProcessor(pictures, words, NoVideo(), image_seq_len=4, chat_template=words.chat_template)


def internvl() -> tuple[Any, Any]:
    words = tokenizer(
        "<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    config = InternVLConfig(
        text_config={"model_type": "qwen3", **TEXT}, vision_config=_vision(image_size=[32, 32], patch_size=[8, 8]),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4,
    )  # fmt: skip
    pictures = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32})
    template = words.chat_template
    return InternVLForConditionalGeneration(config), InternVLProcessor(pictures, words, NoVideo(), 4, template)


MAKERS = {"qwen3_vl": qwen3_vl, "smolvlm": smolvlm, "idefics3": idefics3, "internvl": internvl}


def save_vlm(kind: str, folder: Path) -> Path:
    """Write a model and its processor to a folder."""
    torch.manual_seed(0)
    model, processor = MAKERS[kind]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
