"""The vocabulary of the rooms: what a model that was trained on them alone knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidllm.english import NUMBER_WORDS, plural
from vidllm.io.atomic import write_json
from vidllm.model.prompts import fixed_texts
from vidllm.model.words import VOCABULARY, Reading, Vocabulary
from vidllm_rooms.language.facts import GENERIC_NAMES
from vidllm_rooms.language.guessing import MOST
from vidllm_rooms.language.speaker import PHRASES
from vidllm_rooms.language.vsi import fixed_texts as vsi_texts
from vidllm_rooms.world.catalogue import CATALOGUE, DATA, LABELS


def vocabulary() -> dict[str, Any]:
    """For JSON: names by kind with their plurals, all other words, answers by kind, and VSI-Bench's sentences."""
    things = sorted({*CATALOGUE, *GENERIC_NAMES})
    floors = (floor["name"] for floor in DATA["floors"])
    phrases = {name: said for name, said in PHRASES.items() if name != "also_accepted"}  # of answers, never asked
    others = " ".join([*_texts(phrases), *fixed_texts(), *DATA["rooms"], *floors, *map(plural, things), *NUMBER_WORDS])
    words = set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", others).lower()))
    kinds = {"thing": things, "colour": sorted(LABELS.colours), "material": sorted(LABELS.materials)}
    names = {kind: {name: plural(name) for name in found} for kind, found in kinds.items()}
    known = Vocabulary(names, frozenset(words | {"wooden"}), {})
    parts = {part for text in vsi_texts() for part in re.split(r"\n|\s*\{\w*\}\s*", text)}
    return {
        "names": names,
        "answers": {"colour": kinds["colour"], "material": kinds["material"],
                    "number": [str(n) for n in range(MOST + 1)]},
        "words": " ".join(sorted(known.words)),
        "sentences": sorted(part for part in parts if known.interpret(part) != Reading(part)),
    }


def write_vocabulary(folder: str | Path) -> Path:
    """Write the vocabulary of a model into its folder; OutputError where that fails."""
    path = Path(folder) / VOCABULARY
    write_json(path, vocabulary())
    return path


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    else:
        for item in data.values() if isinstance(data, dict) else data:
            yield from _texts(item)
