"""Plain template questions are right about the scene they are asked of."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vidllm.english import plural, with_article
from vidllm_rooms.language.template_questions import plain_questions

THINGS = [
    ("sofa", "red", "fabric"), ("chair", "blue", "wood"), ("chair", "red", "wood"), ("table lamp", "white", "metal"),
]


def _record(hidden: str = "") -> dict:
    objects = [{"id": i, "category": c, "colour": k, "material": m, "visible": c != hidden}
               for i, (c, k, m) in enumerate(THINGS)]  # fmt: skip
    return {"objects": objects}


def test_answers_are_the_scene_s():
    asked = plain_questions(_record(), np.random.default_rng(0), 99)
    kinds = Counter(q.kind for q in asked)
    assert kinds["color"] == kinds["material"] == 2  # the sofa and the lamp: "the chair" is not one
    for q in asked:
        text = q.question.lower()
        if q.kind in ("color", "material"):
            thing = next(t for t in THINGS if f"the {t[0]}" in text)
            assert q.answers == (thing[1 if q.kind == "color" else 2],)
        else:
            slot = plural if q.kind == "count" else with_article
            number = sum(slot(t[0]) in text for t in THINGS)
            assert q.answers == ((str(number),) if q.kind == "count" else ("yes" if number else "no",))
    assert {q.answers[0] for q in asked if q.kind == "count"} == {"0", "1", "2"}


def test_what_is_not_seen_is_not_asked_of_and_seeds_repeat():
    asked = plain_questions(_record(hidden="sofa"), np.random.default_rng(1), 99)
    assert asked and not any("sofa" in q.question.lower() for q in asked)
    assert asked == plain_questions(_record(hidden="sofa"), np.random.default_rng(1), 99)
    assert len(plain_questions(_record(), np.random.default_rng(1), 3)) == 3
