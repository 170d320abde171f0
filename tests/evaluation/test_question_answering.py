"""ScanQA and SQA3D under every protocol, against numbers of the published evaluators, and the command line."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evaluation_data import differences, load

from vidllm.cli import main
from vidllm.evaluation.protocols import NOT_AVAILABLE, protocol, protocols
from vidllm.evaluation.protocols.answers import clean_answer, match_any, match_any_nonempty, match_in_order
from vidllm.evaluation.text_metrics import captions

_QUESTION = {"question_id": "q0", "question": "What is red?", "answers": ["chair", "a chair"]}
_ANSWER = {"question_id": "q0", "answer_top10": ["chair"]}


@pytest.fixture(scope="module")
def stored(golden: Path) -> dict[str, Any]:
    return {name: load(golden, name) for name in ("scanqa", "sqa3d", "micro_text")}


@pytest.fixture(autouse=True)
def no_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR has tests of its own; here it is not there, so that its places are tested too."""
    monkeypatch.setattr(captions, "meteor", lambda *_: None)


_SCANQA = ["official", "video3dllm", "3drs", "leo", "llava3d", "chatscene", "ll3da"]
_SQA3D = ["official_closed", "official_llm", "leo", "llava3d", "video3dllm", "chatscene"]


@pytest.mark.parametrize(
    ("task", "name"), [("scanqa", name) for name in _SCANQA] + [("sqa3d", name) for name in _SQA3D]
)
def test_scores_agree_with_the_published_evaluator(stored, task, name):
    data = stored[task]
    entry, wanted = protocol(task, name), data["scores"][name]
    if name == "official_llm":
        wanted = {"full": wanted["full"]}
    assert differences(entry.score(data["references"], data["predictions"]), wanted) == []
    if name in data["per_item"]:
        assert entry.items is not None
        assert differences(entry.per_item(data["references"], data["predictions"]), data["per_item"][name]) == []


def test_every_stored_protocol_is_there(stored):
    assert set(protocols("scanqa")) == set(stored["scanqa"]["scores"]) == set(_SCANQA)
    assert set(protocols("sqa3d")) == set(stored["sqa3d"]["scores"]) == set(_SQA3D)
    with pytest.raises(ValueError, match="known: scanqa"):
        protocols("scanqb")
    with pytest.raises(ValueError, match="known: official"):
        protocol("scanqa", "offical")


def test_the_free_form_program_counts_distinct_predicted_items_and_any_hit(stored):
    data, score = stored["sqa3d"], protocol("sqa3d", "official_llm").score
    rows, wanted = data["predictions"], data["scores"]["official_llm"]
    answers = {a["question_id"]: a["answers"][0]["answer"] for a in data["references"]["annotations"]["annotations"]}
    unknown = [rows[0] | {"scene_id": f"unknown scene {i}"} for i in range(2)]
    oracle = [row | {"answer": answers[row["question_id"]]} for row in rows[:20]]
    for predictions, name in (
        (rows[:-25], "without_last_25_predictions"),
        (rows + unknown, "plus_2_unknown_items"),
        (rows + oracle, "plus_20_oracle_duplicates"),
    ):
        assert differences(score(data["references"], predictions)["full"], wanted[name], name) == []


def test_scoring_leaves_the_files_as_they_are(stored):
    data = stored["sqa3d"]
    before = copy.deepcopy((data["references"], data["predictions"]))
    for name in ("official_llm", "llava3d"):
        protocol("sqa3d", name).score(data["references"], data["predictions"])
    assert before == (data["references"], data["predictions"])


def test_answers_are_cleaned_and_matched_as_published(stored):
    micro = stored["micro_text"]
    assert [clean_answer(item["input"]) for item in micro["clean_answer"]] == [
        i["output"] for i in micro["clean_answer"]
    ]
    for name, match in (("leo", match_in_order), ("llava3d", match_any), ("chatscene", match_any_nonempty)):
        found = [list(match(item["pred"], item["refs"])) for item in micro["answer_match"]]
        assert found == [item[name] for item in micro["answer_match"]], name


def test_an_empty_answer_matches_everything_or_nothing():
    assert match_in_order("", ["chair"]) == match_any("", ["chair"]) == (0, 1)
    assert match_any_nonempty("", ["chair"]) == (0, 0)


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ([_QUESTION], [], "predictions: the list is empty"),
        ([_QUESTION], {"q0": "chair"}, "predictions: expected a list of objects"),
        ([_QUESTION], [{"question_id": "q0"}], r"predictions: entry 0 \(question_id q0\): needs 'answer_top10'"),
        ([_QUESTION], [{"question_id": "q0", "answer_top10": []}], "question_id q0.* at least one string"),
        ([_QUESTION], [{"answer_top10": ["chair"]}], "predictions: entry 0: needs 'question_id'"),
        ([_QUESTION], [_ANSWER, _ANSWER | {"question_id": "q9"}], "unknown ids q9"),
        ([_QUESTION, _QUESTION | {"question_id": "q1"}], [_ANSWER], "no prediction for q1"),
        ([_QUESTION, _QUESTION], [_ANSWER], "q0 occurs twice"),
        ([_QUESTION | {"answers": []}], [_ANSWER], "references: entry 0 .*q0"),
    ],
)
def test_bad_entries_are_named(references, predictions, message):
    with pytest.raises(ValueError, match=message):
        protocol("scanqa", "official").score(references, predictions)


def test_a_missing_answer_leaves_the_denominator_of_some_evaluators_with_a_warning():
    references = [_QUESTION, _QUESTION | {"question_id": "q1"}]
    with pytest.warns(UserWarning, match="no prediction for q1"):
        scores = protocol("scanqa", "video3dllm").score(references, [_ANSWER])
    assert scores["EM (fraction)"] == 1.0 and scores["count"] == 1


def test_ids_may_be_strings_or_numbers(stored):
    data = stored["sqa3d"]
    rows = [row | {"question_id": str(row["question_id"])} for row in data["predictions"]]
    entry = protocol("sqa3d", "llava3d")
    assert entry.score(data["references"], rows) == entry.score(data["references"], data["predictions"])


@pytest.fixture
def files(tmp_path: Path, stored: dict[str, Any]) -> list[str]:
    for name in ("references", "predictions"):
        (tmp_path / f"{name}.json").write_text(json.dumps(stored["sqa3d"][name]))
    return ["--predictions", str(tmp_path / "predictions.json"), "--references", str(tmp_path / "references.json")]


def test_the_command_prints_exactly_the_scores(files, stored, capsys):
    assert main(["eval", "sqa3d", *files, "--protocol", "llava3d", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["source"] == protocol("sqa3d", "llava3d").source and printed["versions"]["vidllm"]
    assert len(printed["predictions"]["sha256"]) == 64 and printed["references"]["file"] == "references.json"
    assert (printed["task"], printed["protocol"]) == ("sqa3d", "llava3d")
    assert differences(printed["scores"], stored["sqa3d"]["scores"]["llava3d"]) == []


def test_the_table_names_protocol_source_and_checksums(files, capsys):
    assert main(["eval", "sqa3d", *files, "--protocol", "all"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("sha256 ") == 2 and printed.count("scale: ") == len(_SQA3D)
    assert "SilongYong/SQA3D MCAN/train_sqa.py" in printed and NOT_AVAILABLE in printed


def test_scoring_files_imports_no_torch(files):
    run = f"main({['eval', 'sqa3d', *files]!r})"
    code = f"import sys; from vidllm.cli import main; {run}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0) and "sha256" in done.stdout


def test_values_by_item_are_written(files, tmp_path, stored, capsys):
    out = tmp_path / "items" / "leo.json"
    assert main(["eval", "sqa3d", *files, "--protocol", "leo", "--per-item", str(out)]) == 0
    assert differences(json.loads(out.read_text()), stored["sqa3d"]["per_item"]["leo"]) == []
    assert main(["eval", "sqa3d", *files, "--protocol", "video3dllm", "--per-item", str(out)]) == 2
    assert "official_closed, leo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ('[{"a": 1},', "not JSON at character 11"),
        ("[]", "the list is empty"),
        ("3", "a list of"),
        ("", "is empty"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "an integer of 5000 digits"),
        ('{"question_id": "a", "answer": "b"}\n{"question_id": ', "line 2: not JSON"),
    ],
)
def test_bad_files_are_one_line(files, content, message, capsys):
    path = Path(files[1])
    path.unlink() if content is None else path.write_text(content)
    assert main(["eval", "sqa3d", *files, "--protocol", "leo"]) == 2
    error = capsys.readouterr().err
    assert message in error and path.name in error and error.count("\n") == 1
