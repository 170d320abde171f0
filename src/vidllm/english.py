"""English at the level of words: plurals, articles, number words, lists, and when two short answers are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(NUMBER_WORDS)}
_IRREGULAR = {"bookshelf": "bookshelves", "shelf": "shelves", "tv": "tvs", "person": "people", "knife": "knives"}
_SYNONYMS = {
    "grey": "gray",
    "meter": "meters",
    "metre": "meters",
    "metres": "meters",
    "m": "meters",
    "television": "tv",
    "wooden": "wood",
    "couch": "sofa",
    "fridge": "refrigerator",
    "none": "0",
}
_ARTICLES = {"a", "an", "the"}
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[a-z]+(?:-[a-z]+)*|'[a-z]+|[^\sa-z\d]")


def plural(noun: str) -> str:
    """Plural of a (possibly compound) noun: "coffee table" -> "coffee tables", "bookshelf" -> "bookshelves"."""
    head, _, last = noun.rpartition(" ")
    return f"{head} {_plural_word(last)}" if head else _plural_word(last)


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an": "an orange chair", "an L-shaped office", "a tv"."""
    vowel = phrase[:1].lower() in "aeiou" or phrase.startswith("L-")
    return f"{'an' if vowel else 'a'} {phrase}"


def number_word(value: int) -> str:
    """The number as a word, "two" for 2; digits beyond ten."""
    return NUMBER_WORDS[value] if 0 <= value < len(NUMBER_WORDS) else str(value)


def counted(value: int, noun: str) -> str:
    """A count with its noun, the article standing for one: "a chair", "two chairs"."""
    return with_article(noun) if value == 1 else f"{number_word(value)} {plural(noun)}"


def listing(items: Sequence[str]) -> str:
    """The items as "a, b and c"."""
    if len(items) <= 1:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def capitalised(sentence: str) -> str:
    """The sentence with its first letter in upper case and the rest untouched."""
    return sentence[:1].upper() + sentence[1:]


def metres(value: float) -> str:
    """A length in half-metre words: 1.0 -> "1 meter", 1.5 -> "1.5 meters"."""
    return f"{value:g} meter{'' if value == 1 else 's'}"


def normalise(answer: str) -> str:
    """Lower case, no punctuation or articles, number words as digits, "1.0" as "1", one name per unit and colour."""
    text = re.sub(r"(?<=\d)(?=m\b|meters?\b|metres?\b)", " ", answer.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.]", " ", text)
    words = [_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES]
    words = [f"{float(word):g}" if re.fullmatch(r"\d+(\.\d+)?", word) else word for word in words]
    return " ".join(_SYNONYMS.get(word, word) for word in words)


def answer_matches(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the prediction equals one of the accepted answers after ``normalise``."""
    said = normalise(prediction)
    return any(said == normalise(answer) for answer in answers)


def tokens(text: str) -> list[str]:
    """Words, numbers and punctuation marks of a text in lower case, as ScanRefer's token lists are."""
    return _TOKEN.findall(text.lower())
