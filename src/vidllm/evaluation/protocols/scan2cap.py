"""Scan2Cap: captions of detected objects, scored as text where the detected box overlaps the object (m@kIoU).

Two published protocols do not agree: ``cvpr21`` (papers' C@0.5) scores a corpus of ALL annotated objects, a missed one
with the placeholder "sos eos", which is not worth zero; ``benchmark`` matches boxes and captions one to one and gives
precision, recall and F1 of sentence scores. Both, and ``ll3da``, read ``{scene: [{caption, box, obj_prob}]}``, boxes as
8 corners. The language models' protocols read one proposal per object, ``[{scene_id, object_id, object_name, iou,
pred_response}]``; an entry may give ``box`` (8 corners) in place of ``iou``. References: the list of
``ScanRefer_filtered_*_gt_bbox.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np

from vidllm.evaluation.protocols import NOT_AVAILABLE, Protocol
from vidllm.evaluation.protocols.box_metrics import assign, benchmark_generalized_iou, hull, hull_iou
from vidllm.evaluation.protocols.records import by_scene, corners, described, field, finite, identifier, listed
from vidllm.evaluation.text_metrics.cider import cider
from vidllm.evaluation.text_metrics.ptb import tokenize
from vidllm.evaluation.text_metrics.scores import Scores
from vidllm.evaluation.text_metrics.suite import CaptionScores, caption_scores

__all__ = ["PROTOCOLS"]

_PLACEHOLDER = "sos eos"
_MAX_TOKENS = 30
_THRESHOLDS = (0.25, 0.5)
_ALL = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")

Key = tuple[str, str]
Texts = dict[Key, list[str]]


@dataclass
class _Thing:
    """An annotated object: its name, its box (8, 3) and all its annotations."""

    name: str
    box: np.ndarray
    tokens: list[list[str]] = dataclass_field(default_factory=list)
    descriptions: list[str] = dataclass_field(default_factory=list)


@dataclass(frozen=True)
class _Proposal:
    caption: str
    box: np.ndarray
    is_object: bool


def _things(references: Any) -> dict[Key, _Thing]:
    """Annotated objects by (scene, object id), in the order of the file; box and name of their first annotation."""
    things: dict[Key, _Thing] = {}
    for index, entry in enumerate(listed(references, "references")):
        place = described("annotation", index, entry, ("scene_id", "object_id", "ann_id"))
        scene, thing = identifier(entry, ("scene_id", "object_id"), place)
        if (scene, thing) not in things:
            name = str(field(entry, "object_name", place))
            things[scene, thing] = _Thing(name, corners(field(entry, "bbox", place), place))
        things[scene, thing].tokens.append([str(token) for token in field(entry, "token", place)])
        things[scene, thing].descriptions.append(str(field(entry, "description", place)))
    return things


def _corpus(things: Mapping[Key, _Thing], limit: int | None = _MAX_TOKENS) -> Texts:
    """References by object: the tokens, cut at ``limit``, between "sos" and "eos"."""
    return {key: [" ".join(["sos", *words[:limit], "eos"]) for words in thing.tokens] for key, thing in things.items()}


def _scored(corpus: Texts, captions: Mapping[Key, str], paraphrases: bool = True) -> CaptionScores:
    """All metrics over the objects of ``corpus``, the placeholder for those without a caption."""
    return caption_scores(list(corpus.values()), [captions.get(key, _PLACEHOLDER) for key in corpus], paraphrases)


# --- detectors: several proposals for a scene ---


_Proposals = Mapping[str, list[_Proposal]]


def _proposals(predictions: Any, with_objectness: bool = True) -> dict[str, list[_Proposal]]:
    """Proposals of each scene; one is an object where ``obj_prob[1]`` is the larger of the two."""
    found: dict[str, list[_Proposal]] = {}
    for scene, index, entry in by_scene(predictions, "predictions"):
        place = f"predictions of {scene}, proposal {index}"
        caption, box = str(field(entry, "caption", place)), corners(field(entry, "box", place), place)
        found.setdefault(scene, []).append(_Proposal(caption, box, not with_objectness or _sure(entry, place)))
    return found


def _sure(entry: Mapping[str, Any], place: str) -> bool:
    odds = field(entry, "obj_prob", place)
    if not isinstance(odds, list) or len(odds) != 2:
        raise ValueError(f"{place}: obj_prob must be [background, object], got {odds!r}")
    return bool(odds[1] > odds[0])


def _keys_by_scene(things: Mapping[Key, _Thing]) -> dict[str, list[Key]]:
    scenes: dict[str, list[Key]] = {}
    for key in things:
        scenes.setdefault(key[0], []).append(key)
    return scenes


def _decoded(caption: str) -> str:
    """A caption from "sos" to its first "eos"."""
    words = caption.split()
    words = words[1:] if words[:1] == ["sos"] else words
    return " ".join(["sos", *(words[: words.index("eos")] if "eos" in words else words), "eos"])


def _nearest_captions(things: Mapping[Key, _Thing], proposals: _Proposals, threshold: float) -> dict[Key, str]:
    """Caption of every object: each proposal goes to the object of nearest centre if their IoU is above ``threshold``.

    The last of several proposals stays, not the best.
    """
    captions: dict[Key, str] = {}
    for scene, keys in _keys_by_scene(things).items():
        boxes = np.array([things[key].box for key in keys])
        centres = hull(boxes).mean(axis=1)
        for proposal in proposals.get(scene, []):
            nearest = int(np.square(hull(proposal.box).mean(axis=0) - centres).sum(axis=-1).argmin())
            if proposal.is_object and hull_iou(proposal.box, boxes[nearest]) > threshold:
                captions[keys[nearest]] = _decoded(proposal.caption)
    return captions


def _cvpr21(references: Any, predictions: Any) -> dict[str, Any]:
    """Corpus scores over all annotated objects at both thresholds."""
    things, proposals, scores = _things(references), _proposals(predictions), {}
    for k in _THRESHOLDS:
        captions = _nearest_captions(things, proposals, k)
        empty = sum(captions.get(key, _PLACEHOLDER) == _PLACEHOLDER for key in things)
        counts = {"n_objects": len(things), "n_placeholder": empty}
        scores[f"@{k}IoU"] = _scored(_corpus(things), captions).totals(_ALL) | counts
    return scores


def _cvpr21_items(references: Any, predictions: Any) -> dict[str, Any]:
    """Caption and sentence scores of every object at IoU 0.5."""
    things = _things(references)
    captions = _nearest_captions(things, _proposals(predictions), 0.5)
    found = _scored(_corpus(things), captions)
    return {
        f"{scene}|{thing}|{things[scene, thing].name}": {
            "candidate": captions.get((scene, thing), _PLACEHOLDER),
            **found.item(i),
        }
        for i, (scene, thing) in enumerate(things)
    }


def _best_captions(things: Mapping[Key, _Thing], proposals: _Proposals, threshold: float) -> dict[Key, str]:
    """Caption of every object: each proposal goes to the object of largest IoU, above ``threshold``; the best stays."""
    captions: dict[Key, str] = {}
    best: dict[Key, float] = {}
    for scene, keys in _keys_by_scene(things).items():
        boxes = np.array([things[key].box for key in keys])
        for proposal in proposals.get(scene, []):
            ious = hull_iou(proposal.box, boxes)
            key, iou = keys[int(ious.argmax())], float(ious.max())
            if proposal.is_object and iou > threshold and iou > best.get(key, 0.0):
                best[key], captions[key] = iou, _decoded(proposal.caption).replace("  ", " ")
    return captions


def _ll3da(references: Any, predictions: Any) -> dict[str, Any]:
    """As ``cvpr21`` with the best proposal of each object; objects named "unknown" are left out.

    METEOR goes without its paraphrase table, as it is not among the files of that repository.
    """
    things = {key: thing for key, thing in _things(references).items() if not thing.name.endswith("unknown")}
    names = {"BLEU-4": "BLEU-4", "CIDEr": "CiDEr", "ROUGE_L": "Rouge", "METEOR": "METEOR"}
    proposals, scores = _proposals(predictions), {}
    for k in _THRESHOLDS:
        captions = _best_captions(things, proposals, k)
        totals = _scored(_corpus(things), captions, paraphrases=False).totals(_ALL)
        scores[f"@{k}IoU"] = {f"{short}@{k}": totals[name] for name, short in names.items()}
    return scores


# --- the benchmark server: one-to-one matching ---


@dataclass(frozen=True)
class _Match:
    """The caption of an object and the IoU of its box."""

    caption: str
    iou: float


def _matches(references: Any, predictions: Any) -> tuple[dict[Key, _Thing], dict[Key, _Match], int]:
    """Objects, the proposal matched to each, and how many boxes were predicted in their scenes.

    An object left over where there are fewer boxes gets the scene's first one. Raises ``ValueError`` for a scene
    without predictions and for boxes that cannot be matched, as the server does.
    """
    things, proposals = _things(references), _proposals(predictions, with_objectness=False)
    matches: dict[Key, _Match] = {}
    count = 0
    for scene, keys in _keys_by_scene(things).items():
        found = proposals.get(scene, [])
        if not found:
            raise ValueError(f"no predictions for scene {scene}; the benchmark needs at least one box in every scene")
        predicted, true = np.array([p.box for p in found]), np.array([things[key].box for key in keys])
        chosen = np.zeros(len(keys), dtype=int)
        try:
            rows, columns = assign(-benchmark_generalized_iou(predicted, true))
        except ValueError as error:
            raise ValueError(f"scene {scene} cannot be matched: {error}") from None
        chosen[columns] = rows
        ious = hull_iou(predicted[chosen], true, dtype=np.float32)
        matches |= {k: _Match(found[p].caption, float(i)) for k, p, i in zip(keys, chosen, ious, strict=True)}
        count += len(found)
    return things, matches, count


def _benchmark(references: Any, predictions: Any) -> dict[str, Any]:
    """Precision, recall and F1 of sentence scores, 0 below the threshold, at IoU 0, 0.25 and 0.5."""
    things, matches, count = _matches(references, predictions)
    found = _scored(_corpus(things, None), {key: match.caption for key, match in matches.items()})
    ious = np.array([match.iou for match in matches.values()])
    scores: dict[str, Any] = {}
    for k in (0, *_THRESHOLDS):
        parts: dict[str, dict[str, Any]] = {"precision": {}, "recall": {}, "f1-score": {}}
        for name, values in _sentence_scores(found).items():
            total = None if values is None else float(np.sum(np.array(values) * (ious >= k)))
            parts["precision"][name], parts["recall"][name], parts["f1-score"][name] = _ratios(total, count, len(ious))
        scores[f"@{k}IoU"] = parts
    return scores


def _sentence_scores(found: CaptionScores) -> dict[str, list[float] | None]:
    """Scores of every item by metric; None where METEOR is not available."""

    def column(scores: Scores, index: int = 0) -> list[float]:
        return [row[index] for row in scores.per_item]

    return {f"BLEU-{order + 1}": column(found.bleu, order) for order in range(4)} | {
        "CIDEr": column(found.cider),
        "ROUGE_L": column(found.rouge_l),
        "METEOR": None if found.meteor is None else column(found.meteor),
    }


def _ratios(total: float | None, predicted: int, true: int) -> tuple[Any, Any, Any]:
    """Precision, recall and F1 of a sum of scores; F1 of nothing is not a number, here None."""
    if total is None:
        return NOT_AVAILABLE, NOT_AVAILABLE, NOT_AVAILABLE
    precision, recall = total / predicted, total / true
    both = precision + recall
    return precision, recall, finite(2 * precision * recall / both) if both else None


def _benchmark_items(references: Any, predictions: Any) -> dict[str, Any]:
    """IoU and caption of the proposal matched to every object."""
    _, matches, _ = _matches(references, predictions)
    return {f"{scene}|{thing}": {"iou": m.iou, "caption": m.caption} for (scene, thing), m in matches.items()}


# --- language models: one proposal for each object ---


def _answers(things: Mapping[Key, _Thing], predictions: Any) -> dict[Key, _Match]:
    """The last answer of each object, in the order of their first; an unknown object is an error."""
    answers: dict[Key, _Match] = {}
    for index, entry in enumerate(listed(predictions, "predictions")):
        place = described("prediction", index, entry, ("scene_id", "object_id"))
        scene, thing = identifier(entry, ("scene_id", "object_id"), place)
        if (scene, thing) not in things:
            raise ValueError(f"{place} is no object of the references; remove it or give its annotations")
        if "iou" in entry:
            iou = _number(entry["iou"], place)
        else:
            box = corners(field(entry, "box", f"{place} without 'iou'"), place)
            iou = float(hull_iou(box, things[scene, thing].box))
        answers[scene, thing] = _Match(str(field(entry, "pred_response", place)), iou)
    return answers


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{place}: iou must be a number, got {value!r}; leave it out and give the box instead")
    return float(value)


def _leo(references: Any, predictions: Any) -> dict[str, Any]:
    """Over the predicted objects only; not lower-cased, and commas stay on their words."""
    things = _things(references)
    answers, corpus = _answers(things, predictions), _corpus(things)
    kept = {key: corpus[key] for key in answers}
    scores = {}
    for k in _THRESHOLDS:
        texts = {key: f"sos {a.caption} eos".replace(". ", " . ") for key, a in answers.items() if a.iou >= k}
        totals = _scored(kept, texts).totals(_ALL)
        scores[f"@{k}IoU"] = {name: totals[name] for name in ("CIDEr", "BLEU-4", "METEOR", "ROUGE_L")}
    return scores


def _spaced(text: str) -> str:
    return f"sos {text.replace('.', ' . ').replace(',', ' , ').lower()} eos"


def _without_tokeniser(references: Any, predictions: Any, threshold: float) -> tuple[list[list[str]], list[str]]:
    """References and captions of the predicted objects; below the threshold the caption is empty: "sos  eos"."""
    things = _things(references)
    answers = _answers(things, predictions)
    corpus = [[_spaced(text) for text in things[key].descriptions] for key in answers]
    return corpus, [_spaced(answer.caption if answer.iou >= threshold else "") for answer in answers.values()]


def _video3dllm(references: Any, predictions: Any) -> dict[str, Any]:
    """Raw descriptions with points and commas spaced out, over the predicted objects.

    Where no proposal reaches the threshold the published script goes on with the references of the object before (a
    slip that makes its numbers depend on the number of GPUs); here every object keeps its own.
    """
    scores: dict[str, Any] = {}
    for k in _THRESHOLDS:
        corpus, texts = _without_tokeniser(references, predictions, k)
        totals = caption_scores(corpus, texts).totals(_ALL, 100.0)
        scores[f"@{k}IoU"] = {name: totals[name] for name in ("CIDEr", "BLEU-4", "METEOR", "ROUGE_L")}
        scores[f"@{k}IoU"]["n"] = len(texts)
    return scores


def _vgllm(references: Any, predictions: Any) -> dict[str, Any]:
    """CIDEr at IoU 0.5 alone."""
    return {"@0.5IoU": {"CIDEr": cider(*_without_tokeniser(references, predictions, 0.5)).total[0] * 100}}


def _chatscene(references: Any, predictions: Any) -> dict[str, Any]:
    """PTB tokens on both sides, over all annotated objects."""
    things = _things(references)
    answers = _answers(things, predictions)
    corpus = {key: tokenize(texts) for key, texts in _corpus(things).items()}
    names = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr")
    scores: dict[str, Any] = {}
    for k in _THRESHOLDS:
        texts = {key: f"sos {a.caption} eos".replace("\n", " ") for key, a in answers.items() if a.iou >= k}
        captions = dict(zip(texts, tokenize(list(texts.values())), strict=True))
        scores |= _scored(corpus, captions).totals([f"[scan2cap] {name}@{k:.2f}" for name in names])
    return scores


_FRACTIONS = "fractions (CIDEr with its factor 10 only)"
PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol("scan2cap", "cvpr21", "daveredrum/Scan2Cap lib/eval_helper.py", _FRACTIONS, _cvpr21, _cvpr21_items),
        Protocol(
            "scan2cap", "benchmark", "daveredrum/Scan2Cap benchmark/eval.py", _FRACTIONS, _benchmark, _benchmark_items
        ),
        Protocol("scan2cap", "ll3da", "Open3DA/LL3DA eval_utils/evaluate_densecap.py", _FRACTIONS, _ll3da),
        Protocol("scan2cap", "leo", "embodied-generalist/embodied-generalist evaluator/cap_eval.py", _FRACTIONS, _leo),
        Protocol("scan2cap", "video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_scan2cap.py", "percent", _video3dllm),
        Protocol("scan2cap", "3drs", "Visual-AI/3DRS llava/eval/eval_scan2cap.py", "percent", _video3dllm),
        Protocol("scan2cap", "vgllm", "LaVi-Lab/VG-LLM src/lmms_eval/tasks/scan2cap/utils.py", "percent", _vgllm),
        Protocol("scan2cap", "chatscene", "ZzZZCHS/Chat-Scene utils/eval.py", _FRACTIONS, _chatscene),
    )
}
"""Scan2Cap's evaluators by name."""
