"""Options without an effect are refused by the verbs and warned about by training: a case for every row."""

from __future__ import annotations

from functools import cache

import pytest

from vidllm.cli import evaluating, main, models, read_verb
from vidllm.cli.options import by_name, parse
from vidllm.cli.training import TRAINING, configuration, idle_lines
from vidllm.experiments.rows import AblationConfig, table_named

EVAL = ("eval", "scanqa")
RUN = (*EVAL, "--data", "ROOT", "-o", "OUT")
SCORE = (*EVAL, "--predictions", "P", "--references", "R")
#: For each row of EFFECTS of eval, info and import: a command in whose mode an option has no effect, and one in which
#: the same option has one.
VERB_CASES = (
    ((*SCORE, "-o", "OUT"), (*RUN, "--split", "test")),
    ((*RUN, "--per-item", "I.json"), (*SCORE, "--per-item", "I.json")),
    (("eval", "reconstruction", "--data", "ROOT", "-o", "OUT", "--baselines", "2d"), (*RUN, "--baselines", "2d")),
    (("eval", "reconstruction", "--data", "ROOT", "-o", "OUT", "--vlm", "V"), (*RUN, "--vlm", "V")),
    ((*RUN, "--proposals", "gt"), ("eval", "scanrefer", "--data", "ROOT", "-o", "OUT", "--proposals", "gt")),
    ((*RUN, "--baselines", "none", "--blind", "B"), (*RUN, "--blind", "B")),
    (("info", "--language-dtype", "int8"), ("info", "--frames", "8", "--language-dtype", "int8")),
    (("import", "--preset", "tiny", "-o", "M", "--every-key", "--json"),
     ("import", "--preset", "tiny", "-o", "M", "--every-key")),
    (("import", "--preset", "cascade", "-o", "M", "--geometry-weights", "W"),
     ("import", "--preset", "cascade", "-o", "M", "--geometry", "da3-small", "--geometry-weights", "W")),
)  # fmt: skip
TABLES = ("main", "adapter", "metric", "stages", "scale")
ONLY = ("--language-start", "0", "--language-share", "1", "--language-only-share", "1")
#: For each row of TRAINING: stage, the option, and what is given beside it where it has no effect and where it has one.
TRAINING_CASES = (
    ("stage2", ("--spike-window", "7"), ("--spike-factor", "0"), ()),
    ("stage2", ("--workers", "2"), (), ("--prefetch", "2")),
    ("stage2", ("--parallel", "fsdp"), (), None),
    ("stage2", ("--adapter", "none"), ("--init-from", "M"), ()),
    ("stage2", ("--literal-streams",), ("--init-from", "M"), ()),
    ("stage2", ("--canonical-focal", "1.2"), ("--no-metric-depth",), ()),
    ("stage2", ("--scale-estimator", "wls"), ("--no-scale-alignment",), ()),
    ("stage2", ("--bridge-tokens", "4"), ("--adapter", "none"), ()),
    ("stage2", ("--unit-m", "2"), (), ("--no-metric-depth",)),
    ("stage2", ("--lora-alpha", "8"), (), ("--lora-rank", "4")),
    ("stage2", ("--window-scenes", "3"), ("--language-start", "0", "--language-share", "1"), ()),
    ("stage2", ("--clip-frames", "3"), ("--language-start", "10000"), ()),
    ("stage2", ("--language-share", "0.5"), ("--language-start", "10000"), ()),
    ("stage2", ("--questions", "3"), ("--language-start", "10000"), ()),
    ("stage2", ("--named-share", "0.5"), ("--language-only-share", "0"), ()),
    ("stage2", ("--depth-weight", "3"), ONLY, ()),
    ("stage2", ("--dense-frames", "3"), ("--language-only-share", "1"), ()),
    ("stage2", ("--rotation-weight", "1"), ("--reconstruction", "vggt"), ()),
    ("stage2", ("--fit-steps", "7"), (), ("--geometry-from", "M")),
    ("stage2", ("--guide-layers", "2"), ("--guide-weight", "0"), ()),
    ("stage2", ("--bearing-weight", "1"), ("--patch-point-weight", "0"), ()),
    ("stage2", ("--represent-from", "M"), (), ("--represent-weight", "1")),
    ("stage2", ("--place-weight", "1"), ("--word-weight", "0"), ()),
    ("stage1", ("--structure", "streams"), ("--structure-weight", "0"), ()),
    ("finetune", ("--lora-rank", "4"), (), ("--lora",)),
    ("teacher language", ("--questions", "3"), ("--contrastive-steps", "4000"), ()),
    ("teacher language", ("--shards-a-step", "2"), ("--contrastive-steps", "0"), ()),
    ("main", ("--model", "M"), (), None),
    ("scale", ("--steps", "5"), (), None),
    ("main", ("--benchmark-split", "test"), (), ("--benchmarks", "ROOT")),
    ("adapter", ("--teacher-steps", "5"), ("--teacher-geometry", "A", "--teacher-language", "B"), ()),
    ("main", ("--teacher-steps", "5"), ("--teacher-geometry", "A", "--teacher-language", "B"), ()),
)  # fmt: skip


def test_every_row_of_the_table_has_a_case_and_names_options_that_exist():
    assert len(VERB_CASES) == sum(len(v.EFFECTS) for v in (evaluating.Evaluate, models.Info, models.Import))
    rows = [effect for effects in TRAINING.values() for effect in effects]
    configs = [_usual(stage) for stage in ("stage2", "stage1", "finetune", "teacher language")]
    known = {name for config in [*configs, AblationConfig()] for name in by_name(config)}
    assert {name for effect in rows for name in effect.options} <= known
    covered = {effect for effect in rows for _, option, *_ in TRAINING_CASES if _name(option) in effect.options}
    assert covered == set(rows)


@pytest.mark.parametrize(("without", "with_one"), VERB_CASES)
def test_a_verb_refuses_an_option_without_effect(without, with_one):
    with pytest.raises(ValueError, match="no effect here"):
        read_verb(list(without))
    read_verb(list(with_one))


def test_the_command_says_it_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SCORE, "-o", "out"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("vidllm: error: --output: no effect here")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("stage", "option", "idle", "used"), TRAINING_CASES)
def test_training_warns_of_an_option_without_effect(stage, option, idle, used):
    assert any(_name(option).replace("_", "-") in line for line in _lines(stage, (*option, *idle)))
    if used is not None:
        assert not any(_name(option).replace("_", "-") in line for line in _lines(stage, (*option, *used)))


def test_nothing_is_said_of_the_defaults():
    for stage in ("stage2", "stage1", "finetune", "blind", "teacher geometry", "teacher language"):
        assert _lines(stage, ()) == []
    for table in TABLES:
        assert _lines(table, ()) == []


def test_several_processes_use_the_option_parallel(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _lines("stage2", ("--parallel", "fsdp", "--guide-weight", "0", "--word-weight", "0")) == []


def _name(option):
    return option[0].lstrip("-").replace("-", "_")


@cache
def _usual(stage):
    return configuration(stage, [])[0] if stage not in TABLES else AblationConfig()


def _lines(stage, argv):
    usual = _usual(stage)
    if stage not in TABLES:
        return idle_lines(configuration(stage, list(argv))[0], usual)
    table = table_named(stage)
    two_stages = any(row.stage1 is not None for row in table.rows)
    config = parse(AblationConfig, "ablate", list(argv))
    return idle_lines(config, usual, trained=table.trained, two_stages=two_stages)
