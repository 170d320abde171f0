"""The mesh of a room with true geometry lies on its surfaces."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from test_export import scene

from vidllm.export import EXPORTERS, SceneData
from vidllm.export.mesh import surface
from vidllm.geometry.gravity import scene_from_world
from vidllm_rooms.official.mesh import tessellate
from vidllm_rooms.render import render_clip
from vidllm_rooms.world import Clip
from vidllm_rooms.world.layout import build_room


def with_true_geometry(clip: Clip) -> SceneData:
    first = clip.extrinsics[0]
    return SceneData(
        rgb=clip.rgb, depth_m=clip.depth_m, extrinsics=clip.extrinsics @ np.linalg.inv(first),
        intrinsics=clip.intrinsics, scene_from_world=scene_from_world(torch.from_numpy(first[:3, 2])).numpy(),
        timestamps_s=np.arange(float(len(clip.rgb))), processed_from_original=np.eye(3),
        original_size=clip.rgb.shape[1:3],
    )  # fmt: skip


@pytest.mark.slow
def test_vertices_lie_on_the_true_surface(tmp_path):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    clip = render_clip(build_room(600), frames=12, height=112, width=140)
    data = with_true_geometry(clip)
    EXPORTERS["mesh"](tmp_path / "m.glb", data, max_voxels=1_000_000)
    mesh = trimesh.load(tmp_path / "m.glb", force="mesh")
    found = np.asarray(mesh.vertices)[:, [0, 2, 1]] * [1, -1, 1]  # from y up to z up
    room_from_scene = np.linalg.inv(data.scene_from_world @ clip.extrinsics[0])
    found = found @ room_from_scene[:3, :3].T + room_from_scene[:3, 3]
    solids = [*clip.room.shell, *(part for item in clip.room.objects for part in item.parts)]
    true = KDTree(np.concatenate([tessellate(solid, 0.015)[0] for solid in solids]))
    away = true.query(found)[0]  # at most 1.1 cm more than to the surface
    assert len(mesh.faces) > 20_000 and np.median(away) < 0.02
    floor = np.abs(found[mesh.faces, 2]).max(1) < 0.005
    assert floor.sum() > 1000 and np.median(mesh.face_normals[floor, 1]) > 0.97  # the floor looks up


def test_without_depth_or_the_library_it_is_said(monkeypatch, tmp_path):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    data = scene()
    data.depth_m[:] = 0
    with pytest.raises(ValueError, match="no point with depth"):
        surface(data, 1000)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(ValueError, match=r"vidllm\[mesh\]"):
        EXPORTERS["mesh"](tmp_path / "m.glb", scene())
