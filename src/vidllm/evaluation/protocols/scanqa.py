"""ScanQA: answers to questions about a room, scored as the official script and as six published evaluators do.

The evaluators differ in cleaning, tokenising and exact match, so the same answers get very different numbers.
References are the list of ScanQA_v1.0 (``question_id``, ``question``, ``answers``), predictions the submission's
list (``question_id``, ``answer_top10``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidllm.evaluation.protocols import NOT_AVAILABLE, Protocol
from vidllm.evaluation.protocols.answers import (
    clean_answer,
    match_any,
    match_any_nonempty,
    match_in_order,
    uncapitalized,
)
from vidllm.evaluation.protocols.records import field, listed, refuse_missing, refuse_unknown, warn_missing
from vidllm.evaluation.text_metrics.ptb import tokenize
from vidllm.evaluation.text_metrics.suite import CaptionScores, caption_scores

__all__ = ["PROTOCOLS"]

_NAMES = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
_FRACTIONS = "fractions; CIDEr with its factor 10 only"


@dataclass(frozen=True)
class _Answers:
    """The files, checked: answers and question by id, and every prediction's list in the order of the file."""

    answers: dict[str, list[str]]
    questions: dict[str, str]
    rows: list[tuple[str, list[str]]]

    def lists(self) -> dict[str, list[str]]:
        """The list of answers by id; of several predictions for one id the last."""
        return dict(self.rows)

    def first(self) -> dict[str, str]:
        """The first answer by id."""
        return {key: candidates[0] for key, candidates in self.rows}


def _read(references: Any, predictions: Any) -> _Answers:
    answers: dict[str, list[str]] = {}
    questions: dict[str, str] = {}
    for index, entry in enumerate(listed(references, "references")):
        key = str(field(entry, "question_id", f"reference {index}", (str, int)))
        if key in answers:
            raise ValueError(f"reference {index}: the id {key} occurs twice; ids must be unique")
        answers[key] = _strings(field(entry, "answers", f"reference {key}", list), f"reference {key}: 'answers'")
        questions[key] = str(entry.get("question", ""))
    rows = []
    for index, entry in enumerate(listed(predictions, "predictions")):
        key = str(field(entry, "question_id", f"prediction {index}", (str, int)))
        top = field(entry, "answer_top10", f"prediction {key}", list)
        rows.append((key, _strings(top, f"prediction {key}: 'answer_top10'")))
    return _Answers(answers, questions, rows)


def _strings(values: list[Any], what: str) -> list[str]:
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{what}: expected at least one string, got {str(values)[:60]}")
    return values


def _tokenized(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """PTB tokens of lists of texts, in one run as the evaluators do."""
    tokens = iter(tokenize([text for group in groups for text in group]))
    return [[next(tokens) for _ in group] for group in groups]


@dataclass(frozen=True)
class _Official:
    """What the official script computes, by question in the order of the references."""

    keys: list[str]
    exact: list[int]
    exact_at_10: list[int]
    references: list[list[str]]
    predictions: list[str]
    captions: CaptionScores


def _official(references: Any, predictions: Any) -> _Official:
    data = _read(references, predictions)
    lists, first = data.lists(), data.first()
    refuse_missing(data.answers, lists, "the official script")
    refuse_unknown(lists, data.answers, "the official script")
    keys = list(data.answers)
    tokens = dict(zip(first, tokenize(list(first.values())), strict=True))
    hypotheses = [tokens[key] for key in keys]
    texts = _tokenized(list(data.answers.values()))
    exact = [int(first[key] in data.answers[key]) for key in keys]
    at_10 = [int(any(answer in data.answers[key] for answer in lists[key])) for key in keys]
    return _Official(keys, exact, at_10, texts, hypotheses, caption_scores(texts, hypotheses))


def _official_scores(references: Any, predictions: Any) -> dict[str, Any]:
    found = _official(references, predictions)
    count = len(found.keys)
    exact = {"EM@1": 100.0 * sum(found.exact) / count, "EM@10": 100.0 * sum(found.exact_at_10) / count}
    return exact | found.captions.totals(_NAMES, 100.0)


def _official_items(references: Any, predictions: Any) -> dict[str, Any]:
    found = _official(references, predictions)
    return {
        key: {
            "pred_ptb": found.predictions[i],
            "refs_ptb": found.references[i],
            "em1": found.exact[i],
            "em10": found.exact_at_10[i],
            **found.captions.item(i),
        }
        for i, key in enumerate(found.keys)
    }


def _video3dllm_scores(references: Any, predictions: Any) -> dict[str, Any]:
    """No tokeniser; EM counts every row of the file, the n-gram metrics the last row of an id."""
    data = _read(references, predictions)
    refuse_unknown((key for key, _ in data.rows), data.answers, "Video-3D-LLM's script")
    first = data.first()
    warn_missing(data.answers, first, "Video-3D-LLM's script")
    exact = sum(candidates[0] in data.answers[key] for key, candidates in data.rows)
    found = caption_scores([data.answers[key] for key in first], [text.rstrip(".") for text in first.values()])
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")
    scores: dict[str, Any] = {"EM (fraction)": exact / len(data.rows), **found.totals(names, 100.0)}
    return scores | {"count": len(first), "lines_in_jsonl": len(data.rows)}


@dataclass(frozen=True)
class _Cleaned:
    """Cleaned answers and references, in the order of the references."""

    keys: list[str]
    references: list[list[str]]
    predictions: list[str]


def _cleaned(references: Any, predictions: Any, script: str) -> _Cleaned:
    data = _read(references, predictions)
    first = data.first()
    refuse_missing(data.answers, first, script)
    refuse_unknown(first, data.answers, script)
    texts = [[clean_answer(text) for text in group] for group in data.answers.values()]
    return _Cleaned(list(data.answers), texts, [clean_answer(first[key]) for key in data.answers])


def _leo_scores(references: Any, predictions: Any) -> dict[str, Any]:
    data = _cleaned(references, predictions, "LEO's evaluator")
    pairs = [match_in_order(p, r) for p, r in zip(data.predictions, data.references, strict=True)]
    exact, refined = (sum(flags) / len(pairs) for flags in zip(*pairs, strict=True))
    found = caption_scores(data.references, data.predictions)
    return {"target_metric": refined, "em": exact, "em_refined": refined, **found.leo()}


def _leo_items(references: Any, predictions: Any) -> dict[str, Any]:
    data = _cleaned(references, predictions, "LEO's evaluator")
    items = {}
    for key, group, text in zip(data.keys, data.references, data.predictions, strict=True):
        exact, refined = match_in_order(text, group)
        items[key] = {"leo_em": exact, "leo_em_refined": refined, "pred_clean": text, "refs_clean": group}
    return items


def _llava3d_scores(references: Any, predictions: Any) -> dict[str, Any]:
    """Cleaned, then tokenised."""
    data = _cleaned(references, predictions, "LLaVA-3D's evaluator")
    pairs = [match_any(p, r) for p, r in zip(data.predictions, data.references, strict=True)]
    references_tokens = _tokenized([[text.strip() for text in group] for group in data.references])
    return _bracketed(pairs, caption_scores(references_tokens, tokenize(data.predictions)))


def _chatscene_scores(references: Any, predictions: Any) -> dict[str, Any]:
    """Only the prediction is cleaned; the references stay as they are."""
    data = _read(references, predictions)
    first = data.first()
    refuse_unknown(first, data.answers, "Chat-Scene's evaluator")
    warn_missing(data.answers, first, "Chat-Scene's evaluator")
    keys = [key for key in data.answers if key in first]
    texts = [clean_answer(uncapitalized(first[key])) for key in keys]
    groups = [[text.replace("\n", " ").strip() for text in data.answers[key]] for key in keys]
    pairs = [match_any_nonempty(text, data.answers[key]) for text, key in zip(texts, keys, strict=True)]
    return _bracketed(pairs, caption_scores(_tokenized(groups), tokenize(texts)))


def _bracketed(pairs: list[tuple[int, int]], found: CaptionScores) -> dict[str, Any]:
    exact, refined = (sum(flags) / len(pairs) for flags in zip(*pairs, strict=True))
    scores = {"EM1": exact, "EM1_refined": refined, **found.totals(_NAMES)}
    return {f"[scanqa] {name}": value for name, value in scores.items()}


def _ll3da_scores(references: Any, predictions: Any) -> dict[str, Any]:
    """Nothing but runs of blanks taken out of the prediction; METEOR without its paraphrase table."""
    data = _read(references, predictions)
    first = data.first()
    refuse_unknown(first, data.answers, "LL3DA's evaluator")
    warn_missing(data.answers, first, "LL3DA's evaluator")
    texts = [" ".join(word for word in text.split(" ") if word) for text in first.values()]
    found = caption_scores([data.answers[key] for key in first], texts, paraphrases=False)
    numbers = {f"BLEU-{order + 1}": found.bleu.total[order] for order in range(4)}
    numbers |= {"CIDEr": found.cider.total[0], "ROUGE_L": found.rouge_l.total[0]}
    return {**numbers, "METEOR": found.meteor_total(), "printed_message": _ll3da_message(found)}


def _ll3da_message(found: CaptionScores) -> list[str]:
    rows = [(f"BLEU-{i + 1}", found.bleu.total[i], [item[i] for item in found.bleu.per_item]) for i in range(4)]
    rows.append(("CIDEr", found.cider.total[0], [item[0] for item in found.cider.per_item]))
    rows.append(("ROUGE-L", found.rouge_l.total[0], [item[0] for item in found.rouge_l.per_item]))
    if found.meteor is not None:
        rows.append(("METEOR", found.meteor.total[0], [item[0] for item in found.meteor.per_item]))
    lines = [f"[{name}] Mean: {mean:.4f}, Max: {max(all_):.4f}, Min: {min(all_):.4f}" for name, mean, all_ in rows]
    return lines if found.meteor is not None else [*lines, f"[METEOR] {NOT_AVAILABLE}"]


_VIDEO3DLLM_SCALE = "percent, except EM as a fraction; CIDEr with its factor 10, times 100"

PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol("scanqa", "official", "ATR-DBI/ScanQA scripts/score.py",
                 "percent; CIDEr with its factor 10, times 100", _official_scores, _official_items),
        Protocol("scanqa", "video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_scanqa.py", _VIDEO3DLLM_SCALE,
                 _video3dllm_scores),
        Protocol("scanqa", "3drs", "Visual-AI/3DRS llava/eval/eval_scanqa.py", _VIDEO3DLLM_SCALE, _video3dllm_scores),
        Protocol("scanqa", "leo", "embodied-generalist/embodied-generalist evaluator/scanqa_eval.py", _FRACTIONS,
                 _leo_scores, _leo_items),
        Protocol("scanqa", "llava3d", "ZCMax/LLaVA-3D llava/eval/scanqa_evaluator.py", _FRACTIONS, _llava3d_scores),
        Protocol("scanqa", "chatscene", "ZzZZCHS/Chat-Scene utils/eval.py", _FRACTIONS, _chatscene_scores),
        Protocol("scanqa", "ll3da", "Open3DA/LL3DA eval_utils/evaluate_qa.py", _FRACTIONS, _ll3da_scores),
    )
}  # fmt: skip
"""The evaluators of ScanQA by name."""
