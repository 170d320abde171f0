"""The procedural world: rooms by seed, rendered into clips with exact ground truth."""

from __future__ import annotations

from vidllm.datasets.language import Caption, Language, Question, Reference
from vidllm_rooms.render import render_clip
from vidllm_rooms.world import COLOURS, Clip, Light, Primitive, Room, RoomObject
from vidllm_rooms.world.layout import build_room

__all__ = [
    "COLOURS",
    "Caption",
    "Clip",
    "Language",
    "Light",
    "Primitive",
    "Question",
    "Reference",
    "Room",
    "RoomObject",
    "build_room",
    "render_clip",
]
