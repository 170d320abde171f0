"""From the grounding decoder's scores to the boxes it stands by: none, one or several an expression.

Queries and "no such object" share one softmax. Queries whose boxes overlap are one object: they are gathered greedily,
most probable first, and the object's score is their summed probability. Nothing is returned when "no such object" has
at least half of the probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.boxes import iou_oriented
from vidllm.model.grounding import GroundingOutput

CANDIDATES = 48  # most probable queries looked at
NEGLIGIBLE = 1e-2  # of the best query's probability


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
    overlap: float = 0.25,
) -> list[list[list[GroundedBox]]]:
    """Boxes of every expression of every scene, best first: ``result[b][e]``.

    Args:
        output: of the grounding decoder; its last layer's boxes are used.
        multiple: False keeps the best object only.
        max_boxes: at most so many.
        none_threshold: no box when "no such object" has at least this probability.
        relative_threshold: an object counts when its score is at least this share of the best one's.
        overlap: IoU from which two queries' boxes are one object.
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
                found = _objects(boxes[b, e], chances[b, e, :-1], overlap)
            best = found[0].score if found else 0.0
            scene.append([one for one in found[:limit] if one.score >= relative_threshold * best])
        result.append(scene)
    return result


def _objects(boxes: Tensor, chances: Tensor, overlap: float) -> list[GroundedBox]:
    """Groups of overlapping boxes, the group's most probable box standing for it, by summed probability."""
    top = chances.topk(min(CANDIDATES, len(chances)))
    keep = top.values > NEGLIGIBLE * top.values[0]
    boxes, chances = boxes[top.indices[keep]], top.values[keep]
    same = iou_oriented(boxes, boxes) >= overlap
    free = torch.ones_like(keep[keep])
    groups = []
    for i in range(len(boxes)):
        if bool(free[i]):
            members = same[i] & free
            members[i] = True
            free = free & ~members
            groups.append(GroundedBox(boxes[i], min(1.0, float(chances[members].sum()))))
    return sorted(groups, key=lambda group: -group.score)


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
    found = decode_boxes(output, multiple, max_boxes, none_threshold=0.5 if multiple else 2.0)[0][0]
    return [(int((boxes == one.box.to(boxes)).all(1).int().argmax()), float(one.score)) for one in found]
