"""Preprocessing of videos, texts and coordinates, and decoding of token ids.

A :class:`Processor` combines a frame processor (decoding, sampling, resizing) and a tokenizer. A text contains one
``<video>`` for its scene; the model decides how many 3D patches replace it. Padding and truncation have transformers'
names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidllm.io.frames import Frames, Resize
from vidllm.io.video import iter_frames, load_frames
from vidllm.model.prompts import COORD_TOKEN, LOC_TOKEN, SPECIAL_TOKENS, VIDEO_TOKEN
from vidllm.model.text import AnyTokenizer, decode_answers, encode_prompt, prompt_offsets, special_token_ids

PADDING = {True: "longest", "longest": "longest", "max_length": "max_length", False: "do_not_pad", None: "do_not_pad",
           "do_not_pad": "do_not_pad"}  # fmt: skip
TRUNCATION = {True: True, "longest_first": True, "only_first": True, False: False, None: False,
              "do_not_truncate": False}  # fmt: skip


class FrameProcessor:
    """Sources (file, folder, list of images, array) to frames (B,F,3,H,W) in [0,1], H and W multiples of the patch.

    num_frames: frames sampled uniformly, fewer when the video is shorter [P: 32]. shorter_side: pixels [P: 518].
    resize_mode: ``shorter_side`` (paper) or ``longer_side`` (VGGT's loader).
    """

    num_frames: int
    shorter_side: int
    resize_mode: Resize
    patch_size: int

    def __init__(self, num_frames: int, shorter_side: int, resize_mode: Resize, patch_size: int) -> None:
        self.num_frames, self.shorter_side = num_frames, shorter_side
        self.resize_mode, self.patch_size = resize_mode, patch_size

    def read(self, source: Any, num_frames: int | Sequence[int] | None = None) -> Frames:
        """One source's frames with the affine from original pixels; ValueError when it holds no picture."""
        return load_frames(source, self.num_frames if num_frames is None else num_frames, **self._sizes)

    def stream(self, source: Any, num_frames: int | Sequence[int] | None = None) -> Iterator[Frames]:
        """One source's frames one by one, each decoded when it is asked for; all of them when ``num_frames`` is None.

        The source may be an iterator of images as well, such as a live camera.
        """
        return iter_frames(source, num_frames, **self._sizes)

    @property
    def _sizes(self) -> dict[str, Any]:
        return {"shorter_side": self.shorter_side, "resize": self.resize_mode, "patch_size": self.patch_size}

    def batch(self, sources: Sequence[Any], num_frames: int | None = None) -> Tensor:
        """Frames (B,F,3,H,W) of B sources; ValueError when they differ in frames or size."""
        clips = [self.read(source, num_frames).images for source in sources]
        shapes = {tuple(clip.shape) for clip in clips}
        if len(shapes) > 1:
            raise ValueError(
                f"sources of one batch must agree in frames and size, received (F, 3, H, W) {sorted(shapes)}; "
                "process them one by one, or choose a smaller num_frames"
            )
        return torch.stack(clips)


class Processor:
    """Frames in and answers out: what a scene needs. ``huggingface.VidLLMProcessor`` is the processor of batches.

    The tokenizer must have ``<video>``, ``<loc>`` and ``<coord>`` (``add_special_tokens_for``); ValueError otherwise.
    """

    image_processor: FrameProcessor
    tokenizer: Any

    def __init__(self, image_processor: FrameProcessor, tokenizer: AnyTokenizer) -> None:
        self.image_processor, self.tokenizer = image_processor, tokenizer
        self.read_token_ids()

    def read_token_ids(self) -> None:
        """Take the ids of our three tokens from the tokenizer."""
        ids = special_token_ids(self.tokenizer)
        self.video_token_id = ids[VIDEO_TOKEN]
        self.loc_token_id = ids[LOC_TOKEN]
        self.coord_token_id = ids[COORD_TOKEN]

    def decode_answers(self, ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Texts of generated ids (B,L), new tokens only: cut at the end token, without special tokens."""
        return decode_answers(self.tokenizer, ids.tolist() if isinstance(ids, Tensor) else ids)


# ---- texts of a batch ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextOptions:
    """What a call of the processor may say about its texts; lengths count text tokens, ``<video>`` being one.

    padding: True or "longest" (to the longest row), "max_length", False; to a multiple of ``pad_to_multiple_of``.
    truncation: whether rows over ``max_length`` (the tokenizer's own limit without it) are cut, at the tokenizer's
    ``truncation_side``. return_offsets_mapping: also the characters that each token comes from (lists of pairs).
    return_text_replacement_offsets: always nothing to return, since ``<video>`` stays one token.
    """

    padding: bool | str | None = True
    truncation: bool | str | None = False
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding_side: Literal["left", "right"] = "left"
    add_special_tokens: bool = True
    return_offsets_mapping: bool = False
    return_text_replacement_offsets: bool = False

    def __post_init__(self) -> None:
        for name, known in (("padding", PADDING), ("truncation", TRUNCATION)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, received {value!r}")
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be left or right, received {self.padding_side!r}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, received {self.max_length}")
        fills = PADDING[self.padding] == "max_length"
        if self.max_length is not None and not fills and not TRUNCATION[self.truncation]:
            raise ValueError("max_length has no effect by itself; pass truncation=True or padding='max_length' with it")
        if self.max_length is None and fills:
            raise ValueError("padding='max_length' needs max_length")


def encode_batch(
    tokenizer: Any, texts: Sequence[str], options: TextOptions, to_tensors: bool = True
) -> dict[str, Any]:
    """``input_ids``, ``attention_mask`` and optionally ``offset_mapping`` of B texts, each a list of B rows.

    ValueError where a text is over ``max_length`` without truncation, truncation would cut a scene's or a point's token
    off, or unpadded rows cannot be one tensor.
    """
    rows = [encode_prompt(tokenizer, text, options.add_special_tokens) for text in texts]
    kept = [_kept(tokenizer, i, row, options) for i, row in enumerate(rows)]
    rows = [row[part] for row, part in zip(rows, kept, strict=True)]
    if to_tensors and PADDING[options.padding] == "do_not_pad" and len({len(row) for row in rows}) > 1:
        raise ValueError(f"texts of {sorted({len(row) for row in rows})} tokens cannot be one tensor; use padding=True")
    padded = tokenizer.pad(
        {"input_ids": rows}, padding=PADDING[options.padding], max_length=options.max_length,
        pad_to_multiple_of=options.pad_to_multiple_of, padding_side=options.padding_side,
    )  # fmt: skip
    batch: dict[str, Any] = {name: padded[name] for name in ("input_ids", "attention_mask")}
    if options.return_offsets_mapping:
        batch["offset_mapping"] = []
        for text, part, row in zip(texts, kept, batch["input_ids"], strict=True):
            spans = prompt_offsets(tokenizer, text, options.add_special_tokens)[part]
            fill = [(0, 0)] * (len(row) - len(spans))  # where the row is padded
            batch["offset_mapping"].append(fill + spans if options.padding_side == "left" else spans + fill)
    return batch


def _kept(tokenizer: Any, number: int, row: Sequence[int], options: TextOptions) -> slice:
    """The part of a row that truncation leaves; ValueError for a row over ``max_length`` without truncation."""
    most = options.max_length or tokenizer.model_max_length
    if len(row) <= most or (options.max_length is None and not TRUNCATION[options.truncation]):
        return slice(None)
    if not TRUNCATION[options.truncation]:
        raise ValueError(f"text {number} has {len(row)} tokens, max_length is {most}; pass truncation=True or raise it")
    part = slice(len(row) - most, None) if tokenizer.truncation_side == "left" else slice(most)
    ids = special_token_ids(tokenizer)
    for token in SPECIAL_TOKENS:
        if row.count(ids[token]) != row[part].count(ids[token]):
            raise ValueError(f"text {number} has {len(row)} tokens; truncation to {most} would cut {token} off: "
                             "raise max_length or shorten the text")  # fmt: skip
    return part


# ---- scenes and points of a batch ---------------------------------------------------------------------------------


def sources_of(videos: Any, images: Any, texts: Sequence[str], single: bool) -> list[Any]:
    """One source a text; ValueError where videos or images are not one for each, or a text has not one ``<video>``."""
    if images is not None:
        sources = _clips_of_images(images, max(1, len(texts)))
    else:
        listed = isinstance(videos, list | tuple)
        rows = list(videos) if listed and len(videos) == len(texts) and not single else [videos]
        if not single and len(rows) != len(texts):
            raise ValueError(f"expected {len(texts)} videos for {len(texts)} texts, received "
                             f"{len(videos) if listed else 1}; give one each")  # fmt: skip
        sources = [_unwrap(row) for row in rows]
    for i, text in enumerate(texts):
        count = text.count(VIDEO_TOKEN)
        if count != 1:
            raise ValueError(f"text {i} has {count} {VIDEO_TOKEN} tokens; a video needs exactly one")
    return sources


def _unwrap(source: Any) -> Any:
    """The source inside a list of one (as chat templates nest them); a list of images is itself a source."""
    while isinstance(source, list | tuple) and len(source) == 1:
        (inner,) = source
        frames = isinstance(inner, np.ndarray | Tensor) and inner.ndim == 4
        if not frames and not isinstance(inner, str | os.PathLike | list | tuple):
            break
        source = inner
    return source


def _clips_of_images(images: Any, count: int) -> list[list[Any]]:
    """The images of each of ``count`` texts; ValueError where a text has none."""
    rows = images if isinstance(images, list | tuple) else [images]
    nested = [isinstance(row, list | tuple) for row in rows]
    if count == 1 and not all(nested):
        rows = [rows]
    elif len(rows) != count:
        raise ValueError(f"expected images for {count} texts, received {len(rows)}; give a list of each text's images")
    clips = [list(row) if isinstance(row, list | tuple) else [row] for row in rows]
    if not all(clips):
        raise ValueError(f"text {[bool(c) for c in clips].index(False)} has no image; every text of a batch needs one")
    return clips


def points_of(texts: Sequence[str], coordinates: Any) -> Tensor | None:
    """Coordinates as (B,N,3), checked against the ``<coord>`` tokens of each text; None where no text has one."""
    wanted = [t.count(COORD_TOKEN) for t in texts]
    given = [None] * len(texts) if coordinates is None else list(coordinates)
    if not texts and any(g is not None for g in given):
        raise ValueError(f"coordinates were given without a text; write {COORD_TOKEN} where each stands")
    if texts and len(given) != len(texts):
        raise ValueError(f"expected coordinates for {len(texts)} texts, received {len(given)}")
    rows = [_rows_of_three(g) for g in given]
    for i, (row, count) in enumerate(zip(rows, wanted, strict=False)):
        if len(row) != count:
            raise ValueError(f"text {i} has {count} {COORD_TOKEN} tokens but {len(row)} coordinates; give one each")
    return pad_sequence(rows, batch_first=True) if any(wanted) else None


def _rows_of_three(given: Any) -> Tensor:
    """Points as (N,3) float; ValueError for another shape or a value that is not finite."""
    if given is None:
        return torch.zeros(0, 3)
    points = torch.as_tensor(np.asarray(given, dtype=np.float32))
    points = points[None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"expected coordinates (3) or (N, 3) a text, received {tuple(points.shape)}")
    if not bool(points.isfinite().all()):
        raise ValueError(f"coordinates must be finite numbers in metres, received {points.tolist()}")
    return points
