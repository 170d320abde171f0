"""A rendered room written as the recordings of phones and robots, each from its own documentation.

``WORLDS[form]`` is a rigid map from the room's world (z up) into the world that the form has.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from vidllm.io.video import write_video

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera from OpenCV's


def rigid(rotation, shift=(0.0, 0.0, 0.0)):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, shift
    return pose


Y_UP = rigid([[0, 1, 0], [0, 0, 1], [1, 0, 0]], (0.3, -1.0, 0.2))  # z of the room becomes y
WORLDS = {"polycam": Y_UP, "stray": Y_UP, "arkitscenes": rigid(Rotation.from_euler("z", 40, degrees=True).as_matrix()),
          "record3d": None, "transforms": rigid(Rotation.from_euler("xyz", [20, 30, 40], degrees=True).as_matrix()),
          "bag": np.eye(4)}  # fmt: skip


def poses_in(room, form):
    """World-from-camera in the form's world, OpenCV axes; Record3D's is that of its first camera."""
    poses = np.linalg.inv(room.extrinsics.astype(np.float64))
    world = FLIP @ np.linalg.inv(poses[0]) if form == "record3d" else WORLDS[form]
    return world @ poses, world


def quaternions(poses):
    return Rotation.from_matrix(poses[:, :3, :3]).as_quat()


def four_numbers(k):
    return [float(k[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2))]


def save_png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def millimetres(metres):
    return (metres * 1000).round().astype(np.uint16)


def write_record3d(folder, room):
    lzfse = pytest.importorskip("lzfse", reason="Record3D's depth needs lzfse (extra record3d)")

    poses = poses_in(room, "record3d")[0] @ FLIP
    (folder / "rgbd").mkdir(parents=True)
    height, width = room.depth_m.shape[1:]
    k = room.intrinsics[0]
    for n, (rgb, depth) in enumerate(zip(room.rgb, room.depth_m, strict=True)):
        Image.fromarray(rgb).save(folder / "rgbd" / f"{n}.jpg", quality=95)
        (folder / "rgbd" / f"{n}.depth").write_bytes(lzfse.compress(depth.astype("<f4").tobytes()))
        (folder / "rgbd" / f"{n}.conf").write_bytes(lzfse.compress(np.full(depth.size, 2, np.uint8).tobytes()))
    told = {"w": width, "h": height, "dw": width, "dh": height, "fps": 30, "K": k.T.ravel().tolist(),
            "poses": np.hstack([quaternions(poses), poses[:, :3, 3]]).tolist(), "initPose": [0, 0, 0, 1, 0, 0, 0],
            "frameTimestamps": [0.1 * n for n in range(len(room.rgb))],
            "perFrameIntrinsicCoeffs": [four_numbers(k) for k in room.intrinsics]}  # fmt: skip
    (folder / "metadata").write_text(json.dumps(told))
    return folder


def write_exr(path, **channels):
    openexr = pytest.importorskip("OpenEXR", reason="EXR needs OpenEXR (extra exr)")

    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    layers = {name: np.ascontiguousarray(array, np.float32) for name, array in channels.items()}
    openexr.File(header, layers).write(str(path))


def write_record3d_exr(folder, room):
    """Record3D's other export."""
    write_record3d(folder, room)
    (folder / "metadata").rename(folder / "metadata.json")
    (folder / "rgbd").rename(folder / "rgb")
    for n, depth in enumerate(room.depth_m):
        (folder / "rgb" / f"{n}.depth").unlink()
        (folder / "rgb" / f"{n}.conf").unlink()
        write_exr(folder / "depth" / f"{n}.exr", R=depth)
    return folder


def write_polycam(folder, room):
    poses = poses_in(room, "polycam")[0] @ FLIP
    height, width = room.depth_m.shape[1:]
    for n, (rgb, depth, pose, k) in enumerate(zip(room.rgb, room.depth_m, poses, room.intrinsics, strict=True)):
        name = str(98_000_000 + 33_000 * n)
        keys = folder / "keyframes"
        save_png(keys / "corrected_images" / f"{name}.jpg", rgb)
        save_png(keys / "depth" / f"{name}.png", millimetres(depth))
        save_png(keys / "confidence" / f"{name}.png", np.full(depth.shape, 127, np.uint8))
        told = {f"t_{i}{j}": float(pose[i, j]) for i in range(3) for j in range(4)}
        told |= {"fx": float(k[0, 0]), "fy": float(k[1, 1]), "cx": float(k[0, 2]), "cy": float(k[1, 2]),
                 "width": width, "height": height, "blur_score": 100.0}  # fmt: skip
        (keys / "corrected_cameras").mkdir(exist_ok=True)
        (keys / "corrected_cameras" / f"{name}.json").write_text(json.dumps(told))
    return folder


def write_stray(folder, room, per_frame=True):
    poses = poses_in(room, "stray")[0]  # its app turns ARKit's camera to OpenCV's
    folder.mkdir(parents=True)
    write_video(folder / "rgb.mp4", room.rgb, 60)
    lines = ["timestamp, frame, x, y, z, qx, qy, qz, qw" + (", fx, fy, cx, cy" if per_frame else "")]
    for n, (pose, turn, k) in enumerate(zip(poses, quaternions(poses), room.intrinsics, strict=True)):
        numbers = [*pose[:3, 3], *turn, *((k[0, 0], k[1, 1], k[0, 2], k[1, 2]) if per_frame else ())]
        lines.append(f"{1000 + n / 60}, {n:06d}, " + ", ".join(f"{x:.9f}" for x in numbers))
        save_png(folder / "depth" / f"{n:06d}.png", millimetres(room.depth_m[n]))
        save_png(folder / "confidence" / f"{n:06d}.png", np.full(room.depth_m[n].shape, 2, np.uint8))
    (folder / "odometry.csv").write_text("\n".join(lines) + "\n")
    rows = [", ".join(map(str, row)) for row in room.intrinsics[0].tolist()]
    (folder / "camera_matrix.csv").write_text("\n".join(rows))
    return folder


def write_arkitscenes(folder, room):
    poses = poses_in(room, "arkitscenes")[0]
    height, width = room.depth_m.shape[1:]
    base, lines = folder / "41069021_frames", []
    (base / "lowres_wide_intrinsics").mkdir(parents=True)
    for n, (rgb, depth, pose, k) in enumerate(zip(room.rgb, room.depth_m, poses, room.intrinsics, strict=True)):
        time, inverse = 305.123 + 0.1 * n, np.linalg.inv(pose)
        save_png(base / "lowres_wide" / f"41069021_{time:.3f}.png", rgb)
        save_png(base / "lowres_depth" / f"41069021_{time:.3f}.png", millimetres(depth))
        turn = Rotation.from_matrix(inverse[:3, :3]).as_rotvec()
        lines.append(" ".join(f"{x:.9f}" for x in (time + 0.0004, *turn, *inverse[:3, 3])))
        lens = f"{width} {height} {k[0, 0]:.9g} {k[1, 1]:.9g} {k[0, 2]:.9g} {k[1, 2]:.9g}"
        (base / "lowres_wide_intrinsics" / f"41069021_{time + 0.001:.3f}.pincam").write_text(lens)
    (base / "lowres_wide.traj").write_text("\n".join(lines))
    return folder


def write_transforms(folder, room):
    poses = poses_in(room, "transforms")[0] @ FLIP
    height, width = room.depth_m.shape[1:]
    frames = []
    for n, (rgb, depth, pose, k) in enumerate(zip(room.rgb, room.depth_m, poses, room.intrinsics, strict=True)):
        save_png(folder / "images" / f"frame_{n:05d}.png", rgb)
        save_png(folder / "depth" / f"frame_{n:05d}.png", millimetres(depth))
        frames.append({"file_path": f"images/frame_{n:05d}.png", "depth_file_path": f"depth/frame_{n:05d}.png",
                       "transform_matrix": pose.tolist(), "fl_x": float(k[0, 0]), "fl_y": float(k[1, 1]),
                       "cx": float(k[0, 2]), "cy": float(k[1, 2])})  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"w": width, "h": height, "frames": frames}))
    return folder


WRITERS = {"record3d": write_record3d, "polycam": write_polycam, "stray": write_stray,
           "arkitscenes": write_arkitscenes, "transforms": write_transforms}  # fmt: skip
