"""From the grounding decoder's scores to the boxes it stands by: none, one or several an expression.

Queries and "no such object" share one softmax. Queries whose boxes overlap are one object: the query whose neighbours
have most probability together is taken with them, then the next of those left. The object's box is the mean of theirs,
weighted by probability (several uncertain boxes of one object err in different directions) and wider by a share of how
far their centres spread; its score is their sum.
Nothing is returned when "no such object" has at least half of the probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.boxes import iou_oriented
from vidllm.model.outputs import GroundingOutput

CANDIDATES = 48  # most probable queries looked at
NEGLIGIBLE = 1e-2  # of the best query's probability
WIDER = 0.5  # of the standard deviation of an object's centres, added to its box's size along each axis


@dataclass(frozen=True)
class GroundedBox:
    """A box (7,) in the scene frame - centre, size (metres), yaw (radians) - and its score in [0, 1]."""

    box: Tensor
    score: float


@torch.no_grad()
def decode_boxes(
    output: GroundingOutput,
    multiple: bool = True,
    max_boxes: int = 16,
    none_threshold: float = 0.5,
    relative_threshold: float = 0.3,
    overlap: float = 0.05,
    average: bool = True,
) -> list[list[list[GroundedBox]]]:
    """Boxes of every expression of every scene, best first: ``result[b][e]``.

    Args:
        output: of the grounding decoder; its last layer's boxes are used.
        multiple: False keeps the best object only.
        max_boxes: at most so many.
        none_threshold: no box when "no such object" has at least this probability.
        relative_threshold: an object counts when its score is at least this share of the best one's.
        overlap: IoU from which two queries' boxes are one object.
        average: False gives each object the most probable of its boxes in place of their mean.
    """
    chances = torch.cat([output.logits, output.none_logit[..., None]], -1).float().softmax(-1)
    boxes = output.boxes[-1].float()
    limit = max_boxes if multiple else 1
    result = []
    for b in range(len(boxes)):
        scene = []
        for e in range(boxes.shape[1]):
            found: list[GroundedBox] = []
            if float(chances[b, e, -1]) < none_threshold:
                found = _objects(boxes[b, e], chances[b, e, :-1], overlap, average)
            best = found[0].score if found else 0.0
            scene.append([one for one in found[:limit] if one.score >= relative_threshold * best])
        result.append(scene)
    return result


def _objects(boxes: Tensor, chances: Tensor, overlap: float, average: bool) -> list[GroundedBox]:
    """Groups of overlapping boxes, best first."""
    top = chances.topk(min(CANDIDATES, len(chances)))
    keep = top.values > NEGLIGIBLE * top.values[0]
    boxes, chances = boxes[top.indices[keep]], top.values[keep]
    same = (iou_oriented(boxes, boxes) >= overlap) | torch.eye(len(boxes), dtype=torch.bool, device=boxes.device)
    free = torch.ones_like(chances, dtype=torch.bool)
    groups = []
    while bool(free.any()):
        share = ((same & free) * chances).sum(1).masked_fill(~free, -1.0)
        members = same[share.argmax()] & free
        free = free & ~members
        box = _mean_box(boxes[members], chances[members]) if average else boxes[members][0]
        groups.append(GroundedBox(box, min(1.0, float(chances[members].sum()))))
    return sorted(groups, key=lambda group: -group.score)


def _mean_box(boxes: Float[Tensor, "K 7"], weights: Float[Tensor, " K"]) -> Float[Tensor, " 7"]:
    """Weighted mean of boxes, wider by the spread of their centres along the box's axes.

    Each is turned by quarters (its sides exchanged) to come nearest to the first one's yaw.
    """
    turned, quarter = boxes.clone(), math.pi / 2
    turns = ((boxes[0, 6] - boxes[:, 6]) / quarter).round()
    odd = turns.long() % 2 != 0
    turned[:, 6] += turns * quarter
    turned[odd, 3], turned[odd, 4] = boxes[odd, 4], boxes[odd, 3]
    shares = (weights / weights.sum())[:, None]
    mean = (turned * shares).sum(0)
    offset = turned[:, :3] - mean[:3]
    cos, sin = mean[6].cos(), mean[6].sin()
    x, y, z = offset.T
    along = torch.stack([cos * x + sin * y, cos * y - sin * x, z])
    mean[3:6] += WIDER * (along.T.square() * shares).sum(0).sqrt()
    return mean


def decode_choice(
    logits: Float[Tensor, " M"], none_logit: Float[Tensor, ""], boxes: Float[Tensor, "M 7"], multiple: bool,
    max_boxes: int = 16,
) -> list[tuple[int, float]]:
    """Numbers and scores of the given boxes that an expression means, best first, by the rules of `decode_boxes`.

    Without ``multiple`` it is the best one, whatever "no such object" says.
    """
    everywhere = torch.ones_like(logits, dtype=torch.bool)[None]
    output = GroundingOutput(boxes[None, None, None], logits[None, None], none_logit[None, None], boxes[None, :, :3],
                             everywhere)  # fmt: skip
    found = decode_boxes(output, multiple, max_boxes, none_threshold=0.5 if multiple else 2.0,
                         average=False)[0][0]  # fmt: skip
    return [(int((boxes == one.box.to(boxes)).all(1).int().argmax()), float(one.score)) for one in found]
