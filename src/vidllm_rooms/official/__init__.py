"""Rooms in the layouts in which ScanNet and its language sets are distributed.

The same readers and evaluators that run on the downloaded data then run on rooms: there is no second path.
"""

from __future__ import annotations

from vidllm_rooms.official.export import export_rooms
from vidllm_rooms.official.naming import scene_name, seed_of

__all__ = ["export_rooms", "scene_name", "seed_of"]
