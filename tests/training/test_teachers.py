"""What teachers give, where they come from, and their tokens on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import micro_model, video
from published_files import write_llava_3d, write_vggt
from safetensors.torch import load_file, save_file
from teacher_models import geometry_model, tiny_tower
from transformers import CLIPConfig, CLIPModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vidllm.io import weight_files
from vidllm.model.encoder import normalise
from vidllm.pretrained import Ingredients, import_model
from vidllm.pretrained.vggt import load_vggt
from vidllm.training import teachers
from vidllm.training.data import Batch, RoomsData
from vidllm.training.teachers import (
    CachedTeacher,
    GeometryTeacher,
    LanguageTeacher,
    clip_pixels,
    find_teachers,
    load_geometry_teacher,
    load_language_teacher,
)


@pytest.fixture
def data(rooms_folder):
    return RoomsData(rooms_folder)


@pytest.fixture(scope="module")
def vggt(golden):
    folder = golden / "vggt_tiny_a"
    constructor = json.loads((folder / "README.json").read_text())["constructor"]
    return load_vggt(folder / "weights.safetensors", constructor)


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_vggts_encoder_is_a_teacher(vggt):
    images = video(2, 28, 42, batch=2)
    teacher = GeometryTeacher(vggt)
    tokens = teacher.features(images)
    assert tokens.shape == (2, 2, 6, teacher.width) and teacher.grid(28, 42) == (2, 3) and teacher.per_frame
    torch.testing.assert_close(tokens, vggt.encoder(images).tokens)
    deep = GeometryTeacher(vggt, "attention")
    assert deep.features(images).shape == (2, 2, 6, 2 * teacher.width) == (2, 2, 6, deep.width) and not deep.per_frame
    with pytest.raises(ValueError, match="'encoder' or 'attention'"):
        GeometryTeacher(vggt, "heads")


def test_our_geometric_half_is_a_teacher():
    model, images = geometry_model(), video(2, 28, 42)
    teacher = GeometryTeacher(model)
    assert teacher.per_frame and not any(p.requires_grad for p in model.parameters())
    tokens = teacher.features(images)
    assert tokens.shape == (1, 2, 6, 24) and not tokens.requires_grad
    torch.testing.assert_close(tokens[:, :1], teacher.features(images[:, :1]))  # one frame at a time
    assert not GeometryTeacher(micro_model()).per_frame  # its bridge reads all frames
    assert GeometryTeacher(model, "attention").features(images).shape == (1, 2, 6, 48)


def test_the_language_teacher_is_clip_before_its_last_block():
    tower, images = tiny_tower(), video(3, 56, 56, batch=2)
    teacher = LanguageTeacher(tower, chunk=4)
    tokens = teacher.features(images)
    assert tokens.shape == (2, 3, 16, 24) and teacher.grid(56, 84) == (4, 4) and teacher.per_frame
    out = tower(pixel_values=clip_pixels(images.flatten(0, 1), 56), output_hidden_states=True)
    torch.testing.assert_close(tokens.flatten(0, 1), out.hidden_states[2][:, 1:])
    white = clip_pixels(torch.ones(1, 3, 56, 56), 56)[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([1.9303, 2.0749, 2.1459]), rtol=0, atol=1e-4)  # CLIP's constants


def batch_of(images):
    return Batch(images, *(torch.empty(0),) * 7, [])


def test_the_whole_frame_is_taught():
    """The tower's square is laid over the whole frame: a token's place in the picture is kept on the student's grid."""
    teacher = LanguageTeacher(tiny_tower())
    images = video(1, 56, 84)
    tokens = teacher.on_grid(batch_of(images), (4, 6))
    assert tokens.shape == (1, 1, 24, 24)
    changed = images.clone()
    changed[..., :14] = 1 - changed[..., :14]  # the left edge, which a crop of the middle would not see
    assert float((teacher.on_grid(batch_of(changed), (4, 6)) - tokens).abs().max()) > 1e-3


# ---- where they come from -------------------------------------------------------------------------------------------


def test_teachers_are_found_by_what_lies_in_their_folder(tmp_path, vggt):
    model = geometry_model()
    model.save_pretrained(tmp_path / "clip_in_name_only")
    with pytest.raises(ValueError, match="expected clip"):
        load_language_teacher(str(tmp_path / "clip_in_name_only"))
    tower = tiny_tower()
    tower.save_pretrained(tmp_path / "tower")
    images = video(1, 56, 56)
    wanted = LanguageTeacher(tower).features(images)
    torch.testing.assert_close(load_language_teacher(str(tmp_path / "tower")).features(images), wanted)
    with pytest.raises(ValueError, match="no weights at"):
        load_geometry_teacher(str(tmp_path / "nowhere"))


def test_the_tower_of_a_whole_clip(tmp_path):
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    tower = tiny_tower()
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=tower.config.to_dict(), projection_dim=8)).eval()
    whole.save_pretrained(tmp_path)
    images = video(1, 56, 56)
    torch.testing.assert_close(
        load_language_teacher(str(tmp_path)).features(images), LanguageTeacher(whole.vision_model).features(images)
    )


def test_the_tower_inside_llava(tmp_path):
    tower = tiny_tower()
    prefix = "model.vision_tower.vision_tower.vision_model."
    weights = {prefix + name: value for name, value in tower.state_dict().items()}
    save_file({**weights, "lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_llama", "mm_vision_tower": "clip"}))
    tower.config.save_pretrained(tmp_path / "clip")
    images = video(1, 56, 56)
    torch.testing.assert_close(
        load_language_teacher(str(tmp_path)).features(images), LanguageTeacher(tower).features(images)
    )
    weights.popitem()
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="lacks weights"):
        load_language_teacher(str(tmp_path))


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """VGGT and LLaVA-3D of small sizes in their published forms, and the cascade that was imported from them."""
    folder = tmp_path_factory.mktemp("published")
    vggt, llava = write_vggt(folder / "vggt", golden), write_llava_3d(folder / "llava", golden)
    import_model("cascade", Ingredients(vggt=vggt, llava_3d=llava, shorter_side=56), folder / "cascade")
    return folder


def test_stage_1_takes_what_import_takes_and_reads_no_more(published, vggt, monkeypatch):
    """VGGT of another size than VGGT-1B, LLaVA-3D, the cascade made of both: the same tokens, and the rest unread."""
    read: set[str] = set()
    honest = weight_files._read_shard

    def noted(file, wanted=None):
        for name, tensor in honest(file, wanted):
            read.add(name)
            yield name, tensor

    monkeypatch.setattr(weight_files, "_read_shard", noted)
    images = video(2, 28, 42)
    expected = GeometryTeacher(vggt).features(images)
    towers = []
    for geometry, language in (("vggt", "llava"), ("cascade", "cascade")):
        found = find_teachers(str(published / geometry), str(published / language), structure="streams")
        assert not read, "finding reads headers alone"
        first, second = found.load()
        torch.testing.assert_close(first.features(images), expected)
        towers.append(second.features(images))
        assert all(name.split(".")[0] in ("aggregator", "encoder", "clip") or "vision_tower" in name for name in read)
        assert not any("_blocks" in name or "_head" in name for name in read)
        read.clear()
    torch.testing.assert_close(*towers)
    deep = load_geometry_teacher(str(published / "cascade"), "attention").features(images)
    torch.testing.assert_close(deep, GeometryTeacher(vggt, "attention").features(images))
    with pytest.raises(ValueError, match="64 and 48 wide"):
        find_teachers(str(published / "vggt"), str(published / "llava"), structure="joint")


def test_dinov2_alone_is_a_teacher_of_geometry(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    config = Dinov2WithRegistersConfig(**sizes)
    network = Dinov2WithRegistersModel(config).eval()
    network.save_pretrained(tmp_path)
    images = video(2, 28, 42)
    teacher = load_geometry_teacher(str(tmp_path))
    wanted = network(normalise(images[0])).last_hidden_state[:, 1 + config.num_register_tokens :]
    torch.testing.assert_close(teacher.features(images)[0], wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="an encoder alone"):
        load_geometry_teacher(str(tmp_path), "attention")


# ---- tokens on disk -------------------------------------------------------------------------------------------------


def fill(kept, data):
    """Read tokens of every shard."""
    for path in data.paths:
        one = RoomsData(data.folder)
        one.paths = [path]
        batch = one.draw(np.random.default_rng(0), 1, 1, window=True)
        kept.on_grid(batch, kept.teacher.grid(*batch.images.shape[-2:]))


def test_kept_tokens_are_those_of_the_teacher(data, tmp_path):
    teacher = GeometryTeacher(geometry_model())
    kept = CachedTeacher(teacher, tmp_path)
    for step in range(3):
        batch = data.draw(np.random.default_rng(step), 2, 3, window=bool(step % 2))
        rows, columns = (side // 14 for side in batch.images.shape[-2:])
        for grid in ((rows, columns), (rows, columns + 2)):
            found, wanted = (t.on_grid(batch, grid) for t in (kept, teacher))
            torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)  # half precision
    assert not list(tmp_path.rglob("*.tmp*"))


def test_filling_goes_on_where_it_was_stopped(data, tmp_path, monkeypatch):
    teacher = GeometryTeacher(geometry_model())
    kept = CachedTeacher(teacher, tmp_path)
    write = teachers.save_file

    def stopped(tensors, path, **kwargs):
        if data.paths[1].stem in str(path):
            path.write_bytes(b"half of it")
            raise KeyboardInterrupt
        write(tensors, path, **kwargs)

    monkeypatch.setattr(teachers, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        fill(kept, data)
    monkeypatch.undo()
    assert [p.name for p in kept.folder.iterdir()] == [kept.path(data.paths[0]).name]
    first = kept.path(data.paths[0]).stat().st_mtime_ns
    fill(CachedTeacher(teacher, tmp_path), data)
    assert len(list(kept.folder.iterdir())) == 2 and kept.path(data.paths[0]).stat().st_mtime_ns == first
    good = load_file(kept.path(data.paths[0]))["features"].clone()  # not the file itself, which is cut next
    kept.path(data.paths[0]).write_bytes(kept.path(data.paths[0]).read_bytes()[:200])  # damaged: computed anew
    fill(CachedTeacher(teacher, tmp_path), data)
    assert torch.equal(load_file(kept.path(data.paths[0]))["features"], good)


def test_teachers_do_not_read_each_others_tokens(data, tmp_path):
    first, second = (GeometryTeacher(geometry_model(seed)) for seed in (1, 5))
    assert first.fingerprint() == GeometryTeacher(geometry_model(1)).fingerprint() != second.fingerprint()
    assert CachedTeacher(first, tmp_path).folder != CachedTeacher(second, tmp_path).folder
    tower = tiny_tower()
    assert LanguageTeacher(tower).fingerprint() != LanguageTeacher(tower, layer=-1).fingerprint()
    with pytest.raises(ValueError, match="cannot be kept"):
        CachedTeacher(GeometryTeacher(micro_model()), tmp_path)
