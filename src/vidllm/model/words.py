"""Words outside a closed vocabulary: replaced by the nearest known word, or refused.

A model with a closed vocabulary has a file ``vocabulary.json`` in its folder, which ``vidllm rooms calibrate
--closed-vocabulary`` writes; without it no text is changed. ``words.npz`` contains embeddings of about four thousand
objects, colours and materials (made by scripts/word_table.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidllm.io.files import read_json_object

VOCABULARY = "vocabulary.json"
KINDS = ("thing", "colour", "material")
#: Cosine from which a word of a kind is taken to the nearest known one (measured: tests/model/test_words.py).
NEAR = {"thing": 0.58, "colour": 0.54, "material": 0.54}
#: What a question asks for, by its words; the answers that it may have are in the vocabulary.
ASKED = {
    "colour": r"\b(what|which|name|tell me|say)\b[^?]*\bcolou?r\b",
    "material": r"\b(what|which|name)\b[^?]*\bmaterial\b|\bmade (of|from|out of)\b",
    "number": r"\bhow many\b|\bnumber of\b|^count\b",
}
LONGEST = 3  # words of a name
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_APART = re.compile(r"[^\s-]")  # between the words of one name
_SINGULAR = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""), ("men", "man"))


@dataclass(frozen=True)
class WordTable:
    """Words with their kind and embedding (unit length up to projection and rounding), and plain words.

    Plain words (grammar, verbs, adjectives) name no object and have no embedding.
    """

    rows: dict[str, int]
    kinds: np.ndarray
    vectors: Float[np.ndarray, "N C"]
    plain: frozenset[str]


@cache
def word_table() -> WordTable:
    """The package's table."""
    with np.load(Path(__file__).with_name("words.npz")) as held:
        words, plain = (bytes(held[name]).decode().split("\n") for name in ("words", "plain"))
        vectors = held["vectors"].astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1).max()
        return WordTable({w: i for i, w in enumerate(words)}, held["kinds"], vectors / lengths, frozenset(plain))


@dataclass(frozen=True)
class Reading:
    """A text in known words; the replaced words; the unknown ones."""

    text: str
    taken: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The words a model was trained on.

    ``names``: those of things, colours and materials, by kind, each with its plural; ``words``: all others;
    ``answers``: what questions for a colour, a material or a number may be answered with; ``sentences``: parts of
    questions that are known as they stand, though their words mean nothing elsewhere.
    """

    names: dict[str, dict[str, str]]
    words: frozenset[str]
    answers: dict[str, tuple[str, ...]]
    sentences: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: str | Path) -> Vocabulary | None:
        """A model folder's, None where it has none; ValueError, naming the file, where it is damaged."""
        file = Path(folder) / VOCABULARY
        if not file.is_file():
            return None
        held = read_json_object(file)
        try:
            answers = {kind: tuple(map(str, held["answers"][kind])) for kind in ASKED}
            names = {kind: dict(held["names"][kind]) for kind in KINDS}
            return cls(names, frozenset(held["words"].split()), answers, tuple(held.get("sentences", ())))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file}: not the vocabulary of a model ({type(error).__name__}: {error}); write it again "
                             "with vidllm rooms calibrate --closed-vocabulary") from error  # fmt: skip

    def interpret(self, text: str) -> Reading:
        """The text with unknown names replaced by the nearest known ones; unchanged if all are known."""
        met = [re.escape(part) for part in self.sentences if part in text]
        known_parts = [found.span() for part in met for found in re.finditer(part, text)]
        spans = [
            (found.start(), found.end(), _bare(found.group())) for found in _WORD.finditer(text)
            if not any(first <= found.start() < last for first, last in known_parts)
        ]  # fmt: skip
        pieces, taken, unknown, done, at = [], {}, [], 0, 0
        while at < len(spans):
            count, known = self._read(_together(text, spans[at : at + LONGEST]))
            begin, end = spans[at][0], spans[at + count - 1][1]
            said = " ".join(word for _, _, word in spans[at : at + count])
            if known is None:
                unknown.append(said)
            elif known:
                pieces += [_with_article(text[done:begin], known), known]
                taken[said], done = known, end
            at += count
        return Reading("".join([*pieces, text[done:]]), tuple(taken.items()), tuple(dict.fromkeys(unknown)))

    def _read(self, words: list[str]) -> tuple[int, str | None]:
        """How many words belong together, and what to say for them: "" for themselves, None where they are unknown."""
        table = word_table()
        for count in range(len(words), 0, -1):
            said = " ".join(words[:count])
            found = next((form for form in _forms(said) if form in self._known), None)
            if found is not None:
                return count, "" if " " in found or count == 1 else found
            for form in _forms(said):
                if form in table.rows:
                    name = self.nearest(form)
                    many = form != said and name in self.names["thing"]
                    if name is not None or count == 1:
                        return count, self.names["thing"][name] if name is not None and many else name
        return 1, "" if words[0] in table.plain or len(words[0]) == 1 else None

    @cached_property
    def _known(self) -> frozenset[str]:
        return self.words | {name for names in self.names.values() for name in names}

    def nearest(self, word: str) -> str | None:
        """The known name of the same kind that a word of the table is nearest to; None where that is too far."""
        table = word_table()
        row = table.rows[word]
        kind = KINDS[table.kinds[row]]
        names = [name for name in self.names[kind] if name in table.rows]
        near = table.vectors[[table.rows[name] for name in names]] @ table.vectors[row]
        return names[int(near.argmax())] if names and near.max() >= NEAR[kind] else None

    def allowed(self, question: str) -> tuple[str, ...]:
        """The possible answers to a question for a colour, a material or a number; None for any other question."""
        return next((self.answers[kind] for kind, asked in ASKED.items() if re.search(asked, question.lower())), ())


def resembling(name: str, names: Collection[str]) -> str | None:
    """The category in ``names`` that a name means: itself, its last words, or the nearest one; None without one."""
    known = Vocabulary({"thing": {each: each for each in names}, "colour": {}, "material": {}}, frozenset(), {})
    words = [_bare(found) for found in _WORD.findall(name)]
    for start in range(len(words)):  # what a compound is, is said last
        for form in _forms(" ".join(words[start:])):
            if form in names:
                return form
            if form in word_table().rows:
                return known.nearest(form)
    return None


def _together(text: str, spans: list[tuple[int, int, str]]) -> list[str]:
    """The first of some words, and those after it that nothing but a space or a hyphen parts from it."""
    words = [spans[0][2]]
    for (_, end, _), (begin, _, word) in pairwise(spans):
        if _APART.search(text[end:begin]):
            break
        words.append(word)
    return words


def _bare(word: str) -> str:
    """In lower case, without 's and the like."""
    return re.split("['’]", word.lower())[0]


def _forms(said: str) -> Iterator[str]:
    """A phrase, what its singular may be, and all in one word."""
    yield said
    yield from (said.removesuffix(end) + new for end, new in _SINGULAR if said.endswith(end))
    if " " in said:
        yield from _forms(said.replace(" ", ""))


def _with_article(before: str, name: str) -> str:
    """The text before a name, its article made to agree."""
    right = "an" if name[0] in "aeiou" else "a"
    return re.sub(r"\b(a)n?(?=\s+$)", lambda found: found[1] + right[1:], before, flags=re.IGNORECASE)


def unknown_words(words: Iterable[str]) -> str:
    """The answer to a text with unknown words."""
    quoted = [f'"{word}"' for word in words]
    if len(quoted) == 1:
        return f"I do not know the word {quoted[0]}."
    return f"I do not know the words {', '.join(quoted[:-1])} and {quoted[-1]}."
