"""Score a model on your own videos and sentences (:mod:`vidllm.datasets.jsonl`): before and after fine-tuning.

Questions: exact match after the cleaning of :mod:`answers`, beside the file's own most frequent answer of the kind.
Boxes: as for rooms, Acc@0.25 and Acc@0.5 of one, F1@0.25 of several, accuracy where there is none. Captions: ROUGE-L.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidllm.datasets.jsonl import Example, scene_places
from vidllm.evaluation.protocols.answers import clean_answer, match_any
from vidllm.evaluation.scene_metrics import Metrics, best_iou, box_f1
from vidllm.evaluation.text_metrics.ptb import tokenize
from vidllm.evaluation.text_metrics.rouge import rouge_l
from vidllm.scene import Scene, VidLLM


@dataclass(frozen=True)
class Row:
    """One measure: its name, of how many sentences, the model's value, and that of the most frequent answer."""

    measure: str
    count: int
    value: float
    baseline: float | None = None


def score_examples(
    model: VidLLM,
    examples: Sequence[Example],
    frames: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Reconstruct every video from its frames alone, ask everything that is told of it, and score.

    ``progress`` hears (videos done, videos in all). ValueError for a video that cannot be read.
    """
    videos: dict[Path, list[Example]] = {}
    for example in examples:
        videos.setdefault(example.video, []).append(example)
    metrics, said = Metrics(), dict[int, str]()
    for done, (video, of_it) in enumerate(videos.items(), 1):
        scene = model.reconstruct(video, frames or model.processor.image_processor.num_frames)
        said |= _answers(scene, [e for e in of_it if e.task == "question"])
        for example in of_it:
            if example.boxes is not None:
                _score_boxes(scene, example, metrics)
            if example.task == "caption":
                said[example.line] = scene.describe(scene_places(example)[1])
        if progress is not None:
            progress(done, len(videos))
    return _rows(examples, said, metrics)


def _answers(scene: Scene, questions: Sequence[Example]) -> dict[int, str]:
    given = scene.ask_all([(q.text, q.situation) for q in questions]) if questions else []
    return {q.line: answer for q, answer in zip(questions, given, strict=True)}


def _score_boxes(scene: Scene, example: Example, metrics: Metrics) -> None:
    targets = scene_places(example)[0] or []
    found = scene.ground(example.text, several=len(targets) != 1)
    if len(targets) == 1:
        iou = best_iou(found[:1], targets[0])
        metrics.add("one box Acc@0.25", iou >= 0.25)
        metrics.add("one box Acc@0.5", iou >= 0.5)
    elif targets:
        metrics.add("several boxes F1@0.25", box_f1(found, targets, 0.25))
    else:
        metrics.add("no such object, accuracy", not found)


def _rows(examples: Sequence[Example], said: dict[int, str], metrics: Metrics) -> list[Row]:
    questions = [example for example in examples if example.task == "question"]
    captions = [example for example in examples if example.task == "caption"]
    rows = [_question_row("questions, exact match", questions, said)] if questions else []
    kinds = list(dict.fromkeys(example.kind for example in questions))
    if len(kinds) > 1:
        rows += [_question_row(f"  {kind}", [q for q in questions if q.kind == kind], said) for kind in kinds]
    rows += [Row(name, len(values), metrics.mean(name)) for name, values in metrics.values.items()]
    if captions:
        told = [tokenize(example.answers) for example in captions]
        scored = rouge_l(told, tokenize([said[example.line] for example in captions]))
        rows.append(Row("captions ROUGE-L", len(captions), scored.total[0]))
    return rows


def _question_row(name: str, questions: Sequence[Example], said: dict[int, str]) -> Row:
    """Exact match, and that of the answer that these questions have most often."""
    told = [[clean_answer(answer) for answer in question.answers] for question in questions]
    right = [match_any(clean_answer(said[q.line]), known)[0] for q, known in zip(questions, told, strict=True)]
    usual = Counter(answer for known in told for answer in set(known)).most_common(1)[0][0]
    guessed = [usual in known for known in told]
    return Row(name, len(questions), sum(right) / len(right), sum(guessed) / len(guessed))
