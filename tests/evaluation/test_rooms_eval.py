"""The figures of a model that knows everything are perfect; those of one that knows nothing are the baselines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import vidllm_rooms.evaluation as rooms
from vidllm.evaluation.reconstruction_metrics import depth_metrics, pose_errors
from vidllm.evaluation.scene_metrics import Metrics, box_f1, table
from vidllm.io.video import load_frames
from vidllm.scene import Box, Scene, VidLLM
from vidllm.training.texts import scene_boxes, scene_from_room
from vidllm_rooms.evaluation import evaluate
from vidllm_rooms.shards import render_scene

SEED = 11


def as_box(values, score=1.0):
    x, y, z, length, width, height, yaw = map(float, values)
    return Box((x, y, z), (length, width, height), yaw, score)


class Oracle(Scene):
    """A scene whose every answer is the ground truth; ``blank`` knows the depth of a wall and nothing else."""

    def __init__(self, clip, language, blank):
        self.clip, self.language, self.blank = clip, language, blank
        self._frames = load_frames(clip.rgb, len(clip.rgb), shorter_side=min(clip.rgb.shape[1:3]))

    @property
    def depth(self):
        return torch.from_numpy(np.full_like(self.clip.depth_m, 2.5) if self.blank else self.clip.depth_m)

    @property
    def extrinsics(self):
        true = torch.from_numpy(self.clip.extrinsics).float()
        return torch.eye(4).expand(len(true), 4, 4) if self.blank else true

    def ask(self, question, situation=None):
        found = [q for q in self.language.questions if (q.question, q.situation) == (question, situation)]
        return "" if self.blank else found[0].answers[0]

    def ask_all(self, questions, max_new_tokens=64, batch_size=32):
        return [self.ask(*pair) for pair in questions]

    def ground(self, expression, several=True):
        if self.blank:
            return []
        record = {"objects": [{"id": o.id, "box": [*o.centre, *o.size, o.yaw]} for o in self.clip.room.objects]}
        boxes = scene_boxes(record, scene_from_room(torch.from_numpy(self.clip.extrinsics).float()))
        item = next(r for r in self.language.references if r.expression == expression)
        return [as_box(boxes[t]) for t in item.targets]


class OracleModel(VidLLM):
    """Stands in for a model: recognises the clip that it is shown."""

    def __init__(self, blank=False):
        self.blank = blank

    def reconstruct(self, rgb, num_frames=None):
        clip, language = render_scene(SEED, 3, *rgb.shape[1:3])
        assert np.array_equal(clip.rgb, rgb)
        return Oracle(clip, language, self.blank)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(rooms, "SIZES", ((42, 56),))


def test_an_oracle_is_perfect():
    done = []
    figures = evaluate(OracleModel(), [SEED], progress=done.append, frames=3)
    rows = {what: ours for what, ours, _, _ in table(figures)}
    assert done == [1]
    assert rows["question answering EM"] == 1.0
    assert rows["depth abs-rel"] == rows["scale error, median"] == rows["depth abs-rel, median aligned"] == 0.0
    assert rows["depth delta1"] == 1.0
    assert rows["rotation error, median (degrees)"] < 1e-3 and rows["translation error, median (m)"] < 1e-5
    assert rows["grounding Acc@0.25, raw boxes"] == rows["grounding Acc@0.5, raw boxes"] == 1.0
    assert all(v == 1.0 for k, v in rows.items() if k.startswith(("EM,", "several", "no such")))
    kinds = [k for k in figures.values if k.startswith("qa/")]
    assert sum(len(figures.values[k]) for k in kinds) == len(figures.values["qa"])


def test_one_who_knows_nothing_scores_as_the_baselines():
    rows = {what: (ours, other) for what, ours, other, _ in table(evaluate(OracleModel(blank=True), [SEED], frames=3))}
    for what in ("depth abs-rel", "depth delta1", "scale error, median", "rotation error, median (degrees)"):
        assert rows[what][0] == pytest.approx(rows[what][1], abs=1e-6), what
    assert rows["question answering EM"] == (0.0, None)  # no language-only model was given
    assert rows["grounding Acc@0.25, raw boxes"][0] == 0.0
    assert rows.get("no such object, accuracy", (1.0, None))[0] == 1.0


def test_depth_figures_by_hand():
    true = np.array([[[1.0, 2.0, 4.0, 0.0]]])  # the last pixel has no ground truth
    told = depth_metrics(true * 1.5, true)
    assert told["abs_rel"] == pytest.approx(0.5) and told["scale_error"] == pytest.approx(0.5)
    assert told["abs_rel_aligned"] == pytest.approx(0.0) and told["delta1"] == 0.0
    assert depth_metrics(np.array([[[1.2, 2.0, 1.0, 9.0]]]), true)["delta1"] == pytest.approx(2 / 3)


def test_poses_are_compared_relative_to_the_first_camera():
    turn = math.radians(30)
    true = torch.eye(4).repeat(3, 1, 1)
    true[1, :2, :2] = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    true[2, 0, 3] = 2.0
    world = torch.eye(4)
    world[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    angle, travel = pose_errors(true @ world, true)  # another world, the same cameras
    assert float(angle.max()) < 1e-3 and float(travel.max()) < 1e-5
    angle, travel = pose_errors(torch.eye(4).expand(3, 4, 4), true)
    assert angle.tolist() == pytest.approx([30, 0], abs=1e-3) and travel.tolist() == pytest.approx([0, 2])


def test_f1_at_its_edges():
    here, there = [0.0] * 3 + [1.0] * 3 + [0.0], [5.0, 0.0, 0.0] + [1.0] * 3 + [0.3]
    both = [as_box(here), as_box(there)]
    assert box_f1([], [], 0.25) == 1.0 and box_f1(both, [], 0.25) == box_f1([], [here], 0.25) == 0.0
    assert box_f1(both, [here, there], 0.25) == 1.0
    assert box_f1(both, [here], 0.25) == pytest.approx(2 / 3)
    assert box_f1([as_box(here)] * 2, [here], 0.25) == pytest.approx(2 / 3)  # a second box on it is wrong
    assert box_f1([as_box(there)], [here], 0.25) == 0.0


def test_the_table_leaves_out_what_was_not_measured():
    figures = Metrics()
    assert table(figures) == [] and math.isnan(figures.mean("qa")) and math.isnan(figures.median("qa"))
    figures.add("qa", True, False)
    figures.add("baseline_qa", False, False)
    figures.add("qa/count", True)
    assert table(figures) == [
        ("question answering EM", 0.5, 0.0, "language only"), ("EM, count (1)", 1.0, None, "language only")
    ]  # fmt: skip
