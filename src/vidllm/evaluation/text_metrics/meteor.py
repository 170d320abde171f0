"""METEOR 1.5 (Denkowski and Lavie, 2014): alignments by its own jar, and the score from their summed statistics.

The jar comes with the wheel ``pycocoevalcap`` (``pip install vidllm[meteor]``) and needs Java. Without either there
is no number: no other metric is put in its place. One process answers all segments from its standard input and is
ended after a time limit, so no text can make it wait for ever.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vidllm.evaluation.text_metrics.ngrams import Scores, check_pairs

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
    return Scores((_total(table),), [(_score(row),) for row in table])


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


def _one_perfect_chunk(row: np.ndarray) -> bool:
    """Every word of both texts matched, in one piece: no fragmentation at all."""
    return bool(row[_CHUNKS] == 1 and row[_MATCHED] == row[0] and row[_MATCHED_REFERENCE] == row[1])


def _total(table: np.ndarray) -> float:
    """The score of the summed statistics; a perfect segment adds no chunk."""
    chunks = np.array([0.0 if _one_perfect_chunk(row) else row[_CHUNKS] for row in table])
    total = table.sum(axis=0)
    total[_CHUNKS] = chunks.sum()
    return _score(total, summed=True)


def _score(row: np.ndarray, summed: bool = False) -> float:
    """F-mean of weighted precision and recall, less the penalty on fragmentation."""
    matches = row[4:_CHUNKS].reshape(4, 2, 2)  # module, content or function word, hypothesis or reference
    weighted = np.einsum("mck,m,c->k", matches, np.array(_MODULES), np.array([_DELTA, 1.0 - _DELTA]))
    lengths = _DELTA * (row[0:2] - row[2:4]) + (1.0 - _DELTA) * row[2:4]
    if weighted.min() <= 0.0 or lengths.min() <= 0.0:
        return 0.0
    precision, recall = weighted / lengths
    mean = 1.0 / ((1.0 - _ALPHA) / precision + _ALPHA / recall)
    chunks = 0.0 if not summed and _one_perfect_chunk(row) else row[_CHUNKS]
    fragmentation = chunks / ((row[_MATCHED] + row[_MATCHED_REFERENCE]) / 2.0)
    value = float(mean * (1.0 - _GAMMA * fragmentation**_BETA))
    return value if math.isfinite(value) else 0.0
