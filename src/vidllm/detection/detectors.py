"""Zero-shot detectors of transformers: a picture and names in, boxes or masks out (docs/detectors.md).

OWL-ViT, OWLv2, Grounding DINO (both) and SAM 3, as their authors published them. Pictures are prepared by transformers'
PIL processors, so that torchvision is not needed; SAM 3, whose processor has none, gets what that would do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vidllm.detection.fusion import Detected
from vidllm.english import with_article
from vidllm.io.weight_files import open_checkpoint
from vidllm.model.loading import load_published, quiet


@dataclass(frozen=True)
class Kind:
    """A family of detectors: transformers' class, the least score of a box, and what is said of a name."""

    model: str
    threshold: float
    phrase: str = "{}"


#: By the ``model_type`` of config.json. Least scores are those of transformers' processors, of SAM 3 its authors'.
KINDS = {
    "owlvit": Kind("OwlViTForObjectDetection", 0.1, "a photo of {}"),
    "owlv2": Kind("Owlv2ForObjectDetection", 0.1, "a photo of {}"),
    "grounding-dino": Kind("GroundingDinoForObjectDetection", 0.25),
    "mm-grounding-dino": Kind("MMGroundingDinoForObjectDetection", 0.25),
    "sam3": Kind("Sam3Model", 0.5),
    "sam3_video": Kind("Sam3Model", 0.5),  # as it is published: the detector is a part
}


def load_detector(place: str | Path, device: str = "cpu", threshold: float | None = None) -> Detector:
    """A detector from a folder or a hub id, in float32: give it to ``scene.detector``.

    ``threshold``: what is found has a higher score than this, in [0, 1); None: that of its family in :data:`KINDS`.
    ValueError of one line for another threshold, and for a place that holds no detector of these families, or a damaged
    one.
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"the threshold of a detector's scores is {threshold:g}, expected 0 to below 1")
    import transformers

    checkpoint = open_checkpoint(place)
    settings = checkpoint.settings()
    name = (settings or {}).get("model_type")
    if name == "omdet-turbo":
        raise ValueError(f"{place}: the processor of OmDet-Turbo needs torchvision, which vidllm does without; give an "
                         "OWLv2, Grounding DINO or SAM 3 detector")  # fmt: skip
    if name not in KINDS:
        raise ValueError(f"{place}: holds a model of type {name!r}, which is no zero-shot detector; expected one of "
                         f"{', '.join(KINDS)}")  # fmt: skip
    network: Any = load_published(getattr(transformers, KINDS[name].model), checkpoint)
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
            pictures = None if name.startswith("sam3") else transformers.AutoImageProcessor.from_pretrained(
                checkpoint.folder, backend="pil", trust_remote_code=False
            )  # fmt: skip
        words = network.config.text_config.vocab_size
        if len(tokenizer) < words / 2:  # transformers makes an empty one where its files are missing
            raise ValueError(f"its tokenizer knows {len(tokenizer)} of {words} words")
    except Exception as error:  # transformers and tokenizers have errors of their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "orchvision" in str(error):
            reason, remedy = "it needs torchvision, which vidllm does without", "give another detector"
        else:
            remedy = "copy the files of tokenizer and processor again"
        raise ValueError(f"{place}: its processor cannot be loaded: {reason}; {remedy}") from error
    return Detector(name, network.eval().to(device), tokenizer, pictures, threshold)


class Detector:
    """A function of a picture (H, W, 3) uint8 and names to what is found of them (:class:`Detected`)."""

    def __init__(
        self, kind: str, network: Any, tokenizer: Any, pictures: Any, threshold: float | None = None
    ) -> None:
        """``pictures``: the image processor; None for SAM 3. ``threshold``: None: that of the kind."""
        self.kind, self.network, self.tokenizer, self.pictures = KINDS[kind], network, tokenizer, pictures
        self.threshold = self.kind.threshold if threshold is None else threshold
        self.padded = kind == "owlv2"  # to a square, below and right
        self._find = {"O": self._owl, "G": self._dino, "M": self._dino, "S": self._sam}[self.kind.model[0]]

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray, names: Sequence[str]) -> list[Detected]:
        """Each thing under its likeliest name; of SAM 3, under every name that it has."""
        bare = [re.sub(r"^(the|an?) ", "", name.strip().lower().replace(".", " ")) for name in names]
        return list(self._find(picture, bare))

    def _inputs(self, picture: np.ndarray) -> dict[str, Tensor]:
        prepared = self.pictures(images=picture, input_data_format="channels_last", return_tensors="pt")
        return {key: value.to(self.network.device) for key, value in prepared.items()}

    def _tokens(self, texts: Sequence[str] | str, **options: Any) -> dict[str, Tensor]:
        read = self.tokenizer(texts, return_tensors="pt", **options)
        return {key: value.to(self.network.device) for key, value in read.items()}

    def _owl(self, picture: np.ndarray, names: Sequence[str]) -> Iterator[Detected]:
        longest = self.network.config.text_config.max_position_embeddings
        words = self._tokens([self.kind.phrase.format(with_article(name)) for name in names], padding="max_length",
                             max_length=longest, truncation=True)  # fmt: skip
        found = self.network(**self._inputs(picture), **{k: words[k] for k in ("input_ids", "attention_mask")})
        yield from self._boxes(found.logits[0], found.pred_boxes[0], picture, range(len(names)))

    def _dino(self, picture: np.ndarray, names: Sequence[str]) -> Iterator[Detected]:
        """All names in one text, "chair. table.", as many as it holds; a name's score is that of its best token."""
        prepared, start = self._inputs(picture), 0
        while start < len(names):
            stop, room = start, self.network.config.max_text_len - 2
            while stop < len(names):
                room -= len(self.tokenizer(names[stop], add_special_tokens=False)["input_ids"]) + 1
                if room < 0 and stop > start:
                    break
                stop += 1
            text, ends = "", []
            for name in names[start:stop]:
                ends.append((len(text), len(text) + len(name)))
                text += f"{name}. "
            words = self._tokens(text.strip(), return_offsets_mapping=True, return_token_type_ids=True, truncation=True,
                                 max_length=self.network.config.max_text_len)  # fmt: skip
            first, last = words.pop("offset_mapping")[0].T
            found = self.network(**prepared, **words)
            own = torch.stack([(first >= a) & (last <= b) & (last > first) for a, b in ends])
            logits = found.logits[0, :, None, : len(first)].masked_fill(~own, -torch.inf).amax(-1)
            yield from self._boxes(logits, found.pred_boxes[0], picture, range(start, stop))
            start = stop

    def _boxes(self, logits: Tensor, boxes: Tensor, picture: np.ndarray, numbers: range) -> Iterator[Detected]:
        """From logits (Q, N) and boxes (Q, 4): centre and size in shares of the picture."""
        height, width = picture.shape[:2]
        sides = boxes.new_tensor([max(height, width)] * 2 if self.padded else [width, height])
        best, name = logits.max(-1)
        best = best.sigmoid()
        for n in (best > self.threshold).nonzero()[:, 0].tolist():
            middle, half = boxes[n, :2] * sides, boxes[n, 2:] * sides / 2
            yield Detected(numbers[int(name[n])], float(best[n]), _corners(middle - half, middle + half))

    def _sam(self, picture: np.ndarray, names: Sequence[str]) -> Iterator[Detected]:
        """Boxes with masks; the picture is encoded once for all names."""
        height, width = picture.shape[:2]
        side = self.network.config.image_size
        rows, columns = (side, side) if isinstance(side, int) else side
        small = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
        pixels = torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)[None].to(self.network.device)
        seen = self.network.get_vision_features(pixels)
        for number, name in enumerate(names):
            words = self._tokens(name, padding="max_length", truncation=True,
                                 max_length=self.network.config.text_config.max_position_embeddings)  # fmt: skip
            found = self.network(vision_embeds=seen, input_ids=words["input_ids"],
                                 attention_mask=words["attention_mask"])  # fmt: skip
            scores = found.pred_logits[0].sigmoid() * found.presence_logits[0].sigmoid()
            sides = found.pred_boxes.new_tensor([width, height])
            for n in (scores > self.threshold).nonzero()[:, 0].tolist():
                chances = found.pred_masks[:, n : n + 1].sigmoid()
                mask = F.interpolate(chances, (height, width), mode="bilinear")[0, 0] > 0.5
                box = found.pred_boxes[0, n]
                yield Detected(number, float(scores[n]), _corners(box[:2] * sides, box[2:] * sides), mask.cpu().numpy())


def _corners(low: Tensor, high: Tensor) -> tuple[float, float, float, float]:
    (a, b), (c, d) = low.tolist(), high.tolist()
    return a, b, c, d
