"""Words, answer matching and the guesser's baseline."""

from __future__ import annotations

import pytest
from guessing import answer_counts, most_frequent_baseline

from vidllm.datasets.language import Question
from vidllm.english import answer_matches, counted, listing, metres, normalise, plural, with_article
from vidllm_rooms.language.guessing import count_share, greater_share, size_share
from vidllm_rooms.language.speaker import half_metres
from vidllm_rooms.world.catalogue import CATALOGUE


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("chair", "chairs"),
        ("bookshelf", "bookshelves"),
        ("box", "boxes"),
        ("coffee table", "coffee tables"),
        ("trash can", "trash cans"),
        ("tv", "tvs"),
        ("bench", "benches"),
        ("tray", "trays"),
        ("pantry", "pantries"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_articles_counts_and_lists() -> None:
    assert with_article("orange chair") == "an orange chair"
    assert with_article("L-shaped office") == "an L-shaped office"
    assert with_article("tv") == "a tv"
    assert counted(1, "armchair") == "an armchair"
    assert counted(3, "box") == "three boxes"
    assert listing(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Two.", "2"),
        ("the red chair", "red chair"),
        ("Grey", "gray"),
        ("1.5 metres", "1.5 meters"),
        ("1.5m", "1.5 meters"),
        ("2.0 meters", "2 meters"),
        ("1 meter", "1 meters"),
        ("Yes!", "yes"),
        ("an office", "office"),
    ],
)
def test_answers_that_match(prediction: str, answer: str) -> None:
    assert answer_matches(prediction, (answer,))


def test_answers_that_do_not_match() -> None:
    assert not answer_matches("15 meters", ("1.5 meters",))
    assert not answer_matches("table", ("coffee table",))
    assert not answer_matches("", ("0",))
    assert normalise("It's, the  2nd. A.") == "it s 2nd"


def test_half_metres_are_clear() -> None:
    assert half_metres(1.43) == 1.5
    assert half_metres(1.26) is None
    assert half_metres(0.1) is None
    assert metres(1.0) == "1 meter"


def test_shares_are_probabilities() -> None:
    for category in (*CATALOGUE, "gramophone"):
        assert all(0 < count_share(category, n) <= 1 for n in range(7))
    usual = {"wardrobe": (2.0, 0.1), "stool": (0.5, 0.1)}
    assert greater_share(usual, "wardrobe", "stool") > 0.95
    assert greater_share(usual, "stool", "wardrobe") < 0.05
    assert greater_share(usual, "stool", "stool") == pytest.approx(0.5)
    assert size_share(usual, "wardrobe", 2.0, 0.5) > 0.95


def ask(kind: str, question: str, answer: str) -> Question:
    return Question(kind, question, (answer,))


def test_baseline_by_leading_words_then_kind() -> None:
    train = [
        ask("count", "How many chairs are there?", "2"),
        ask("count", "How many chairs are here?", "2"),
        ask("count", "How many beds are there?", "1"),
        ask("color", "What color is the bed?", "red"),
    ]
    test = [
        ask("count", "How many beds are seen?", "1"),
        ask("count", "How many chairs can you see?", "2"),
        ask("color", "Name the color of the chair.", "red"),
        ask("room_type", "What room is this?", "office"),
    ]
    assert most_frequent_baseline(train, test) == 0.75
    assert most_frequent_baseline(train, test, key=lambda q: q.kind) == 0.5
    assert answer_counts(train)["count"] == {"2": 2, "1": 1}
