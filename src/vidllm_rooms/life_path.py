"""Camera paths as people film rooms: near to things, turning on the spot, walking; shaken and rolled.

Half of real frames lie within about a metre, and many clips turn far more than they move. Fields of view are 45 to 100
degrees of the longer side.
"""

from __future__ import annotations

import math

import numpy as np

from vidllm_rooms.camera_path import CameraPath, FreeMap, draw_path, intrinsics_of, poses_of, smooth_steps
from vidllm_rooms.world import Room, RoomObject
from vidllm_rooms.world.footprints import Outline

KINDS, SHARES = ("near", "turn", "walk"), (0.45, 0.25, 0.3)
FIELD_OF_VIEW = (45.0, 100.0)  # degrees, of the longer side
NEAR_M = (0.3, 1.5)
CLEARANCE_M = 0.12
TRIES = 80


def draw_life_path(room: Room, rng: np.random.Generator, frames: int, height: int, width: int) -> CameraPath:
    """A path of a drawn kind; one that walks where the drawn one finds no place."""
    intrinsics, fov = intrinsics_of(float(rng.uniform(*FIELD_OF_VIEW)), frames, height, width)
    kind = str(rng.choice(KINDS, p=SHARES))
    found = None
    if kind == "near":
        found = _near(room, rng, frames)
    elif kind == "turn":
        found = _turn(room, rng, frames, math.atan(width / 2 / intrinsics[0, 0, 0]))
    if found is None:
        walked = draw_path(room, rng, frames, height, width)
        return CameraPath(_rolled(walked.extrinsics, rng), intrinsics, fov)
    eyes, yaw, pitch = found
    shake = math.radians(float(rng.choice([0.3, 0.8, 1.8])))
    roll = rng.normal(0, shake, frames) + _roll(rng)
    extrinsics = poses_of(eyes, yaw + rng.normal(0, shake, frames), pitch + rng.normal(0, shake, frames), roll)
    return CameraPath(extrinsics, intrinsics, fov)


def _roll(rng: np.random.Generator) -> float:
    """A camera held level by most, askew by some, radians."""
    return math.radians(float(rng.normal(0, 3.0 if rng.random() < 0.8 else 15.0)))


def _rolled(extrinsics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All cameras turned about their optical axes by one angle."""
    angle = _roll(rng)
    c, s = math.cos(angle), math.sin(angle)
    turn = np.eye(4)
    turn[:2, :2] = [[c, s], [-s, c]]
    return np.asarray(turn @ extrinsics)


def _near(
    room: Room, rng: np.random.Generator, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Eyes, yaw and pitch of a camera that moves a little, looking at something from 0.3 to 1.5 m."""
    worth = np.array([_interest(item) for item in room.objects])
    for _ in range(TRIES):
        item = room.objects[int(rng.choice(len(worth), p=worth / worth.sum()))]
        target = _point_on(item, rng)
        distance = math.exp(float(rng.uniform(*np.log(NEAR_M))))
        azimuth, up = float(rng.uniform(-math.pi, math.pi)), math.radians(float(rng.uniform(-10, 65)))
        away = np.array([math.cos(azimuth) * math.cos(up), math.sin(azimuth) * math.cos(up), math.sin(up)])
        eye = target + distance * away
        move = rng.normal(0, 1, 3) * (1, 1, 0.5)
        move *= float(rng.uniform(0.0, 0.45)) * min(1.0, distance + 0.2) / max(float(np.linalg.norm(move)), 1e-6)
        eyes = eye + move * (smooth_steps(rng, frames)[:, None] - 0.5)
        if not _free(room, eyes).all():
            continue
        drift = rng.normal(0, 0.2 * distance, 3) * smooth_steps(rng, frames)[:, None]
        gaze = target + rng.normal(0, 0.12 * distance, 3) + drift - eyes
        return eyes, np.arctan2(gaze[:, 1], gaze[:, 0]), np.arctan2(gaze[:, 2], np.linalg.norm(gaze[:, :2], axis=-1))
    return None


def _interest(item: RoomObject) -> float:
    """Tables, desks, shelves and what stands on them are filmed from near; ceilings' lamps hardly."""
    if item.category in ("ceiling lamp", "rug", "curtain", "radiator"):
        return 0.1
    return 2.0 if item.on is not None or item.category in ("desk", "table", "coffee table", "dresser") else 1.0


def _point_on(item: RoomObject, rng: np.random.Generator) -> np.ndarray:
    """A point of the object's upper half."""
    x, y, z = (np.array(item.size) / 2 * rng.uniform((-0.8, -0.8, 0.0), (0.8, 0.8, 1.0))).tolist()
    c, s = math.cos(item.yaw), math.sin(item.yaw)
    return np.array(item.centre) + np.array([c * x - s * y, s * x + c * y, z])


def _free(room: Room, eyes: np.ndarray) -> np.ndarray:
    """Whether points (F, 3) lie in the room and outside every object."""
    free = (Outline(room.polygon).clearance(eyes[:, :2]) > CLEARANCE_M) & (eyes[:, 2] > 0.15)
    free &= eyes[:, 2] < room.height - 0.15
    for item in room.objects:
        offset = eyes - np.array(item.centre)
        c, s = math.cos(item.yaw), math.sin(item.yaw)
        local = np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0], offset[:, 2]], -1)
        free &= (np.abs(local) > np.array(item.size) / 2 + CLEARANCE_M).any(-1)
    return free


def _turn(
    room: Room, rng: np.random.Generator, frames: int, half_x: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Eyes, yaw and pitch of a camera that turns on the spot; neighbouring frames overlap by more than half."""
    stands = FreeMap.of(room).stands()
    for _ in range(TRIES if len(stands) else 0):
        place = stands[int(rng.integers(len(stands)))]
        eye = np.array([*place, float(rng.uniform(0.8, 1.8))])
        move = rng.normal(0, 1, 3) * (1, 1, 0.4)
        move *= float(rng.uniform(0.0, 0.25)) / max(float(np.linalg.norm(move)), 1e-6)
        eyes = eye + move * (smooth_steps(rng, frames)[:, None] - 0.5)
        if not _free(room, eyes).all():
            continue
        sweep = min(math.radians(float(rng.uniform(20, 200))), 0.8 * half_x * max(frames - 1, 1))
        yaw = float(rng.uniform(-math.pi, math.pi)) + sweep * float(rng.choice([-1, 1])) * smooth_steps(rng, frames)
        tilt = math.radians(float(rng.uniform(-25, 25))) * smooth_steps(rng, frames)
        return eyes, yaw, float(rng.uniform(-0.7, 0.1)) + tilt
    return None
