"""The files for lmms-eval: their YAML names functions that exist, and they score as vidllm itself does."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import av
import pytest
import yaml

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.harness import Plan, evaluate
from vidllm.evaluation.protocols import protocol

HERE = Path(__file__).parents[2] / "integrations" / "lmms_eval"
TASKS = ("scanqa", "sqa3d", "scan2cap", "scanrefer")


def load_module(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def utils():
    return load_module(HERE / "tasks" / "utils.py", "lmms_eval_task_utils")


@pytest.fixture(scope="module")
def prepare():
    return load_module(HERE / "prepare.py", "lmms_eval_prepare")


def load_yaml(task, utils):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda _, node: getattr(utils, node.value.removeprefix("utils.")))
    return yaml.load((HERE / "tasks" / f"vidllm_{task}.yaml").read_text(), Loader)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_loaded_and_scores_its_documents(task, utils, prepare, exported):
    from vidllm.evaluation.tasks import task_named

    config = load_yaml(task, utils)
    assert config["task"] == f"vidllm_{task}" and config["output_type"] == "generate_until"
    assert config["dataset_kwargs"]["data_files"][config["test_split"]] == f"docs/{task}.jsonl"
    docs = json.loads(json.dumps(prepare.documents(task_named(task), exported, "val")))
    here = utils.of(docs[0])
    perfect = [_perfect(here, doc) for doc in docs]
    payloads = [config["process_results"](doc, [text]) for doc, text in zip(docs, perfect, strict=True)]
    for metric in config["metric_list"]:
        value = metric["aggregation"]([payload[metric["metric"]] for payload in payloads])
        meteor = "meteor" in metric["metric"]
        assert math.isnan(value) if meteor and math.isnan(value) else value > 0
    first = config["doc_to_text"](docs[0], config["lmms_eval_specific_kwargs"]["default"])
    assert docs[0]["question"] in first and isinstance(config["doc_to_target"](docs[0]), str)


def _perfect(here, doc):
    """What the annotations say, as a model would write it."""
    entry = here.items[doc["key"]].entry
    if here.task.kind == "answer":
        return entry.answers[0]
    if here.task.kind == "caption":
        return entry.descriptions[0].description
    box = here.box_of(doc["scene_id"], entry.object_id, doc["key"])
    low, high = box.min(0), box.max(0)
    return f"It is at {json.dumps([*((low + high) / 2).tolist(), *(high - low).tolist()])}."


def test_frames_are_given_as_pictures(utils, prepare, exported):
    from vidllm.evaluation.tasks import task_named

    doc = prepare.documents(task_named("scanqa"), exported, "val")[0]
    pictures = utils.doc_to_visual(doc)
    assert len(pictures) == 4 and pictures[0].size == (128, 96)


def test_an_answer_without_a_box_is_a_miss(utils, prepare, exported):
    from vidllm.evaluation.tasks import task_named

    docs = prepare.documents(task_named("scanrefer"), exported, "val")
    for text in ("no idea", "[1, 2]", "[NaN, 0, 0, 1, 1, 1]", ""):
        payloads = [utils.process_results(doc, [text])["official_acc_025"] for doc in docs]
        assert utils.scanrefer_official_acc_025(payloads) == 0


@pytest.fixture
def plugin(monkeypatch):
    """The model plug-in with the two names of lmms-eval that it imports."""
    api = types.ModuleType("lmms_eval.api.model")
    api.lmms = type("lmms", (), {"__init__": lambda self: setattr(self, "task_dict", {})})
    for name in ("lmms_eval", "lmms_eval.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", api)
    return load_module(HERE / "vidllm_model.py", "lmms_eval_vidllm_model")


@pytest.fixture(scope="module")
def vsi(prepare, exported, tmp_path_factory):
    """The folder that lmms-eval's own task takes for VSI-Bench."""
    out = tmp_path_factory.mktemp("vsi")
    assert prepare.write_vsi(exported, "val", out) == len(_rows(exported / "vsi" / "val.jsonl"))
    return out


def _rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rooms_are_written_as_vsi_bench_without_loss(vsi, exported, prepare, tmp_path):
    folder = vsi / "nyu-visionx" / "VSI-Bench"
    rows = _rows(exported / "vsi" / "val.jsonl")
    assert _rows(folder / "full.jsonl") == rows
    assert _rows(folder / "debiased.jsonl") == [row for row in rows if not row["pruned"]]
    listed = yaml.safe_load((folder / "README.md").read_text().split("---")[1])["configs"]
    assert {one["config_name"]: one["data_files"][0]["path"] for one in listed} == {
        "full": "full.jsonl", "debiased": "debiased.jsonl"
    }  # fmt: skip
    scene = DataRoot(exported).scene(rows[0]["scene_name"])
    with av.open(str(vsi / "hf" / "vsibench" / "rooms" / f"{rows[0]['scene_name']}.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert all((frame == scene.colour(int(n))).all() for frame, n in zip(frames, scene.posed, strict=True))
    with pytest.raises(ValueError, match=r"no vsi/test.jsonl; write rooms there with vidllm rooms export --split test"):
        prepare.write_vsi(exported, "test", tmp_path)


def _of_vidllm_eval(exported, small, out):
    """The scores of ``vidllm eval vsi`` on the two rooms, and the answers by id."""
    plan = Plan("vsi", exported, out, ("lmms-eval-0.7.3",), frames=2, settings=("raw",), baselines=())
    scores = evaluate(plan, small)["protocols"]["lmms-eval-0.7.3"]["scores"]["vidllm.raw"]
    return scores, {row["key"]: row["answer"] for row in _rows(out / "predictions" / "vsi.val.vidllm.raw.jsonl")}


@pytest.mark.slow
def test_the_plugin_answers_vsi_bench_as_vidllm_eval(plugin, vsi, exported, small, small_folder, tmp_path):
    model = plugin.VidLLMForLmmsEval(str(small_folder), frames=2)
    docs = _rows(vsi / "nyu-visionx" / "VSI-Bench" / "full.jsonl")
    model.task_dict = {"vsibench": {"test": docs}}
    prompts = {item.question_id: item.prompt for item in DataRoot(exported).annotations("vsi", "val")}
    requests = [
        types.SimpleNamespace(
            args=(prompts[str(doc["id"])], {"max_new_tokens": 16}, _film_in(vsi), n, "vsibench", "test")
        )
        for n, doc in enumerate(docs)
    ]
    answers = model.generate_until(requests)
    assert dict(zip(prompts, answers, strict=True)) == _of_vidllm_eval(exported, small, tmp_path)[1]


def _film_in(vsi):
    return lambda doc: [str(vsi / "hf" / "vsibench" / doc["dataset"] / f"{doc['scene_name']}.mp4")]


@pytest.mark.slow
def test_lmms_eval_itself_prints_the_numbers_of_vidllm_eval(vsi, exported, small, small_folder, tmp_path):
    """Its own task, unchanged; only where lmms-eval is installed."""
    pytest.importorskip("lmms_eval")
    command = [sys.executable, str(HERE / "vidllm_model.py"), "--model", "vidllm", "--tasks", "vsibench"]
    command += ["--model_args", f"pretrained={small_folder},frames=2", "--log_samples", "--output_path", "logs"]
    told = subprocess.run(
        command,
        cwd=vsi,
        env=os.environ | {"HF_HOME": str(vsi / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    results = next((vsi / "logs").glob("**/*_results.json"), None)
    assert results is not None, told.stderr[-3000:]  # lmms-eval ends with 0 in any case
    (samples,) = (vsi / "logs").glob("**/*_samples_vsibench.jsonl")
    theirs = json.loads(results.read_text())["results"]["vsibench"]
    scores, answers = _of_vidllm_eval(exported, small, tmp_path)
    said = {str(row["vsibench_overall"]["id"]): row["vsibench_overall"]["prediction"] for row in _rows(samples)}
    assert said == answers
    assert {name: theirs[f"{name},none"] for name in scores if name != "debiased"} == {
        name: score for name, score in scores.items() if name != "debiased"
    }


@pytest.mark.slow
def test_the_plugin_gives_the_numbers_of_vidllm_eval(
    plugin, utils, prepare, exported, small, small_folder, tmp_path, monkeypatch
):
    from vidllm.evaluation import predicting
    from vidllm.evaluation.tasks import task_named

    monkeypatch.setattr(predicting, "MAX_ANSWER_TOKENS", 3)
    model = plugin.VidLLMForLmmsEval(str(small_folder), setting="raw", frames=2, batch_size=1)
    docs = prepare.documents(task_named("scanrefer"), exported, "val")
    model.task_dict = {"vidllm_scanrefer": {"val": docs}}
    requests = [
        types.SimpleNamespace(args=("", {}, utils.doc_to_visual, n, "vidllm_scanrefer", "val"))
        for n in range(len(docs))
    ]
    answers = model.generate_until(requests)
    payloads = [utils.process_results(doc, [text])["official_acc_025"] for doc, text in zip(docs, answers, strict=True)]
    plan = Plan("scanrefer", exported, tmp_path, ("official",), frames=2, settings=("raw",), baselines=())
    ours = evaluate(plan, small)["protocols"]["official"]["scores"]["vidllm.raw"]
    assert utils.scores(payloads, "official") == ours
    assert protocol("scanrefer", "official").name == "official"
    with pytest.raises(ValueError, match="generate_until"):
        model.loglikelihood([])
