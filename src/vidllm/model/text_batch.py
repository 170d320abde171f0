"""Prompts of a batch as ids of one length: padding and truncation, by transformers' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from vidllm.model.prompts import SPECIAL_TOKENS
from vidllm.model.text import encode_prompt, prompt_offsets, special_token_ids

PADDING = {True: "longest", "longest": "longest", "max_length": "max_length", False: "do_not_pad", None: "do_not_pad",
           "do_not_pad": "do_not_pad"}  # fmt: skip
TRUNCATION = {True: True, "longest_first": True, "only_first": True, False: False, None: False,
              "do_not_truncate": False}  # fmt: skip


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
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], options: TextOptions, to_tensors: bool = True
) -> dict[str, Any]:
    """``input_ids``, ``attention_mask`` and where wanted ``offset_mapping`` of B texts, each a list of B rows.

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
        spans = [prompt_offsets(tokenizer, text, options.add_special_tokens) for text in texts]
        batch["offset_mapping"] = [
            _padded(span[part], len(row), options.padding_side)
            for span, part, row in zip(spans, kept, batch["input_ids"], strict=True)
        ]
    return batch


def _kept(tokenizer: PreTrainedTokenizerBase, number: int, row: Sequence[int], options: TextOptions) -> slice:
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


def _padded(spans: Sequence[tuple[int, int]], length: int, side: str) -> list[tuple[int, int]]:
    """Spans of a row with empty ones where it is padded."""
    fill = [(0, 0)] * (length - len(spans))
    return [*fill, *spans] if side == "left" else [*spans, *fill]
