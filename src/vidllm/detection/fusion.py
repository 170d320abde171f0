"""Fusion of 2D detections of several frames into oriented 3D boxes, one per object.

In each frame the pixels of a detection are lifted by the frame's depth: those of its mask, or those of its 2D box whose
depth is near that of the middle, so that the wall behind is excluded. Overlapping lifted detections of one name are
merged, but never two of one frame. Points on which the frames that see them do not agree are removed; a box is fitted
to the others, with the yaw of their outline, and extended to the floor or wall that it touches. Metres, scene frame.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from vidllm.answers import Box, three_numbers
from vidllm.export.geometry import SLACK_M, SceneData
from vidllm.geometry.boxes import SAME_SHARE, distinct
from vidllm.model.calibration import DEVIATIONS

MAX_PIXELS = 3000  # of a detection that are lifted
MIN_PIXELS = 12  # of a detection, at least
DEEP = 0.75  # accepted difference from the depth of the middle of a 2D box, in lengths of its longer side
RIM, PLANES, TRIES, FLAT, LEAST_PLANE = 0.2, 3, 100, 0.012, 0.15  # planes around a 2D box: see _on_planes
SAME_2D = 0.8  # share of the smaller of two boxes of one name from which one is a duplicate
PART = 0.5  # share of a box up to which a smaller box in it is another object
LEFT = 0.2  # share of a 2D box's pixels off the planes; with less, the object is taken to be flat
AGREED = 0.6  # share of the frames seeing a point in which it must belong to the object
SHOWN = 0.5  # share of an object's points that a frame must see to show the object
FOUND = 0.2  # share of the frames showing an object in which it must be detected
VOXEL_M = 0.02
OUTLIERS = 0.005  # share of the points left out at each side
TOUCH_M, MARGIN_M, PLANE_M = 0.12, 0.3, 0.02  # reach of a touching surface, around the box, thickness of a surface
MIN_SIDE_M = 0.02


@dataclass(frozen=True)
class Detected:
    """What a detector found in a picture: number of the name, score, box (x0, y0, x1, y1) in pixels (the corner of the
    first pixel is 0, 0), and its mask (H, W), or None.
    """

    name: int
    score: float
    box: tuple[float, float, float, float]
    mask: Bool[np.ndarray, "H W"] | None = None
    exact: bool = True  # whether the mask is the thing's outline


#: A picture (H, W, 3) uint8 and names to what is found of them.
Detect = Callable[[np.ndarray, Sequence[str]], Sequence[Detected]]


@dataclass(frozen=True)
class _Lifted:
    """A detection in the scene: its frame, its pixels (rows and columns from ``corner``) and points (N, 3)."""

    frame: int
    score: float
    corner: tuple[int, int]
    inside: Bool[np.ndarray, "h w"]
    points: Float[np.ndarray, "N 3"]
    deviation: float  # of its depth, relative; nan: not known

    def holds(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Which pixels are of it."""
        x, y = column - self.corner[1], row - self.corner[0]
        height, width = self.inside.shape
        within = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        within[within] = self.inside[y[within], x[within]]
        return within


def find(
    data: SceneData, detect: Detect, names: Sequence[str], calibrated: bool = True
) -> list[tuple[str, Box]]:
    """Every thing of these names once, best first, with its box, found in the original pictures where they are at hand.

    The score of a box is the mean of the detector's over the frames that show the thing, 0 where it did not find it.
    Errors of boxes are the 90% bounds of the depth at the thing's points, where ``data.depth_std_m`` is there and
    ``calibrated``. InputError where the video has changed since it was reconstructed.
    """
    data = data if calibrated else replace(data, depth_std_m=None)
    lifted: dict[int, list[_Lifted]] = defaultdict(list)
    for frame, picture in enumerate(data.pictures()):
        for one in without_duplicates(detect(picture, names), picture.shape[:2]):
            if (seen := _lift(data, frame, one, picture.shape[:2])) is not None:
                lifted[one.name].append(seen)
    room = data.samples(data.stride_for(200_000)).xyz
    found = [
        (names[name], box) for name, seen in lifted.items() for group in _groups(seen)
        if (box := _box_of(data, room, group)) is not None
    ]  # fmt: skip
    rows = torch.tensor([[*box.center, *box.size, box.yaw] for _, box in found]).reshape(-1, 7)
    kept = distinct(rows, torch.tensor([box.score for _, box in found]), [name for name, _ in found])
    return [found[number] for number in kept]


def without_duplicates(found: Sequence[Detected], size: tuple[int, int]) -> list[Detected]:
    """Detections of a picture of (H, W) pixels without duplicates of the same name, best first.

    A box without a mask gets one where smaller boxes lie in it: it excludes their pixels.
    """
    kept: list[Detected] = []
    for one in sorted(found, key=lambda d: -d.score):
        same = (other for other in kept if other.name == one.name)
        if all(_overlap(one, other) < SAME_2D * min(_area(one), _area(other)) for other in same):
            kept.append(one)
    return [one if one.mask is not None else _without_inner(one, kept, size) for one in kept]


def _without_inner(one: Detected, others: Sequence[Detected], size: tuple[int, int]) -> Detected:
    """A box without the smaller ones in it, unless they leave little of it."""
    inner = [o for o in others if _area(o) <= PART * _area(one) and _overlap(one, o) >= AGREED * _area(o)]
    mask = np.zeros(size, bool)
    for part, there in ((one, True), *((o, False) for o in inner)):
        x0, y0, x1, y1 = (max(round(v), 0) for v in part.box)
        mask[y0:y1, x0:x1] = there
    return replace(one, mask=mask, exact=False) if inner and mask.sum() >= PART * _area(one) else one


def _area(one: Detected) -> float:
    """Pixels of a mask, or of a box."""
    if one.mask is not None:
        return float(one.mask.sum())
    return max(one.box[2] - one.box[0], 0.0) * max(one.box[3] - one.box[1], 0.0)


def _overlap(one: Detected, other: Detected) -> float:
    """Pixels that two masks share; without both, the area that two boxes do."""
    if one.mask is not None and other.mask is not None:
        return float((one.mask & other.mask).sum())
    (a, b, c, d), (e, f, g, h) = one.box, other.box
    return max(min(c, g) - max(a, e), 0.0) * max(min(d, h) - max(b, f), 0.0)


# ---- lifting -------------------------------------------------------------------------------------------------------


def _lift(data: SceneData, frame: int, one: Detected, size: tuple[int, int]) -> _Lifted | None:
    """A detection in the scene; None where too few of its pixels have depth."""
    height, width = data.size
    to_map = np.eye(3) if data.originals is None else data.processed_from_original
    (x0, y0), (x1, y1) = (to_map[:2, :2] @ np.array(end) + to_map[:2, 2] for end in (one.box[:2], one.box[2:]))
    left, right = (int(np.clip(round(v), 0, width)) for v in (x0, x1))
    top, bottom = (int(np.clip(round(v), 0, height)) for v in (y0, y1))
    rows, columns = np.mgrid[top:bottom, left:right]
    inside = np.ones(rows.shape, bool)
    if one.mask is not None:
        back = np.linalg.inv(to_map)
        u, v = ((back[i, i] * (grid + 0.5) + back[i, 2]).astype(int) for i, grid in ((0, columns), (1, rows)))
        inside = one.mask[v.clip(0, size[0] - 1), u.clip(0, size[1] - 1)]
    whole = data.depth_of(frame)
    depth = whole[top:bottom, left:right]
    use = inside & (depth > 0)
    if (one.mask is None or not one.exact) and use.any():
        use &= _near_middle_depth(depth, use, float(data.intrinsics[frame, 0, 0]))
        alone = use & ~_on_planes(whole, (top, bottom, left, right))
        use = alone if alone.sum() >= LEFT * use.sum() else use
    at = np.flatnonzero(use)
    if len(at) < MIN_PIXELS:
        return None
    at = at[:: -(-len(at) // MAX_PIXELS)]
    pixels = np.stack([columns.ravel()[at] + 0.5, rows.ravel()[at] + 0.5, np.ones(len(at))])
    pose = data.scene_from_camera[frame]
    camera = np.linalg.inv(data.intrinsics[frame].astype(np.float64)) @ pixels * depth.ravel()[at]
    points = (pose[:3, :3] @ camera).T + pose[:3, 3]
    deviation = math.nan
    if data.depth_std_m is not None:
        std = data.depth_std_m[frame, top:bottom, left:right]
        deviation = float(np.median(std.ravel()[at] / depth.ravel()[at]))
    return _Lifted(frame, one.score, (top, left), inside, points, deviation)


def _near_middle_depth(depth: np.ndarray, use: np.ndarray, focal: float) -> np.ndarray:
    """Pixels of a 2D box whose depth differs from the nearer part of its middle by less than the object's size."""
    height, width = depth.shape
    middle = np.zeros_like(use)
    middle[height // 4 : -(-3 * height // 4), width // 4 : -(-3 * width // 4)] = True
    there = depth[use & middle] if (use & middle).any() else depth[use]
    own = float(np.percentile(there, 30))
    return np.abs(depth - own) <= DEEP * max(height, width) * own / focal


def _on_planes(depth: Float[np.ndarray, "H W"], box: tuple[int, int, int, int]) -> Bool[np.ndarray, "h w"]:
    """Where a 2D box (rows from, to, columns from, to) shows floor or wall: planes that go on around it (RANSAC).

    In a picture a plane's inverse depth is affine in the pixel.
    """
    top, bottom, left, right = box
    rim = max(3, round(RIM * max(bottom - top, right - left)))
    around = np.zeros(depth.shape, bool)
    around[max(top - rim, 0) : bottom + rim, max(left - rim, 0) : right + rim] = True
    around[top:bottom, left:right] = False
    row, column = np.nonzero(around & (depth > 0))
    rng, found = np.random.default_rng(0), np.zeros((bottom - top, right - left), bool)
    rows, columns = np.mgrid[top:bottom, left:right]
    for _ in range(PLANES):
        if len(row) < MIN_PIXELS:
            break
        pixels, z = np.stack([column, row, np.ones(len(row))], 1), depth[row, column]
        drawn = rng.integers(len(row), size=(TRIES, 3))
        chosen = pixels[drawn]
        planes = np.linalg.pinv(chosen) @ (1 / z[drawn])[..., None]
        fits = np.abs(1 - z * (planes[..., 0] @ pixels.T)) <= FLAT
        best = int(fits.sum(1).argmax())
        if fits[best].mean() < LEAST_PLANE:
            break
        a, b, c = planes[best, :, 0]
        found |= np.abs(1 - depth[top:bottom, left:right] * (a * columns + b * rows + c)) <= FLAT
        row, column = row[~fits[best]], column[~fits[best]]
    return found


# ---- things --------------------------------------------------------------------------------------------------------


def _groups(seen: Sequence[_Lifted]) -> Iterator[list[_Lifted]]:
    """Detections of one object: merged by overlap, largest first, never two of one frame."""
    low, high = np.stack([np.percentile(one.points, [5, 95], axis=0) for one in seen], 1)
    sides = (high - low).clip(2 * SLACK_M)
    middle = (low + high) / 2
    low, high = middle - sides / 2, middle + sides / 2
    common = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(-1)
    share = common / np.minimum(sides.prod(-1)[:, None], sides.prod(-1))
    group = list(range(len(seen)))
    members = {number: [number] for number in group}
    first, second = np.triu_indices(len(seen), 1)
    order = np.argsort(-share[first, second], kind="stable")
    for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if share[a, b] < SAME_SHARE:
            break
        one, other = group[a], group[b]
        if one == other or {seen[n].frame for n in members[one]} & {seen[n].frame for n in members[other]}:
            continue
        for number in members[other]:
            group[number] = one
        members[one] += members.pop(other)
    yield from ([seen[number] for number in numbers] for numbers in members.values())


def _box_of(data: SceneData, room: Float[np.ndarray, "R 3"], group: Sequence[_Lifted]) -> Box | None:
    """The box of an object; None with too few points, or detected in too few of the frames that show it."""
    points = np.concatenate([one.points for one in group])
    _, first = np.unique(np.floor(points / VOXEL_M).astype(np.int64), axis=0, return_index=True)
    points, own = points[first], {one.frame: one for one in group}
    seen, held, shows = np.zeros(len(points)), np.zeros(len(points)), 0
    for frame in range(len(data)):
        shown, (row, column) = data.shows(frame, points)
        shows += frame in own or bool(shown.mean() >= SHOWN)
        if frame in own:
            seen += shown
            held += shown & own[frame].holds(column, row)
    points = points[held >= AGREED * seen]
    if len(points) < MIN_PIXELS or len(group) < FOUND * shows:
        return None
    score = min(sum(one.score for one in group) / shows, 1.0)
    eyes = data.scene_from_camera[[one.frame for one in group], :3, 3]
    center, size, yaw = extended_to_surfaces(*fit_box(points), room, eyes)
    box = Box(three_numbers(center), three_numbers(size), yaw, score)
    error = DEVIATIONS * float(np.median([one.deviation for one in group]))
    if math.isnan(error):
        return box
    return replace(box, center_error=error * float(np.linalg.norm(center - eyes, axis=1).mean()), size_error=error)


def fit_box(points: Float[np.ndarray, "N 3"]) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre, size and yaw of the box around points; the yaw at which most of their outline lies near the sides."""
    best, chosen = -math.inf, 0.0
    for yaw in np.radians(np.arange(0.0, 90.0, 2.0)).tolist():
        along = points[:, :2] @ _turn(yaw)
        low, high = np.quantile(along, [OUTLIERS, 1 - OUTLIERS], axis=0)
        away = np.minimum((along - low).clip(0), (high - along).clip(0)).min(1)
        near = float((1 / away.clip(2 * VOXEL_M)).mean()) / math.sqrt(float((high - low).clip(VOXEL_M).prod()))
        if near > best:
            best, chosen = near, yaw
    along = np.concatenate([points[:, :2] @ _turn(chosen), points[:, 2:]], axis=1)
    low, high = np.quantile(along, [OUTLIERS, 1 - OUTLIERS], axis=0)
    middle = (low + high) / 2
    center = np.append(_turn(chosen) @ middle[:2], middle[2])
    return center, (high - low).clip(MIN_SIDE_M), chosen


def _turn(yaw: float) -> Float[np.ndarray, "2 2"]:
    """Scene coordinates from those along the box."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s], [s, c]])


def extended_to_surfaces(
    center: np.ndarray, size: np.ndarray, yaw: float, room: Float[np.ndarray, "R 3"], cameras: Float[np.ndarray, "F 3"]
) -> tuple[np.ndarray, np.ndarray, float]:
    """The box, extended downwards and sideways to a floor or wall that nearly touches a side which no camera sees."""
    turn = np.eye(3)
    turn[:2, :2] = _turn(yaw)
    points, eyes, half = (room - center) @ turn, (cameras - center) @ turn, size / 2
    near = points[(np.abs(points) <= half + MARGIN_M).all(1)]
    ends = np.stack([-half, half])
    for axis, side in ((0, -1), (0, 1), (1, -1), (1, 1), (2, -1)):
        if (eyes[:, axis] * side > half[axis]).any():  # a camera looks at this side
            continue
        beyond = near[:, axis] * side - half[axis]
        beyond = beyond[(beyond > 0) & (beyond <= TOUCH_M)]
        if len(beyond) >= MIN_PIXELS:
            there = float(np.median(beyond))
            if float((np.abs(beyond - there) <= PLANE_M).mean()) >= AGREED:
                ends[(side + 1) // 2, axis] += side * there
    middle = ends.mean(0)
    return center + turn @ middle, ends[1] - ends[0], yaw
