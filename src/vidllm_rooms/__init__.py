"""The procedural world: rooms by seed, rendered into clips with exact ground truth."""

from vidllm_rooms.render import render_clip
from vidllm_rooms.world import COLOURS, Clip, Primitive, Room, RoomObject
from vidllm_rooms.world.layout import build_room

__all__ = ["COLOURS", "Clip", "Primitive", "Room", "RoomObject", "build_room", "render_clip"]
