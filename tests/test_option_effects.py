"""Options without an effect are refused by the verbs and warned about by training: a case for every row."""

from __future__ import annotations

from dataclasses import fields

import pytest

from vidllm.cli import main
from vidllm.cli.effects import TRAINING, VERBS, check_options, idle_options
from vidllm.cli.parser import build_parser
from vidllm.cli.training import configuration
from vidllm.experiments.rows import AblationConfig, table_named
from vidllm.training.config import flat

EVAL = ("eval", "scanqa")
RUN = (*EVAL, "--data", "ROOT", "-o", "OUT")
SCORE = (*EVAL, "--predictions", "P", "--references", "R")
#: For each row of VERBS: a command in whose mode an option has no effect, and one in which the same option has one.
VERB_CASES = (
    ((*SCORE, "-o", "OUT"), (*RUN, "--split", "test")),
    ((*RUN, "--per-item", "I.json"), (*SCORE, "--per-item", "I.json")),
    (("eval", "reconstruction", "--data", "ROOT", "-o", "OUT", "--setting", "raw"), (*RUN, "--setting", "raw")),
    ((*RUN, "--proposals", "gt"), ("eval", "scanrefer", "--data", "ROOT", "-o", "OUT", "--proposals", "gt")),
    ((*RUN, "--baselines", "none", "--blind", "B"), (*RUN, "--blind", "B")),
    (("info", "--language-dtype", "int8"), ("info", "--frames", "8", "--language-dtype", "int8")),
    (("import", "--preset", "tiny", "-o", "M", "--every-key", "--json"),
     ("import", "--preset", "tiny", "-o", "M", "--every-key")),
)  # fmt: skip
ONLY = ("--language-start", "0", "--language-share", "1", "--language-only-share", "1")
#: For each row of TRAINING: stage, the option, and what is given beside it where it has no effect and where it has one.
TRAINING_CASES = (
    ("stage2", ("--spike-window", "7"), ("--spike-factor", "0"), ()),
    ("stage2", ("--parallel", "fsdp"), (), None),
    ("stage2", ("--adapter", "none"), ("--init-from", "M"), ()),
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
    ("stage2", ("--guide-layers", "2"), ("--guide-weight", "0"), ()),
    ("stage2", ("--bearing-weight", "1"), ("--patch-point-weight", "0"), ()),
    ("stage2", ("--place-weight", "1"), ("--word-weight", "0"), ()),
    ("stage1", ("--structure", "streams"), ("--structure-weight", "0"), ()),
    ("finetune", ("--lora-rank", "4"), (), ("--lora",)),
    ("teacher language", ("--questions", "3"), ("--contrastive-steps", "4000"), ()),
    ("teacher language", ("--shards-a-step", "2"), ("--contrastive-steps", "0"), ()),
    ("main", ("--model", "M"), (), None),
    ("scale", ("--steps", "5"), (), None),
    ("adapter", ("--teacher-steps", "5"), ("--teacher-geometry", "A", "--teacher-language", "B"), ()),
    ("main", ("--teacher-steps", "5"), ("--teacher-geometry", "A", "--teacher-language", "B"), ()),
)  # fmt: skip


def test_every_row_of_the_table_has_a_case_and_names_options_that_exist():
    assert len(VERB_CASES) == len(VERBS)
    named = {name for effect in TRAINING for name in effect.options}
    usual = [configuration(stage, [])[0] for stage in ("stage2", "stage1", "finetune", "teacher language")]
    assert named <= {name for config in usual for name in flat(config)} | {f.name for f in fields(AblationConfig)}
    covered = {effect for effect in TRAINING for _, option, *_ in TRAINING_CASES if _name(option) in effect.options}
    assert covered == {effect for effect in TRAINING}


@pytest.mark.parametrize(("without", "with_one"), VERB_CASES)
def test_a_verb_refuses_an_option_without_effect(without, with_one):
    options = build_parser().parse_args(without)
    with pytest.raises(ValueError, match="no effect here"):
        check_options(options, options.parser)
    options = build_parser().parse_args(with_one)
    check_options(options, options.parser)


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
    for table in ("main", "adapter", "metric", "stages", "scale"):
        assert _lines(table, ()) == []


def test_several_processes_use_the_option_parallel(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _lines("stage2", ("--parallel", "fsdp", "--guide-weight", "0", "--word-weight", "0")) == []


def _name(option):
    return option[0].lstrip("-").replace("-", "_")


def _lines(stage, argv):
    if stage not in ("main", "adapter", "metric", "stages", "scale"):
        config, usual = configuration(stage, list(argv))[0], configuration(stage, [])[0]
        return idle_options(type(config), flat(config), flat(usual))
    from vidllm.cli.models import options_of

    table = table_named(stage)
    known = {"trained": table.trained, "two_stages": any(row.stage1 is not None for row in table.rows)}
    values = vars(options_of(AblationConfig, "ablate", list(argv)))
    return idle_options(AblationConfig, values | known, vars(AblationConfig()))
