"""Imports: every key accounted for, shard by shard, and one clear line for what cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import line_of_failure
from published_files import llava_3d_settings, write_llava_3d, write_shards, write_tokenizer, write_vggt
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.datasets.seen import seen_or_unknown
from vidllm.io import weight_files
from vidllm.io.weight_files import open_checkpoint
from vidllm.model.encoder import normalise
from vidllm.model.loading import load_pretrained
from vidllm.pretrained import Ingredients, import_model, load_vggt
from vidllm.pretrained.conversion import ShardWriter


@pytest.fixture(scope="module")
def places(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    return {"vggt": write_vggt(folder / "vggt", golden), "llava": write_llava_3d(folder / "llava", golden)}


@pytest.fixture(scope="module")
def small_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3's form with tied weights, as transformers writes it."""
    folder = tmp_path_factory.mktemp("lm")
    config = AutoConfig.for_model(
        "qwen3", vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def cascade(places: dict[str, Path], **changes: Any) -> Ingredients:
    return Ingredients(**({"vggt": places["vggt"], "llava_3d": places["llava"], "shorter_side": 56} | changes))


def test_every_key_is_reported_and_the_licences_areline_of_failure(places: dict[str, Path], tmp_path: Path):
    report = import_model("cascade", cascade(places), tmp_path / "m")
    sources = {source for source, _ in report.loaded.values()}
    assert (sources, report.initial, report.unused) == ({"VGGT", "LLaVA-3D"}, [], [])
    assert set(report.loaded) >= {"projector.2.bias", "clip.embeddings.class_embedding", "camera_head.base_pose"}
    written = json.loads((tmp_path / "m" / "import_report.json").read_text())
    assert written["loaded"]["projector.0.weight"] == {"source": "LLaVA-3D", "key": "model.mm_projector.0.weight"}
    card = (tmp_path / "m" / "README.md").read_text()
    assert "## What it has seen" in card
    assert "VGGT" in str(seen_or_unknown(tmp_path / "m").doubt("scene0000_00"))
    for text in (card, str(report)):
        assert "non-commercial" in text and "VGGT-1B-Commercial" in text and "CC BY-NC-SA" in text


def test_vid_llm_from_all_of_them(places: dict[str, Path], small_lm: Path, tmp_path: Path):
    given = Ingredients(vggt=places["vggt"], lm=small_lm, shorter_side=56)
    report = import_model("tiny", given, tmp_path / "m", dtype=torch.float16)
    assert {name.split(".")[0] for name in report.initial} == {
        "adapter", "gravity_head", "metric_depth", "position_embedding", "projector", "coordinate_embedding",
        "grounding"}  # fmt: skip
    assert {u.reason for u in report.unused} == {"not part of this model"}  # tiny has no point head
    model, processor = load_pretrained(tmp_path / "m")
    assert len(processor.tokenizer) <= model.config.text_config.vocab_size == model.token_table().shape[0]
    again = import_model("tiny", given, tmp_path / "again", dtype=torch.float16)
    assert again.loaded == report.loaded
    other = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "m" / "model.safetensors").items():
        assert torch.equal(tensor, other[name]), name


@torch.no_grad()
def test_a_causal_lm_keeps_its_logits(places: dict[str, Path], small_lm: Path, tmp_path: Path):
    import_model("tiny", Ingredients(vggt=places["vggt"], lm=small_lm), tmp_path / "m")
    model, processor = load_pretrained(tmp_path / "m")
    assert model.config.text_config.model_type == "qwen3" and model.config.text_config.tie_word_embeddings
    ids = torch.tensor([[4, 9, 5, 1, 17]])
    theirs = AutoModelForCausalLM.from_pretrained(small_lm)(ids).logits
    torch.testing.assert_close(model.language_model(ids).logits[..., :30], theirs, atol=1e-5, rtol=1e-5)
    assert processor.video_token_id < model.token_table().shape[0]


def test_tables_grow_by_an_average_word(places: dict[str, Path], tmp_path: Path, golden: Path):
    folder = write_llava_3d(tmp_path / "llava", golden, vocab_size=20)
    import_model("cascade", cascade(places, llava_3d=folder), tmp_path / "m")
    model, processor = load_pretrained(tmp_path / "m")
    rows = model.token_table()
    assert len(rows) == len(processor.tokenizer) > 20
    torch.testing.assert_close(rows[20:], rows[:20].mean(0).expand(len(rows) - 20, -1))
    assert model.get_output_embeddings().weight.shape == rows.shape


@torch.no_grad()
def test_dinov2_as_transformers_and_as_the_hub_write_it(
    places: dict[str, Path], small_lm: Path, tmp_path: Path, golden: Path
):
    images = torch.rand(1, 2, 3, 56, 56)
    config = Dinov2WithRegistersConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, patch_size=14, image_size=56, num_register_tokens=4
    )
    theirs = Dinov2WithRegistersModel(config).eval()
    theirs.save_pretrained(tmp_path / "dino")
    given = Ingredients(vggt=places["vggt"], dinov2=tmp_path / "dino", lm=small_lm)
    report = import_model("tiny", given, tmp_path / "m")
    assert {source for name, (source, _) in report.loaded.items() if name.startswith("encoder.")} == {"DINOv2"}
    assert "VGGT: DINOv2 goes before" in str(report)
    model = load_pretrained(tmp_path / "m")[0]
    found = model.encoder(images).tokens
    expected = theirs(normalise(images)[0]).last_hidden_state[:, 5:]
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)
    prefix = "aggregator.patch_embed."
    hub = {k.removeprefix(prefix): v for k, v in load_file(places["vggt"] / "model.safetensors").items()
           if k.startswith(prefix)}  # fmt: skip
    (tmp_path / "hub").mkdir()
    torch.save(hub, tmp_path / "hub" / "dinov2.pth")
    shape = {"model_type": "dinov2_with_registers", "hidden_size": 64, "num_hidden_layers": 2, "image_size": 518,
             "num_attention_heads": 4, "patch_size": 14, "num_register_tokens": 4}  # fmt: skip
    (tmp_path / "hub" / "config.json").write_text(json.dumps(shape))
    import_model("tiny", Ingredients(vggt=places["vggt"], dinov2=tmp_path / "hub", lm=small_lm), tmp_path / "h")
    encoder = load_pretrained(tmp_path / "h")[0].encoder
    constructor = json.loads((golden / "vggt_tiny_a" / "README.json").read_text())["constructor"]
    same = load_vggt(places["vggt"], constructor).encoder(images).tokens
    torch.testing.assert_close(encoder(images).tokens, same, atol=1e-5, rtol=1e-5)


def test_clip_from_elsewhere_goes_before_the_checkpoints_own(places: dict[str, Path], tmp_path: Path):
    given = cascade(places, clip=_whole_clip(tmp_path / "clip", places["llava"]))
    report = import_model("cascade", given, tmp_path / "m")
    assert {source for name, (source, _) in report.loaded.items() if name.startswith("clip.")} == {"CLIP"}
    reasons = {u.reason for u in report.unused}
    assert reasons == {"CLIP goes before", "not part of this model"}  # the text tower


def _whole_clip(folder: Path, llava: Path) -> Path:
    folder.mkdir()
    tower = {k.removeprefix("model.vision_tower.vision_tower."): v for file in sorted(llava.glob("*.safetensors"))
             for k, v in load_file(file).items() if k.startswith("model.vision_tower.")}  # fmt: skip
    save_file(tower | {"text_model.x": torch.zeros(1), "logit_scale": torch.zeros(1)}, folder / "model.safetensors")
    vision = json.loads((llava / "clip" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    return folder


def test_only_one_shard_is_open_at_a_time_and_one_is_held(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = most = 0
    held: list[int] = []
    read, flush = weight_files._read_shard, ShardWriter._flush

    def counted(file: Path, wanted: Any = None) -> Iterator[tuple[str, Tensor]]:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        yield from read(file, wanted)
        opened -= 1

    def measured(writer: ShardWriter) -> None:
        held.append(sum(t.nbytes for t in writer._waiting.values()))
        flush(writer)

    monkeypatch.setattr(weight_files, "_read_shard", counted)
    monkeypatch.setattr(ShardWriter, "_flush", measured)
    import_model("cascade", cascade(places), tmp_path / "m", shard_bytes=300_000)
    assert (opened, most) == (0, 1)
    assert len(held) > 5 and max(held) <= 300_000
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(held)
    assert isinstance(load_pretrained(tmp_path / "m")[0], CascadeForConditionalGeneration)


def test_bin_shards_give_the_same_model(places: dict[str, Path], tmp_path: Path, golden: Path):
    folder = write_llava_3d(tmp_path / "bin", golden, kind="bin")
    import_model("cascade", cascade(places), tmp_path / "a")
    import_model("cascade", cascade(places, llava_3d=folder), tmp_path / "b")
    other = load_file(tmp_path / "b" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "a" / "model.safetensors").items():
        assert torch.equal(tensor, other[name]), name


# ---- what cannot be read ----------------------------------------------------------------------------------------


class _Code:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_bad_checkpoints_are_told_in_one_line(
    places: dict[str, Path], golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    vggt, llava, out = str(places["vggt"]), write_llava_3d(tmp_path / "llava", golden), tmp_path / "m"

    def told(vggt: str | Path, llava: str | Path) -> str:
        return line_of_failure(["import", "--preset", "cascade", "--vggt", str(vggt), "--llava-3d", str(llava),
                                "-o", str(out)], capsys)  # fmt: skip

    shard = llava / "model-00002-of-00003.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    assert "1 of 3 shards missing, such as model-00002-of-00003.safetensors" in told(vggt, llava)
    shard.write_bytes(content[: len(content) // 2])
    assert "model-00002-of-00003.safetensors: truncated" in told(vggt, llava)
    torch.save({"a": torch.zeros(1), "b": _Code()}, tmp_path / "code.pt")
    assert "refused" in told(tmp_path / "code.pt", llava) and "system" in told(tmp_path / "code.pt", llava)
    (tmp_path / "half.pt").write_bytes((tmp_path / "code.pt").read_bytes()[:200])
    assert "half.pt: truncated or not a PyTorch file" in told(tmp_path / "half.pt", llava)
    shard.write_bytes(content)
    assert "not a VGGT checkpoint" in told(llava / "model-00001-of-00003.safetensors", llava)
    assert "expected LLaVA-3D's" in told(vggt, vggt)
    assert "no weights at" in told(tmp_path / "nowhere", llava)
    (tmp_path / "notes.txt").write_text("x")
    assert "cannot read weights from notes.txt" in told(tmp_path / "notes.txt", llava)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/nothing: no such folder, and it cannot be fetched" in told("nobody/nothing", llava)
    assert not out.exists()


def test_another_models_checkpoint_and_another_size(places: dict[str, Path], tmp_path: Path, golden: Path):
    save_file({"bert.embeddings.weight": torch.zeros(3, 3)}, tmp_path / "bert.safetensors")
    (tmp_path / "config.json").write_text((places["vggt"] / "config.json").read_text())
    with pytest.raises(ValueError, match=r"not a VGGT checkpoint \(its keys begin with bert"):
        import_model("cascade", cascade(places, vggt=tmp_path / "bert.safetensors"), tmp_path / "m")
    tensors = load_file(places["vggt"] / "model.safetensors")
    tensors["camera_head.token_norm.weight"] = torch.zeros(7)
    save_file(tensors, tmp_path / "wrong.safetensors")
    shapes = r"camera_head\.token_norm\.weight \(7,\), ours camera_head\.token_norm\.weight \(128,\)"
    with pytest.raises(ValueError, match=shapes):
        import_model("cascade", cascade(places, vggt=tmp_path / "wrong.safetensors"), tmp_path / "m")
    del tensors["camera_head.token_norm.weight"]
    save_file(tensors, tmp_path / "fewer.safetensors")
    with pytest.raises(ValueError, match=r"VGGT lacks weights: camera_head\.token_norm\.weight"):
        import_model("cascade", cascade(places, vggt=tmp_path / "fewer.safetensors"), tmp_path / "m")
    narrow = write_llava_3d(tmp_path / "narrow", golden)
    shapes = r"model\.mm_projector\.0\.weight \(64, 48\), ours projector\.0\.weight \(64, 64\)"
    with pytest.raises(ValueError, match=shapes):
        import_model("tiny", Ingredients(vggt=places["vggt"], llava_3d=narrow), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("preset", "changes", "told"),
    [
        ("huge", {}, "unknown preset"),
        ("cascade", {"llava_3d": None}, "give both"),
        ("cascade", {"lm": "x"}, "leave --lm"),
        ("tiny", {"llava_3d": None}, "give the language model"),
        ("tiny", {"camera_height_m": 1.5}, "belong to the cascade"),
    ],
)
def test_ingredients_that_do_not_fit(places: dict[str, Path], tmp_path: Path, preset: str, changes: dict, told: str):
    with pytest.raises(ValueError, match=told):
        import_model(preset, cascade(places, **changes), tmp_path / "m")


def test_numbered_shards_without_an_index(tmp_path: Path):
    write_shards(tmp_path, {name: torch.ones(1) for name in "abc"})
    (tmp_path / "model.safetensors.index.json").unlink()
    assert len(open_checkpoint(tmp_path).shards) == 3
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="1 of 3 shards missing"):
        open_checkpoint(tmp_path)


def test_an_index_may_not_leave_its_folder(tmp_path: Path):
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its folder"):
        open_checkpoint(tmp_path)


def test_other_forms_of_llava_are_refused(places: dict[str, Path], tmp_path: Path, golden: Path):
    folder = write_llava_3d(tmp_path / "llava", golden)
    settings = llava_3d_settings(golden, mm_projector_type="linear")
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="mm_projector_type = 'linear' is not supported"):
        import_model("cascade", cascade(places, llava_3d=folder), tmp_path / "m")
