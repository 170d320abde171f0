"""Texts about a room as entries of ScanQA, SQA3D, ScanRefer, Scan2Cap, Multi3DRefer and others.

Questions without a situation go to ScanQA, those with one to SQA3D; references to one object to ScanRefer, all of them
to Multi3DRefer; captions of objects to Scan2Cap; references to one of several objects of a category to Nr3D; Sr3D's
templates "closest" and "farthest" are filled in. Boxes are the axis-aligned bounds of the mesh's vertices in the
aligned frame.

SQA3D gives position and heading of a situation in numbers. Situations of rooms hold for several places at an object
(:mod:`vidllm_rooms.language.situations`), of which one is chosen: the seat itself, or the side with most free floor. As
in SQA3D's viewer, positions are in the scan frame minus the middle of the mesh's bounding box, z is 0, and a quaternion
rotates someone who faces -x about z.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from vidllm.datasets.language import Language, Question, Reference
from vidllm.english import capitalised, plural, tokens
from vidllm.io.cameras.matrices import half_centres
from vidllm_rooms.language.facts import GENERIC_NAMES, WIDER_NAMES, observe, viewer_axes
from vidllm_rooms.language.guessing import SEATS
from vidllm_rooms.language.measures import in_room
from vidllm_rooms.language.situations import OVERHEAD_M, SITUATIONS, standpoints
from vidllm_rooms.language.speaker import Speaker
from vidllm_rooms.language.vsi import Asker
from vidllm_rooms.official.scan import Scan, cameras, recorded
from vidllm_rooms.official.scan_measures import in_scan
from vidllm_rooms.world import Clip, Room
from vidllm_rooms.world.catalogue import CATALOGUE
from vidllm_rooms.world.outline import Outline

Entry = dict[str, Any]
_MOST_QUESTIONS = 1000  # of a scene, so that SQA3D's numbers stay apart


def corpora(clip: Clip, language: Language, scan: Scan, split: str) -> dict[str, list[Entry]]:
    """The entries of a room by corpus: scanqa, sqa3d_questions, sqa3d_annotations, scanrefer and so on.

    Those of scanrefer and scan2cap have ``bbox`` (8 corners), those of multi3drefer ``aabb_bound`` (low, high).
    """
    situated = [(item, item.situation) for item in language.questions if item.situation is not None]
    if len(situated) > _MOST_QUESTIONS:
        raise ValueError(f"expected at most {_MOST_QUESTIONS} situated questions a room, received {len(situated)}")
    questions, annotations = _sqa3d(clip, scan, situated)
    ids = scan.object_id_of()
    single = [(ids[item.targets[0]], item.expression) for item in language.references if len(item.targets) == 1]
    frames = [(millimetres / 1000.0, pose) for _, millimetres, pose in recorded(clip, scan)]
    depth_m, poses = (np.stack(part) for part in zip(*frames, strict=True))
    intrinsics = half_centres(cameras(clip)[1], scan.name)
    asker = Asker(clip, (in_room(clip), in_scan(scan, depth_m, poses, intrinsics)))
    captions = [(ids[c.object_id], text) for c in language.captions if c.object_id is not None for text in c.texts]
    return {
        "scanqa": list(_scanqa(scan, [item for item in language.questions if item.situation is None], split)),
        "sqa3d_questions": questions,
        "sqa3d_annotations": annotations,
        "scanrefer": list(_described(scan, single)),
        "scan2cap": list(_described(scan, captions)),
        "multi3drefer": [_multi(scan, item, number) for number, item in enumerate(language.references)],
        "nr3d": list(_nr3d(scan, single)),
        "sr3d": list(_sr3d(scan, asker)),
        "vsi": [{"scene_name": scan.name, **entry} for entry in asker.questions()],
    }


def _scanqa(scan: Scan, questions: list[Question], split: str) -> Iterator[Entry]:
    scene = scan.name.partition("_")[0]
    for number, item in enumerate(questions):
        meant = _instances_named(scan, names_in(item.question))
        yield {
            "scene_id": scan.name, "question_id": f"{split}-{scene}-{number}", "question": item.question,
            "answers": list(item.answers), "object_ids": meant,
            "object_names": [scan.instances[index].label for index in meant],
        }  # fmt: skip


def _sqa3d(clip: Clip, scan: Scan, questions: list[tuple[Question, str]]) -> tuple[list[Entry], list[Entry]]:
    if not questions:
        return [], []
    reader = SituationReader(clip)
    asked, answered = [], []
    for number, (item, situation) in enumerate(questions):
        question_id = int(f"22{clip.room.seed:07d}{number:03d}")
        said = next((a for a in item.answers if not a.isdigit()), item.answers[0])  # numbers as words: its scorer's way
        asked.append({
            "scene_id": scan.name, "situation": situation, "alternative_situation": [],
            "question": item.question, "question_id": question_id,
        })  # fmt: skip
        answered.append({
            "scene_id": scan.name, "question_type": "N/A", "answer_type": "other", "question_id": question_id,
            "answers": [{"answer": said, "answer_confidence": "yes", "answer_id": 1}],
            **pose_in_scan(reader.stand(situation), scan.frames.scan_from_room, scan.middle()),
        })  # fmt: skip
    return asked, answered


def _described(scan: Scan, described: list[tuple[int, str]]) -> Iterator[Entry]:
    """ScanRefer's entries; ``ann_id`` counts the descriptions of each object."""
    count: Counter[int] = Counter()
    for object_id, text in described:
        yield {
            "scene_id": scan.name, "object_id": str(object_id),
            "object_name": _underscored(scan.instances[object_id].label), "ann_id": str(count[object_id]),
            "description": text.lower(), "token": tokens(text), "bbox": corners(*scan.box(object_id)),
        }  # fmt: skip
        count[object_id] += 1


def _multi(scan: Scan, item: Reference, number: int) -> Entry:
    ids = scan.object_id_of()
    meant = [ids[target] for target in item.targets]
    name = scan.instances[meant[0]].label if len(meant) == 1 else (names_in(item.expression) or ["object"])[0]
    return {
        "scene_id": scan.name, "object_ids": meant, "object_name": _underscored(name), "ann_id": number,
        "eval_type": _eval_type(scan, meant, name), "description": " ".join(tokens(item.expression)),
        "aabb_bound": [[corner.tolist() for corner in scan.box(index)] for index in meant],
    }  # fmt: skip


def _nr3d(scan: Scan, single: list[tuple[int, str]]) -> Iterator[Entry]:
    for object_id, words in single:
        context = _stimulus(scan, object_id)
        if context["distractor_ids"]:
            yield {
                **context, "utterance": words.lower(), "correct_guess": True,
                "mentions_target_class": context["instance_type"] in names_in(words), "tokens": tokens(words),
                "dataset": "nr3d",
            }  # fmt: skip


def _sr3d(scan: Scan, asker: Asker) -> Iterator[Entry]:
    ids = scan.object_id_of()
    for name, meant, anchor, nearest in asker.nearest_of():
        words = f"the {name} that is {'closest to' if nearest else 'farthest from'} the {anchor}"
        yield {
            **_stimulus(scan, ids[meant]), "utterance": words, "coarse_reference_type": "horizontal",
            "reference_type": "closest" if nearest else "farthest", "anchors_types": [anchor],
            "anchor_ids": [ids[asker.single[anchor]]], "mentions_target_class": True, "tokens": tokens(words),
            "dataset": "sr3d",
        }  # fmt: skip


def _stimulus(scan: Scan, object_id: int) -> Entry:
    """ReferIt3D's context: the scene, the category, how many there are, which is meant, and the others."""
    label = scan.instances[object_id].label
    others = [i.object_id for i in scan.instances if i.label == label and i.object_id != object_id]
    return {
        "stimulus_id": "-".join(map(str, (scan.name, label, len(others) + 1, object_id, *others))),
        "scan_id": scan.name, "instance_type": label, "target_id": object_id, "distractor_ids": others,
    }  # fmt: skip


def _eval_type(scan: Scan, meant: list[int], name: str) -> str:
    """One of zt (none meant), st (one) and mt (several); the first two with (w_d) or without others so named."""
    if len(meant) > 1:
        return "mt"
    others = set(_instances_named(scan, [name])) - set(meant)
    return f"{'st' if meant else 'zt'}_{'w_d' if others else 'wo_d'}"


def _instances_named(scan: Scan, names: list[str]) -> list[int]:
    """Object ids of the things that one of the names covers, "lamp" all kinds of lamp."""
    meant = (i for i in scan.instances if i.label in names or WIDER_NAMES.get(i.label) in names)
    return [item.object_id for item in meant if item.room_id]


def names_in(text: str) -> list[str]:
    """The categories named in a text, in the singular, without duplicates, in order."""
    pattern, singular = _names()
    return list(dict.fromkeys(singular[match[0].lower()] for match in pattern.finditer(text)))


@cache
def _names() -> tuple[re.Pattern[str], dict[str, str]]:
    names = (*CATALOGUE, *GENERIC_NAMES)
    singular = {plural(name): name for name in names} | {name: name for name in names}
    longest_first = sorted(singular, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE), singular


def corners(low: np.ndarray, high: np.ndarray) -> list[list[float]]:
    """The eight corners of an axis-aligned box in the order of ScanRefer's evaluator: the upper four first."""
    (x0, y0, z0), (x1, y1, z1) = low.tolist(), high.tolist()
    ring = ((x1, y1), (x1, y0), (x0, y0), (x0, y1))
    return [[x, y, z] for z in (z1, z0) for x, y in ring]


def _underscored(name: str) -> str:
    return name.replace(" ", "_")


@dataclass(frozen=True)
class Stand:
    """A position (2,) on the floor and a heading (2,) of length 1, in the room frame."""

    place: np.ndarray
    heading: np.ndarray


class SituationReader:
    """Positions and headings of the situations of one clip."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.speaker = Speaker(observe(clip), np.random.default_rng(0))
        rows = self.speaker.simple.items()
        self.rows = {f"the {option.noun()}": row for row, options in rows for option in options}

    def stand(self, situation: str) -> Stand:
        """Position and heading of a situation; ValueError for another text."""
        place, target, away = self._named(situation)
        spots = self._in_room(standpoints(self.speaker, place))
        if self.speaker.thing(place).category in SEATS:
            spot = spots[0]
        else:
            spot = max(spots[1:], key=lambda one: clearance_m(self.clip.room, one))
        at = self._in_room(np.array([self.speaker.thing(target).position[:2]]))[0]
        heading = (spot - at) if away else (at - spot)
        return Stand(spot, heading / np.linalg.norm(heading))

    def _named(self, situation: str) -> tuple[int, int, bool]:
        for away, pattern in _patterns():
            match = pattern.fullmatch(situation)
            if match and match["x"] in self.rows and match["y"] in self.rows:
                return self.rows[match["x"]], self.rows[match["y"]], away
        raise ValueError(f"expected a situation about this clip, received {situation!r}; use the clip's own language")

    def _in_room(self, points: np.ndarray) -> np.ndarray:
        """(K, 2) points of the viewer's frame in the room frame."""
        eye, right, forward = viewer_axes(self.clip.extrinsics[0])
        return np.asarray(eye[:2] + points[:, :1] * right + points[:, 1:] * forward)


@cache
def _patterns() -> list[tuple[bool, re.Pattern[str]]]:
    """Whether one faces away, and the words, of every kind of situation."""
    found = []
    for kind, text in ((kind, text) for kind, texts in SITUATIONS.items() for text in texts):
        words = re.sub(r"\\{([xy])\\}", r"(?P<\1>the .+)", re.escape(capitalised(text)))
        found.append((kind.endswith("away"), re.compile(words)))
    return found


def clearance_m(room: Room, spot: np.ndarray) -> float:
    """Free floor around a position (2,): metres to the nearest wall or object, negative in one or outside the room."""
    low = [item for item in room.objects if item.centre[2] - item.size[2] / 2 < OVERHEAD_M and item.category != "rug"]
    beyond = [np.abs(item.local(spot)) - np.array(item.size[:2]) / 2 for item in low]
    to_things = (float(np.linalg.norm(off.clip(0))) + min(float(off.max()), 0.0) for off in beyond)
    return min(float(Outline(room.polygon).clearance(spot)), *to_things)


def pose_in_scan(stand: Stand, scan_from_room: np.ndarray, middle: np.ndarray) -> dict[str, dict[str, float | int]]:
    """``position`` and ``rotation`` of an SQA3D annotation; ``middle`` (3,) is that of the mesh's bounding box."""
    x, y = scan_from_room[:2, :2] @ stand.place + scan_from_room[:2, 3] - middle[:2]
    forward = scan_from_room[:2, :2] @ stand.heading
    half = math.atan2(-forward[1], -forward[0]) / 2
    return {
        "rotation": {"_x": 0, "_y": 0, "_z": math.sin(half), "_w": math.cos(half)},
        "position": {"x": float(x), "y": float(y), "z": 0},
    }
