"""Cameras that a user knows: read in every form, found for each frame, put in place of predicted ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import save_small_model

import vidllm
from vidllm.cli import main
from vidllm.geometry.cameras import relative_to_first
from vidllm.io.cameras.given import GivenCameras, PerFrame, read_cameras
from vidllm.io.cameras.records import rows_of
from vidllm.io.frames import Frames
from vidllm.io.video import load_frames, write_video
from vidllm.model.priors import KnownCameras, KnownScale
from vidllm.model.scale_alignment import unit_scale
from vidllm_rooms.shards import render_scene, write_room

FX, FY, CX, CY = 60.0, 62.0, 36.0, 29.0
K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vidllm.load(save_small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def rendered():
    return render_scene(10000, 4, 56, 70)


@pytest.fixture(scope="module")
def room(rendered):
    return rendered[0]


def matched(cameras: PerFrame, frames: Frames) -> np.ndarray:
    return cameras.matrices[rows_of(cameras, frames)]


def frames_of(source, count=4):
    return load_frames(source, count, shorter_side=56)


def poses(count=4):
    """World-from-camera, each turned and moved a little."""
    made = np.tile(np.eye(4), (count, 1, 1))
    for n in range(count):
        angle = 0.1 * n
        made[n, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        made[n, :3, 3] = [0.2 * n, 0.05 * n, -0.1 * n]
    return made


def clip(count=4, height=56, width=70):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# ---- in place of predicted ones ---------------------------------------------------------------------------------


def test_known_intrinsics_are_mapped_to_processed_pixels(model):
    given = np.array([[85.0, 0, 52], [0, 87, 41], [0, 0, 1]])
    scene = model.reconstruct(clip(4, 80, 100), cameras=GivenCameras(intrinsics=given))
    assert scene.depth.shape[1:] == (56, 70)
    back = scene.frames.original_intrinsics(scene.intrinsics.double())
    np.testing.assert_allclose(back.numpy(), np.broadcast_to(given, (4, 3, 3)), atol=1e-4)
    written = np.array(scene.data.original_intrinsics)
    np.testing.assert_allclose(written[2], given, atol=1e-4)


def test_a_point_is_where_its_pixel_and_camera_say(model, room):
    """Processed, cropped pixels: unprojected depth projects into the original picture as the known camera does."""
    known = GivenCameras(room.intrinsics, np.linalg.inv(room.extrinsics))
    scene = model.reconstruct(room.rgb, cameras=known)
    expected = relative_to_first(torch.from_numpy(room.extrinsics)[None])[0].float()
    torch.testing.assert_close(scene.extrinsics, expected, atol=1e-4, rtol=1e-4)
    samples = scene.data.samples(7)
    world = np.linalg.inv(scene.scene_from_world.numpy().astype(np.float64))
    points = samples.xyz @ world[:3, :3].T + world[:3, 3]
    camera = np.einsum("nij,nj->ni", expected.numpy()[samples.frame, :3, :3], points)
    camera += expected.numpy()[samples.frame, :3, 3]
    pixels = np.einsum("nij,nj->ni", room.intrinsics[samples.frame], camera / camera[:, 2:])[:, :2]
    original = scene.frames.to_original(torch.from_numpy(samples.uv)).numpy()
    np.testing.assert_allclose(pixels, original, atol=0.02)


def test_poses_of_unknown_scale_come_back_in_metres(model, room):
    world_from_camera = np.linalg.inv(room.extrinsics)
    world_from_camera[:, :3, 3] *= 123.0
    scene = model.reconstruct(room.rgb, cameras=GivenCameras(room.intrinsics, world_from_camera, metric=False))
    true = relative_to_first(torch.from_numpy(room.extrinsics)[None])[0].float()
    ratio = scene.extrinsics[1:, :3, 3].norm(dim=-1) / true[1:, :3, 3].norm(dim=-1)
    torch.testing.assert_close(ratio, ratio[:1].expand(3), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scene.extrinsics[:, :3, :3], true[:, :3, :3], atol=1e-4, rtol=1e-4)
    plain = model.reconstruct(room.rgb, cameras=GivenCameras(room.intrinsics))
    torch.testing.assert_close(scene.depth, plain.depth)  # metres are the model's own
    assert isinstance(scene.ask("how many chairs are there?", max_new_tokens=2), str)
    assert isinstance(scene.describe((0.1, 0.2, 0.3), 2), str) and isinstance(scene.ground("the red chair"), list)


@pytest.mark.slow
def test_a_known_scale_goes_with_poses_of_unknown_scale_alone(model, room):
    world_from_camera = np.linalg.inv(room.extrinsics)
    with pytest.raises(ValueError, match="already give the scale"):
        model.reconstruct(room.rgb, known=KnownScale(factor=2.0), cameras=GivenCameras(poses=world_from_camera))
    given = GivenCameras(room.intrinsics, world_from_camera, metric=False)
    once, twice = (model.reconstruct(room.rgb, known=KnownScale(factor=f), cameras=given) for f in (1.0, 2.0))
    torch.testing.assert_close(twice.extrinsics[:, :3, 3], 2 * once.extrinsics[:, :3, 3])


def test_where_pictures_do_not_tell_the_measured_scale_and_the_path_stand_in():
    images = torch.full((1, 3, 3, 28, 28), 0.5)
    known = torch.eye(4).repeat(1, 3, 1, 1)
    known[0, :, 0, 3] = torch.tensor([0.0, 1.0, 2.0])
    depth, k = torch.full((1, 3, 28, 28), 2.0), torch.tensor([[20.0, 0, 14], [0, 20, 14], [0, 0, 1]]).expand(1, 3, 3, 3)
    predicted = known.clone()
    predicted[..., :3, 3] *= 0.25
    fitted = KnownCameras(images, k, known, metric=True).fit(predicted, k, depth)
    with pytest.warns(UserWarning, match="do not determine"):
        placed, scale = fitted.place(unit_scale(depth))
    assert float(scale.scale) == pytest.approx(4.0) and bool(scale.valid)
    torch.testing.assert_close(placed, predicted)


def test_up_of_our_own_file_is_kept(model, room, tmp_path: Path):
    scene = model.reconstruct(room.rgb)
    scene.save(tmp_path / "out", ("cameras", "tum", "nerfstudio"))
    with pytest.warns(UserWarning, match="do not determine"):  # a random model's depth explains nothing
        again = model.reconstruct(room.rgb, cameras=read_cameras(*[tmp_path / "out" / "cameras.json"] * 2))
    torch.testing.assert_close(again.scene_from_world, scene.scene_from_world, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.extrinsics, scene.extrinsics, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.intrinsics, scene.intrinsics, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_windows_use_them_too(model, room):
    many = np.concatenate([room.rgb, room.rgb[::-1]])
    world_from_camera = np.linalg.inv(np.concatenate([room.extrinsics, room.extrinsics[::-1]]))
    given = GivenCameras(room.intrinsics[0], PerFrame(world_from_camera, numbers=list(range(8))))
    scene = model.reconstruct(many, 8, window=4, overlap=2, cameras=given)
    torch.testing.assert_close(scene.intrinsics[0], scene.intrinsics[7])
    assert len(scene) == 8
    streamed = list(model.stream(many, window=4, overlap=2, cameras=given))
    assert [len(s) for s in streamed] == [4, 6, 8] and torch.equal(streamed[-1].extrinsics, scene.extrinsics)
    with pytest.raises(ValueError, match="already give the scale"):
        model.stream(many, known=KnownScale(factor=2.0), cameras=given)


# ---- forms ------------------------------------------------------------------------------------------------------


def test_every_form_of_poses_is_read(model, rendered, tmp_path: Path):
    room = rendered[0]
    scene = model.reconstruct(room.rgb)
    scene.save(tmp_path / "out", ("cameras", "tum", "nerfstudio"))
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.suffix in (".txt", ".tum", ".json"))
    assert len(files) == 3, files
    for file in files:
        known = read_cameras(poses=file).for_frames(scene.frames)
        assert known.extrinsics is not None
        torch.testing.assert_close(known.extrinsics[0], scene.extrinsics, atol=2e-4, rtol=1e-3)
    write_room(tmp_path / "room", *rendered)
    frames = frames_of(tmp_path / "room" / "color")
    matrix = room.intrinsics[0].copy()
    matrix[:2, 2] -= 0.5  # a matrix alone is of pixel centres at whole numbers
    np.savetxt(tmp_path / "k.txt", matrix)
    known = read_cameras(tmp_path / "k.txt", tmp_path / "room").for_frames(frames)
    assert known.extrinsics is not None and known.intrinsics is not None
    expected = relative_to_first(torch.from_numpy(room.extrinsics)[None]).float()
    torch.testing.assert_close(known.extrinsics, expected, atol=1e-4, rtol=1e-4)
    k = frames.affine @ torch.from_numpy(room.intrinsics)
    torch.testing.assert_close(known.intrinsics[0], k.float(), atol=1e-3, rtol=1e-4)


def test_poses_are_found_by_time_or_by_number(tmp_path: Path):
    film = tmp_path / "film.mp4"
    write_video(film, clip(9, 56, 70), fps=10)
    frames, world_from_camera = frames_of(film, 3), poses(9)
    by_time = PerFrame(world_from_camera, times_s=[0.1 * n + 0.004 for n in range(9)])
    np.testing.assert_array_equal(matched(by_time, frames), world_from_camera[[0, 4, 8]])
    with pytest.warns(UserWarning, match="taken as those of all frames"):
        by_number = matched(PerFrame(world_from_camera, numbers=list(range(9))), frames)
    np.testing.assert_array_equal(by_number, world_from_camera[[0, 4, 8]])
    tum = tmp_path / "poses.txt"
    tum.write_text("# t x y z\n" + "\n".join(f"{n} {n * 0.1} 0 0 0 0 0 1" for n in range(9)))
    with pytest.warns(UserWarning, match="taken as those of all frames"):
        known = read_cameras(poses=tum).for_frames(frames)
    assert known.extrinsics is not None
    assert known.extrinsics[0, :, 0, 3].tolist() == pytest.approx([0, -0.4, -0.8])
    with pytest.raises(ValueError, match=r"none of its 2 cameras is that of frame_000004 \(at 0.4 s\)"):
        matched(PerFrame(world_from_camera[:2], times_s=[0.0, 0.1]), frames)


# ---- what does not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give intrinsics, poses, depth or several"),
        ({"poses": poses(3)}, "3 cameras for 4 frames"),
        ({"poses": poses() * np.array([[1.2], [1.2], [1.2], [1]])}, "contains no rotation"),
        ({"poses": poses() @ np.diag([1, 1, -1, 1.0])}, "it mirrors"),
        ({"poses": np.where(np.arange(4)[:, None, None] == 2, np.inf, poses())}, "pose of frame_000002 is not finite"),
        ({"poses": poses()[:, :2]}, r"expected poses \(F, 4, 4\)"),
        ({"intrinsics": K * [[-1], [1], [1]]}, "must be positive"),
        ({"intrinsics": K * np.nan}, "finite numbers"),
        ({"intrinsics": K * [[8], [8], [1]]}, "lies outside the pictures of 70x56"),
        ({"intrinsics": K + np.eye(3, k=1) * 5}, "without skew"),
        ({"intrinsics": K[:2]}, "3x3"),
        ({"intrinsics": K, "size": (480, 640)}, "of pictures of 640x480 pixels, but array has 70x56"),
    ],
)
def test_wrong_cameras_are_told(given, told):
    with pytest.raises(ValueError, match=told):
        GivenCameras(**given).for_frames(frames_of(clip()))


def test_rounded_rotations_are_made_exact():
    rough = poses().round(3)
    known = GivenCameras(poses=rough).for_frames(frames_of(clip()))
    assert known.extrinsics is not None
    turn = known.extrinsics[0, :, :3, :3]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(4, 3, 3), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_command_line_tells_in_one_line(tmp_path: Path, capsys):
    film, model = tmp_path / "film.mp4", str(save_small_model(tmp_path / "model"))
    write_video(film, clip(4, 56, 70), fps=1)

    def call(*options):
        capsys.readouterr()
        command = ["reconstruct", str(film), "--model", model, "-o", str(tmp_path / "out"), "--no-refine", "--json"]
        code = main([*command, *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    def refused(told, *options):
        code, out, err = call(*options)
        assert (code, out) == (2, "") and err.startswith("vidllm: error: ") and err.count("\n") == 1, err
        assert told in err, err

    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text('{"frames": []}')
    (tmp_path / "frames.json").write_text('{"frames": [{"transform_matrix": [[1, 2], [3]]}]}')
    (tmp_path / "words.txt").write_text("here and there\n")
    refused("no such file", "--intrinsics", str(tmp_path / "nowhere.txt"))
    refused("no such file or folder", "--poses", str(tmp_path / "nowhere.txt"))
    refused("outside the pictures of 70x56", "--intrinsics", "500,500,320,240")
    refused("expected a JSON object", "--poses", str(tmp_path / "list.json"))
    refused("no list of frames", "--intrinsics", str(tmp_path / "empty.json"))
    refused("frame 1: transform_matrix is not a matrix of 4x4 numbers", "--poses", str(tmp_path / "frames.json"))
    refused("no intrinsics here", "--intrinsics", str(tmp_path / "frames.json"))
    refused("expected a TUM trajectory", "--poses", str(tmp_path / "words.txt"))
    refused("expected a matrix of numbers", "--intrinsics", str(tmp_path / "words.txt"))
    refused("no pose such as 0.txt", "--poses", str(tmp_path))
    refused("it needs --poses", "--poses-scale", "unknown")
    refused("invalid choice", "--poses", "x", "--poses-scale", "feet")
    assert not (tmp_path / "out").exists()
    (tmp_path / "poses.txt").write_text("\n".join(f"{n} {n * 0.1} 0 0 0 0 0 1" for n in range(4)))
    code, out, _ = call("--intrinsics", "60,60,35,28", "--poses", str(tmp_path / "poses.txt"))
    assert code == 0 and json.loads(out)["camera_path_length"] == pytest.approx(0.3, abs=1e-4)
