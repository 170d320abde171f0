"""Any vision-language model of transformers as the language model (docs/vision_language.md).

Nothing is trained: its inputs are frames of the video as pictures, and the inventory of the room as text
(:meth:`vidllm.inventory.Inventory.as_text`), so that lengths and places need not be guessed from pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vidllm.io.weight_files import open_checkpoint
from vidllm.model.loading import load_published, quiet
from vidllm.model.precision import resolve_dtype
from vidllm.model.prompts import OBJECT_REQUEST, check_question

MAX_PICTURES = 32  # spread evenly over the frames
LONGER_SIDE = 640  # pixels of a picture at most: about 300 tokens each in Qwen3-VL
#: What processors of pictures call the cutting of one into many, which frames of a video have no need of.
_CUTTING = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")

FACTS = "The frames show a room, in the order of a video. Measured in this room:\n{facts}\n\n"
NO_FACTS = "The frames show a room, in the order of a video.\n"
SHORTLY = "{question}\nAnswer with the option's letter, a number, a word or a short phrase alone."
WHICH = 'Which of the numbered things does this mean: "{expression}"? Reply with {count} alone, or with "none".'
#: Whole prompts by the kind of a task (``evaluation.tasks``).
PROMPTS = {"answer": FACTS + SHORTLY, "caption": FACTS + OBJECT_REQUEST, "box": FACTS + WHICH}
MAX_NUMBERS = 48  # tokens of a reply with numbers
EXAMPLE = "Qwen/Qwen3-VL-4B-Instruct"


@dataclass(frozen=True)
class Shown:
    """The inputs of a scene: pictures (none: text alone), and measurements as text."""

    pictures: tuple[Image.Image, ...]
    facts: str = ""


class VisionLanguageModel:
    """A model of transformers with its processor; answers are greedy. ``place``: its folder or hub id."""

    def __init__(self, model: Any, processor: Any, place: str) -> None:
        self.model, self.processor, self.place = model.eval(), processor, place

    def answers(
        self, shown: Shown, questions: Sequence[tuple[str, str | None]], max_new_tokens: int = 64
    ) -> list[str]:
        """Short answers to (question, situation or None) pairs."""
        asked = []
        for question, situation in questions:
            told = f"{check_question(situation, what='situation')} " if situation else ""
            asked.append(SHORTLY.format(question=told + check_question(question)))
        return [self.reply(shown, request, max_new_tokens) for request in asked]

    @torch.inference_mode()
    def reply(self, shown: Shown, request: str, max_new_tokens: int) -> str:
        """The reply to a request about the inputs, without the thoughts of a reasoning model."""
        inputs = self.inputs(shown, request).to(self.model.device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        with quiet():  # about sampling, which is switched off
            said = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = said[:, inputs["input_ids"].shape[1] :]
        text: str = self.processor.batch_decode(new, skip_special_tokens=True)[0]
        return text.rpartition("</think>")[2].strip()

    def inputs(self, shown: Shown, request: str) -> Any:
        """The model's inputs: the pictures, the facts and the request as one turn of a user.

        Raises ValueError, naming the model, where its processor does not take them.
        """
        before = FACTS.format(facts=shown.facts) if shown.facts else NO_FACTS
        parts = [{"type": "image"} for _ in shown.pictures] + [{"type": "text", "text": before + request}]
        try:
            text = self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
            bos = self.processor.tokenizer.bos_token
            given = {"images": [list(shown.pictures)]} if shown.pictures else {}
            with quiet():
                return self.processor(
                    text=[text], return_tensors="pt", add_special_tokens=not (bos and text.startswith(bos)), **given,
                    **(self._uncut if shown.pictures else {}),
                )  # fmt: skip
        except Exception as error:  # processors have errors of their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"{self.place}: its processor does not take {len(shown.pictures)} pictures with a "
                             f"question ({reason}); give a model that reads several pictures, such as {EXAMPLE}"
                             ) from error  # fmt: skip

    @cached_property
    def _uncut(self) -> dict[str, bool]:
        return {name: False for name in _CUTTING if hasattr(self.processor.image_processor, name)}


def load_vision_language(place: str | Path, device: str = "cpu", dtype: str = "auto") -> VisionLanguageModel:
    """A vision-language model from a folder or a hub id, through AutoModelForImageTextToText and AutoProcessor.

    ``device`` and ``dtype`` as of :func:`vidllm.load`. ValueError, naming the place, where it is missing, damaged, of
    another kind, or does not take several pictures with a question. No code of the checkpoint is run.
    """
    from transformers import AutoModelForImageTextToText  # which no question without such a model has to wait for
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    checkpoint = open_checkpoint(place)
    kind = (checkpoint.settings() or {"model_type": "unknown (no config.json)"}).get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"{place}: holds a model of type {kind!r}, no vision-language model that transformers has; "
                         f"give one such as {EXAMPLE}")  # fmt: skip
    processor = _processor(place, checkpoint.folder)
    found = VisionLanguageModel(torch.nn.Identity(), processor, str(place))
    found.inputs(Shown((Image.new("RGB", (64, 48)),) * 2), "Where?")  # before minutes are spent on weights
    chosen = getattr(torch, resolve_dtype(dtype, device)[0])
    model: Any = load_published(AutoModelForImageTextToText, checkpoint, dtype=chosen)
    return VisionLanguageModel(model.to(device), processor, str(place))


def _processor(place: str | Path, folder: Path) -> Any:
    """ValueError where there is none, or none that reads pictures and conversations."""
    from transformers import AutoProcessor

    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers and transformers have errors of their own
        reason = " ".join(str(error).split())[:200]
        lacks = isinstance(error, ImportError) or "torchvision" in reason
        remedy = "pip install 'vidllm[vlm]'" if lacks else "fetch its files again"
        raise ValueError(f"{place}: its processor cannot be loaded ({reason}); {remedy}") from error
    if getattr(processor, "image_processor", None) is None or not getattr(processor, "chat_template", None):
        lacking = "chat template" if hasattr(processor, "image_processor") else "processor of pictures"
        raise ValueError(f"{place}: no {lacking} here, which questions about pictures need; give a model tuned to "
                         f"instructions, such as {EXAMPLE}")  # fmt: skip
    return processor
