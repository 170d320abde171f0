"""The COLMAP model of a rendered room, whose points are known: what training on it loses by its cameras."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from small_model import save_small_model
from test_export import read_colmap

import vidllm
from vidllm.io.cameras.given import GivenCameras
from vidllm_rooms.shards import render_scene


def exported(scene, folder):
    """Projections (F,3,4) from the world of the COLMAP model to pixels of its pictures."""
    scene.save(folder, ["colmap"])
    cameras, images, _ = read_colmap(folder / "colmap")
    found = []
    for head in images[::2]:
        fx, fy, cx, cy = map(float, cameras[int(head[8]) - 1][4:])
        turn = Rotation.from_quat(np.array(head[2:5] + head[1:2], float)).as_matrix()
        pose = np.concatenate([turn, np.array(head[5:8], float)[:, None]], 1)
        found.append(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) @ pose)
    return np.stack(found)


def tracks(room, step=12):
    """Where points of every frame's grid lie in all pictures (N,F,2), and where they are seen (N,F)."""
    frames, height, width = room.depth_m.shape
    row, column = (x.ravel() for x in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))])
    uv, seen = [], []
    for n in range(frames):
        camera = np.linalg.inv(room.intrinsics[n]) @ pixels * room.depth_m[n, row, column]
        pose = np.linalg.inv(room.extrinsics[n])
        there = room.extrinsics[:, :3, :3] @ (pose[:3, :3] @ camera + pose[:3, 3:]) + room.extrinsics[:, :3, 3:]
        x, y, z = np.moveaxis(room.intrinsics @ there, 1, 0)
        at = np.stack([x / z, y / z], -1)
        inside = (z > 0.1) & (at >= 0).all(-1) & (at < [width, height]).all(-1)
        cells = np.where(inside[..., None], at, 0).astype(int)
        depth = np.take_along_axis(room.depth_m.reshape(frames, -1), cells[..., 1] * width + cells[..., 0], 1)
        uv.append(at)
        seen.append(inside & (np.abs(depth - z) < 0.02 * z))
    return np.concatenate(uv, 1).swapaxes(0, 1), np.concatenate(seen, 1).T


def reprojection_errors(projections, uv, seen):
    """Pixels between where points are seen and where the point lies that the cameras triangulate from that."""
    errors = []
    for at, here in zip(uv, seen, strict=True):
        if here.sum() < 3:
            continue
        p, pixels = projections[here], at[here]
        rows = (pixels[:, :, None] * p[:, 2:] - p[:, :2]).reshape(-1, 4)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        x, y, z = p.swapaxes(0, 1) @ np.linalg.svd(rows)[2][-1]
        errors.append(np.hypot(x / z - pixels[:, 0], y / z - pixels[:, 1]))
    return np.concatenate(errors)


def as_pictures(room, folder):
    folder.mkdir()
    for number, rgb in enumerate(room.rgb):
        Image.fromarray(rgb).save(folder / f"{number:03d}.png")
    return folder


def test_true_cameras_stay_true_at_the_original_size(tmp_path):
    room = render_scene(10000, 4, 100, 130)[0]
    pictures, model = as_pictures(room, tmp_path / "room"), vidllm.load(save_small_model(tmp_path / "model"))
    known = GivenCameras(room.intrinsics, np.linalg.inv(room.extrinsics))
    scene = model.reconstruct(pictures, cameras=known)
    assert scene.depth.shape[-2:] != (100, 130)  # what the model sees is not the original
    errors = reprojection_errors(exported(scene, tmp_path / "out"), *tracks(room))
    assert len(errors) > 100 and errors.max() < 0.05


def errors_from_video(seed):
    """Of the shipped model's refined cameras, in a room's pictures of 224x280 pixels (N,)."""
    room = render_scene(seed, 8, 224, 280)[0]
    with tempfile.TemporaryDirectory() as folder:
        scene = vidllm.load().reconstruct(as_pictures(room, Path(folder) / "room"), 8, refine=True)
        return reprojection_errors(exported(scene, Path(folder) / "out"), *tracks(room, 16))


@pytest.mark.slow
def test_refined_cameras_are_good_enough_to_train_on():
    assert errors_from_video(10001).mean() < 0.3
