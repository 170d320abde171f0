"""The Penn Treebank tokeniser of the caption metrics in plain Python: no Java is needed for BLEU, ROUGE-L or CIDEr.

All texts are read in one run with a line each, as the caption evaluation kit does, because an abbreviation at the end
of a line looks at how the next line begins. Unlike the kit, no line break inside a text can shift the texts behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vidllm.evaluation.text_metrics.ptb_rules import BEFORE_NUMBERS, ENDING, LEADING, RULES

_BREAKS = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=[,;:?!.]?(?:[ \n]|\Z))")
_NOTHING = re.compile(r" +|[,;.](?=[ \n]|\Z)")
_SPLIT_WORDS = frozenset(("cannot", "gonna", "gotta", "lemme", "gimme", "wanna"))
_ABBREVIATIONS = frozenset(re.sub(r"[][]", "", word).lower() for word in (*ENDING, *LEADING, *BEFORE_NUMBERS))


def tokenize(texts: Sequence[str]) -> list[str]:
    """The tokens of every text, in lower case, joined by single blanks, the list of punctuation left out.

    Brackets stay under their names (``-lrb-``); a mixed fraction keeps an unbreakable blank (``3\u00a01/2``).
    Characters the tokeniser does not know part words and vanish.
    """
    if isinstance(texts, str):
        raise ValueError("tokenize takes a sequence of texts, got one string; wrap it in a list")
    text = "\n".join(_BREAKS.sub(" ", text) for text in texts)
    lines = _tokens(text) if texts else []
    return [" ".join(line) for line in lines]


def _tokens(text: str) -> list[list[str]]:
    """Tokens line by line: at each place the longest match of all rules."""
    lines: list[list[str]] = [[]]
    place = 0
    while place < len(text):
        if text[place] == "\n":
            lines.append([])
            place += 1
            continue
        nothing = _NOTHING.match(text, place)
        plain = _PLAIN_WORD.match(text, place)
        if nothing:
            place = nothing.end()
            continue
        if plain and _is_plain(plain[0].lower(), text, plain.end()):
            lines[-1].append(plain[0].lower())
            place = plain.end()
            continue
        place = _step(text, place, lines[-1])
    return lines


def _is_plain(word: str, text: str, end: int) -> bool:
    """Whether no rule can take more, or less, than this word of letters."""
    stop = text.startswith(".", end)
    return word not in _SPLIT_WORDS and not (stop and (len(word) == 1 or word in _ABBREVIATIONS))


def _step(text: str, place: int, line: list[str]) -> int:
    """Read one token into ``line``; returns the place behind it."""
    best, end, token = None, place, ""
    for rule in RULES:
        found = rule.pattern.match(text, place)
        if found and found.end() > end:
            best, end, token = rule, found.end(), found["token"]
    if best is None:
        return place + 1
    line += [part.lower() for part in best.make(token)]
    return place + len(token)
