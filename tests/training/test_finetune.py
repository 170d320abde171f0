"""Fine-tuning on one's own data: what learns and what stays, videos seen once, resuming, and that it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from interruptions import interrupted_at
from small_model import save_small_model

from vidllm.cli import main
from vidllm.datasets.jsonl import read_jsonl
from vidllm.evaluation.scene_metrics import score_examples
from vidllm.io.video import write_video
from vidllm.model import prompts
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import load_pretrained
from vidllm.scene import load
from vidllm.training.config import changed
from vidllm.training.finetune import FinetuneConfig, FinetuneRun, finetune, side_by_side
from vidllm.training.models import LANGUAGE_HALF
from vidllm.training.texts import OwnTexts, TextMaker

BOX = {"center": [1.5, 0.2, -0.3], "size": [0.6, 0.5, 0.8], "yaw": 0.2}
LINES = (
    {"video": "dark.mp4", "question": "how many chairs are there?", "answer": "two"},
    {"video": "dark.mp4", "expression": "the red chair", "box": BOX},
    {"video": "dark.mp4", "caption": "the red chair", "point": [1.0, 0.0, 0.0]},
    {"video": "light.mp4", "question": "the chair?", "answers": ["chairs", "the chairs"], "box": BOX},
    {"video": "light.mp4", "expression": "the chairs", "boxes": []},
)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("start"))


@pytest.fixture
def config(start, tmp_path):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "dark.mp4", rng.integers(0, 90, (4, 56, 70, 3), dtype=np.uint8), 5)
    write_video(tmp_path / "light.mp4", rng.integers(160, 255, (3, 70, 56, 3), dtype=np.uint8), 5)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return changed(
        FinetuneConfig(), data=str(tmp_path / "data.jsonl"), out=str(tmp_path / "run"), init_from=str(start),
        steps=3, scenes=2, warmup_steps=1, save_minutes=0.0, log_every=1, dtype="float32", device="cpu", lora_rank=4,
    )  # fmt: skip


def moved(start, folder):
    """Parts whose weights differ, half precision apart."""
    before, after = (load_pretrained(place)[0].state_dict() for place in (start, folder))
    assert set(before) == set(after)
    return {name.split(".")[0] for name in after if not torch.equal(before[name].half().float(), after[name])}


@pytest.mark.slow
def test_a_run_leaves_a_model_whose_language_half_alone_has_moved(config, start):
    folder = finetune(config, quiet)
    lines = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and {"text", "box_nce", "box_diou", "loss"} <= set(lines[0])
    parts = moved(start, folder)
    assert {"language_model", "projector", "grounding"} <= parts <= set(LANGUAGE_HALF)
    scene = load(folder).reconstruct(config.loop.data.replace("data.jsonl", "dark.mp4"))
    assert isinstance(scene.ask("the chair?"), str)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {"language_model", "projector", "position_embedding", "coordinate_embedding", "grounding"}),
        ({"lora": True, "train": ("language_model",)}, {"language_model"}),
        ({"train": ("adapter", "grounding")}, {"adapter", "grounding"}),
    ],
)
def test_gradients_reach_what_is_to_learn_and_nothing_else(config, changes, wanted):
    run = FinetuneRun(changed(config, **changes), quiet)
    rng = np.random.default_rng(0)
    run.losses(run.draw(0, rng), 0, rng).total().backward()
    having = {name for name, p in run.model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {name.split(".")[0] for name in having} == wanted
    assert all(p.requires_grad for name, p in run.model.named_parameters() if name in having)
    if "lora" in changes:
        assert all(".lora_B." in name for name in having)  # A has none while B is zero
    if "adapter" in wanted:
        assert all(name.startswith("adapter.exchange.write_language") for name in having if "adapter" in name)
    trained = {id(p) for p in run.parameters()}
    assert trained == {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in run.model.parameters() if p.requires_grad}


def test_with_the_adapter_the_geometry_stays(config):
    run = FinetuneRun(changed(config, train=("adapter",)), quiet)
    tokens = run.seen.scene(run.texts.videos[0]).to(run.device).tokens
    before = run.model.adapter(tokens)
    with torch.no_grad():
        for parameter in run.parameters():
            parameter.add_(torch.randn_like(parameter))
    after = run.model.adapter(tokens)
    assert torch.equal(before.geometry, after.geometry) and torch.equal(before.bridge, after.bridge)
    assert not torch.allclose(before.language, after.language)


@pytest.mark.slow
def test_the_cached_scene_gives_the_prefix_of_the_video_itself(config, monkeypatch):
    run = FinetuneRun(config, quiet)
    prefixes = []
    for video in run.texts.videos:
        lifted = run._lift(run.seen.scene(video).to(run.device))
        whole = run.model.encode_scene(run.seen.reader.read(video).images[None]).prefix
        for name in ("tokens", "patches", "patch_positions"):
            torch.testing.assert_close(getattr(lifted, name), getattr(whole, name), atol=5e-3, rtol=5e-3)
        prefixes.append(lifted)
    both = side_by_side(prefixes)
    for row, one in enumerate(prefixes):
        assert torch.equal(both.tokens[row][both.mask[row]], one.tokens[0][one.mask[0]])
        assert torch.equal(both.patches[row][both.patch_mask[row]], one.patches[0][one.patch_mask[0]])
    files = sorted(run.seen.folder.iterdir())
    files[0].write_bytes(b"cut")  # is seen again; the other is not
    looked = []
    encode = VidLLMForConditionalGeneration.encode
    monkeypatch.setattr(VidLLMForConditionalGeneration, "encode", lambda self, x: looked.append(1) or encode(self, x))
    again = FinetuneRun(config, quiet)
    for video in again.texts.videos:
        again.seen.scene(video)
    assert looked == [1] and sorted(again.seen.folder.iterdir()) == files
    other = FinetuneRun(changed(config, frames=2), quiet)
    assert len(list(other.seen.folder.iterdir())) == 4 and other.model.config.default_frames == 2


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_was_stopped_goes_on_as_an_unbroken_one(config, tmp_path, lora):
    config = changed(config, lora=lora)
    unbroken = load_pretrained(finetune(config, quiet))[0].state_dict()
    broken = changed(config, out=str(tmp_path / "broken"))
    with interrupted_at(2):
        finetune(broken, quiet)
    resumed = load_pretrained(finetune(broken, quiet))[0].state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


@pytest.mark.slow
def test_lora_learns_beside_a_language_model_that_stays(config):
    told = changed(config, steps=80, learning_rate=1e-2, lora=True, train=("language_model",), save_minutes=9.0)
    folder = finetune(told, quiet)
    losses = [json.loads(line)["text"] for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) / 5 < 0.95 * losses[0]  # 0.88 where this was written


@pytest.mark.slow
def test_it_learns_what_it_is_told(config, capsys):
    told = changed(config, steps=80, learning_rate=3e-3, save_minutes=9.0, log_every=80)
    examples = read_jsonl(config.loop.data)
    before = {row.measure: row for row in score_examples(load(config.init_from), examples)}
    folder = finetune(told, quiet)
    after = {row.measure: row for row in score_examples(load(folder), examples)}
    assert before["questions, exact match"].value == 0.0 and after["questions, exact match"].value == 1.0
    assert after["captions ROUGE-L"].value > before["captions ROUGE-L"].value
    assert after["no such object, accuracy"].value == 1.0 and after["one box Acc@0.25"].count == 2
    assert main(["data", "score", config.loop.data, "--model", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0] == {"measure": "questions, exact match", "count": 2, "value": 1.0, "baseline": 0.5}


@pytest.mark.slow
def test_the_command_runs_and_refuses(config, capsys, tmp_path):
    asked = ["train", "finetune", "--init-from", config.init_from, "--out", config.loop.out, "--steps", "1", "--data"]
    assert main([*asked, config.loop.data, "--lora", "--lora-rank", "2", "--dtype", "float32"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip().endswith("run/model") and "2 of 2 videos seen" in shown.err and "learn" in shown.err
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"video": "dark.mp4", "question": "q"}\n{"video": "lost.mp4", "caption": "c"}\n')
    for data, more, told in (
        (str(bad), [], "bad.jsonl: line 1: expected either 'answer'"),
        (config.loop.data, ["--max-text-tokens", "3"], "line 1 of the data has"),
        (config.loop.data, ["--train", "grounding", "--lora"], "add language_model to it"),
        (config.loop.data, ["--lora", "--lora-rank", "0"], "rank of LoRA must be at least 1"),
    ):
        assert main([*asked[:5], str(tmp_path / "other"), *asked[6:], data, *more]) == 2
        assert told in capsys.readouterr().err


def test_each_sentence_is_drawn_about_equally_often(config, tmp_path):
    tokenizer = load_pretrained(config.init_from)[1].tokenizer
    lines = [{"video": "dark.mp4", "question": f"how many {i}?", "answer": "two"} for i in range(40)] + [LINES[3]]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    maker = TextMaker(tokenizer)
    texts = OwnTexts(read_jsonl(tmp_path / "many.jsonl"), maker, 800)
    shares = texts.shares(8)
    assert shares == pytest.approx([5 / 6, 1 / 6])  # 8 of the first's 40 sentences, or both of the second's 2
    rng = np.random.default_rng(0)
    assert len(texts.draw(0, 8, rng)) == 8 and len({tuple(text.ids) for text in texts.draw(0, 40, rng)}) == 40
    said = [text for _ in range(30) for text in texts.draw(1, 8, rng)]
    found = {tuple(text.ids) for text in said if text.boxes is not None}
    wordings = prompts.grounding_prompt, prompts.multi_grounding_prompt
    assert found == {tuple(maker.text(wording("the chair?"), None, "").ids) for wording in wordings}
    answers = {tuple(text.ids) for text in said if text.boxes is None}
    assert answers == {tuple(maker.text(prompts.qa_prompt("the chair?"), a, "").ids) for a in ("chairs", "the chairs")}
