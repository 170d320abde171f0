"""BLEU, CIDEr, ROUGE-L and METEOR in the conventions of the caption evaluation kit, and all of them together.

Words are what the text is split into: tokenise first where the protocol does. No library of ours gives these very
numbers.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.evaluation.protocols import NOT_AVAILABLE

_ORDERS = 4
_NGram = tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """A metric of a corpus; BLEU holds four numbers (orders 1 to 4), the others one.

    ``total`` need not be the mean of ``per_item``: BLEU and METEOR sum statistics over the corpus.
    """

    total: tuple[float, ...]
    per_item: list[tuple[float, ...]]


def check_pairs(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> None:
    """Raise ``ValueError`` unless every hypothesis has at least one reference."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} lists of references; give one each")
    if not hypotheses:
        raise ValueError("nothing to score: no hypotheses")
    for index, group in enumerate(references):
        if isinstance(group, str) or not len(group):
            raise ValueError(f"item {index} has no list of references: {group!r}; give at least one string")


def _counts(words: Sequence[str]) -> Counter[_NGram]:
    """How often each run of one to four words occurs."""
    found: Counter[_NGram] = Counter()
    for order in range(1, _ORDERS + 1):
        found.update(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
    return found


# -- BLEU: clipped n-gram precision with the closest reference length (Papineni et al., 2002)

_SMALL = 1e-9  # added to every denominator; with _TINY it keeps "no match" at about 1e-8
_TINY = 1e-15  # added to every numerator


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """BLEU-1 to BLEU-4 as fractions: of the summed counts of the corpus, and of every item alone."""
    check_pairs(references, hypotheses)
    table = np.array([_statistics(group, text) for group, text in zip(references, hypotheses, strict=True)])
    return Scores(_bleu(table.sum(0).tolist()), [_bleu(row) for row in table.tolist()])


def _statistics(references: Sequence[str], hypothesis: str) -> list[int]:
    """Clipped matches of each order, guesses of each order, and the two lengths."""
    words = hypothesis.split()
    groups = [reference.split() for reference in references]
    limit: Counter[_NGram] = Counter()
    for group in groups:
        limit |= _counts(group)
    matches = [0] * _ORDERS
    for ngram, count in (_counts(words) & limit).items():
        matches[len(ngram) - 1] += count
    guesses = [max(0, len(words) - order) for order in range(_ORDERS)]
    nearest = min((abs(len(group) - len(words)), len(group)) for group in groups)[1]  # ties take the shorter
    return [*matches, *guesses, len(words), nearest]


def _bleu(statistics: Sequence[int]) -> tuple[float, ...]:
    *counts, length, reference_length = statistics
    product, values = 1.0, []
    for order in range(_ORDERS):
        product *= (counts[order] + _TINY) / (counts[_ORDERS + order] + _SMALL)
        values.append(product ** (1.0 / (order + 1)))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1.0 - 1.0 / ratio) if ratio < 1.0 else 1.0
    return tuple(value * brevity for value in values)


# -- CIDEr, in truth CIDEr-D: the cosine of tf-idf vectors of n-grams, clipped, with a penalty on length differences
# (Vedantam et al., 2015), with the raw counts, the number of bigrams as length and the factor 10 of the kit

_SIGMA = 6.0
_FACTOR = 10.0


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights by order, their norms, and the number of bigrams."""

    weights: list[dict[_NGram, float]]
    norms: list[float]
    length: int


def _vector(counts: Counter[_NGram], frequency: Mapping[_NGram, int], log_documents: float) -> _Vector:
    weights: list[dict[_NGram, float]] = [{} for _ in range(_ORDERS)]
    length = 0
    for ngram, count in counts.items():
        order = len(ngram) - 1
        weights[order][ngram] = count * (log_documents - math.log(max(1.0, frequency.get(ngram, 0))))
        length += count if order == 1 else 0
    norms = [math.sqrt(sum(value**2 for value in group.values())) for group in weights]
    return _Vector(weights, norms, length)


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped cosine, times the length penalty."""
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2.0 * _SIGMA**2))
    total = 0.0
    for order in range(_ORDERS):
        others = reference.weights[order]
        dot = sum(min(w, others.get(n, 0.0)) * others.get(n, 0.0) for n, w in hypothesis.weights[order].items())
        norm = hypothesis.norms[order] * reference.norms[order]
        total += penalty * (dot / norm if norm != 0.0 else dot)
    return total / _ORDERS


def cider(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """CIDEr with its factor 10 (papers print 100 times the mean): the mean over items, and every item.

    A document is one item with all its references, and their number sets the idf: a corpus of one item scores 0, and
    scoring a subset changes the weights.
    """
    check_pairs(references, hypotheses)
    frequency: Counter[_NGram] = Counter()
    for group in references:  # counted twice rather than kept: the counts of one reference take 16 KiB
        frequency.update({ngram for text in group for ngram in _counts(text.split())})
    log_documents = math.log(float(len(references)))
    values = []
    for group, hypothesis in zip(references, hypotheses, strict=True):
        vector = _vector(_counts(hypothesis.split()), frequency, log_documents)
        parts = [_similarity(vector, _vector(_counts(text.split()), frequency, log_documents)) for text in group]
        values.append(sum(parts) / len(parts) * _FACTOR)
    return Scores((float(np.mean(values)),), [(value,) for value in values])


# -- ROUGE-L: the F-measure of the longest common subsequence (Lin, 2004), with recall weighted by beta 1.2

_BETA_SQUARED = 1.2**2


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def _rouge(references: Sequence[str], hypothesis: str) -> float:
    words = hypothesis.split(" ")
    precision = recall = 0.0
    for reference in references:
        tokens = reference.split(" ")
        common = _common_length(tokens, words)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(tokens))
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1.0 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def rouge_l(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """ROUGE-L as a fraction: the mean over items, and every item.

    The best precision and the best recall over the references are taken independently. Words are split at single
    blanks, so that an empty text is one empty word and doubled blanks make empty words.
    """
    check_pairs(references, hypotheses)
    values = [_rouge(group, hypothesis) for group, hypothesis in zip(references, hypotheses, strict=True)]
    return Scores((sum(values) / len(values),), [(value,) for value in values])


# -- METEOR 1.5 (Denkowski and Lavie, 2014): alignments by its own jar, and the score from their summed statistics. The
# jar comes with the wheel ``pycocoevalcap`` (``pip install vidllm[meteor]``) and needs Java. Without either there is no
# number: no other metric is put in its place. One process answers all segments from its standard input and is ended
# after a time limit, so no text can make it wait for ever.

_MODULES = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STATISTICS = 23
_START_SECONDS, _SECONDS_PER_SEGMENT = 300.0, 0.5
_CHUNKS, _MATCHED, _MATCHED_REFERENCE = 20, 21, 22


def meteor_jar() -> Path | None:
    """Where the METEOR jar is; None when it is not installed. ``VIDLLM_METEOR_JAR`` names another place."""
    named = os.environ.get("VIDLLM_METEOR_JAR")
    if named is not None:
        return Path(named) if Path(named).is_file() else None
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    return None


def meteor_missing() -> str | None:
    """What METEOR lacks on this machine, and how to get it; None where nothing is missing."""
    lacks = [name for name, there in (("Java", shutil.which("java")), ("its jar", meteor_jar())) if there is None]
    if not lacks:
        return None
    return f"METEOR is left out (n/a): {' and '.join(lacks)} not found; pip install 'vidllm[meteor]' and install Java"


def meteor(references: Sequence[Sequence[str]], hypotheses: Sequence[str], paraphrases: bool = True) -> Scores | None:
    """METEOR as a fraction: of the summed statistics of the corpus, and of every item; None without Java or the jar.

    The total is not the mean of the items. ``|||`` is taken out of hypotheses; in a reference it parts two references,
    as in the jar's own protocol. ``paraphrases=False`` leaves out the paraphrase table, as one evaluator does. Raises
    ``ValueError`` when the jar fails or runs out of time.
    """
    check_pairs(references, hypotheses)
    java, jar = shutil.which("java"), meteor_jar()
    if java is None or jar is None:
        return None
    lines = tuple(_line(group, hypothesis) for group, hypothesis in zip(references, hypotheses, strict=True))
    table = np.array(_align(java, jar, lines, paraphrases), dtype=np.float64)
    perfect = (table[:, _CHUNKS] == 1) & (table[:, [_MATCHED, _MATCHED_REFERENCE]] == table[:, :2]).all(1)
    table[perfect, _CHUNKS] = 0.0  # every word of both texts matched in one piece: no fragmentation at all
    return Scores((_score(table.sum(0)),), [(_score(row),) for row in table])


def _line(references: Sequence[str], hypothesis: str) -> str:
    """One request: no line break of any kind may be left inside, or answers and requests fall out of step."""
    texts = [" ".join(text.split()) for text in references]
    return " ||| ".join(("SCORE", *texts, " ".join(hypothesis.replace("|||", "").split())))


@lru_cache(maxsize=16)
def _align(java: str, jar: Path, lines: tuple[str, ...], paraphrases: bool) -> tuple[tuple[float, ...], ...]:
    """Statistics of the best reference of every segment: 23 numbers each."""
    command = [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    command += [] if paraphrases else ["-m", "exact stem synonym"]
    limit = _START_SECONDS + _SECONDS_PER_SEGMENT * len(lines)
    text = "".join(f"{line}\n" for line in lines)
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=limit, cwd=jar.parent, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"METEOR gave no answer within {limit:.0f} s for {len(lines)} segments; try again") from None
    rows = [line.split() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    if len(rows) != len(lines) or any(len(row) != _STATISTICS for row in rows):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ValueError(
            f"METEOR answered {len(rows)} of {len(lines)} segments (exit code {done.returncode}: {last[0]}); "
            "check the Java runtime and the memory (it takes 2 GB)"
        )
    return tuple(tuple(float(word) for word in row) for row in rows)


def _score(row: np.ndarray) -> float:
    """F-mean of weighted precision and recall, less the penalty on fragmentation."""
    matches = row[4:_CHUNKS].reshape(4, 2, 2)  # module, content or function word, hypothesis or reference
    weighted = np.einsum("mck,m,c->k", matches, np.array(_MODULES), np.array([_DELTA, 1.0 - _DELTA]))
    lengths = _DELTA * (row[0:2] - row[2:4]) + (1.0 - _DELTA) * row[2:4]
    if weighted.min() <= 0.0 or lengths.min() <= 0.0:
        return 0.0
    precision, recall = weighted / lengths
    mean = 1.0 / ((1.0 - _ALPHA) / precision + _ALPHA / recall)
    fragmentation = row[_CHUNKS] / ((row[_MATCHED] + row[_MATCHED_REFERENCE]) / 2.0)
    value = float(mean * (1.0 - _GAMMA * fragmentation**_BETA))
    return value if math.isfinite(value) else 0.0


# -- together, as every evaluator of answers and captions reports them


#: The seven numbers as the evaluators call them.
UNDERSCORED = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
DASHED = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")


@dataclass(frozen=True)
class CaptionScores:
    """BLEU-1 to BLEU-4, METEOR (None without Java or the jar), ROUGE-L and CIDEr: of a corpus, and of every item."""

    total: tuple[float | None, ...]
    per_item: list[tuple[float | None, ...]]

    def totals(self, names: Sequence[str], factor: float = 1.0) -> dict[str, float | str]:
        """The seven numbers under ``names``, times ``factor``."""
        values = (NOT_AVAILABLE if value is None else value * factor for value in self.total)
        return dict(zip(names, values, strict=True))

    def column(self, index: int) -> list[float] | None:
        """Every item's value of one of the seven; None where METEOR is not available."""
        values = [value for item in self.per_item if (value := item[index]) is not None]
        return values or None

    def leo(self, ending: str = "") -> dict[str, float | str]:
        """The four numbers that LEO's evaluators give: CIDEr, BLEU-4, METEOR and ROUGE-L."""
        found = self.totals(("", "", "", "bleu", "meteor", "rouge", "cider"))
        return {f"{name}{ending}": found[name] for name in ("cider", "bleu", "meteor", "rouge")}

    def item(self, index: int) -> dict[str, Any]:
        """The values of one item."""
        *bleu, meteor, rouge, cider = self.per_item[index]
        return {"bleu": bleu, "meteor": NOT_AVAILABLE if meteor is None else meteor, "rouge_l": rouge, "cider": cider}


def caption_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], paraphrases: bool = True
) -> CaptionScores:
    """All metrics of texts that are already prepared as the protocol wants them; METEOR with ``paraphrases`` or not."""
    pairs = references, hypotheses
    parts = bleu(*pairs), meteor(*pairs, paraphrases), rouge_l(*pairs), cider(*pairs)
    totals = ((None,) if part is None else part.total for part in parts)
    items = zip(*(repeat((None,), len(hypotheses)) if part is None else part.per_item for part in parts), strict=True)
    return CaptionScores((*chain(*totals),), [(*chain(*item),) for item in items])
