"""The ablation: its rows, a real miniature of it with resume, and the numbers of its tables."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from helpers import micro_config, micro_model, video
from teacher_models import save_teachers

from vidllm.experiments import runs
from vidllm.experiments.measuring import Rooms, measure_scale
from vidllm.experiments.rows import (
    ADAPTER,
    MAIN,
    SCALE,
    STAGES,
    TABLES,
    AblationConfig,
    Row,
    Table,
    ablation_joint,
    ablation_stage1,
    table_named,
)
from vidllm.experiments.runs import (
    Job,
    ablate,
    joint_config,
    publish,
    take_common,
    tokenizer_of,
    typical_unit,
    write_start,
)
from vidllm.experiments.tables import as_record, grid, report, statement, steps_of, verdict
from vidllm.model import presets
from vidllm.model.loading import load_pretrained
from vidllm.training.config import changed, tiny_test
from vidllm_rooms.evaluation import evaluate, remembered_clip
from vidllm_rooms.language.template_questions import template_questions
from vidllm_rooms.shards import render_scene


def quiet(line: str) -> None:
    pass


@cache
def small_room(seed, frames, height, width):
    """A room with a few words, which an untrained model answers at length."""
    clip, language = render_scene(0, frames, height, width)
    one_of_each = {item.kind: item for item in language.references if item.kind != "several"}
    return clip, replace(language, questions=language.questions[:1], references=tuple(one_of_each.values())[:2])


SMALL = Rooms(remembered_clip, partial(evaluate, render=small_room), template_questions)


@pytest.fixture
def micro(monkeypatch):
    """The smallest model as a preset."""
    monkeypatch.setitem(presets.PRESETS, "micro", micro_config)


@pytest.fixture(scope="module")
def teachers(rooms_folder, tmp_path_factory):
    return save_teachers(tmp_path_factory.mktemp("teachers"), sorted(rooms_folder.iterdir()))


@pytest.fixture
def config(rooms_folder, teachers, tmp_path, micro):
    small = tiny_test()
    joint = changed(
        ablation_joint(), warmup_steps=1, window_scenes=2, window_frames=(2,), clip_images=2, clip_frames=(2,),
        questions=3, references=2, captions=1, log_every=1, dtype="float32", save_minutes=small.loop.save_minutes,
    )  # fmt: skip
    distil = changed(
        ablation_stage1(), warmup_steps=1, clip_images=2, clip_frames=(2,), log_every=1, dtype="float32",
    )  # fmt: skip
    geometry, language, _ = teachers
    return AblationConfig(
        data=str(rooms_folder), out=str(tmp_path / "out"), preset="micro", seeds=(0, 1), steps=2, stage1_steps=1,
        language_steps=1, teacher_geometry=geometry, teacher_language=language, joint=joint, distil=distil,
    )  # fmt: skip


def job_of(config, row, seed=0):
    return Job(config, row, seed, range(1), SMALL, (config.teacher_geometry, config.teacher_language), 2.5, "row")


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_of_one_model_are_one_folder():
    keys = {name: [row.key("tiny") for row in table.rows] for name, table in TABLES.items()}
    assert keys["main"][3] == keys["metric"][2] == keys["stages"][2] == "full"
    assert keys["main"][2] == keys["stages"][0] == "single_stage"
    assert keys["adapter"][4] == "full" and ADAPTER.rows[4].key("paper") == "bridge_tokens-8"  # tiny's K is 8
    assert ADAPTER.rows[4].of("tiny").changes == {} and ADAPTER.rows[3].of("tiny").changes == {"bridge_tokens": 4}
    assert all(len(set(row)) == len(row) for row in keys.values())
    with pytest.raises(ValueError, match="main, adapter, metric, stages, scale"):
        table_named("everything")


def test_the_papers_steps_are_all_gains():
    for before, after in zip(MAIN.rows, MAIN.rows[1:], strict=False):
        assert all(after.paper[column] > before.paper[column] for column in MAIN.columns)
    assert [row.against for row in MAIN.rows] == [(), (0,), (1,), (2,)]


def test_every_row_takes_equal_steps(config):
    for row in (*MAIN.rows, *STAGES.rows):
        joint, stage1 = joint_config(job_of(config, row)), runs.stage1_config(job_of(config, row))
        steps, start = joint.loop.steps, joint.curriculum.language_start
        assert steps + (stage1.loop.steps if stage1 else 0) == config.steps
        assert steps - start == config.language_steps and joint.start.unit_m == 2.5
    assert runs.stage1_config(job_of(config, STAGES.rows[1])).structure_weight == 0
    assert joint_config(job_of(config, MAIN.rows[0])).start.metric_depth is False


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seeds": (1, 1)}, "--seeds"),
        ({"language_steps": 9}, "cannot hold"),
        ({"joint": changed(ablation_joint(), steps=5)}, "--joint.steps"),
        ({"distil": changed(ablation_stage1(), teacher_geometry="x")}, "--distil.teacher-geometry"),
    ],
)
def test_wrong_settings_are_refused(config, wrong, said):
    with pytest.raises(ValueError, match=said):
        ablate(MAIN, replace(config, **wrong), range(1), SMALL, quiet)


def test_a_given_teacher_is_read_before_any_row_is_trained(config):
    wrong = replace(config, teacher_language=config.teacher_geometry)
    with pytest.raises(ValueError, match="clip"):
        ablate(MAIN, wrong, range(1), SMALL, quiet)
    assert not (Path(config.out) / "runs").exists()


# ---- models ---------------------------------------------------------------------------------------------------------


def test_without_metric_depth_lengths_are_a_constant_times_relative_depth():
    bare, full = micro_model(metric_depth={"enabled": False}, scale={"unit_m": 2.5}), micro_model()
    assert take_common(bare, full) == len(bare.state_dict())
    images = video()
    with torch.no_grad():
        ours, theirs = bare.encode_scene(images).geometry, full.encode_scene(images).geometry
    relative = theirs.depth_m / theirs.scale.scale[:, None, None, None]
    torch.testing.assert_close(ours.depth_m, 2.5 * relative, rtol=1e-4, atol=1e-5)
    assert ours.metric_depth_m is None and not ours.scale.valid.any()
    full.config.scale.estimator, full.config.scale.unit_m = "none", 2.5
    with torch.no_grad():
        unaligned = full.encode_scene(images).geometry
    assert torch.equal(unaligned.depth_m, theirs.metric_depth_m)
    torch.testing.assert_close(unaligned.extrinsics, ours.extrinsics, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rows_of_a_seed_start_alike(config):
    config = replace(config, language_from=None)
    starts = []
    for row in (MAIN.rows[0], MAIN.rows[3], ADAPTER.rows[3]):
        job = job_of(config, row)
        tokenizer_of(config)
        write_start(job)
        starts.append(load_pretrained(str(job.folder / "start"))[0])
    bare, full, four = starts
    assert bare.config.adapter.variant == "none" and bare.metric_depth is None and bare.config.scale.unit_m == 2.5
    assert four.config.adapter.bridge_tokens == 4 and full.config.adapter.bridge_tokens == 3
    for other in (bare, four):
        theirs = full.state_dict()
        differ = {n for n, v in other.state_dict().items() if n not in theirs or not torch.equal(v, theirs[n])}
        assert differ <= {"adapter.exchange.tokens"}


@pytest.mark.slow
def test_a_given_start_is_taken_but_for_what_the_ablation_is_about(config, teachers):
    job = job_of(replace(config, init_from=teachers[2]), MAIN.rows[3])
    tokenizer_of(job.config)
    write_start(job)
    ours, theirs = (load_pretrained(place)[0].state_dict() for place in (str(job.folder / "start"), teachers[2]))
    same = {name.split(".")[0] for name, value in ours.items() if torch.equal(value, theirs[name])}
    assert {"encoder", "attention", "language_model", "grounding"} <= same and not {"adapter", "metric_depth"} & same


def test_the_missing_scale_is_the_datas_own(rooms_folder):
    assert 1.0 < typical_unit(str(rooms_folder), scenes=4, frames=2) < 5.0


# ---- a miniature ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ablation_is_trained_once_and_resumed(config, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load_language_only", lambda folder: None)
    table = Table("two", "two rows", (MAIN.rows[0], replace(MAIN.rows[3], against=(0,))), "a source", MAIN.columns)
    train, taken = runs.train, []

    def killed(joint, log, extra_questions):
        taken.append(joint.loop.out)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return train(joint, log, extra_questions)

    monkeypatch.setattr(runs, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        ablate(table, config, range(1), SMALL, quiet)
    said: list[str] = []
    results = ablate(table, config, range(1), SMALL, said.append)
    assert len(taken) == 5 and taken[2] == taken[3] and "[1/4] baseline, seed 0: done" in said
    assert [[one["seed"] for one in row] for row in results] == [[0, 1], [0, 1]]
    assert [one["row"] for row in results for one in row] == ["baseline"] * 2 + [table.rows[1].name] * 2
    full = results[1][0]
    assert {"qa", "abs_rel", "rotation_deg"} <= set(full["values"]) and "abs_rel" in full["baselines"]
    assert set(full["seconds"]) == {"stage1", "joint"} and full["parameters"] > results[0][0]["parameters"]
    kept = (tmp_path / "out" / "runs" / "full" / "seed_0").glob("*/*/")
    assert sorted(folder.name for folder in kept if folder.is_dir()) == ["model", "tokenizer", "tokenizer"]
    text = publish(table, config, results, tmp_path / "out", "vidllm ablate two")
    assert any(line.startswith("baseline ") for line in text) and (tmp_path / "out/two.png").stat().st_size > 1000
    assert json.loads((tmp_path / "out/two.json").read_text())["rows"][1]["results"][0] == full
    assert "`vidllm ablate two`" in (tmp_path / "out/two.md").read_text()
    assert ablate(table, config, range(1), SMALL, quiet) == results and len(taken) == 5
    with pytest.raises(ValueError, match=r"steps 2 \(now 3\).*another --out"):
        ablate(table, replace(config, steps=3), range(1), SMALL, quiet)
    again = ablate(Table("one", "one row", table.rows[:1]), replace(config, seeds=(0,)), range(1, 2), SMALL, quiet)
    assert len(taken) == 5 and again[0][0]["evaluation"]["rooms"] == [1, 2]


def test_scale_estimators_share_one_reconstruction(config, teachers, tmp_path):
    config = replace(config, model=teachers[2], eval_frames=3)
    results = measure_scale(SCALE, config, range(1), remembered_clip, quiet)
    assert [len(row) for row in results] == [2, 2, 2, 2]
    errors = [row[0]["values"]["scale_error"] for row in results]
    assert errors[0] == errors[1] != errors[2] == errors[3]  # three images: all of them vote
    said: list[str] = []
    assert measure_scale(SCALE, config, range(1), remembered_clip, said.append) == results
    assert said == [f"{SCALE.title}: done"]
    assert verdict(steps_of(SCALE, results)).startswith("The paper gives no numbers")


# ---- tables ---------------------------------------------------------------------------------------------------------


def planted(*rows):
    """Results of rows, given as (figure values by seed)."""
    made = []
    for row in rows:
        count = len(next(iter(row.values())))
        made.append([
            {"seed": s, "values": {k: v[s] for k, v in row.items()}, "baselines": {"qa": 0.4},
             "evaluation": {"rooms": [0, 64]}} for s in range(count)
        ])  # fmt: skip
    return made


def test_tables_tell_means_spreads_and_directions():
    table = Table("t", "title", MAIN.rows[:2], "a source", MAIN.columns)
    results = planted({"qa": [0.40, 0.42, 0.44], "abs_rel": [0.3, 0.2, 0.1]},
                      {"qa": [0.43, 0.46, 0.46], "abs_rel": [0.4, 0.2, 0.0]})  # fmt: skip
    assert grid(table, results) == [
        ["row", "QA EM", "abs-rel"], ["baseline", "0.420 ± 0.020", "0.200 ± 0.100"],
        ["+ CTA", "0.450 ± 0.017", "0.200 ± 0.200"], ["trivial baselines", "0.400", "-"],
    ]  # fmt: skip
    qa, depth = steps_of(table, results)
    assert qa.gain.mean == pytest.approx(0.03) and qa.gain.spread == pytest.approx(0.01)  # 0.03, 0.04, 0.02
    assert (qa.paper, qa.agrees, qa.clear, qa.column) == (2.7, True, True, "ScanQA EM")
    assert (depth.paper, depth.agrees, depth.clear) == (None, None, False)
    assert statement(qa).endswith("better by +0.030 ± 0.010 (clear of the spread); paper ScanQA EM +2.7: agrees")
    assert verdict([qa, depth]).startswith("Of 1 directions that the paper gives, 1 agree (1 of them clear")
    worse = steps_of(table, planted({"qa": [0.5], "abs_rel": [0.2]}, {"qa": [0.4], "abs_rel": [0.1]}))
    assert worse[0].agrees is False and worse[0].clear is None and math.isnan(worse[0].gain.spread)
    assert worse[1].gain.mean == pytest.approx(0.1) and "one seed" in statement(worse[0])  # less error is better
    same = steps_of(table, planted({"qa": [0.5]}, {"qa": [0.5]}))
    assert "no difference here" in statement(same[0]) and verdict(same).endswith("and 1 show no difference.")
    text = "\n".join(report(table, results, "command"))
    assert "n = 3 seeds" in text and "a source" in text and "89.3" in text
    record = as_record(table, results, "command")
    assert record["rows"][0]["figures"]["qa"]["count"] == 3 and record["steps"][0]["agrees"] is True


def test_a_figure_that_is_missing_is_left_out():
    table = Table("t", "title", (Row("a"), Row("b", against=(0,))))
    results = planted({"qa": [0.4, None]}, {"qa": [0.5, 0.6]})
    assert [(s.gain.count, s.gain.mean) for s in steps_of(table, results)] == [(1, pytest.approx(0.1))]
    assert grid(table, results)[1][1] == "0.400"
