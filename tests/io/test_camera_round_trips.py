"""Every format of cameras that is written reads back to the same cameras."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import save_small_model

import vidllm
from vidllm.cli import main
from vidllm.geometry.cameras import one_lens
from vidllm.io.cameras.given import GivenCameras, read_cameras
from vidllm.io.video import load_frames, write_video
from vidllm.long_video.reconstruction import WindowedReconstruction
from vidllm_rooms.shards import render_scene

FORMATS = ("cameras", "tum", "colmap", "nerfstudio")
PATHS = {"cameras": "cameras.json", "tum": "trajectory.txt", "colmap": "colmap", "nerfstudio": "nerfstudio"}
TIMES = ("1305031453.359684", "1305031453.391690", "1305031453.423683", "1305031453.459685")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return vidllm.load(folder)


@pytest.fixture(scope="module")
def room():
    return render_scene(10000, 4, 56, 70)[0]


@pytest.fixture(scope="module")
def sources(room, tmp_path_factory):
    """The same frames in pictures named by times, in pictures with names, and as a film."""
    base = tmp_path_factory.mktemp("sources")
    for kind, names in (("times", TIMES), ("names", ("hall", "hall 2", "kitchen", "sofa"))):
        (base / kind).mkdir()
        for name, rgb in zip(names, room.rgb, strict=True):
            Image.fromarray(rgb).save(base / kind / f"{name}.png")
    write_video(base / "film.mp4", room.rgb, fps=8)
    return {"times": base / "times", "names": base / "names", "film": base / "film.mp4"}


@pytest.fixture(scope="module")
def written(model, sources, room, tmp_path_factory):
    """A scene of each source, written in every format."""
    out = tmp_path_factory.mktemp("out")
    true = GivenCameras(room.intrinsics[0], np.linalg.inv(room.extrinsics))
    made = {}
    for kind, source in sources.items():
        scene = model.reconstruct(source, cameras=true)
        scene.save(out / kind, FORMATS)
        made[kind] = (scene, out / kind)
    return made


@pytest.mark.parametrize("kind", ["times", "names", "film"])
@pytest.mark.parametrize("form", FORMATS)
def test_poses_read_back(written, kind, form):
    scene, out = written[kind]
    if (kind, form) == ("film", "colmap"):  # names alone, made by counting
        with pytest.warns(UserWarning, match="counted from 0"):
            known = read_cameras(poses=out / PATHS[form]).for_frames(scene.frames)
    elif (kind, form) in (("names", "tum"), ("names", "colmap"), ("names", "nerfstudio")):
        # a trajectory of pictures without a clock holds numbers alone; a name with a blank cannot be a file's stem
        with pytest.raises(ValueError, match="none of its 4 cameras is that of hall"):
            read_cameras(poses=out / PATHS[form]).for_frames(scene.frames)
        return
    else:
        known = read_cameras(poses=out / PATHS[form]).for_frames(scene.frames)
    assert known.extrinsics is not None and known.metric
    torch.testing.assert_close(known.extrinsics[0], scene.extrinsics, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["times", "names", "film"])
@pytest.mark.parametrize("form", ["colmap", "nerfstudio"])
def test_both_read_back_with_the_pictures_beside_them(written, kind, form):
    scene, out = written[kind]
    frames = load_frames(out / PATHS[form] / "images", None, shorter_side=56)
    known = read_cameras(out / PATHS[form], out / PATHS[form]).for_frames(frames)
    assert known.extrinsics is not None and known.intrinsics is not None
    torch.testing.assert_close(known.extrinsics[0], scene.extrinsics, atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(known.intrinsics[0], scene.intrinsics, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("kind", ["times", "names", "film"])
def test_intrinsics_of_cameras_json_are_of_the_originals(written, kind):
    scene, out = written[kind]
    known = read_cameras(intrinsics=out / "cameras.json").for_frames(scene.frames)
    assert known.intrinsics is not None
    torch.testing.assert_close(known.intrinsics[0], scene.intrinsics, atol=1e-4, rtol=1e-6)


def test_a_trajectory_carries_the_times_in_the_names(written):
    _, out = written["times"]
    lines = (out / "trajectory.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TIMES) and "frame numbers" not in lines[0]
    content = json.loads((out / "cameras.json").read_text())
    assert content["timestamps"] == "seconds"
    assert [f["timestamp_s"] for f in content["frames"]] == pytest.approx([float(t) for t in TIMES], abs=1e-6)
    _, out = written["names"]
    assert "frame numbers" in (out / "trajectory.txt").read_text().splitlines()[0]
    assert json.loads((out / "cameras.json").read_text())["timestamps"] == "frame numbers"


def test_a_windowed_scene_keeps_the_times_too(model, sources, tmp_path):
    scene = model.reconstruct(sources["times"], 4, window=3, overlap=2)
    scene.save(tmp_path / "out", ("tum",))
    lines = (tmp_path / "out" / "trajectory.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TIMES)


# ---- one lens -----------------------------------------------------------------------------------------------------


def test_one_lens_is_the_median_with_square_pixels():
    k = torch.eye(3).repeat(3, 1, 1)
    k[:, 0, 0], k[:, 1, 1] = torch.tensor([4.0, 9.0, 16.0]), torch.tensor([4.0, 4.0, 4.0])
    shared = one_lens(k)
    torch.testing.assert_close(shared[:, 0, 0], torch.full((3,), 6.0))
    torch.testing.assert_close(shared[:, 1, 1], torch.full((3,), 6.0))
    stretched = one_lens(k, pixel_aspect=1.21)
    torch.testing.assert_close(stretched[0, 0, 0] / stretched[0, 1, 1], torch.tensor(1.21))
    torch.testing.assert_close((stretched[0, 0, 0] * stretched[0, 1, 1]).sqrt(), torch.tensor(6.0))


@pytest.mark.slow
@pytest.mark.parametrize("refine", [False, True])
def test_one_lens_in_python(model, room, refine):
    plain = model.reconstruct(room.rgb, refine=refine, cameras=GivenCameras(one_lens=False))
    shared = model.reconstruct(room.rgb, refine=refine, cameras=GivenCameras(one_lens=True))
    assert not torch.equal(plain.intrinsics[0, 0], plain.intrinsics[-1, 0])
    torch.testing.assert_close(shared.intrinsics, shared.intrinsics[:1].expand(4, 3, 3))
    torch.testing.assert_close(shared.intrinsics[:, 0, 0], shared.intrinsics[:, 1, 1])
    with pytest.raises(ValueError, match="has no effect"):
        GivenCameras(intrinsics=np.eye(3), one_lens=True)


@pytest.mark.slow
def test_refinement_supposes_one_lens(model, room):
    refined = model.reconstruct(room.rgb, refine=True)
    torch.testing.assert_close(refined.intrinsics, refined.intrinsics[:1].expand(4, 3, 3))
    torch.testing.assert_close(refined.intrinsics[:, 0, 0], refined.intrinsics[:, 1, 1])
    told = model.reconstruct(room.rgb, refine=True, cameras=GivenCameras(one_lens=True))
    torch.testing.assert_close(refined.intrinsics, told.intrinsics)


def test_windows_share_the_lens_of_the_first(model, room):
    many = np.concatenate([room.rgb, room.rgb[::-1]])
    scene = model.reconstruct(many, 8, window=4, overlap=2, cameras=GivenCameras(one_lens=True))
    torch.testing.assert_close(scene.intrinsics, scene.intrinsics[:1].expand(8, 3, 3))
    assert WindowedReconstruction(model.model)._with_lens(torch.zeros(1, 1, 3, 14, 14), None) is None


@pytest.mark.slow
def test_arrays_of_poses_go_on_over_windows(model, room):
    many = np.concatenate([room.rgb, room.rgb[::-1]])
    poses = np.linalg.inv(np.concatenate([room.extrinsics, room.extrinsics[::-1]]))
    scene = model.reconstruct(many, 8, window=4, overlap=2, cameras=GivenCameras(room.intrinsics[0], poses))
    turns, true = scene.extrinsics[:, :3, :3], torch.from_numpy(np.linalg.inv(poses)[:, :3, :3]).float()
    for a, b in ((0, 1), (0, 3), (4, 5), (6, 7)):  # of one window
        torch.testing.assert_close(turns[a] @ turns[b].mT, true[a] @ true[b].mT, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="4 cameras for"):
        model.reconstruct(many, 8, window=4, overlap=2, cameras=GivenCameras(poses=poses[:4]))


def test_on_the_command_line(folder, sources, tmp_path, capsys):
    def call(*options):
        capsys.readouterr()
        code = main(["reconstruct", str(sources["film"]), "--model", str(folder), "-o", str(tmp_path / "out"),
                     "--format", "cameras", "--no-refine", "--json", *options])  # fmt: skip
        return code, capsys.readouterr().err

    assert call("--one-lens")[0] == 0
    frames = json.loads((tmp_path / "out" / "cameras.json").read_text())["frames"]
    assert all(f["intrinsics"] == frames[0]["intrinsics"] for f in frames)
    assert frames[0]["intrinsics"][0][0] == pytest.approx(frames[0]["intrinsics"][1][1], rel=1e-6)
    code, told = call("--one-lens", "--intrinsics", "60,60,35,28")
    assert code == 2 and told == "vidllm: error: --one-lens has no effect with --intrinsics; give only one of them\n"
    code, told = call("--intrinsics", "60,60,17,14")
    assert code == 2 and told.count("\n") == 1 and "far from the middle of the pictures of 70x56" in told
