"""Recordings of robots: rosbag2 (SQLite or MCAP), one MCAP or .db3, ROS 1's .bag; read by ``rosbags`` (extra rosbag).

The colour topic with the most pictures is read, with the CameraInfo of its camera, and depth in the same frame (aligned
to colour). Poses are those of the frame_id of the pictures in the root frame of /tf, /tf_static and nav_msgs/Odometry:
its z is up, and camera frames have OpenCV axes (REP 103, REP 105, sensor_msgs).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidllm.io.cameras.matrices import half_centres, poses_of_quaternions
from vidllm.io.cameras.records import refuse_lens, tell_distortion
from vidllm.io.captures.capture import Z_UP, Capture
from vidllm.io.captures.phones import nearest_row
from vidllm.io.files import InputError, naming
from vidllm.io.pictures import to_rgb

BAG_SUFFIXES = {".mcap", ".db3", ".bag"}  # by which the library chooses its reader
_MCAP, _SQLITE, _ROS1 = b"\x89MCAP0\r\n", b"SQLite format 3\x00", b"#ROSBAG V"
_COLOURS = {"rgb8": "RGB", "8UC3": "BGR", "bgr8": "BGR", "rgba8": "RGBX", "bgra8": "BGRX", "mono8": "L", "8UC1": "L"}
_DEPTHS = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}  # type, metres a unit
_PNG_HEAD = 12  # bytes before the PNG of compressedDepth
_APART_S, _GAP_S = 0.02, 0.2  # maximum between colour and depth, and between a picture and the next pose


def read_bag(place: Path) -> Capture | None:
    """A bag; None for another file or folder. InputError if the package is missing or the bag has no pictures."""
    if not _is_bag(place):
        return None
    with _reader(place) as reader:
        colour, depth = _topics(place, reader)
        times, frame = _stamps(reader, colour)
        first = next(_messages(reader, colour))[1]
        size = _picture(first, place).size[::-1]
        poses, lens = _poses(reader, frame, times[:, 1]), _lens(reader, colour, (size[0], size[1]), place)
        depths = {}
        if depth is not None:
            maps, _ = _stamps(reader, depth)
            rows = (nearest_row(maps[:, 1], time, _APART_S) for time in times[:, 1])
            at = {n: int(maps[row, 0]) for n, row in enumerate(rows) if row is not None}
            depths = {n: partial(_depth, place, depth, time) for n, time in at.items()}
    seconds = times[:, 1].tolist()
    return Capture(
        "ROS", [f"frame_{n:06d}" for n in range(len(seconds))],
        lambda n: _picture(_message(place, colour, int(times[n, 0])), place), poses, lens, None, depths, Z_UP,
        times_s=seconds if len(set(seconds)) == len(seconds) else None,
    )  # fmt: skip


def _is_bag(place: Path) -> bool:
    if place.is_dir():
        place = place / "metadata.yaml"
        return place.is_file() and b"rosbag2_bagfile_information" in place.read_bytes()[:4096]
    with place.open("rb") as file:
        head = file.read(16)
    return head.startswith((_MCAP, _ROS1)) or (head == _SQLITE and place.suffix == ".db3")


@contextmanager
def _reader(place: Path) -> Iterator[Any]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise InputError(f"{place}: ROS bags need the package rosbags; pip install 'vidllm[rosbag]'") from None
    with (naming(place, "is it complete? record it again"),
          AnyReader([place], default_typestore=get_typestore(Stores.LATEST)) as reader):  # fmt: skip
        yield reader


def _messages(reader: Any, topic: str | None, kind: str = "", **span: int) -> Iterator[tuple[int, Any]]:
    """(bag time in nanoseconds, message) of a topic, or of all topics of a message type."""
    wanted = [c for c in reader.connections if topic in (None, c.topic) and c.msgtype.endswith(kind)]
    for connection, time, raw in reader.messages(wanted, **span) if wanted else ():
        yield time, reader.deserialize(raw, connection.msgtype)


def _message(place: Path, topic: str, time: int) -> Any:
    with _reader(place) as reader:
        return next(_messages(reader, topic, start=time, stop=time + 1))[1]


def _topics(place: Path, reader: Any) -> tuple[str, str | None]:
    """The topics of colour and of aligned depth; InputError without colour."""
    counts = {c.topic: c.msgcount for c in reader.connections if c.msgtype.endswith(("/Image", "/CompressedImage"))}
    firsts = {topic: next(_messages(reader, topic))[1] for topic, count in counts.items() if count}
    forms = {topic: getattr(first, "encoding", None) or first.format for topic, first in firsts.items()}
    depths = sorted(topic for topic, form in forms.items()
                    if "compressedDepth" in form or form.split(";")[0].strip() in _DEPTHS)  # fmt: skip
    colours = sorted((topic for topic in firsts if topic not in depths), key=lambda topic: (-counts[topic], topic))
    if not colours:
        held = ", ".join(sorted({c.msgtype for c in reader.connections}))[:200] or "nothing"
        raise InputError(f"{place}: no topic of sensor_msgs Image or CompressedImage in colour; it holds {held}")
    if len(colours) > 1:
        warnings.warn(f"{place}: pictures of {len(colours)} topics; {colours[0]} is read", stacklevel=2)
    frame = firsts[colours[0]].header.frame_id
    aligned = [topic for topic in depths if firsts[topic].header.frame_id == frame]
    if depths and not aligned:
        warnings.warn(f"{place}: depth of {depths[0]} is not in the frame of the pictures ({frame}) and is not used; "
                      "record depth that is aligned to colour", stacklevel=2)  # fmt: skip
    return colours[0], aligned[0] if aligned else None


def _stamps(reader: Any, topic: str) -> tuple[np.ndarray, str]:
    """(bag time in nanoseconds, stamp in seconds) of each picture, sorted by stamp; and their frame_id."""
    rows, frame = [], ""
    for time, message in _messages(reader, topic):
        rows.append((time, message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec))
        frame = message.header.frame_id
    table = np.array(rows, dtype=np.longdouble)  # nanoseconds since 1970 need 61 bits
    return table[np.argsort(table[:, 1], kind="stable")], frame.lstrip("/")


# ---- pictures and depth --------------------------------------------------------------------------------------------


def _picture(message: Any, place: Path) -> Image.Image:
    where = f"{place}: a picture"
    encoding = getattr(message, "encoding", None)
    if encoding is None:
        with naming(where, "record it again"), Image.open(io.BytesIO(bytes(message.data))) as image:
            return to_rgb(image, where)
    mode = _COLOURS.get(encoding)
    if mode is None:
        raise InputError(f"{place}: pictures of encoding {encoding[:40]!r}; expected compressed ones, or one of "
                         f"{', '.join(_COLOURS)}")  # fmt: skip
    pixels = _rows(message, np.dtype("u1"), len(mode), place)
    pixels = pixels[..., 0] if mode == "L" else pixels[..., 2::-1] if mode.startswith("BGR") else pixels[..., :3]
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _rows(message: Any, kind: np.dtype[Any], channels: int, place: Path) -> np.ndarray:
    """(H,W,channels) of a raw picture, whose rows may be padded."""
    height, width, step = message.height, message.width, message.step
    used, data = width * channels * kind.itemsize, np.asarray(message.data, np.uint8)
    if step < used or data.size < height * step or not height * width:
        raise ValueError(f"{place}: a picture of {width}x{height} in {data.size} bytes; record it again")
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :used])
    return rows.view(kind.newbyteorder(">" if message.is_bigendian else "<")).reshape(height, width, channels)


def _depth(place: Path, topic: str, time: int) -> np.ndarray:
    """One map in metres."""
    message, where = _message(place, topic, time), f"{place}: depth of {topic}"
    encoding = getattr(message, "encoding", None)
    if encoding is None:
        encoding, data = message.format.split(";")[0].strip(), bytes(message.data)
        if encoding == "32FC1":
            raise InputError(f"{where}: compressed 32FC1 is not read; record it raw, or as 16UC1")
        with naming(where, "record it again"):
            at = _PNG_HEAD if "compressedDepth" in message.format else 0
            values = np.asarray(Image.open(io.BytesIO(data[at:])))
    else:
        values = _rows(message, np.dtype(_DEPTHS[encoding][0]), 1, place)[..., 0]
    metres = values.astype(np.float32) * np.float32(_DEPTHS[encoding][1])
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


# ---- cameras -------------------------------------------------------------------------------------------------------


def _lens(reader: Any, colour: str, size: tuple[int, int], place: Path) -> np.ndarray | None:
    """K with pixel centres at +0.5 from the nearest camera_info above the topic; None without one."""
    known = {c.topic for c in reader.connections if c.msgtype.endswith("/CameraInfo") and c.msgcount}
    parts = colour.split("/")
    above = ("/".join([*parts[:n], "camera_info"]) for n in range(len(parts) - 1, 0, -1))
    topic = next((name for name in above if name in known), None)
    if topic is None:
        return None
    told = next(_messages(reader, topic))[1]
    k, d, p = (np.asarray(getattr(told, n, getattr(told, n.upper(), ())), np.float64) for n in ("k", "d", "p"))
    rectified = any("rect" in part for part in parts[-2:])
    matrix = p.reshape(3, 4)[:, :3] if rectified else k.reshape(3, 3)
    if not matrix[0, 0]:
        return None  # not calibrated
    where = f"{place}: {topic}"
    if not rectified and told.distortion_model not in ("", "plumb_bob", "rational_polynomial") and d.any():
        raise refuse_lens(told.distortion_model[:40], where)
    if not rectified:
        names = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
        tell_distortion(matrix, size, dict(zip(names, d.tolist(), strict=False)), where)
    scale = np.diag([size[1] / (told.width or size[1]), size[0] / (told.height or size[0]), 1.0])
    return scale @ half_centres(matrix, where)


@dataclass
class _Edge:
    """Poses of a frame in its parent frame over time."""

    parent: str
    static: bool
    rows: list[tuple[float, ...]] = field(default_factory=list)  # seconds, x, y, z, qx, qy, qz, qw


def _poses(reader: Any, frame: str, times: np.ndarray) -> np.ndarray | None:
    """World-from-camera (N,4,4), NaN without a pose close in time; None if the camera's pose is not recorded."""
    edges = _edges(reader)
    poses, moved, seen = np.tile(np.eye(4), (len(times), 1, 1)), False, {frame}
    while frame in edges:
        edge = edges[frame]
        poses = _at(edge, times.astype(np.float64)) @ poses
        moved, frame = moved or not edge.static, edge.parent
        if frame in seen:
            raise ValueError(f"/tf: the frame {frame} is its own parent; record it again")
        seen.add(frame)
    return poses if moved else None


def _edges(reader: Any) -> dict[str, _Edge]:
    edges: dict[str, _Edge] = {}
    for topic in sorted({c.topic for c in reader.connections if c.msgtype.endswith("/TFMessage")}):
        for _, message in _messages(reader, topic):
            for one in message.transforms:
                place = one.transform.translation, one.transform.rotation
                _add(edges, one, one.child_frame_id, place, "static" in topic)
    by_tf = set(edges)
    for _, message in _messages(reader, None, "/Odometry"):
        if message.child_frame_id.lstrip("/") not in by_tf:
            pose = message.pose.pose
            _add(edges, message, message.child_frame_id, (pose.position, pose.orientation), False)
    return edges


def _add(edges: dict[str, _Edge], stamped: Any, child: str, place: tuple[Any, Any], static: bool) -> None:
    at, turn = place
    edge = edges.setdefault(child.lstrip("/"), _Edge(stamped.header.frame_id.lstrip("/"), static))
    time = stamped.header.stamp.sec + 1e-9 * stamped.header.stamp.nanosec
    edge.rows.append((time, at.x, at.y, at.z, turn.x, turn.y, turn.z, turn.w))


def _at(edge: _Edge, times: np.ndarray) -> np.ndarray:
    """Parent-from-child (N,4,4), interpolated at the times; NaN if no row is within ``_GAP_S``."""
    from scipy.spatial.transform import Rotation, Slerp

    table = np.array(edge.rows)
    table = table[np.unique(table[:, 0], return_index=True)[1]]
    placed = poses_of_quaternions(table[:, 1:4], table[:, 4:], [f"row {n}" for n in range(len(table))], Path("/tf"))
    if edge.static or len(table) == 1:
        near = edge.static | (np.abs(times - table[0, 0]) <= _GAP_S)
        return np.where(near[:, None, None] if np.ndim(near) else near, placed[:1], np.nan) + 0 * times[:, None, None]
    known = table[:, 0]
    after = np.searchsorted(known, times).clip(1, len(known) - 1)
    gap = np.minimum(np.abs(times - known[after - 1]), np.abs(times - known[after]))
    inside, poses = times.clip(known[0], known[-1]), np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, :3] = Slerp(known, Rotation.from_matrix(placed[:, :3, :3]))(inside).as_matrix()
    poses[:, :3, 3] = np.stack([np.interp(inside, known, placed[:, axis, 3]) for axis in range(3)], -1)
    poses[gap > _GAP_S] = np.nan
    return poses
