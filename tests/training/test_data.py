"""Shards, batches and the frames their boxes live in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vidllm.datasets import shards as dataset_shards
from vidllm.datasets.language import language_from_record
from vidllm.datasets.shards import Shard, rooms_labels
from vidllm.geometry.boxes import points_in_boxes
from vidllm.geometry.cameras import to_homogeneous, unproject
from vidllm.geometry.gravity import scene_from_world
from vidllm.model.text import build_tokenizer
from vidllm.training.config import Texts
from vidllm.training.data import RoomsData, patch_classes
from vidllm.training.joint import true_geometry
from vidllm.training.losses import normalise
from vidllm.training.packing import pack
from vidllm.training.texts import TextMaker, corpus, draw_texts, scene_boxes, scene_from_room
from vidllm_rooms import shards
from vidllm_rooms.language.vsi import training_questions
from vidllm_rooms.shards import plan_shards, render_scene, write_shard


@pytest.fixture(scope="module")
def data(rooms_folder):
    return RoomsData(rooms_folder)


def draw(data, seed, step, **kwargs):
    return data.draw(np.random.default_rng([seed, step]), 2, 3, **{"window": True, **kwargs})


def test_a_shard_gives_back_what_was_rendered(rooms_folder):
    shard = Shard(sorted(rooms_folder.iterdir())[0])
    clip, language = render_scene(10001, 4, 56, 70)
    tensors = shard.tensors(1)
    assert len(shard) == 2 and shard.records[1]["seed"] == 10001
    assert np.array_equal(tensors["rgb"].numpy(), clip.rgb)
    assert np.array_equal(tensors["instance"].numpy(), clip.instance)
    assert np.allclose(tensors["depth_m"].float().numpy(), clip.depth_m, rtol=1e-3)
    assert np.allclose(tensors["extrinsics"].numpy(), clip.extrinsics, atol=1e-5)
    assert np.allclose(tensors["intrinsics"].numpy(), clip.intrinsics, rtol=1e-6)
    assert language_from_record(shard.records[1]) == replace(language, spatial=training_questions(clip))
    assert {o["id"] for o in shard.records[1]["objects"] if o["visible"]} == set(clip.visible())


def test_finished_shards_are_not_rendered_again(rooms_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "render_scene", lambda *_: pytest.fail("rendered again"))
    write_shard(rooms_folder, [10000, 10001], 4, 56, 70)
    monkeypatch.undo()

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(dataset_shards, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        write_shard(tmp_path, [10000], 1, 14, 14)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_named(rooms_folder, tmp_path):
    whole = sorted(rooms_folder.iterdir())[0].read_bytes()
    for name, content in (("rooms_cut.safetensors", whole[: len(whole) // 2]), ("rooms_junk.safetensors", b"junk")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a readable training shard"):
            Shard(tmp_path / name)
    with pytest.raises(ValueError, match=r"no training shards in .*nowhere"):
        RoomsData(tmp_path / "nowhere")


def test_shards_cover_their_seeds_once():
    planned = list(plan_shards(10000, 10037, 16))
    assert [s for seeds, _, _ in planned for s in seeds] == list(range(10000, 10037))
    assert all(h % 14 == 0 and w % 14 == 0 for _, h, w in planned)


def test_batches_are_a_function_of_seed_and_step(rooms_folder, data):
    for window in (True, False):
        anew = RoomsData(rooms_folder)
        first, again = (draw(d, 3, 7, window=window) for d in (data, anew))
        assert torch.equal(first.images, again.images) and first.records == again.records
    others = [draw(data, 3, step).images for step in range(8, 12)]
    first = draw(data, 3, 7).images
    assert any(o.shape != first.shape or not torch.equal(o, first) for o in others)


def test_what_a_batch_holds(data):
    batch = draw(data, 0, 0)
    height, width = batch.images.shape[-2:]
    assert batch.images.shape == (2, 3, 3, height, width)
    assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1
    assert batch.depth_m.shape == (2, 3, height, width) and batch.category.shape == (2, 3, height // 14 * (width // 14))
    torch.testing.assert_close(batch.up.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(batch.extrinsics[:, 0, :3, :3] @ torch.tensor([0, 0, 1.0]), batch.up)
    assert batch.to(torch.device("cpu")).records is batch.records


def test_windows_are_near_in_time_and_run_both_ways(data):
    forward = backward = 0
    for step in range(12):
        batch = draw(data, 1, step)
        tensors = next(
            s.tensors(i)
            for s in map(Shard, data.paths) for i in range(len(s)) if s.records[i]["seed"] == batch.records[0]["seed"]
        )
        order = [int((tensors["extrinsics"] - e).abs().sum((1, 2)).argmin()) for e in batch.extrinsics[0]]
        steps = set(np.diff(order).tolist())
        assert len(steps) == 1 and abs(next(iter(steps))) in (1, 2)
        forward, backward = forward + (next(iter(steps)) > 0), backward + (next(iter(steps)) < 0)
    assert forward and backward


def test_patch_classes_are_those_of_the_object_at_the_patch_centre(data):
    shard = Shard(data.paths[0])
    tensors, record = shard.tensors(0), shard.records[0]
    category, colour, _ = patch_classes(tensors["instance"][None], [record], data.labels, 14)
    names = {o["id"]: rooms_labels().classes(o)[:2] for o in record["objects"]}
    columns = tensors["instance"].shape[-1] // 14
    for patch in range(category.shape[-1]):
        row, column = divmod(patch, columns)
        seen = int(tensors["instance"][2, row * 14 + 7, column * 14 + 7])
        assert (int(category[0, 2, patch]), int(colour[0, 2, patch])) == names.get(seen, (0, 0))


def test_instances_lie_inside_their_boxes_in_the_scene_frame(data):
    shard = Shard(data.paths[0])
    tensors, record = shard.tensors(0), shard.records[0]
    level = scene_from_room(tensors["extrinsics"])
    boxes = scene_boxes(record, level)
    room = unproject(tensors["depth_m"].float(), tensors["intrinsics"], tensors["extrinsics"])
    points = room @ level[:3, :3].T + level[:3, 3]
    looked_at = 0
    for number, box in boxes.items():
        mine = points[tensors["instance"] == number]
        if len(mine):
            looked_at += 1
            grown = torch.tensor(box) + torch.tensor([0, 0, 0, 0.06, 0.06, 0.06, 0])  # float16 depth
            assert bool(points_in_boxes(mine, grown).all()), (number, box)
    assert looked_at >= 3


def test_the_data_and_the_model_agree_on_the_scene_frame(data):
    batch = draw(data, 0, 1)
    geometry = true_geometry(normalise(batch.depth_m, batch.extrinsics, batch.intrinsics), batch.up)
    for b in range(2):
        ours = scene_from_room(batch.extrinsics[b])
        theirs = geometry.scene_from_world[b] @ to_homogeneous(batch.extrinsics[b, 0])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[:3, 2], torch.tensor([0, 0, 1.0]), atol=1e-5, rtol=0)  # up is up
        camera = torch.linalg.inv(batch.extrinsics[b, 0])[:3, 3]
        torch.testing.assert_close(ours[:3, :3] @ camera + ours[:3, 3], torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(geometry.scene_from_world, scene_from_world(batch.up))


def test_texts_of_a_batch_name_boxes_and_points_of_its_scene(data):
    records = [r for path in data.paths for r in Shard(path).records]
    maker = TextMaker(build_tokenizer(corpus(records), 600))
    batch = draw(data, 0, 2, window=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as in training
        texts = draw_texts(batch, maker, np.random.default_rng(0), Texts(4, 8, 5))
    video, loc, coord = maker.special_ids
    assert all(maker.special_ids) and len({video, loc, coord}) == 3
    for b, of_scene in enumerate(texts):
        boxes = scene_boxes(batch.records[b], scene_from_room(batch.extrinsics[b]))
        for text in of_scene:
            assert len(text.ids) == len(text.scored) and text.ids.count(coord) == len(text.coordinates)
            assert (text.boxes is not None) == (text.ids[-1] == loc) and (text.boxes is None or not any(text.scored))
            assert text.boxes is None or all(box in boxes.values() for box in text.boxes)
            assert text.boxes is not None or (text.scored[-1] and text.ids[-1] == maker.tokenizer.eos_token_id)
    packed = pack(texts, loc, 400)
    assert bool(packed.loc_mask.any()) and packed.input_ids.max() < len(maker.tokenizer)


def test_questions_in_a_benchmarks_form_are_counted_apart(data):
    record = Shard(data.paths[0]).records[0]
    spatial = language_from_record(record).spatial
    maker = TextMaker(build_tokenizer(corpus([record]), 600))
    texts = maker.scene(record, {}, np.random.default_rng(0), Texts(0, 0, 0, spatial=3))
    wanted = {maker.tokenizer.decode(maker.question(q).ids) for q in spatial}
    assert len(texts) == 3 and {maker.tokenizer.decode(text.ids) for text in texts} <= wanted
    assert all("these are frames of a video" in text for text in wanted)
    assert maker.scene(record, {}, np.random.default_rng(0), Texts(0, 0, 0)) == []


def test_chosen_frames_alone_are_read(rooms_folder):
    shard = Shard(sorted(rooms_folder.iterdir())[0])
    whole = shard.tensors(1)
    for name, value in shard.tensors(1, [3, 0]).items():
        assert torch.equal(value, whole[name][[3, 0]])
    assert shard.frames == 4
