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
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vidllm.datasets.records import Entry, Table
from vidllm.evaluation.protocols import NOT_AVAILABLE, Protocol, by_name
from vidllm.evaluation.protocols.box_metrics import benchmark_generalized_iou, hull, hull_iou
from vidllm.evaluation.protocols.files import as_text, by_scene, corners, finite, identifier, number, rows, words
from vidllm.evaluation.text_metrics.captions import DASHED, UNDERSCORED, CaptionScores, caption_scores, cider
from vidllm.evaluation.text_metrics.ptb import tokenize

_PLACEHOLDER = "sos eos"
_MAX_TOKENS = 30
_THRESHOLDS = (0.25, 0.5)
_FOUR = ("CIDEr", "BLEU-4", "METEOR", "ROUGE_L")

Key = tuple[str, str]
Texts = dict[Key, list[str]]


@dataclass(frozen=True)
class _Object:
    """An annotated object: its name, its box (8, 3) and all its annotations."""

    name: str
    box: np.ndarray
    tokens: list[list[str]]
    descriptions: list[str]


@dataclass(frozen=True)
class _Proposal:
    caption: str
    box: np.ndarray
    is_object: bool


_Objects = Mapping[Key, _Object]
_Proposals = Mapping[str, list[_Proposal]]


def _more_likely_object(entry: Entry, field: str, value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        raise entry.error(field, "[background, object]", value)
    return bool(value[1] > value[0])


_REFERENCE: Table = {
    "scene_id": identifier, "object_id": identifier, "object_name": as_text, "bbox": corners, "token": words,
    "description": as_text,
}  # fmt: skip
_PROPOSAL: Table = {"caption": as_text, "box": corners, "obj_prob": _more_likely_object}
_UNSURE: Table = {"caption": as_text, "box": corners}  # of the benchmark server
_ANSWER: Table = {"scene_id": identifier, "object_id": identifier, "pred_response": as_text, "iou": (number, None)}


def _read_objects(references: Any) -> dict[Key, _Object]:
    """Annotated objects by (scene, object id), in the order of the file; box and name of their first annotation."""
    objects: dict[Key, _Object] = {}
    for entry in rows(references, "references"):
        row = entry.read(_REFERENCE)
        key = row["scene_id"], row["object_id"]
        annotated = objects.setdefault(key, _Object(row["object_name"], row["bbox"], [], []))
        annotated.tokens.append(row["token"])
        annotated.descriptions.append(row["description"])
    return objects


def _read_proposals(references: Any, predictions: Any, table: Table = _PROPOSAL) -> tuple[_Objects, _Proposals]:
    """Objects, and the proposals of each scene; one is an object where ``obj_prob[1]`` is the larger of the two."""
    objects, found = _read_objects(references), dict[str, list[_Proposal]]()
    for scene, entry in by_scene(predictions, "predictions"):
        row = entry.read(table)
        found.setdefault(scene, []).append(_Proposal(row["caption"], row["box"], row.get("obj_prob", True)))
    return objects, found


def _corpus(objects: _Objects, limit: int | None = _MAX_TOKENS) -> Texts:
    """References by object: the tokens, cut at ``limit``, between "sos" and "eos"."""
    return {key: [" ".join(["sos", *words[:limit], "eos"]) for words in one.tokens] for key, one in objects.items()}


def _scored(corpus: Texts, captions: Mapping[Key, str], paraphrases: bool = True) -> CaptionScores:
    """All metrics over the objects of ``corpus``, the placeholder for those without a caption."""
    return caption_scores(list(corpus.values()), [captions.get(key, _PLACEHOLDER) for key in corpus], paraphrases)


# -- detectors: several proposals for a scene


def _keys_by_scene(objects: _Objects) -> dict[str, list[Key]]:
    scenes: dict[str, list[Key]] = {}
    for key in objects:
        scenes.setdefault(key[0], []).append(key)
    return scenes


def _decoded(caption: str) -> str:
    """A caption from "sos" to its first "eos"."""
    words = caption.split()
    words = words[1:] if words[:1] == ["sos"] else words
    return " ".join(["sos", *(words[: words.index("eos")] if "eos" in words else words), "eos"])


def _captions(objects: _Objects, proposals: _Proposals, threshold: float, best: bool) -> dict[Key, str]:
    """Caption of every object: each proposal goes to one object if their IoU is above ``threshold``.

    ``best``: to the object of largest IoU, whose best proposal stays; else to that of nearest centre, and the last of
    several proposals stays.
    """
    captions: dict[Key, str] = {}
    kept: dict[Key, float] = {}
    for scene, keys in _keys_by_scene(objects).items():
        boxes = np.array([objects[key].box for key in keys])
        centres = hull(boxes).mean(axis=1)
        for proposal in proposals.get(scene, []):
            ious = hull_iou(proposal.box, boxes)
            away = -ious if best else np.square(hull(proposal.box).mean(axis=0) - centres).sum(axis=-1)
            key, iou = keys[int(away.argmin())], float(ious[int(away.argmin())])
            if proposal.is_object and iou > threshold and not (best and iou <= kept.get(key, 0.0)):
                kept[key], captions[key] = iou, _decoded(proposal.caption)
    return captions


def _cvpr21(files: tuple[_Objects, _Proposals]) -> dict[str, Any]:
    """Corpus scores over all annotated objects at both thresholds."""
    objects, scores = files[0], {}
    for k in _THRESHOLDS:
        captions = _captions(*files, k, best=False)
        empty = sum(captions.get(key, _PLACEHOLDER) == _PLACEHOLDER for key in objects)
        counts = {"n_objects": len(objects), "n_placeholder": empty}
        scores[f"@{k}IoU"] = _scored(_corpus(objects), captions).totals(DASHED) | counts
    return scores


def _cvpr21_items(files: tuple[_Objects, _Proposals]) -> dict[str, Any]:
    """Caption and sentence scores of every object at IoU 0.5."""
    objects, captions = files[0], _captions(*files, 0.5, best=False)
    found = _scored(_corpus(objects), captions)
    return {
        f"{scene}|{object_id}|{objects[scene, object_id].name}": {
            "candidate": captions.get((scene, object_id), _PLACEHOLDER),
            **found.item(i),
        }
        for i, (scene, object_id) in enumerate(objects)
    }


def _ll3da(files: tuple[_Objects, _Proposals]) -> dict[str, Any]:
    """As ``cvpr21`` with the best proposal of each object; objects named "unknown" are left out.

    METEOR goes without its paraphrase table, as it is not among the files of that repository.
    """
    objects = {key: one for key, one in files[0].items() if not one.name.endswith("unknown")}
    names = {"BLEU-4": "BLEU-4", "CIDEr": "CiDEr", "ROUGE_L": "Rouge", "METEOR": "METEOR"}
    scores = {}
    for k in _THRESHOLDS:
        captions = _captions(objects, files[1], k, best=True)
        totals = _scored(_corpus(objects), captions, paraphrases=False).totals(DASHED)
        scores[f"@{k}IoU"] = {f"{short}@{k}": totals[name] for name, short in names.items()}
    return scores


# -- the benchmark server: one-to-one matching


@dataclass(frozen=True)
class _Match:
    caption: str
    iou: float


def _matches(objects: _Objects, proposals: _Proposals) -> tuple[dict[Key, _Match], int]:
    """The proposal matched to each object, and how many boxes were predicted in their scenes.

    An object left over where there are fewer boxes gets the scene's first one. Raises ``ValueError`` for a scene
    without predictions and for boxes that cannot be matched, as the server does.
    """
    matches: dict[Key, _Match] = {}
    count = 0
    for scene, keys in _keys_by_scene(objects).items():
        found = proposals.get(scene, [])
        if not found:
            raise ValueError(f"no predictions for scene {scene}; the benchmark needs at least one box in every scene")
        predicted, true = np.array([p.box for p in found]), np.array([objects[key].box for key in keys])
        chosen = np.zeros(len(keys), dtype=int)
        cost = -benchmark_generalized_iou(predicted, true)
        if np.isnan(cost).any():
            raise ValueError(
                f"scene {scene} cannot be matched: costs contain NaN; check the boxes for NaN and for zero volume"
            )
        rows, columns = linear_sum_assignment(cost)
        chosen[columns] = rows
        ious = hull_iou(predicted[chosen], true, dtype=np.float32)
        matches |= {k: _Match(found[p].caption, float(i)) for k, p, i in zip(keys, chosen, ious, strict=True)}
        count += len(found)
    return matches, count


def _benchmark(files: tuple[_Objects, _Proposals]) -> dict[str, Any]:
    """Precision, recall and F1 of sentence scores, 0 below the threshold, at IoU 0, 0.25 and 0.5."""
    matches, count = _matches(*files)
    found = _scored(_corpus(files[0], None), {key: match.caption for key, match in matches.items()})
    ious = np.array([match.iou for match in matches.values()])
    scores: dict[str, Any] = {}
    for k in (0, *_THRESHOLDS):
        parts: dict[str, dict[str, Any]] = {"precision": {}, "recall": {}, "f1-score": {}}
        for i, name in enumerate(DASHED):
            values = found.column(i)
            total = None if values is None else float(np.sum(np.array(values) * (ious >= k)))
            parts["precision"][name], parts["recall"][name], parts["f1-score"][name] = _ratios(total, count, len(ious))
        scores[f"@{k}IoU"] = parts
    return scores


def _ratios(total: float | None, predicted: int, true: int) -> tuple[Any, Any, Any]:
    """Precision, recall and F1 of a sum of scores; F1 of nothing is not a number, here None."""
    if total is None:
        return NOT_AVAILABLE, NOT_AVAILABLE, NOT_AVAILABLE
    precision, recall = total / predicted, total / true
    both = precision + recall
    return precision, recall, finite(2 * precision * recall / both) if both else None


def _benchmark_items(files: tuple[_Objects, _Proposals]) -> dict[str, Any]:
    found = _matches(*files)[0].items()
    return {f"{scene}|{object_id}": {"iou": match.iou, "caption": match.caption} for (scene, object_id), match in found}


# -- language models: one proposal for each object


def _read_answers(references: Any, predictions: Any) -> tuple[_Objects, dict[Key, _Match]]:
    """Objects, and the last answer of each, in the order of their first; an unknown object is an error."""
    objects, answers = _read_objects(references), dict[Key, _Match]()
    for entry in rows(predictions, "predictions"):
        row = entry.read(_ANSWER)
        key = row["scene_id"], row["object_id"]
        if key not in objects:
            raise ValueError(f"{entry.where} is no object of the references; remove it or give its annotations")
        iou = float(hull_iou(entry.get("box", corners), objects[key].box)) if row["iou"] is None else row["iou"]
        answers[key] = _Match(row["pred_response"], iou)
    return objects, answers


_Answers = tuple[_Objects, Mapping[Key, _Match]]


def _leo(files: _Answers) -> dict[str, Any]:
    """Over the predicted objects only; not lower-cased, and commas stay on their words."""
    objects, answers = files
    corpus = _corpus(objects)
    kept = {key: corpus[key] for key in answers}
    scores = {}
    for k in _THRESHOLDS:
        texts = {key: f"sos {a.caption} eos".replace(". ", " . ") for key, a in answers.items() if a.iou >= k}
        totals = _scored(kept, texts).totals(DASHED)
        scores[f"@{k}IoU"] = {name: totals[name] for name in _FOUR}
    return scores


def _spaced(text: str) -> str:
    return f"sos {text.replace('.', ' . ').replace(',', ' , ').lower()} eos"


def _without_tokeniser(files: _Answers, threshold: float) -> tuple[list[list[str]], list[str]]:
    """References and captions of the predicted objects; below the threshold the caption is empty: "sos  eos"."""
    objects, answers = files
    corpus = [[_spaced(text) for text in objects[key].descriptions] for key in answers]
    return corpus, [_spaced(answer.caption if answer.iou >= threshold else "") for answer in answers.values()]


def _video3dllm(files: _Answers) -> dict[str, Any]:
    """Raw descriptions with points and commas spaced out, over the predicted objects.

    Where no proposal reaches the threshold the published script goes on with the references of the object before (a
    slip that makes its numbers depend on the number of GPUs); here every object keeps its own.
    """
    scores: dict[str, Any] = {}
    for k in _THRESHOLDS:
        totals = caption_scores(*_without_tokeniser(files, k)).totals(DASHED, 100.0)
        scores[f"@{k}IoU"] = {name: totals[name] for name in _FOUR} | {"n": len(files[1])}
    return scores


def _vgllm(files: _Answers) -> dict[str, Any]:
    return {"@0.5IoU": {"CIDEr": cider(*_without_tokeniser(files, 0.5)).total[0] * 100}}


def _chatscene(files: _Answers) -> dict[str, Any]:
    """PTB tokens on both sides, over all annotated objects."""
    objects, answers = files
    corpus = {key: tokenize(texts) for key, texts in _corpus(objects).items()}
    scores: dict[str, Any] = {}
    for k in _THRESHOLDS:
        texts = {key: f"sos {a.caption} eos".replace("\n", " ") for key, a in answers.items() if a.iou >= k}
        captions = dict(zip(texts, tokenize(list(texts.values())), strict=True))
        scores |= _scored(corpus, captions).totals([f"[scan2cap] {name}@{k:.2f}" for name in UNDERSCORED])
    return scores


_FRACTIONS = "fractions (CIDEr with its factor 10 only)"
PROTOCOLS = by_name(
    Protocol("cvpr21", "daveredrum/Scan2Cap lib/eval_helper.py", _FRACTIONS, _read_proposals, _cvpr21, _cvpr21_items),
    Protocol("benchmark", "daveredrum/Scan2Cap benchmark/eval.py", _FRACTIONS,
             partial(_read_proposals, table=_UNSURE), _benchmark, _benchmark_items),
    Protocol("ll3da", "Open3DA/LL3DA eval_utils/evaluate_densecap.py", _FRACTIONS, _read_proposals, _ll3da),
    Protocol("leo", "embodied-generalist/embodied-generalist evaluator/cap_eval.py", _FRACTIONS, _read_answers, _leo),
    Protocol("video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_scan2cap.py", "percent", _read_answers, _video3dllm),
    Protocol("3drs", "Visual-AI/3DRS llava/eval/eval_scan2cap.py", "percent", _read_answers, _video3dllm),
    Protocol("vgllm", "LaVi-Lab/VG-LLM src/lmms_eval/tasks/scan2cap/utils.py", "percent", _read_answers, _vgllm),
    Protocol("chatscene", "ZzZZCHS/Chat-Scene utils/eval.py", _FRACTIONS, _read_answers, _chatscene),
)  # fmt: skip
