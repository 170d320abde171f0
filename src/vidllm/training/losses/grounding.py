"""Grounding losses: DIoU, L1 and yaw on matched queries after every layer, InfoNCE between queries and ``<loc>``.

A query matches a target when it stands inside its box (slightly enlarged); a target that no query stands in takes the
nearest one. InfoNCE has several positives: the probability of a target is the sum over its queries, beside the learned
"no such object", which is the positive of an expression without a target. With G targets each is to get 1/G:
``-1/G sum_g log(sum_{q in g} exp l_q / sum_all exp l)``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidllm.geometry.boxes import diou_loss, points_in_boxes
from vidllm.model.grounding import MASKED
from vidllm.model.outputs import GroundingOutput

ENLARGE = 1.1  # of a target's box, and
MARGIN_M = 0.1  # more on each side length: patches lie on surfaces, and depth is not exact


def grounding_losses(
    output: GroundingOutput,
    targets: Float[Tensor, "B E G 7"],
    target_mask: Bool[Tensor, "B E G"],
    expression_mask: Bool[Tensor, "B E"] | None = None,
) -> dict[str, Tensor]:
    """Scalar losses "diou", "l1" (metres), "yaw" (1 - cos 2 error, in 0..2) and "nce" (nats).

    Box losses are means over targets (within a target over its queries) and layers; "nce" is a mean over expressions.

    Args:
        output: of the grounding decoder.
        targets: boxes in the scene frame, padded.
        target_mask: which targets exist; none at all means "no such object".
        expression_mask: which expressions exist (all by default).
    """
    exists = torch.ones_like(output.none_logit, dtype=torch.bool) if expression_mask is None else expression_mask
    target_mask = target_mask & exists[..., None]
    positives = match_queries(output, targets, target_mask)
    return {**_box_losses(output, targets, positives), "nce": _info_nce(output, positives, target_mask, exists)}


def match_queries(
    output: GroundingOutput, targets: Float[Tensor, "B E G 7"], target_mask: Bool[Tensor, "B E G"]
) -> Bool[Tensor, "B E G Q"]:
    """Which queries are positives of which target; none only where a scene has no query at all."""
    grown = torch.cat([targets[..., :3], targets[..., 3:6] * ENLARGE + MARGIN_M, targets[..., 6:]], -1)[..., None, :]
    queries = output.query_positions[:, None, None]
    usable = output.query_mask[:, None, None] & target_mask[..., None]
    inside = points_in_boxes(queries, grown) & usable
    distance = (queries - targets[..., None, :3]).square().sum(-1).masked_fill(~usable, torch.inf)
    nearest = torch.zeros_like(inside).scatter(-1, distance.argmin(-1, keepdim=True), True) & usable
    return torch.where(inside.any(-1, keepdim=True), inside, nearest)


def _box_losses(output: GroundingOutput, targets: Tensor, positives: Tensor) -> dict[str, Tensor]:
    b, e, g, q = positives.nonzero(as_tuple=True)
    if len(b) == 0:
        nothing = output.boxes.sum() * 0.0
        return {"diou": nothing, "l1": nothing, "yaw": nothing}
    counts = positives.sum(-1)
    weight = 1.0 / (counts[b, e, g] * (counts > 0).sum())  # sums to one
    predicted = output.boxes[:, b, e, q]
    wanted = targets[b, e, g].to(predicted.dtype).expand_as(predicted)
    terms = {
        "diou": diou_loss(predicted[..., :6], wanted[..., :6]),
        "l1": (predicted[..., :6] - wanted[..., :6]).abs().mean(-1),
        "yaw": 1 - torch.cos(2 * (predicted[..., 6] - wanted[..., 6])),
    }
    return {name: (term * weight).sum(-1).mean() for name, term in terms.items()}


def _info_nce(output: GroundingOutput, positives: Tensor, target_mask: Tensor, exists: Tensor) -> Tensor:
    """Mean over expressions; one whose targets have no query (an empty scene) is left out."""
    log_p = torch.cat([output.logits, output.none_logit[..., None]], -1).float().log_softmax(-1)
    found = positives.any(-1)
    each = torch.logsumexp(log_p[:, :, None, :-1].masked_fill(~positives, MASKED), -1)
    named = -(each * found).sum(-1) / found.sum(-1).clamp(min=1)
    loss = torch.where(found.any(-1), named, -log_p[..., -1])
    counted = exists & (found.any(-1) | ~target_mask.any(-1))
    return (loss * counted).sum() / counted.sum().clamp(min=1)
