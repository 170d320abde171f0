"""Packed texts behave as if each were alone behind the scene."""

from __future__ import annotations

import pytest
import torch
from helpers import COORD, LOC, micro_model

from vidllm.model.text import IGNORE_INDEX
from vidllm.training.packing import Text, pack, packed_cross_entropy, packed_hidden, packed_mask, packed_positions

BOX = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def text(ids, scored=1, points=(), boxes=None):
    return Text(list(ids), [False] * (len(ids) - scored) + [True] * scored, "any", list(points), boxes)


SCENES = [
    [text([7, 8, 9]), text([10, COORD, 11, 12, 2], 2, [(1.0, 2.0, 3.0)]), text([13, LOC], 0, boxes=[BOX, BOX])],
    [text([20, 21, 2], 2), text([22, LOC], 0, boxes=[])],
]


@pytest.fixture(scope="module")
def model():
    return micro_model()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_each_packed_text_equals_the_text_alone(kernel):
    model = micro_model()
    model.language_model.set_attn_implementation(kernel)
    prefix = torch.randn(2, 5, 32)
    alive = torch.tensor([[True] * 5, [True, True, True, False, False]])
    packed = pack(SCENES, LOC, 64)
    with torch.no_grad():
        embedded = model.embed_text(packed.input_ids, packed.coordinates)
        _, hidden = packed_hidden(model.language_model, prefix, alive, embedded, packed)
        for b, texts in enumerate(SCENES):
            at = 0
            for one in texts:
                points = torch.tensor([one.coordinates]) if one.coordinates else None
                words = model.embed_text(torch.tensor([one.ids]), points)
                whole = torch.cat([prefix[b : b + 1, alive[b]], words], 1)
                alone = model.language_model.base_model(inputs_embeds=whole).last_hidden_state[0, -len(one.ids) :]
                assert float((hidden[b, at : at + len(one.ids)] - alone).abs().max()) < 1e-5
                at += len(one.ids)


def test_who_sees_whom():
    alive = torch.tensor([[True, True, False]])
    segment = torch.tensor([[1, 1, 2, 0]])
    seen = packed_mask(alive, segment)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],  # a padded place sees itself: no row is empty
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],  # the second text: the scene and itself, not the first text
        [1, 1, 0, 0, 0, 0, 1],
    ]
    assert packed_positions(alive, torch.tensor([[0, 1, 0, 0]])).tolist() == [[0, 1, 1, 2, 3, 2, 2]]


def test_what_is_packed():
    packed = pack(SCENES, LOC, 64)
    assert packed.input_ids.tolist()[1] == [20, 21, 2, 22, LOC, 0, 0, 0, 0, 0]
    assert packed.labels[0].tolist() == [
        IGNORE_INDEX,
        IGNORE_INDEX,
        9,
        IGNORE_INDEX,
        IGNORE_INDEX,
        IGNORE_INDEX,
        12,
        2,
        IGNORE_INDEX,
        IGNORE_INDEX,
    ]
    assert packed.segment[1].tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0, 0]
    assert packed.position[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1]
    assert packed.coordinates.tolist() == [[[1, 2, 3]], [[0, 0, 0]]]
    assert packed.loc.tolist() == [[9], [4]] and packed.loc_mask.tolist() == [[True], [True]]
    assert packed.box_mask.tolist() == [[[True, True]], [[False, False]]]  # "no such object" is asked for, too


def test_texts_over_the_limit_are_left_out_and_shorter_ones_still_fit():
    packed = pack([SCENES[0]], LOC, 5)
    assert packed.input_ids.tolist() == [[7, 8, 9, 13, LOC]]
    assert packed.coordinates.tolist() == [[[0, 0, 0]]]
    nothing = pack([[text([1] * 9)]], LOC, 5)
    assert nothing.segment.tolist() == [[0]] and not bool(nothing.loc_mask.any())


def test_the_loss_scores_the_next_token_within_a_text_only():
    packed = pack([[text([7, 8], 2), text([9, 10], 1)]], LOC, 64)
    head = torch.nn.Linear(12, 12, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(12))
    hidden = torch.zeros(1, 4, 12)
    hidden[0, 0, 8] = hidden[0, 2, 10] = 50.0  # each text's own next token
    with torch.no_grad():
        loss, right = packed_cross_entropy(head, hidden, packed)
    # the first token of a text has nothing of its own before it: scored, it would be foretold by the text before
    assert float(loss) < 1e-6 and float(right) == 1.0
    none = pack([[text([7, 8], 0)]], LOC, 64)
    assert float(packed_cross_entropy(head, hidden[:, :2], none)[0]) == 0.0
