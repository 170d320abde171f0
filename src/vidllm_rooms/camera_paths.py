"""Hand-held camera paths: walks that look at the furniture, and for the look "life" cameras that go near and turn.

A walk is the best of several candidates, scored by how many objects they show; it keeps 0.4 m from the walls and
stays out of every object's box. As in real clips, half of which show things within about a metre and many of which turn
far more than they move, cameras of "life" go near or turn on the spot, shake and roll.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from vidllm_rooms.world import Room, RoomObject
from vidllm_rooms.world.outline import Outline

Rng = np.random.Generator
WALL_CLEARANCE_M = 0.4
OBJECT_CLEARANCE_M = 0.22
CANDIDATES = 24
_GRID_M = 0.09
_TREMBLE_M = 0.012


@dataclass(frozen=True)
class CameraPath:
    """extrinsics (F, 4, 4) camera-from-room, intrinsics (F, 3, 3) in pixels, fov_deg of the longer side."""

    extrinsics: np.ndarray
    intrinsics: np.ndarray
    fov_deg: float


@dataclass(frozen=True)
class Walk:
    """eyes (F, 3), yaw and pitch of the gaze (F,), in metres and radians."""

    eyes: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray


def free_distance(room: Room, points: np.ndarray) -> np.ndarray:
    """How far points (N, 2) lie beyond the clearances of walls and tall objects, in metres; positive is free."""
    free = Outline(room.polygon).clearance(points) - WALL_CLEARANCE_M
    for item in room.objects:
        low, high = item.centre[2] - item.size[2] / 2, item.centre[2] + item.size[2] / 2
        if low < 2.1 and high > 0.05 and item.category not in ("picture", "window", "clock", "mirror", "door"):
            beyond = np.abs(item.local(points)) - np.array(item.size[:2]) / 2
            free = np.minimum(free, np.linalg.norm(np.maximum(beyond, 0), axis=-1) - OBJECT_CLEARANCE_M)
    return free


@dataclass(frozen=True)
class FreeMap:
    """``free_distance`` on a grid. Distances change by at most 1 m a metre, so half a cell's diagonal makes it safe."""

    low: np.ndarray
    field: np.ndarray  # (X, Y) metres

    @staticmethod
    def of(room: Room) -> FreeMap:
        """The map of a room."""
        low, high = np.array(room.polygon).min(0), np.array(room.polygon).max(0)
        axes = [np.arange(low[i], high[i] + _GRID_M, _GRID_M) for i in range(2)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        free = free_distance(room, points.reshape(-1, 2)).reshape(points.shape[:2])
        return FreeMap(low, free - 0.75 * _GRID_M - _TREMBLE_M)

    def at(self, points: np.ndarray) -> np.ndarray:
        """A lower bound of the free distance at points (..., 2); -1 outside the grid."""
        cell = np.rint((points - self.low) / _GRID_M).astype(int)
        inside = ((cell >= 0) & (cell < self.field.shape)).all(-1)
        i, j = np.where(inside[..., None], cell, 0).reshape(-1, 2).T
        return np.where(inside, self.field[i, j].reshape(inside.shape), -1.0)

    def stands(self) -> np.ndarray:
        """Free grid points (N, 2)."""
        return np.asarray(self.low + np.argwhere(self.field > 0) * _GRID_M)


def intrinsics_of(fov: float, frames: int, height: int, width: int) -> np.ndarray:
    """(F, 3, 3) for a field of view in degrees of the longer side, the principal point in the middle."""
    focal = max(height, width) / 2 / math.tan(math.radians(fov) / 2)
    k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return np.repeat(k[None], frames, 0)


def draw_path(room: Room, rng: Rng, frames: int, height: int, width: int) -> CameraPath:
    """The best of several candidate walks. Raises ValueError when the room has no free floor at all."""
    fov = float(rng.uniform(40, 100)) if rng.random() < 0.4 else float(rng.uniform(55, 85))
    intrinsics = intrinsics_of(fov, frames, height, width)
    half_x, half_y = (math.atan(side / 2 / intrinsics[0, 0, 0]) for side in (width, height))
    free = FreeMap.of(room)
    stands = free.stands()
    if not len(stands):
        raise ValueError(f"room {room.seed} has no free floor for a camera; remove furniture")
    centres = np.array([item.centre for item in room.objects])
    found: list[tuple[float, Walk]] = []
    for _ in range(CANDIDATES):
        walk = _candidate(free, rng, stands, centres, frames, half_x)
        score = _score(room, free, walk, centres, half_x, half_y)
        found.append((score + float(rng.gumbel(0, 0.35)), walk))
    return CameraPath(_poses(max(found, key=itemgetter(0))[1], rng), intrinsics, fov)


def _candidate(free: FreeMap, rng: Rng, stands: np.ndarray, centres: np.ndarray, frames: int, half_x: float) -> Walk:
    """A bent line of free floor, gaze sweeping about the direction of the furniture."""
    start = stands[int(rng.integers(len(stands)))]
    steps = smooth_steps(rng, frames)
    line = _free_line(free, rng, start, stands, steps)
    eye = float(rng.uniform(1.25, 1.75)) + 0.03 * np.sin(np.linspace(0, float(rng.uniform(2, 9)), frames))
    middle = line[frames // 2]
    towards = np.median(centres[:, :2], 0) * 0.6 + centres[int(rng.integers(len(centres))), :2] * 0.4 - middle
    gaze = math.atan2(towards[1], towards[0]) + float(rng.normal(0, 0.2))
    sweep = math.radians(float(rng.uniform(20, 120))) * float(rng.choice([-1, 1]))
    limit = 0.42 * 2 * half_x * max(frames - 1, 1)
    sweep = float(np.clip(sweep, -limit, limit))
    yaw = gaze + sweep * (smooth_steps(rng, frames) - 0.5)
    pitch = -float(rng.uniform(0.08, 0.45)) + 0.08 * np.sin(np.linspace(0, 3, frames) + float(rng.uniform(0, 6)))
    return Walk(np.column_stack([line, eye]), yaw, pitch)


def smooth_steps(rng: Rng, frames: int) -> np.ndarray:
    """Monotone 0..1 of uneven pace."""
    pace = rng.uniform(0.7, 1.3, max(frames - 1, 1))
    steps = np.concatenate([[0.0], np.cumsum(pace)])[:frames]
    return np.asarray(steps / max(steps[-1], 1e-9))


def _free_line(free: FreeMap, rng: Rng, start: np.ndarray, stands: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Points (F, 2) of a quadratic curve that stays free, as long as can be up to a drawn 0.3 to 3 m."""
    goal = stands[int(rng.integers(len(stands)))]
    distance = float(np.linalg.norm(goal - start))
    reach = min(float(rng.uniform(0.3, 3.0)), max(distance, 0.3))
    direction = (goal - start) / max(distance, 1e-6)
    bend = np.array([-direction[1], direction[0]]) * float(rng.normal(0, 0.15))
    while reach > 0.02:
        t = steps[:, None]
        line = start + reach * (direction * t + bend * 4 * t * (1 - t))
        dense = np.stack([np.interp(np.linspace(0, 1, 24), steps, line[:, i]) for i in range(2)], -1)
        if (free.at(dense) > 0).all():
            return np.asarray(line)
        reach *= 0.6
    return np.repeat(start[None], len(steps), 0)


def _score(room: Room, free: FreeMap, walk: Walk, centres: np.ndarray, half_x: float, half_y: float) -> float:
    """Seen objects (larger and nearer ones more), plus some liking of parallax; looking at a near wall costs."""
    offset = centres[None] - walk.eyes[:, None]
    flat = np.linalg.norm(offset[..., :2], axis=-1)
    turn = np.angle(np.exp(1j * (np.arctan2(offset[..., 1], offset[..., 0]) - walk.yaw[:, None])))
    tilt = np.arctan2(offset[..., 2], flat) - walk.pitch[:, None]
    seen = ((np.abs(turn) < half_x * 0.85) & (np.abs(tilt) < half_y * 0.85) & (flat > 0.8)).mean(0)
    size = np.array([max(item.size) for item in room.objects])
    worth = np.clip(size / 0.6, 0.4, 1.2)
    moved = float(np.linalg.norm(walk.eyes[-1] - walk.eyes[0]))
    gaze = np.stack([np.cos(walk.yaw), np.sin(walk.yaw)], -1)
    blocked = sum((free.at(walk.eyes[:, :2] + reach * gaze) < -0.1).mean() for reach in (0.5, 1.0, 1.5))
    return float((worth * np.minimum(seen * 2, 1)).sum() + 1.2 * min(moved, 1.5) - 3.0 * (moved < 0.3) - 1.6 * blocked)


def poses_of(eyes: np.ndarray, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Extrinsics (F, 4, 4) camera-from-room of cameras at ``eyes`` (F, 3); angles (F,) in radians."""
    frames = len(yaw)
    forward = np.stack([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)], -1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros(frames)], -1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    rotation = np.stack([c * right + s * down, c * down - s * right, forward], 1)
    extrinsics = np.tile(np.eye(4), (frames, 1, 1))
    extrinsics[:, :3, :3], extrinsics[:, :3, 3] = rotation, -np.einsum("fij,fj->fi", rotation, eyes)
    return extrinsics


def _poses(walk: Walk, rng: Rng) -> np.ndarray:
    """Extrinsics (F, 4, 4) with hand shake: tremor of the gaze, a slow roll and a tremble of millimetres."""
    frames = len(walk.yaw)
    phase = np.linspace(0, float(rng.uniform(1, 4)), frames) + float(rng.uniform(0, 6.28))
    roll = math.radians(float(rng.uniform(0, 5))) * np.sin(phase) + np.radians(rng.normal(0, 0.7, frames))
    yaw = walk.yaw + np.radians(rng.normal(0, 0.6, frames))
    pitch = walk.pitch + np.radians(rng.normal(0, 0.6, frames))
    eyes = walk.eyes + np.clip(rng.normal(0, 0.004, (frames, 3)), -0.5 * _TREMBLE_M, 0.5 * _TREMBLE_M)
    return poses_of(eyes, yaw, pitch, roll)


KINDS, SHARES = ("near", "turn", "walk"), (0.45, 0.25, 0.3)
FIELD_OF_VIEW = (45.0, 100.0)  # degrees, of the longer side
NEAR_M = (0.3, 1.5)
CLEARANCE_M = 0.12
TRIES = 80


def draw_life_path(room: Room, rng: Rng, frames: int, height: int, width: int) -> CameraPath:
    """A path of a drawn kind; one that walks where the drawn one finds no place."""
    fov = float(rng.uniform(*FIELD_OF_VIEW))
    intrinsics = intrinsics_of(fov, frames, height, width)
    kind = str(rng.choice(KINDS, p=SHARES))
    found = None
    if kind == "near":
        found = _near(room, rng, frames)
    elif kind == "turn":
        found = _turn(room, rng, frames, math.atan(width / 2 / intrinsics[0, 0, 0]))
    if found is None:
        walked, angle, turn = draw_path(room, rng, frames, height, width), _roll(rng), np.eye(4)
        turn[:2, :2] = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        return CameraPath(turn @ walked.extrinsics, intrinsics, fov)
    shake = math.radians(float(rng.choice([0.3, 0.8, 1.8])))
    roll = rng.normal(0, shake, frames) + _roll(rng)
    yaw, pitch = found.yaw + rng.normal(0, shake, frames), found.pitch + rng.normal(0, shake, frames)
    return CameraPath(poses_of(found.eyes, yaw, pitch, roll), intrinsics, fov)


def _roll(rng: Rng) -> float:
    """A camera held level by most, askew by some, radians."""
    return math.radians(float(rng.normal(0, 3.0 if rng.random() < 0.8 else 15.0)))


def _near(room: Room, rng: Rng, frames: int) -> Walk | None:
    """Eyes, yaw and pitch of a camera that moves a little, looking at something from 0.3 to 1.5 m."""
    worth = np.array([_interest(item) for item in room.objects])
    for _ in range(TRIES):
        item = room.objects[int(rng.choice(len(worth), p=worth / worth.sum()))]
        target = _point_on(item, rng)
        distance = math.exp(float(rng.uniform(*np.log(NEAR_M))))
        azimuth, up = float(rng.uniform(-math.pi, math.pi)), math.radians(float(rng.uniform(-10, 65)))
        away = np.array([math.cos(azimuth) * math.cos(up), math.sin(azimuth) * math.cos(up), math.sin(up)])
        eye = target + distance * away
        eyes = _drifting(eye, rng, frames, 0.5, 0.45, min(1.0, distance + 0.2))
        if not _free(room, eyes).all():
            continue
        drift = rng.normal(0, 0.2 * distance, 3) * smooth_steps(rng, frames)[:, None]
        gaze = target + rng.normal(0, 0.12 * distance, 3) + drift - eyes
        flat = np.linalg.norm(gaze[:, :2], axis=-1)
        return Walk(eyes, np.arctan2(gaze[:, 1], gaze[:, 0]), np.arctan2(gaze[:, 2], flat))
    return None


def _drifting(
    eye: np.ndarray, rng: Rng, frames: int, upward: float, most_m: float, factor: float = 1.0
) -> np.ndarray:
    """Eyes (F, 3) that move through ``eye`` by up to ``factor * most_m``, ``upward`` times as much in height."""
    move = rng.normal(0, 1, 3) * (1, 1, upward)
    move *= float(rng.uniform(0.0, most_m)) * factor / max(float(np.linalg.norm(move)), 1e-6)
    return np.asarray(eye + move * (smooth_steps(rng, frames)[:, None] - 0.5))


def _interest(item: RoomObject) -> float:
    """Tables, desks, shelves and what stands on them are filmed from near; ceilings' lamps hardly."""
    if item.category in ("ceiling lamp", "rug", "curtain", "radiator"):
        return 0.1
    return 2.0 if item.on is not None or item.category in ("desk", "table", "coffee table", "dresser") else 1.0


def _point_on(item: RoomObject, rng: Rng) -> np.ndarray:
    x, y, z = (np.array(item.size) / 2 * rng.uniform((-0.8, -0.8, 0.0), (0.8, 0.8, 1.0))).tolist()
    c, s = math.cos(item.yaw), math.sin(item.yaw)
    return np.array(item.centre) + np.array([c * x - s * y, s * x + c * y, z])


def _free(room: Room, eyes: np.ndarray) -> np.ndarray:
    """Whether points (F, 3) lie in the room and outside every object."""
    free = (Outline(room.polygon).clearance(eyes[:, :2]) > CLEARANCE_M) & (eyes[:, 2] > 0.15)
    free &= eyes[:, 2] < room.height - 0.15
    for item in room.objects:
        free &= (np.abs(item.local(eyes)) > np.array(item.size) / 2 + CLEARANCE_M).any(-1)
    return free


def _turn(room: Room, rng: Rng, frames: int, half_x: float) -> Walk | None:
    """Eyes, yaw and pitch of a camera that turns on the spot; neighbouring frames overlap by more than half."""
    stands = FreeMap.of(room).stands()
    for _ in range(TRIES if len(stands) else 0):
        place = stands[int(rng.integers(len(stands)))]
        eye = np.array([*place, float(rng.uniform(0.8, 1.8))])
        eyes = _drifting(eye, rng, frames, 0.4, 0.25)
        if not _free(room, eyes).all():
            continue
        sweep = min(math.radians(float(rng.uniform(20, 200))), 0.8 * half_x * max(frames - 1, 1))
        yaw = float(rng.uniform(-math.pi, math.pi)) + sweep * float(rng.choice([-1, 1])) * smooth_steps(rng, frames)
        tilt = math.radians(float(rng.uniform(-25, 25))) * smooth_steps(rng, frames)
        return Walk(eyes, yaw, float(rng.uniform(-0.7, 0.1)) + tilt)
    return None
