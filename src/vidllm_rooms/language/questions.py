"""The table of question kinds, and a round of questions about one scene."""

from __future__ import annotations

from collections.abc import Callable

from vidllm.datasets.language import Question
from vidllm_rooms.language.ask_relations import (
    ask_category_at,
    ask_farthest,
    ask_nearest,
    ask_on_top,
    ask_relation_depth,
    ask_relation_objects,
    ask_relation_viewer,
    ask_support,
)
from vidllm_rooms.language.ask_situated import (
    ask_situated_count,
    ask_situated_direction,
    ask_situated_exists,
    ask_situated_object,
)
from vidllm_rooms.language.ask_sizes import (
    ask_closer_camera,
    ask_compare_size,
    ask_distance,
    ask_distance_camera,
    ask_size_height,
    ask_size_length,
)
from vidllm_rooms.language.ask_things import (
    ask_color,
    ask_count,
    ask_count_attribute,
    ask_count_on,
    ask_existence,
    ask_material,
    ask_room_type,
)
from vidllm_rooms.language.speaker import Speaker

ASK: dict[str, Callable[[Speaker], Question | None]] = {
    "color": ask_color,
    "material": ask_material,
    "existence": ask_existence,
    "count": ask_count,
    "count_attribute": ask_count_attribute,
    "count_on": ask_count_on,
    "category_at": ask_category_at,
    "relation_viewer": ask_relation_viewer,
    "relation_depth": ask_relation_depth,
    "relation_objects": ask_relation_objects,
    "nearest": ask_nearest,
    "farthest": ask_farthest,
    "on_top": ask_on_top,
    "support": ask_support,
    "closer_camera": ask_closer_camera,
    "compare_size": ask_compare_size,
    "distance_camera": ask_distance_camera,
    "distance": ask_distance,
    "size_height": ask_size_height,
    "size_length": ask_size_length,
    "situated_direction": ask_situated_direction,
    "situated_exists": ask_situated_exists,
    "situated_object": ask_situated_object,
    "situated_count": ask_situated_count,
    "room_type": ask_room_type,
}
QUESTION_KINDS: tuple[str, ...] = tuple(ASK)
ROUNDS = 6


def make_questions(speaker: Speaker, number: int) -> tuple[Question, ...]:
    """Up to ``number`` different questions, the kinds taken in turn in random order; fewer for a bare scene."""
    found: dict[tuple[str, str | None], Question] = {}
    for turn in range(ROUNDS):
        for kind in speaker.shuffled(QUESTION_KINDS):
            if len(found) == number:
                return tuple(found.values())
            question = None if turn and kind == "room_type" else ASK[kind](speaker)
            if question is not None:
                found.setdefault((question.question, question.situation), question)
    return tuple(found.values())
