"""SQA3D's pairs of files: ``v1_balanced_questions_*`` and ``v1_balanced_sqa_annotations_*`` (Ma et al., ICLR 2023).

A situation is told in words and as a pose: an agent at the origin who looks along -x is turned by ``rotation`` (a
quaternion about z) and moved by ``position`` in metres. The origin is the centre of the bounding box of the mesh
``_vh_clean_2.ply`` as distributed, before axis alignment: so the authors' own drawing of the data has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vidllm.datasets.records import Entry, entries
from vidllm.io.files import read_json

_QUATERNION_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Situation:
    """Where somebody stands.

    Attributes:
        text: one sentence.
        alternatives: other sentences for the same situation.
        position: (x, y, z) metres.
        rotation: unit quaternion (x, y, z, w).
    """

    text: str
    alternatives: tuple[str, ...]
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float]

    @property
    def yaw(self) -> float:
        """Turn about z in radians, in (-pi, pi]; the rotations of the files have no other part."""
        x, y, z, w = self.rotation
        return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))

    @property
    def forward(self) -> Float[np.ndarray, " 3"]:
        """The direction of sight, a unit vector."""
        return -self.world_from_agent()[:3, 0]

    def world_from_agent(self, mesh_centre: Float[np.ndarray, " 3"] | None = None) -> Float[np.ndarray, "4 4"]:
        """The pose as a 4x4 matrix: x of the agent points backwards, z up.

        Args:
            mesh_centre: centre of the mesh's bounding box before alignment, metres; given, the pose is in the frame of
                the mesh, else in the file's own.
        """
        x, y, z, w = self.rotation
        matrix = np.eye(4)
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, 3] = np.asarray(self.position) + (0 if mesh_centre is None else np.asarray(mesh_centre))
        return matrix


@dataclass(frozen=True)
class SQA3DQuestion:
    """One question with its answer.

    Attributes:
        scene_id: such as ``scene0050_00``.
        question_id: a whole number.
        question: as written.
        answers: as written; the files hold one each.
        situation: see :class:`Situation`.
        question_type, answer_type: as the files say (``N/A``, ``other``).
    """

    scene_id: str
    question_id: int
    question: str
    answers: tuple[str, ...]
    situation: Situation
    question_type: str
    answer_type: str


def read_sqa3d(questions: str | Path, annotations: str | Path | None = None) -> list[SQA3DQuestion]:
    """The questions of a split in the order of the questions file, joined with their annotations by id.

    Args:
        questions: the questions file.
        annotations: its annotations file (default: the one of the official name beside it).

    Raises:
        ValueError: naming file, entry and field where one is broken, an id that comes twice, or one without partner.
    """
    other = annotations_path(questions) if annotations is None else Path(annotations)
    asked = _by_id(questions, "questions")
    answers = _by_id(other, "annotations")
    for here, there, path in ((asked, answers, other), (answers, asked, questions)):
        lonely = next((entry for number, entry in here.items() if number not in there), None)
        if lonely is not None:
            raise ValueError(f"{lonely.name}: {path} has no entry of this question_id; the files must be of one split")
    return [_question(entry, answers[number]) for number, entry in asked.items()]


def annotations_path(questions: str | Path) -> Path:
    """Where the annotations that belong to a questions file lie: beside it, under the official name."""
    path = Path(questions)
    return path.with_name(path.name.replace("_questions_", "_sqa_annotations_"))


def _by_id(path: str | Path, field: str) -> dict[int, Entry]:
    values = read_json(path)
    if not isinstance(values, dict) or field not in values:
        raise ValueError(f"{path}: expected an object with {field!r}, as SQA3D's files have; is it another file?")
    found: dict[int, Entry] = {}
    for entry in entries(path, values[field], field):
        number = entry.integer("question_id")
        if number in found:
            raise ValueError(f"{entry.name}: question_id {number} is also that of entry {found[number].index}")
        found[number] = entry
    return found


def _question(asked: Entry, answered: Entry) -> SQA3DQuestion:
    scene = asked.name_of("scene_id")
    if answered.name_of("scene_id") != scene:
        raise answered.error("scene_id", f"{scene}, as {asked.path.name} says", answered.values["scene_id"])
    given = answered.get("answers")
    answers: list[Any] = [a.get("answer") if isinstance(a, dict) else None for a in _listed(given)]
    if not answers or not all(isinstance(a, str) for a in answers):
        raise answered.error("answers", 'a list of {"answer": text}', given)
    answers = [answered.sayable("answers", answer) for answer in answers]
    situation = Situation(
        asked.sentence("situation"),
        asked.sentences("alternative_situation") if "alternative_situation" in asked.values else (),
        _numbers(answered, "position", ("x", "y", "z")),
        _unit(answered, _numbers(answered, "rotation", ("_x", "_y", "_z", "_w"))),
    )
    kinds = [str(answered.values.get(name, "N/A")) for name in ("question_type", "answer_type")]
    return SQA3DQuestion(
        scene, asked.integer("question_id"), asked.sentence("question"), tuple(answers), situation, kinds[0], kinds[1]
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(entry: Entry, field: str, names: tuple[str, ...]) -> Any:
    value = entry.get(field)
    numbers: list[Any] = [value.get(name) for name in names] if isinstance(value, dict) else []
    if not numbers or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise entry.error(field, f"finite numbers {', '.join(names)}", value)
    return tuple(float(n) for n in numbers)


def _unit(entry: Entry, quaternion: Any) -> Any:
    length = math.sqrt(sum(n * n for n in quaternion))
    if abs(length - 1) > _QUATERNION_TOLERANCE:
        raise entry.error("rotation", "a unit quaternion", quaternion)
    return tuple(n / length for n in quaternion)
