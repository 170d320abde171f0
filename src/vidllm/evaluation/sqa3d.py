"""SQA3D: answers to situated questions, scored as the two official programs and as four published evaluators do.

References hold the two v1 files and the answer vocabulary (``questions``, ``annotations``, ``answer_dict``);
predictions are the list of the official free-form program, with ``question_id`` added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vidllm.evaluation.answers import clean_answer, match_any, match_any_nonempty, match_in_order
from vidllm.evaluation.entries import field, listed, refuse_missing, refuse_unknown, warn_missing
from vidllm.evaluation.protocol import Protocol
from vidllm.evaluation.scanqa import uncapitalized
from vidllm.evaluation.text_metrics.ptb import tokenize
from vidllm.evaluation.text_metrics.suite import caption_scores

__all__ = ["PROTOCOLS"]

_PREFIXES = ("what", "is", "how", "can", "which")
_TYPES = (*_PREFIXES, "others")
_CLOSED_TYPES = (*_PREFIXES, "other")
_EPSILON = 1e-10  # added to the number of questions of a type
_FRACTIONS = "fractions; CIDEr with its factor 10 only"

_Row = dict[str, Any]


@dataclass(frozen=True)
class _Question:
    """One question with its annotation; ``pose`` is what the official program knows an item by."""

    text: str
    answer: str
    pose: str


def _questions(references: Any) -> dict[str, _Question]:
    """Questions by id, in the order of the questions file."""
    if not isinstance(references, dict):
        raise ValueError("references: expected an object with 'questions', 'annotations' and 'answer_dict'")
    questions = _inner(references, "questions")
    annotations = {str(entry.get("question_id")): entry for entry in reversed(_inner(references, "annotations"))}
    joined: dict[str, _Question] = {}
    for index, entry in enumerate(questions):
        key = str(field(entry, "question_id", (str, int), f"question {index}"))
        if key not in annotations:
            raise ValueError(f"question {key} has no annotation; give the annotations of the same split")
        if key in joined:
            raise ValueError(f"question {key} occurs twice; ids must be unique")
        joined[key] = _join(entry, annotations[key], f"question {key}")
    return joined


def _inner(references: dict[str, Any], name: str) -> list[_Row]:
    """The list inside the file of this name, or the list itself."""
    content = references.get(name)
    return listed(content.get(name) if isinstance(content, dict) else content, f"references[{name!r}]")


def _join(question: _Row, annotation: _Row, what: str) -> _Question:
    answers = field(annotation, "answers", list, what)
    if not answers or not isinstance(answers[0], dict):
        raise ValueError(f"{what}: the annotation has no answer")
    text = field(question, "question", str, what)
    pose = _pose(question, annotation.get("rotation"), annotation.get("position"))
    return _Question(text, field(answers[0], "answer", str, what), pose)


def _pose(entry: _Row, rotation: Any, position: Any) -> str:
    return repr((entry.get("scene_id"), rotation, position, entry.get("question"), entry.get("situation")))


def _rows(predictions: Any) -> list[_Row]:
    rows = listed(predictions, "predictions")
    for index, entry in enumerate(rows):
        field(entry, "answer", str, f"prediction {entry.get('question_id', index)}")
    return rows


def _by_id(predictions: Any) -> list[tuple[str, str]]:
    """(id, answer) of every row."""
    return [
        (str(field(row, "question_id", (str, int), f"prediction {index}")), row["answer"])
        for index, row in enumerate(_rows(predictions))
    ]


def _complete(questions: dict[str, _Question], predictions: Any, script: str) -> dict[str, str]:
    """The answer of every question, the last where there are several."""
    answers = dict(_by_id(predictions))
    refuse_missing(questions, answers, script)
    refuse_unknown(answers, questions, script)
    return {key: answers[key] for key in questions}


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


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


# The official free-form program -----------------------------------------------------------------------------------


def _loosely_equal(prediction: str, answer: str) -> bool:
    """A part of the answer, with or without blanks, or any word in common."""
    return (
        prediction in answer
        or "".join(prediction.split()) in "".join(answer.split())
        or bool(set(prediction.split()) & set(answer.split()))
    )


def _free_form(questions: Sequence[_Question], rows: Sequence[_Row]) -> dict[str, Any]:
    """Any hit counts for an item; the denominator is the number of distinct predicted items."""
    answers = {question.pose: question.answer for question in questions}
    correct: dict[str, bool] = {}
    for row in rows:
        pose = _pose(row, row.get("agent_rot"), row.get("agent_pos"))
        hit = pose in answers and _loosely_equal(clean_answer(row["answer"]), answers[pose])
        correct[pose] = correct.get(pose, False) or hit
    hits, total = sum(correct.values()), len(correct)
    share = _ratio(hits, total)
    return {"correct": hits, "total": total, "acc": share, "printed": f"Acc: {hits}/{total} = {share:.4f}"}


def _official_llm_scores(references: Any, predictions: Any) -> dict[str, Any]:
    return {"full": _free_form(list(_questions(references).values()), _rows(predictions))}


# The official closed-vocabulary program ---------------------------------------------------------------------------


def _vocabulary(references: Any) -> dict[str, Any]:
    content = references.get("answer_dict")
    classes = content[0] if isinstance(content, list) and content else content
    if not isinstance(classes, dict):
        raise ValueError("references['answer_dict']: expected the content of answer_dict.json, a list of two objects")
    return classes


def _closed(questions: dict[str, _Question], answers: dict[str, str], classes: dict[str, Any]) -> dict[str, float]:
    """Percent of questions whose answer is in the vocabulary and equal to the annotated one."""
    hits, counts = [0] * len(_CLOSED_TYPES), [0] * len(_CLOSED_TYPES)
    for key, question in questions.items():
        kind = _first_word_type(question.text)
        counts[kind] += 1
        known = question.answer in classes and answers[key] in classes
        hits[kind] += known and classes[question.answer] == classes[answers[key]]
    scores = {"overall": 100.0 * _ratio(sum(hits), sum(counts))}
    return scores | {name: 100.0 * _ratio(hits[i], counts[i]) for i, name in enumerate(_CLOSED_TYPES)}


def _official_closed_scores(references: Any, predictions: Any) -> dict[str, Any]:
    questions = _questions(references)
    answers = _complete(questions, predictions, "the official program")
    classes = _vocabulary(references)
    cleaned = {key: clean_answer(answer) for key, answer in answers.items()}
    return {
        "raw_prediction_string": _closed(questions, answers, classes),
        "prediction_after_sqa3d_clean_answer": _closed(questions, cleaned, classes),
    }


def _official_closed_items(references: Any, predictions: Any) -> dict[str, Any]:
    _complete(_questions(references), predictions, "the official program")
    return {
        key: {"official_type": _CLOSED_TYPES[_first_word_type(question.text)]}
        for key, question in _questions(references).items()
    }


# The peers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matches:
    """Cleaned answers with their flags, by question."""

    keys: list[str]
    predictions: list[str]
    references: list[str]
    flags: list[tuple[int, int]]
    kinds: list[int]

    def scores(self, overall: tuple[str, str], exact: str, refined: str) -> dict[str, float]:
        """EM and EM-R over all questions and over those of each type, under the names given."""
        count = len(self.flags)
        found = {name: sum(flag[i] for flag in self.flags) / count for i, name in enumerate(overall)}
        for kind in range(len(_TYPES)):
            group = [flag for flag, other in zip(self.flags, self.kinds, strict=True) if other == kind]
            for i, name in enumerate((exact, refined)):
                found[f"{name}{kind}"] = sum(flag[i] for flag in group) / (len(group) + _EPSILON)
        return found


_Match = Callable[[str, Sequence[str]], tuple[int, int]]


def _matches(questions: dict[str, _Question], answers: dict[str, str], match: _Match) -> _Matches:
    texts = [clean_answer(answer) for answer in answers.values()]
    truths = [clean_answer(questions[key].answer) for key in answers]
    flags = [match(text, [truth]) for text, truth in zip(texts, truths, strict=True)]
    return _Matches(list(answers), texts, truths, flags, [_prefix_type(questions[key].text) for key in answers])


def _leo(references: Any, predictions: Any) -> _Matches:
    questions = _questions(references)
    return _matches(questions, _complete(questions, predictions, "LEO's evaluator"), match_in_order)


def _leo_scores(references: Any, predictions: Any) -> dict[str, Any]:
    data = _leo(references, predictions)
    found = caption_scores([[text] for text in data.references], data.predictions)
    flags = data.scores(("em_overall", "em_refined_overall"), "em_type", "em_refined_type")
    return {
        "target_metric": flags["em_refined_overall"],
        **flags,
        "cider_overall": found.cider.total[0],
        "bleu_overall": found.bleu.total[3],
        "meteor_overall": found.meteor_total(),
        "rouge_overall": found.rouge_l.total[0],
    }


def _leo_items(references: Any, predictions: Any) -> dict[str, Any]:
    data = _leo(references, predictions)
    return {
        key: {
            "leo_em": data.flags[i][0],
            "leo_em_refined": data.flags[i][1],
            "pred_clean": data.predictions[i],
            "gt_clean": data.references[i],
            "leo_type": data.kinds[i],
        }
        for i, key in enumerate(data.keys)
    }


_BRACKETED = (("[sqa3d] EM1", "[sqa3d] EM1_refined"), "[sqa3d] EM_type", "[sqa3d] EM_refined_type")


def _llava3d_scores(references: Any, predictions: Any) -> dict[str, Any]:
    questions = _questions(references)
    answers = _complete(questions, predictions, "LLaVA-3D's evaluator")
    return _matches(questions, answers, match_any).scores(*_BRACKETED)


def _chatscene_scores(references: Any, predictions: Any) -> dict[str, Any]:
    questions = _questions(references)
    given = {key: uncapitalized(answer) for key, answer in _by_id(predictions)}
    refuse_unknown(given, questions, "Chat-Scene's evaluator")
    warn_missing(questions, given, "Chat-Scene's evaluator")
    data = _matches(questions, {key: given[key] for key in questions if key in given}, match_any_nonempty)
    tokens = tokenize([text.strip() for text in data.references])
    found = caption_scores([[text] for text in tokens], tokenize(data.predictions))
    names = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
    return {**data.scores(*_BRACKETED), **found.totals([f"[sqa3d] {name}" for name in names])}


def _video3dllm_scores(references: Any, predictions: Any) -> dict[str, Any]:
    """EM in percent over the rows of the file, for all of them and for the types that occur."""
    questions, rows = _questions(references), _by_id(predictions)
    refuse_unknown((key for key, _ in rows), questions, "Video-3D-LLM's script")
    warn_missing(questions, dict(rows), "Video-3D-LLM's script")
    flags: dict[str, list[int]] = {"all": []}
    for key, answer in rows:
        flag = int(clean_answer(answer) == clean_answer(questions[key].answer))
        flags["all"].append(flag)
        flags.setdefault(_TYPES[_prefix_type(questions[key].text)], []).append(flag)
    return {name: 100.0 * sum(group) / len(group) for name, group in flags.items()}


PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol("sqa3d", "official_closed", "SilongYong/SQA3D MCAN/train_sqa.py", "percent",
                 _official_closed_scores, _official_closed_items),
        Protocol("sqa3d", "official_llm", "SilongYong/SQA3D LLM/eval_sqa3d_llm.py", "fraction", _official_llm_scores),
        Protocol("sqa3d", "leo", "embodied-generalist/embodied-generalist evaluator/sqa3d_eval.py", _FRACTIONS,
                 _leo_scores, _leo_items),
        Protocol("sqa3d", "llava3d", "ZCMax/LLaVA-3D llava/eval/sqa3d_evaluator.py", "fractions", _llava3d_scores),
        Protocol("sqa3d", "video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_sqa3d.py", "percent",
                 _video3dllm_scores),
        Protocol("sqa3d", "chatscene", "ZzZZCHS/Chat-Scene utils/eval.py", _FRACTIONS, _chatscene_scores),
    )
}  # fmt: skip
"""The evaluators of SQA3D by name; the first is the leaderboard's."""
