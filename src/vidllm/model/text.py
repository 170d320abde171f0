"""Tokenisation: the small model's own tokenizer, and the special tokens that any other tokenizer needs.

Prefix and suffix of a prompt are always encoded separately and concatenated as ids. Whatever merges a tokenizer has,
the ids of ``VISUAL_PREFIX`` are then the same for every question, and a cached scene gives the same logits as without a
cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vidllm.io.files import check_regular_file, read_json_object
from vidllm.model.prompts import (
    ASSISTANT,
    BOS_TOKEN,
    CHAT_TEMPLATE,
    EOS_TOKEN,
    PAD_TOKEN,
    SPECIAL_TOKENS,
    USER,
    VISUAL_PREFIX,
    check_text,
    fixed_texts,
)

# Words and signs keep the blank before them; digits stand alone, so that numbers are read digit by digit.
_WORDS = r"'s| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_FIXED_EVERY = 16  # the templates are added to the corpus every so many texts
_PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
_PLAIN_SETTINGS = {"backend", "bos_token", "clean_up_tokenization_spaces", "eos_token", "is_local", "local_files_only",
                   "model_input_names", "model_max_length", "pad_token", "padding_side", "processor_class",
                   "tokenizer_class"}  # fmt: skip
IGNORE_INDEX = -100  # a label that is not scored


@runtime_checkable
class AnyTokenizer(Protocol):
    """What prompts and answers need of a tokenizer: every one of transformers has it, and :class:`PlainTokenizer`."""

    bos_token: str | None
    bos_token_id: Any
    eos_token_id: Any

    def get_vocab(self) -> dict[str, int]:
        """Tokens and their ids."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of a text."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool) -> Any:
        """The text of ids."""


class PlainTokenizer:
    """A ``tokenizer.json`` read without transformers, which takes seconds to import."""

    def __init__(self, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
        """``settings``: those of ``tokenizer_config.json``."""
        self._tokenizer = tokenizer
        self.bos_token, self.eos_token = settings["bos_token"], settings["eos_token"]
        self.bos_token_id: Any = tokenizer.token_to_id(self.bos_token)
        self.eos_token_id: Any = tokenizer.token_to_id(self.eos_token)

    @classmethod
    def read(cls, folder: Path) -> PlainTokenizer | None:
        """The tokenizer of a folder; None if only transformers reads it correctly."""
        settings = read_json_object(folder / "tokenizer_config.json")
        names = [settings.get(name) for name in ("bos_token", "eos_token")]
        if settings.get("tokenizer_class") not in _PLAIN_CLASSES or not set(settings) <= _PLAIN_SETTINGS:
            return None
        if settings.get("clean_up_tokenization_spaces") or not all(isinstance(name, str) for name in names):
            return None
        tokenizer = Tokenizer.from_file(str(check_regular_file(folder / "tokenizer.json")))
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        return cls(tokenizer, settings) if special >= set(names) else None

    def get_vocab(self) -> dict[str, int]:
        """Tokens and their ids."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))


def build_tokenizer(texts: Iterable[str], vocab_size: int = 1536) -> Any:
    """Byte-level BPE trained on ``texts`` (sentences and answers without templates), as transformers' class.

    Lower-cases, splits digits one by one, and knows every byte, so that any text has ids and there is no unknown token.
    It adds ``<s>`` and carries the chat template.
    Ids 0 to 5 are ``<pad> <s> </s> <video> <loc> <coord>``. The vocabulary may be smaller than ``vocab_size`` when the
    corpus does not hold enough pairs. ValueError when ``vocab_size`` cannot hold the bytes and the special tokens.
    """
    special = [AddedToken(t, special=True, normalized=False) for t in (PAD_TOKEN, BOS_TOKEN, EOS_TOKEN)]
    special += _our_tokens()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(special) + len(alphabet)
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least} (bytes and special tokens), received {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_training_lines(texts), trainer)
    bos = tokenizer.token_to_id(BOS_TOKEN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TOKEN} $A", pair=f"{BOS_TOKEN} $A $B", special_tokens=[(BOS_TOKEN, bos)]
    )
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    add_special_tokens_for(fast)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def forget_origin(tokenizer: Any) -> Any:
    """The tokenizer without the information on how it was loaded, which `save_pretrained` would write."""
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Each text at the start of a line and after a space, as in the prompt templates."""
    fixed = fixed_texts()
    for i, text in enumerate(texts):
        yield f"{USER} \n{text} {ASSISTANT} {text}"
        if i % _FIXED_EVERY == 0:
            yield from (f"{USER} \n{line} {ASSISTANT} " for line in fixed)


def _our_tokens() -> list[AddedToken]:
    """The tokens for a scene, an object to find and a point; they include the space before them."""
    return [AddedToken(t, special=True, normalized=False, lstrip=True) for t in SPECIAL_TOKENS]


def add_special_tokens_for(tokenizer: Any) -> dict[str, int]:
    """Give any tokenizer ``<video>``, ``<loc>`` and ``<coord>`` (those it lacks) and return their ids.

    A tokenizer without a padding token gets its end token for it. The language model's table must then be resized to
    ``len(tokenizer)`` rows at least, and the ids written to ``VidLLMConfig``.
    """
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([t for t in _our_tokens() if t.content not in known], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return special_token_ids(tokenizer)


def read_tokenizer(folder: str | Path) -> Any:
    """A saved tokenizer; ValueError, naming the file, where it is missing or damaged. No code of the folder is run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        try_tokenizer(tokenizer)
        return tokenizer
    except Exception as error:  # the tokenizers' library raises Exception itself
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        told = tokenizer_fault(Path(folder)) or f"{folder}: its tokenizer cannot be read ({first})"
        raise ValueError(f"{told}; delete {folder} where it is made again, or copy its files again") from error


def try_tokenizer(tokenizer: AnyTokenizer) -> None:
    """A text to ids and back: settings of a wrong type show themselves at their first use alone, by any error."""
    decode_answers(tokenizer, [encode_prompt(tokenizer, f"{VISUAL_PREFIX}a")])


def tokenizer_fault(folder: Path) -> str | None:
    """Which of a folder's files keeps its tokenizer from being read, and why; None where each file alone is good."""
    file = folder / "tokenizer.json"
    try:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).exists():
                read_json_object(folder / name)
        if file.exists():
            Tokenizer.from_file(str(file))
    except ValueError as error:
        return str(error)
    except Exception as error:
        return f"{file}: not a tokenizer ({' '.join(str(error).split())[:160]})"
    return None


def special_token_ids(tokenizer: AnyTokenizer) -> dict[str, int]:
    """Ids of ``<video>``, ``<loc>``, ``<coord>``; ValueError when the tokenizer lacks one."""
    known = tokenizer.get_vocab()
    missing = [t for t in SPECIAL_TOKENS if t not in known]
    if missing:
        raise ValueError(f"the tokenizer has no {', '.join(missing)}; call add_special_tokens_for(tokenizer) first")
    return {t: known[t] for t in SPECIAL_TOKENS}


def encode_parts(tokenizer: AnyTokenizer, text: str, add_bos: bool = True) -> tuple[list[int], list[int]]:
    """A prompt as (prefix ids, suffix ids); the prefix is the start token, and ``VISUAL_PREFIX`` if there."""
    bos = tokenizer.bos_token
    if bos and text.startswith(bos):
        text, add_bos = text.removeprefix(bos), True
    head = [tokenizer.bos_token_id] if add_bos and bos else []
    if text.startswith(VISUAL_PREFIX):
        head = head + _plain(tokenizer, VISUAL_PREFIX)
        text = text.removeprefix(VISUAL_PREFIX)
    return head, _plain(tokenizer, text)


def encode_prompt(tokenizer: AnyTokenizer, text: str, add_bos: bool = True) -> list[int]:
    """A prompt as ids: prefix and suffix, encoded apart."""
    head, tail = encode_parts(tokenizer, text, add_bos)
    return head + tail


def prompt_offsets(tokenizer: Any, text: str, add_bos: bool = True) -> list[tuple[int, int]]:
    """Where in ``text`` each id of :func:`encode_prompt` comes from: its first character, and the one behind it."""
    bos = tokenizer.bos_token or ""
    start = len(bos) if bos and text.startswith(bos) else 0
    cut = start + (len(VISUAL_PREFIX) if text.startswith(VISUAL_PREFIX, start) else 0)
    spans = [(0, start)] if bos and (add_bos or start) else []
    for at, piece in ((start, text[start:cut]), (cut, text[cut:])):
        if piece:
            found = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            spans += [(at + first, at + behind) for first, behind in found]
    return spans


def encode_answer(tokenizer: AnyTokenizer, answer: str) -> list[int]:
    """The ids that follow a prompt's ``ASSISTANT:``, with the end token last; ValueError for a reserved token in it."""
    check_text(answer, "answer")
    turn = _plain(tokenizer, ASSISTANT)
    whole = _plain(tokenizer, f"{ASSISTANT} {answer.strip()}")
    tail = whole[len(turn) :] if whole[: len(turn)] == turn else _plain(tokenizer, f" {answer.strip()}")
    return [*tail, tokenizer.eos_token_id]


def decode_answers(tokenizer: AnyTokenizer, rows: Iterable[Iterable[int]]) -> list[str]:
    """Generated ids (new tokens only) to texts: cut at the first end token, special tokens left out, stripped."""
    answers = []
    for row in rows:
        ids = [int(i) for i in row]
        if tokenizer.eos_token_id in ids:
            ids = ids[: ids.index(tokenizer.eos_token_id)]
        answers.append(str(tokenizer.decode(ids, skip_special_tokens=True)).strip())
    return answers


def _plain(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Ids of a piece of text with no start or end token."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []
