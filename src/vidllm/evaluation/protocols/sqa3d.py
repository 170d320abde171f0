"""SQA3D: answers to situated questions, scored as the two official programs and as four published evaluators do.

References hold the two v1 files and the answer vocabulary (``questions``, ``annotations``, ``answer_dict``);
predictions are the list of the official free-form program, with ``question_id`` added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vidllm.datasets.records import Entry, Table, text
from vidllm.evaluation.protocols import Protocol, by_name
from vidllm.evaluation.protocols.answers import (
    Answered,
    Match,
    Matches,
    clean_answer,
    match_any,
    match_any_nonempty,
    match_in_order,
    matched,
    tokenized,
    uncapitalized,
    usual_fields,
)
from vidllm.evaluation.protocols.files import as_is, identifier, rows
from vidllm.evaluation.text_metrics.captions import UNDERSCORED, caption_scores
from vidllm.evaluation.text_metrics.ptb import tokenize

_PREFIXES = ("what", "is", "how", "can", "which")
_TYPES = (*_PREFIXES, "others")
_CLOSED_TYPES = (*_PREFIXES, "other")
_EPSILON = 1e-10  # added to the number of questions of a type
_POSE = ("scene_id", "rotation", "position", "question", "situation")


def _first_answer(entry: Entry, field: str, value: Any) -> str:
    first = value[0].get("answer") if isinstance(value, list) and value and isinstance(value[0], dict) else None
    if not isinstance(first, str):
        raise entry.error(field, 'a list of {"answer": text}', value)
    return first


_QUESTION: Table = {
    "question_id": identifier, "question": text, "scene_id": (as_is, None), "situation": (as_is, None),
}  # fmt: skip
_ANNOTATION: Table = {
    "question_id": (identifier, ""), "answers": _first_answer, "rotation": (as_is, None), "position": (as_is, None),
}  # fmt: skip
_PREDICTION: Table = {"question_id": identifier, "answer": text}
_PLACED: Table = {
    "answer": text, "scene_id": (as_is, None), "question": (as_is, None), "situation": (as_is, None),
    "agent_rot": (as_is, None), "agent_pos": (as_is, None),
}  # fmt: skip


@dataclass(frozen=True)
class _Question:
    """One question with its annotation; ``pose`` is what the official program knows an item by."""

    text: str
    answer: str
    pose: str


@dataclass(frozen=True)
class _Files:
    """Questions by id in the order of their file, the predictions, and the vocabulary as it is."""

    questions: Mapping[str, _Question]
    data: Answered
    vocabulary: Any


def _pose(values: Mapping[str, Any]) -> str:
    return repr(tuple(values[name] for name in _POSE))


def _questions(references: Any) -> dict[str, _Question]:
    if not isinstance(references, dict):
        raise ValueError("references: expected an object with 'questions', 'annotations' and 'answer_dict'")
    inner = {}
    for name in ("questions", "annotations"):  # the list inside the file of this name, or the list itself
        content = references.get(name)
        inner[name] = rows(content.get(name) if isinstance(content, dict) else content, f"references[{name!r}]")
    annotations = {str(entry.values.get("question_id")): entry for entry in reversed(inner["annotations"])}
    joined: dict[str, _Question] = {}
    for entry in inner["questions"]:
        values = entry.read(_QUESTION)
        key = values["question_id"]
        if key not in annotations:
            raise ValueError(f"{entry.where}: has no annotation; give the annotations of the same split")
        if key in joined:
            raise ValueError(f"{entry.where}: the id {key} occurs twice; ids must be unique")
        values |= annotations[key].read(_ANNOTATION)
        joined[key] = _Question(values["question"], values["answers"], _pose(values))
    return joined


def _read(references: Any, predictions: Any, own: str = "") -> _Files:
    questions = _questions(references)
    given = usual_fields(predictions, own, "answer", lambda said: said)
    found = [entry.read(_PREDICTION) for entry in rows(given, "predictions")]
    answers = {key: [question.answer] for key, question in questions.items()}
    data = Answered(answers, [(row["question_id"], [row["answer"]]) for row in found])
    return _Files(questions, data, references.get("answer_dict"))


def _prefix_type(question: str) -> int:
    """Index of the type by the first letters, as the peers do it: "Island" is an "is"."""
    start = question.lstrip().lower()
    return next((i for i, prefix in enumerate(_PREFIXES) if start.startswith(prefix)), len(_PREFIXES))


def _first_word_type(question: str) -> int:
    """Index of the type by the first word, as the official program does it."""
    plain = question.lower()
    for mark in ",.?":
        plain = plain.replace(mark, "")
    words = plain.replace("'s", " 's").split()
    return _PREFIXES.index(words[0]) if words and words[0] in _PREFIXES else len(_PREFIXES)


# -- the official free-form program


def _read_placed(references: Any, predictions: Any) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Annotated answers by pose, and (pose, answer) of every prediction."""
    answers = {question.pose: question.answer for question in _questions(references).values()}
    found = [entry.read(_PLACED) for entry in rows(predictions, "predictions")]
    return answers, [
        (_pose({**row, "rotation": row["agent_rot"], "position": row["agent_pos"]}), row["answer"]) for row in found
    ]


def _loosely_equal(prediction: str, answer: str) -> bool:
    """A part of the answer, with or without blanks, or any word in common."""
    return (
        prediction in answer
        or "".join(prediction.split()) in "".join(answer.split())
        or bool(set(prediction.split()) & set(answer.split()))
    )


def _official_llm(files: tuple[dict[str, str], list[tuple[str, str]]]) -> dict[str, Any]:
    """Any hit counts for an item; the denominator is the number of distinct predicted items."""
    answers, predictions = files
    correct: dict[str, bool] = {}
    for pose, answer in predictions:
        hit = pose in answers and _loosely_equal(clean_answer(answer), answers[pose])
        correct[pose] = correct.get(pose, False) or hit
    hits, total = sum(correct.values()), len(correct)
    share = hits / total
    return {"full": {"correct": hits, "total": total, "acc": share, "printed": f"Acc: {hits}/{total} = {share:.4f}"}}


# -- the official closed-vocabulary program


def _closed(files: _Files, answers: Mapping[str, str], classes: dict[str, Any]) -> dict[str, float]:
    """Percent of questions whose answer is in the vocabulary and equal to the annotated one; NaN of no question."""
    hits: dict[str, list[bool]] = {name: [] for name in ("overall", *_CLOSED_TYPES)}
    for key, question in files.questions.items():
        known = question.answer in classes and answers[key] in classes
        hit = known and classes[question.answer] == classes[answers[key]]
        hits["overall"].append(hit)
        hits[_CLOSED_TYPES[_first_word_type(question.text)]].append(hit)
    return {name: 100.0 * (sum(group) / len(group)) if group else math.nan for name, group in hits.items()}


def _official_closed(files: _Files) -> dict[str, Any]:
    answers = files.data.complete("the official program")
    content = files.vocabulary
    classes = content[0] if isinstance(content, list) and content else content
    if not isinstance(classes, dict):
        raise ValueError("references['answer_dict']: expected the content of answer_dict.json, a list of two objects")
    cleaned = {key: clean_answer(answer) for key, answer in answers.items()}
    return {
        "raw_prediction_string": _closed(files, answers, classes),
        "prediction_after_sqa3d_clean_answer": _closed(files, cleaned, classes),
    }


def _official_closed_items(files: _Files) -> dict[str, Any]:
    files.data.complete("the official program")
    return {key: {"official_type": _CLOSED_TYPES[_first_word_type(q.text)]} for key, q in files.questions.items()}


# -- the peers


def _by_type(files: _Files, found: Matches, names: tuple[str, str, str, str]) -> dict[str, float]:
    """EM and EM-R over all questions and over those of each type, under the names given."""
    scores = dict(zip(names[:2], found.mean(), strict=True))
    kinds = [_prefix_type(files.questions[key].text) for key in found.keys]
    for kind in range(len(_TYPES)):
        group = [flag for flag, other in zip(found.flags, kinds, strict=True) if other == kind]
        for i in (0, 1):
            scores[f"{names[2 + i]}{kind}"] = sum(flag[i] for flag in group) / (len(group) + _EPSILON)
    return scores


def _complete(files: _Files, script: str, match: Match) -> Matches:
    return matched(files.data, files.data.complete(script), match)


def _leo(files: _Files) -> dict[str, Any]:
    found = _complete(files, "LEO's evaluator", match_in_order)
    flags = _by_type(files, found, ("em_overall", "em_refined_overall", "em_type", "em_refined_type"))
    captions = caption_scores(found.references, found.predictions)
    return {"target_metric": flags["em_refined_overall"], **flags, **captions.leo("_overall")}


def _leo_items(files: _Files) -> dict[str, Any]:
    return {
        key: {"leo_em": exact, "leo_em_refined": refined, "pred_clean": said, "gt_clean": truth,
              "leo_type": _prefix_type(files.questions[key].text)}
        for key, said, (truth,), (exact, refined) in _complete(files, "LEO's evaluator", match_in_order).items()
    }  # fmt: skip


_BRACKETED = ("[sqa3d] EM1", "[sqa3d] EM1_refined", "[sqa3d] EM_type", "[sqa3d] EM_refined_type")


def _llava3d(files: _Files) -> dict[str, Any]:
    return _by_type(files, _complete(files, "LLaVA-3D's evaluator", match_any), _BRACKETED)


def _chatscene(files: _Files) -> dict[str, Any]:
    first = files.data.known("Chat-Scene's evaluator")
    given = {key: uncapitalized(first[key]) for key in files.questions if key in first}
    found = matched(files.data, given, match_any_nonempty)
    references = tokenized([[truth.strip() for truth in group] for group in found.references])
    captions = caption_scores(references, tokenize(found.predictions))
    return {**_by_type(files, found, _BRACKETED), **captions.totals([f"[sqa3d] {name}" for name in UNDERSCORED])}


def _video3dllm(files: _Files) -> dict[str, Any]:
    """EM in percent over the rows of the file, for all of them and for the types that occur."""
    questions = files.questions
    files.data.known("Video-3D-LLM's script")
    flags: dict[str, list[int]] = {"all": []}
    for key, (answer,) in files.data.rows:
        flag = int(clean_answer(answer) == clean_answer(questions[key].answer))
        flags["all"].append(flag)
        flags.setdefault(_TYPES[_prefix_type(questions[key].text)], []).append(flag)
    return {name: 100.0 * sum(group) / len(group) for name, group in flags.items()}


_FRACTIONS = "fractions; CIDEr with its factor 10 only"
PROTOCOLS = by_name(
    Protocol("official_closed", "SilongYong/SQA3D MCAN/train_sqa.py", "percent", _read,
             _official_closed, _official_closed_items),
    Protocol("official_llm", "SilongYong/SQA3D LLM/eval_sqa3d_llm.py", "fraction", _read_placed, _official_llm),
    Protocol("leo", "embodied-generalist/embodied-generalist evaluator/sqa3d_eval.py", _FRACTIONS, _read,
             _leo, _leo_items),
    Protocol("llava3d", "ZCMax/LLaVA-3D llava/eval/sqa3d_evaluator.py", "fractions",
             partial(_read, own="llava3d"), _llava3d),
    Protocol("video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_sqa3d.py", "percent",
             partial(_read, own="video3dllm"), _video3dllm),
    Protocol("chatscene", "ZzZZCHS/Chat-Scene utils/eval.py", _FRACTIONS, partial(_read, own="chatscene"), _chatscene),
)  # fmt: skip
"""The evaluators of SQA3D by name; the first is the leaderboard's."""
