"""Cameras find their frames by name, by time or by the number in a name; counting is never silent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vidllm.io.cameras.given import GivenCameras, PerFrame, read_cameras
from vidllm.io.cameras.records import rows_of
from vidllm.io.frames import Frames
from vidllm.io.pictures import number_of, stem, times_of
from vidllm.io.video import iter_frames, load_frames, write_video

SIZE = (56, 70)
MATRICES = np.arange(9.0)[:, None, None] * np.ones((9, 4, 4))


def matched(cameras: PerFrame, frames: Frames) -> np.ndarray:
    return cameras.matrices[rows_of(cameras, frames)]


def pictures(folder, names):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for name in names:
        Image.fromarray(pixels).save(folder / name)
    return folder


def frames_of(source, count=None):
    return load_frames(source, count, shorter_side=56)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (9, *SIZE, 3), dtype=np.uint8), fps=10)
    return path


def rows(given, frames):
    return matched(given, frames)[:, 0, 0].astype(int).tolist()


# ---- names that are times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (["1305031453.359684.png", "1305031453.391690.png"], [1305031453.359684, 1305031453.391690]),
        (["0.1.png", "0.15.png"], [0.1, 0.15]),
        (["1403636579763555584.png", "1403636579813555456.png"], [1403636579.7635555, 1403636579.8135555]),
        (["1305031453359.png", "1305031453391.png"], [1305031453.359, 1305031453.391]),
        (["00001.png", "00002.png"], None),
        (["1.1.png", "1.10.png"], None),  # one time twice: chapters, not times
        (["a.png", "1.5.png"], None),
        ([], None),
    ],
)
def test_which_names_are_times(names, times):
    assert times_of(names) == (None if times is None else pytest.approx(times, abs=1e-6, rel=0))


def test_stems_and_numbers():
    assert stem("a/b/frame-000012.color.png") == "frame-000012" and number_of("frame-000012.color.png") == 12
    assert stem("1305031453.359684.png") == "1305031453.359684" and number_of("1305031453.359684.png") is None
    assert number_of("a1_b2.png") is None and number_of("a.png") is None and number_of("9" * 40) is None


def clock(frames):
    return (frames.timestamps_s + frames.clock_start_s).tolist()


def test_a_folder_named_by_times_has_a_clock(tmp_path):
    names = [f"1305031453.{n}00000.png" for n in range(1, 6)]
    folder = pictures(tmp_path / "rgb", names)
    frames = frames_of(folder, 3)
    np.testing.assert_allclose(frames.timestamps_s, [0, 0.2, 0.4], atol=1e-6)
    np.testing.assert_allclose(clock(frames), [1305031453.1, 1305031453.3, 1305031453.5], atol=1e-6)
    streamed = list(iter_frames(folder, 3, shorter_side=56))
    assert [clock(f)[0] for f in streamed] == clock(frames)
    listed = frames_of([folder / name for name in names], 3)
    assert clock(listed) == clock(frames)
    times = [1305031453.1 + 0.01 * n for n in range(-5, 60)]
    given = PerFrame(np.arange(65.0)[:, None, None] * np.ones((65, 4, 4)), times_s=times)
    assert rows(given, frames) == [5, 25, 45]


def test_pictures_without_a_clock_match_no_time(tmp_path):
    """Their times are frame numbers; a trajectory with a pose at 0, 1 and 2 s is not theirs."""
    frames = frames_of(pictures(tmp_path / "rgb", ["a.png", "b.png", "c.png"]))
    assert frames.clock_start_s is None and frames.timestamps_s.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"is that of a\.png \(no time\)"):
        matched(PerFrame(MATRICES, times_s=[n / 4 for n in range(9)]), frames)
    (tmp_path / "tum.txt").write_text("\n".join(f"{n} 0 0 0 0 0 0 1" for n in range(9)))
    with pytest.raises(ValueError, match=r"it holds times from 0 to 8 s"):
        read_cameras(poses=tmp_path / "tum.txt").for_frames(frames)


def test_whole_numbers_are_those_in_the_names(tmp_path):
    frames = frames_of(pictures(tmp_path / "rgb", ["frame-000003.color.png", "frame-000005.color.png"]))
    (tmp_path / "tum.txt").write_text("\n".join(f"{n} {n} 0 0 0 0 0 1" for n in range(9)))
    known = read_cameras(poses=tmp_path / "tum.txt").for_frames(frames)
    assert known.extrinsics is not None and known.extrinsics[0, 1, 0, 3].item() == pytest.approx(-2)
    two = frames_of(pictures(tmp_path / "two", ["a_1.png", "b_1.png"]))
    with pytest.raises(ValueError, match="none of its 9 cameras"):
        read_cameras(poses=tmp_path / "tum.txt").for_frames(two)


def test_names_of_7_scenes_match_their_poses(tmp_path):
    folder = pictures(tmp_path / "seq", [f"frame-{n:06d}.color.png" for n in range(3)])
    for n in range(3):
        pose = np.eye(4)
        pose[0, 3] = n
        np.savetxt(folder / f"frame-{n:06d}.pose.txt", pose)
    known = read_cameras(poses=folder).for_frames(frames_of(folder))
    assert known.extrinsics is not None and known.extrinsics[0, :, 0, 3].tolist() == [0, -1, -2]


# ---- films --------------------------------------------------------------------------------------------------------


def test_counting_is_told(film, tmp_path):
    frames = frames_of(film, 3)
    named = PerFrame(MATRICES, names=[f"frame_{n:06d}" for n in range(9)])
    numbered = PerFrame(MATRICES, numbers=list(range(9)))
    for given in (named, numbered):
        with pytest.warns(UserWarning, match="the numbers in it are taken as those of all frames of .*film.mp4"):
            assert rows(given, frames) == [0, 4, 8]
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, 0, 3] = np.arange(9)
    np.save(tmp_path / "p.npy", poses)
    with pytest.warns(UserWarning, match="taken as those of the frames 0, 1, 2"):
        known = read_cameras(poses=tmp_path / "p.npy").for_frames(frames)
    assert known.extrinsics is not None and known.extrinsics[0, :, 0, 3].tolist() == [0, -4, -8]
    np.save(tmp_path / "p.npy", poses[:3])  # one for each used frame: which frames, nobody says
    with pytest.raises(ValueError, match="none of its 3 cameras is that of frame_000004"):
        read_cameras(poses=tmp_path / "p.npy").for_frames(frames)


def test_names_of_another_film_are_told_by_their_times(film):
    frames = frames_of(film, 3)
    names = [f"frame_{n:06d}" for n in range(9)]
    own = PerFrame(MATRICES, names, [0.1 * n for n in range(9)])
    assert rows(own, frames) == [0, 4, 8]
    times = [0.04 * n for n in range(9)]
    other = PerFrame(MATRICES, names, times, where="other.json", places=[f"f{n}" for n in range(9)])
    with pytest.raises(ValueError, match=r"other.json: f4: frame_000004 at 0.16 s, but in .* it is at 0.4 s"):
        matched(other, frames)


def test_numbers_that_are_seconds_as_well_are_refused(tmp_path):
    film = tmp_path / "slow.mp4"
    write_video(film, np.random.default_rng(0).integers(0, 256, (9, *SIZE, 3), dtype=np.uint8), fps=2)
    frames = frames_of(film, 3)  # 0, 4 and 8, at 0, 2 and 4 s
    given = PerFrame(MATRICES, times_s=[float(n) for n in range(9)], numbers=list(range(9)))
    with pytest.raises(ValueError, match="both as seconds and as frame numbers"):
        matched(given, frames)


def test_arrays_go_by_the_used_frames_also_in_windows(film):
    frames = frames_of(film, 4)
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = np.arange(4)
    given = GivenCameras(poses=poses)
    assert rows_of(PerFrame(MATRICES[:4]), frames_of(film, 2), begin=2) == [2, 3]
    with pytest.raises(ValueError, match="4 cameras for 5 frames"):
        rows_of(PerFrame(MATRICES[:4]), frames_of(film, 2), begin=3)
    with pytest.raises(ValueError, match="4 cameras for 3 frames"):
        given.check_count(3)
    known = given.for_frames(frames)
    assert known.extrinsics is not None and known.extrinsics[0, :, 0, 3].tolist() == [0, -1, -2, -3]


# ---- lenses that cannot be those of the pictures ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "intrinsics"),
    [
        ("far from the middle of the pictures of 640x480", "258.6,258.2,159.3,127.6"),  # of 320x240
        ("lies outside the pictures of 640x480", "1034,1032,637,510"),  # of 1280x960
        ("is that of pictures of 480x640", "516.5,517.3,255.3,318.6"),
        ("a focal length of 4.2 pixels", "4.2,4.2,320,240"),  # millimetres
        ("a focal length of 1e\\+09 pixels", "1e9,1e9,320,240"),
        ("differ too much for one lens", "517,200,320,240"),
        ("must be positive pixels", "-517,517,320,240"),
        ("finite numbers", "1e999,517,320,240"),
    ],
)
def test_a_lens_of_other_pictures_is_refused(told, intrinsics):
    frames = frames_of(np.zeros((1, 480, 640, 3), np.uint8))
    with pytest.raises(ValueError, match=told):
        read_cameras(intrinsics=intrinsics).for_frames(frames)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (360, 540), (1080, 1920)])
def test_a_usual_lens_is_taken_without_a_word(size):
    frames = frames_of(np.zeros((1, *size, 3), np.uint8))
    for off in (-0.05, 0.0, 0.05):
        cx, cy = (0.5 + off) * size[1], (0.5 - off) * size[0]
        known = read_cameras(intrinsics=f"{0.9 * max(size)},{0.9 * max(size)},{cx},{cy}").for_frames(frames)
        back = frames.original_intrinsics(known.intrinsics[0].double())[0]
        np.testing.assert_allclose(back[:2, 2], [cx, cy], rtol=1e-5)


def test_an_unusual_lens_is_told():
    frames = frames_of(np.zeros((1, 480, 640, 3), np.uint8))
    with pytest.warns(UserWarning, match="38% across and 38% down"):  # of 480x360
        read_cameras(intrinsics="388,387,240,180").for_frames(frames)
    with pytest.warns(UserWarning, match="are these pixels not square"):
        read_cameras(intrinsics="517,400,320,240").for_frames(frames)


def test_intrinsics_with_their_size_are_scaled(tmp_path):
    frames = frames_of(np.zeros((1, 480, 640, 3), np.uint8))
    told = {"fx": 259, "fy": 258, "cx": 160, "cy": 128, "width": 320, "height": 240}
    (tmp_path / "k.json").write_text(json.dumps(told))
    given = read_cameras(intrinsics=tmp_path / "k.json")
    with pytest.warns(UserWarning, match="pictures of 320x240 pixels, scaled to 640x480"):
        known = given.for_frames(frames)
    assert known.intrinsics is not None
    back = frames.original_intrinsics(known.intrinsics[0].double())[0].numpy()
    np.testing.assert_allclose(back, [[518, 0, 320], [0, 516, 256], [0, 0, 1]], rtol=1e-5, atol=1e-3)
    turned = frames_of(np.zeros((1, 640, 480, 3), np.uint8))
    with pytest.raises(ValueError, match=r"320x240 pixels, but array has 480x640.*turned by 90 degrees"):
        given.for_frames(turned)


def test_a_file_and_its_line_are_named_where_a_used_frame_is_wrong(tmp_path):
    frames = frames_of(pictures(tmp_path / "rgb", ["a.png", "b.png"]))
    (tmp_path / "k.csv").write_text("name,fx,fy,cx,cy\na,60,60,35,28\nb,6,6,35,28\n")
    with pytest.raises(ValueError, match=r"k\.csv: line 3: a focal length of 6 pixels"):
        read_cameras(intrinsics=tmp_path / "k.csv").for_frames(frames)
    (tmp_path / "p.txt").write_text("a 1 0 0 0 0 1 0 0 0 0 1 0\nb 1 0 0 0 0 -1 0 0 0 0 1 0\n")
    with pytest.raises(ValueError, match=r"p\.txt: line 2: the pose of b\.png contains no rotation \(it mirrors\)"):
        read_cameras(poses=tmp_path / "p.txt").for_frames(frames)
    (tmp_path / "p.txt").write_text("a 1 0 0 0 0 1 0 0 0 0 1 0\nb nan 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(ValueError, match=r"p\.txt: line 2: the pose of b\.png is not finite"):
        read_cameras(poses=tmp_path / "p.txt").for_frames(frames)
