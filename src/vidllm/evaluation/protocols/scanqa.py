"""ScanQA: answers to questions about a room, scored as the official script and as six published evaluators do.

The evaluators differ in cleaning, tokenising and exact match, so the same answers get very different numbers.
References are the list of ScanQA_v1.0 (``question_id``, ``question``, ``answers``), predictions the submission's
list (``question_id``, ``answer_top10``), or LL3DA's ``{"question_id-question": [answer]}`` under its protocol.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vidllm.datasets.records import Table
from vidllm.evaluation.protocols import NOT_AVAILABLE, Protocol, by_name
from vidllm.evaluation.protocols.answers import (
    Answered,
    Matches,
    match_any,
    match_any_nonempty,
    match_in_order,
    matched,
    tokenized,
    uncapitalized,
    usual_fields,
)
from vidllm.evaluation.protocols.files import identifier, rows, strings
from vidllm.evaluation.text_metrics.captions import DASHED, UNDERSCORED, CaptionScores, caption_scores
from vidllm.evaluation.text_metrics.ptb import tokenize

_REFERENCE: Table = {"question_id": identifier, "answers": strings}
_PREDICTION: Table = {"question_id": identifier, "answer_top10": strings}


def _read(references: Any, predictions: Any, own: str = "") -> Answered:
    answers: dict[str, list[str]] = {}
    for entry in rows(references, "references"):
        values = entry.read(_REFERENCE)
        key = values["question_id"]
        if key in answers:
            raise ValueError(f"{entry.where}: the id {key} occurs twice; ids must be unique")
        answers[key] = values["answers"]
    if own == "ll3da" and isinstance(predictions, dict):
        known = {f"{row['question_id']}-{row.get('question')}": row["question_id"] for row in references}
        predictions = [{"question_id": known.get(key, key), "answer_top10": said} for key, said in predictions.items()]
    given = usual_fields(predictions, own, "answer_top10", lambda said: [said])
    found = [entry.read(_PREDICTION) for entry in rows(given, "predictions")]
    return Answered(answers, [(row["question_id"], row["answer_top10"]) for row in found])


def _official(data: Answered) -> tuple[dict[str, dict[str, Any]], CaptionScores]:
    """What the official script computes, by question in the order of the references."""
    first, lists = data.complete("the official script"), dict(data.rows)
    # in the order of the predictions, as a text can change how the one before it ends
    tokens = dict(zip(data.first(), tokenize(list(data.first().values())), strict=True))
    texts = tokenized(list(data.answers.values()))
    items = {}
    for (key, answer), truths in zip(first.items(), texts, strict=True):
        known = data.answers[key]
        at_10 = int(any(one in known for one in lists[key]))
        items[key] = {"pred_ptb": tokens[key], "refs_ptb": truths, "em1": int(answer in known), "em10": at_10}
    return items, caption_scores(texts, [tokens[key] for key in first])


def _official_scores(data: Answered) -> dict[str, Any]:
    items, captions = _official(data)
    exact = {name: 100.0 * sum(i[field] for i in items.values()) / len(items)
             for name, field in (("EM@1", "em1"), ("EM@10", "em10"))}  # fmt: skip
    return exact | captions.totals(UNDERSCORED, 100.0)


def _official_items(data: Answered) -> dict[str, Any]:
    items, captions = _official(data)
    return {key: {**item, **captions.item(i)} for i, (key, item) in enumerate(items.items())}


def _video3dllm(data: Answered) -> dict[str, Any]:
    """No tokeniser; EM counts every row of the file, the n-gram metrics the last row of an id."""
    first = data.known("Video-3D-LLM's script")
    exact = sum(candidates[0] in data.answers[key] for key, candidates in data.rows)
    found = caption_scores([data.answers[key] for key in first], [text.rstrip(".") for text in first.values()])
    scores: dict[str, Any] = {"EM (fraction)": exact / len(data.rows), **found.totals(DASHED, 100.0)}
    return scores | {"count": len(first), "lines_in_jsonl": len(data.rows)}


def _leo(data: Answered) -> Matches:
    return matched(data, data.complete("LEO's evaluator"), match_in_order)


def _leo_scores(data: Answered) -> dict[str, Any]:
    found = _leo(data)
    exact, refined = found.mean()
    captions = caption_scores(found.references, found.predictions)
    return {"target_metric": refined, "em": exact, "em_refined": refined, **captions.leo()}


def _leo_items(data: Answered) -> dict[str, Any]:
    return {
        key: {"pred_clean": said, "refs_clean": truths, "leo_em": exact, "leo_em_refined": refined}
        for key, said, truths, (exact, refined) in _leo(data).items()
    }


def _llava3d(data: Answered) -> dict[str, Any]:
    """Cleaned, then tokenised."""
    found = matched(data, data.complete("LLaVA-3D's evaluator"), match_any)
    return _bracketed(found, [[text.strip() for text in group] for group in found.references])


def _chatscene(data: Answered) -> dict[str, Any]:
    """Only the prediction is cleaned; the references stay as they are."""
    first = data.known("Chat-Scene's evaluator")
    given = {key: uncapitalized(first[key]) for key in data.answers if key in first}
    found = matched(data, given, match_any_nonempty, clean_references=False)
    return _bracketed(found, [[text.replace("\n", " ").strip() for text in group] for group in found.references])


def _bracketed(found: Matches, references: list[list[str]]) -> dict[str, Any]:
    captions = caption_scores(tokenized(references), tokenize(found.predictions))
    exact, refined = found.mean()
    scores = {"EM1": exact, "EM1_refined": refined, **captions.totals(UNDERSCORED)}
    return {f"[scanqa] {name}": value for name, value in scores.items()}


def _ll3da(data: Answered) -> dict[str, Any]:
    """Nothing but runs of blanks taken out of the prediction; METEOR without its paraphrase table."""
    first = data.known("LL3DA's evaluator")
    texts = [" ".join(word for word in text.split(" ") if word) for text in first.values()]
    found = caption_scores([data.answers[key] for key in first], texts, paraphrases=False)
    totals, lines = found.totals(DASHED), []
    for name in (*DASHED[:4], "CIDEr", "ROUGE_L", "METEOR"):
        title, column = name.replace("_", "-"), found.column(DASHED.index(name))
        if column is None:
            lines.append(f"[{title}] {NOT_AVAILABLE}")
        else:
            lines.append(f"[{title}] Mean: {totals[name]:.4f}, Max: {max(column):.4f}, Min: {min(column):.4f}")
    return {**totals, "printed_message": lines}


_FRACTIONS = "fractions; CIDEr with its factor 10 only"
_VIDEO3DLLM_SCALE = "percent, except EM as a fraction; CIDEr with its factor 10, times 100"
PROTOCOLS = by_name(
    Protocol("official", "ATR-DBI/ScanQA scripts/score.py", "percent; CIDEr with its factor 10, times 100",
             _read, _official_scores, _official_items),
    Protocol("video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_scanqa.py", _VIDEO3DLLM_SCALE,
             partial(_read, own="video3dllm"), _video3dllm),
    Protocol("3drs", "Visual-AI/3DRS llava/eval/eval_scanqa.py", _VIDEO3DLLM_SCALE,
             partial(_read, own="3drs"), _video3dllm),
    Protocol("leo", "embodied-generalist/embodied-generalist evaluator/scanqa_eval.py", _FRACTIONS,
             _read, _leo_scores, _leo_items),
    Protocol("llava3d", "ZCMax/LLaVA-3D llava/eval/scanqa_evaluator.py", _FRACTIONS,
             partial(_read, own="llava3d"), _llava3d),
    Protocol("chatscene", "ZzZZCHS/Chat-Scene utils/eval.py", _FRACTIONS, partial(_read, own="chatscene"), _chatscene),
    Protocol("ll3da", "Open3DA/LL3DA eval_utils/evaluate_qa.py", _FRACTIONS, partial(_read, own="ll3da"), _ll3da),
)  # fmt: skip
