"""Text to ids and back: the small model's own tokenizer, and the special tokens any other tokenizer needs.

The prefix and the suffix of a prompt are always encoded apart and joined as ids. Whatever merges a tokenizer knows, the
ids of ``VISUAL_PREFIX`` are then the same for every question, and a cached scene gives the logits of an uncached one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vidllm.io.files import read_json_object
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
_FIXED_EVERY = 16  # how often the templates' words are shown beside the corpus
IGNORE_INDEX = -100  # a label that is not scored


def build_tokenizer(texts: Iterable[str], vocab_size: int = 1536) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on ``texts`` (sentences and answers without templates).

    Lower-cases, splits digits one by one, and knows every byte, so that any text has ids and there is no unknown token.
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
    return _wrapped(tokenizer)


def forget_origin(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer without what tells how it was loaded, which `save_pretrained` would write into its folder."""
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The trained tokenizer as transformers' class, which adds ``<s>`` and carries the chat template."""
    bos = tokenizer.token_to_id(BOS_TOKEN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TOKEN} $A", pair=f"{BOS_TOKEN} $A $B", special_tokens=[(BOS_TOKEN, bos)]
    )
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


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Each text at the start of a line and after a blank, in the company it will keep."""
    fixed = fixed_texts()
    for i, text in enumerate(texts):
        yield f"{USER} \n{text} {ASSISTANT} {text}"
        if i % _FIXED_EVERY == 0:
            yield from (f"{USER} \n{line} {ASSISTANT} " for line in fixed)


def _our_tokens() -> list[AddedToken]:
    """The three tokens that stand for a scene, a place to find and a point; they swallow the blank before them."""
    return [AddedToken(t, special=True, normalized=False, lstrip=True) for t in SPECIAL_TOKENS]


def add_special_tokens_for(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Give any tokenizer ``<video>``, ``<loc>`` and ``<coord>`` (those it lacks) and return their ids.

    A tokenizer without a padding token gets its end token for it. The language model's table must then be resized to
    ``len(tokenizer)`` rows at least, and the ids written to ``VidLLMConfig``.
    """
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([t for t in _our_tokens() if t.content not in known], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return special_token_ids(tokenizer)


def read_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """A saved tokenizer; ValueError, naming the file, where it is missing or damaged. No code of the folder is run."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        try_tokenizer(tokenizer)
        return tokenizer
    except Exception as error:  # the tokenizers' library raises Exception itself
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        told = tokenizer_fault(Path(folder)) or f"{folder}: its tokenizer cannot be read ({first})"
        raise ValueError(f"{told}; delete {folder} where it is made again, or copy its files again") from error


def try_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
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


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of ``<video>``, ``<loc>``, ``<coord>``; ValueError when the tokenizer lacks one."""
    known = tokenizer.get_vocab()
    missing = [t for t in SPECIAL_TOKENS if t not in known]
    if missing:
        raise ValueError(f"the tokenizer has no {', '.join(missing)}; call add_special_tokens_for(tokenizer) first")
    return {t: known[t] for t in SPECIAL_TOKENS}


def encode_parts(tokenizer: PreTrainedTokenizerBase, text: str, add_bos: bool = True) -> tuple[list[int], list[int]]:
    """A prompt as (prefix ids, suffix ids); the prefix is the start token, and ``VISUAL_PREFIX`` if there."""
    bos = tokenizer.bos_token
    if bos and text.startswith(bos):
        text, add_bos = text.removeprefix(bos), True
    head = [tokenizer.bos_token_id] if add_bos and bos else []
    if text.startswith(VISUAL_PREFIX):
        head = head + _plain(tokenizer, VISUAL_PREFIX)
        text = text.removeprefix(VISUAL_PREFIX)
    return head, _plain(tokenizer, text)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, add_bos: bool = True) -> list[int]:
    """A prompt as ids: prefix and suffix, encoded apart."""
    head, tail = encode_parts(tokenizer, text, add_bos)
    return head + tail


def prompt_offsets(tokenizer: PreTrainedTokenizerBase, text: str, add_bos: bool = True) -> list[tuple[int, int]]:
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


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[int]:
    """The ids that follow a prompt's ``ASSISTANT:``, with the end token last; ValueError for a reserved token in it."""
    check_text(answer, "answer")
    turn = _plain(tokenizer, ASSISTANT)
    whole = _plain(tokenizer, f"{ASSISTANT} {answer.strip()}")
    tail = whole[len(turn) :] if whole[: len(turn)] == turn else _plain(tokenizer, f" {answer.strip()}")
    return [*tail, tokenizer.eos_token_id]


def decode_answers(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Iterable[int]]) -> list[str]:
    """Generated ids (new tokens only) to texts: cut at the first end token, special tokens left out, stripped."""
    answers = []
    for row in rows:
        ids = [int(i) for i in row]
        if tokenizer.eos_token_id in ids:
            ids = ids[: ids.index(tokenizer.eos_token_id)]
        answers.append(str(tokenizer.decode(ids, skip_special_tokens=True)).strip())
    return answers


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a piece of text with no start or end token."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []
