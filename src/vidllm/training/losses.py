"""Losses of stage 2: targets, camera, depth and points, metric depth (Eq 9), grounding (docs/method.md, section 9).

L_recon has two forms. "vggt" is that of VGGT's released training code, for fine-tuning VGGT itself: residuals above
their own 98th percentile are left out, point maps are also compared by surface normals, a scene contributes to the
camera loss only if its first frame has more than 100 valid pixels, and a batch with fewer than 100 has no dense loss.
"ours", for small models, has none of these rules and weights depth by nearness. Steps with confidences that are not
finite are skipped by the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.boxes import diou_loss, points_in_boxes
from vidllm.geometry.cameras import encode_pose, relative_to_first, unproject
from vidllm.geometry.precision import full_precision
from vidllm.model.grounding import MASKED
from vidllm.model.outputs import GroundingOutput

MIN_DEPTH = 1e-8
CLAMP = 100.0  # targets, residuals and every single loss stay within
MIN_PIXELS = 100  # of a batch, for VGGT's dense losses; of a scene's first frame, for its camera loss
MIN_KEPT = 1000  # the percentile is taken only when more than this many remain
MIN_NORMALS = 10
CONFIDENCE_WEIGHT = 0.2
VGGT_WEIGHTS = (1.0, 1.0, 0.5)  # of translation, rotation and field of view
REFINEMENT_DECAY = 0.6
NORMAL_EPS = 1e-8
ENLARGE = 1.1  # factor on a target's box in the choice of its queries
MARGIN_M = 0.1  # added to each side length: patches lie on surfaces, and depth is not exact


@dataclass
class Losses:
    """Named, weighted loss terms and figures worth logging."""

    terms: dict[str, Tensor]
    figures: dict[str, float]

    def total(self) -> Tensor:
        """Their sum."""
        return torch.stack([t.float() for t in self.terms.values()]).sum()


@dataclass
class GeometryTargets:
    """Normalised targets of one batch, and the values that undo the normalisation.

    pose (B,F,9); depth (B,F,H,W) and points (B,F,H,W,3) divided by ``scale`` (B,) metres; valid (B,F,H,W); depth_m in
    metres; extrinsics (B,F,3,4) in metres, relative to the first camera; intrinsics (B,F,3,3).
    """

    pose: Tensor
    depth: Tensor
    points: Tensor
    valid: Tensor
    scale: Tensor
    depth_m: Tensor
    extrinsics: Tensor
    intrinsics: Tensor


def normalise(
    depth_m: Float[Tensor, "B F H W"],
    extrinsics: Float[Tensor, "B F _ 4"],
    intrinsics: Float[Tensor, "B F 3 3"],
    pixel_offset: float = 0.5,
) -> GeometryTargets:
    """Divide lengths by the scene's mean distance, as VGGT's released training code does (VGGT, section 3.4).

    ``s = clamp(sum_valid |X| / (N_valid + 1e-3), 1e-6, 1e6)`` over all frames of a scene. ``pixel_offset``: pixel
    centres, 0.5 (ours) or 0 (VGGT's).
    """
    relative = relative_to_first(extrinsics)[..., :3, :]
    valid = depth_m > MIN_DEPTH
    points = unproject(depth_m, intrinsics, relative, pixel_offset)
    distance = points.norm(dim=-1) * valid
    scale = (distance.sum((1, 2, 3)) / (valid.sum((1, 2, 3)) + 1e-3)).clamp(1e-6, 1e6)
    s = scale[:, None, None, None]
    scaled = torch.cat([relative[..., :3], relative[..., 3:] / s], -1)
    pose = encode_pose(scaled, intrinsics, (depth_m.shape[-2], depth_m.shape[-1]))
    return GeometryTargets(pose, depth_m / s, points / s[..., None], valid, scale, depth_m, relative, intrinsics)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask; zero (with a graph) when it is empty."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


# ---- cameras, depth and points ---------------------------------------------------------------------------------------


def camera_losses(
    predictions: Sequence[Float[Tensor, "B F 9"]],
    target: Float[Tensor, "B F 9"],
    valid: Bool[Tensor, "B F H W"] | None = None,
    weights: tuple[float, float, float] = VGGT_WEIGHTS,
    form: str = "l1",
) -> dict[str, Tensor]:
    """"camera" = u T + v R + w FL and its parts "translation", "rotation", "fov"; ``weights`` are (u, v, w).

    Refinement i of n has the weight ``0.6**(n-1-i) / n``. "l1" takes means of absolute errors, "l2" of the lengths of
    the error vectors; translation residuals clamp at 100. With ``valid`` (VGGT's rule), scenes whose first frame has at
    most 100 valid pixels are left out, with all their frames.
    """
    if form not in ("l1", "l2"):
        raise ValueError(f"camera loss form must be 'l1' or 'l2', received {form!r}")
    seen = slice(None) if valid is None else valid[:, 0].sum((-1, -2)) > MIN_PIXELS
    some = valid is None or bool(seen.any())  # type: ignore[union-attr]
    parts = {"translation": slice(0, 3), "rotation": slice(3, 7), "fov": slice(7, 9)}
    totals = {name: target.new_zeros(()) for name in parts}
    for i, prediction in enumerate(predictions):
        weight = REFINEMENT_DECAY ** (len(predictions) - 1 - i) / len(predictions)
        error = (prediction.float() - target)[seen]
        for name, part in parts.items():
            each = error[..., part].abs() if form == "l1" else error[..., part].norm(dim=-1)
            if name == "translation":
                each = each.clamp(max=CLAMP)
            totals[name] = totals[name] + weight * (each.mean() if some else prediction.sum() * 0.0)
    whole = sum((w * total for w, total in zip(weights, totals.values(), strict=True)), target.new_zeros(()))
    return {"camera": whole, **totals}


def depth_loss(
    prediction: Float[Tensor, "B F H W"],
    confidence: Float[Tensor, "B F H W"],
    target: Float[Tensor, "B F H W"],
    valid: Bool[Tensor, "B F H W"],
    confidence_weight: float = 0.2,
    inverse_depth: bool = False,
) -> Tensor:
    """``mean(e c - w log c) + mean(e) + gradient``; ``inverse_depth`` weighs e by (1 + 1/D) (VGGT-Omega)."""
    prediction, confidence = prediction.float(), confidence.float()
    weight = 1 + 1 / target.clamp(min=0.1) if inverse_depth else torch.ones_like(target)
    residual = (prediction - target).abs() * weight
    return residual_loss(residual, confidence, valid, confidence_weight) + gradient_loss(
        "grad", prediction[..., None], confidence, target[..., None], valid
    )


def residual_loss(
    residual: Float[Tensor, "B F H W"],
    confidence: Float[Tensor, "B F H W"],
    valid: Bool[Tensor, "B F H W"],
    weight: float,
) -> Tensor:
    """``mean(e c - w log c) + mean(e)``; a pixel counts at most 100 in either (VGGT clamps both)."""
    residual = residual.clamp(max=CLAMP)
    confident = (residual * confidence - weight * confidence.log()).clamp(max=CLAMP)
    return masked_mean(confident, valid) + masked_mean(residual, valid)


def point_loss(
    prediction: Float[Tensor, "B F H W 3"],
    confidence: Float[Tensor, "B F H W"],
    target: Float[Tensor, "B F H W 3"],
    valid: Bool[Tensor, "B F H W"],
    confidence_weight: float = 0.2,
) -> Tensor:
    """The same residual terms on 3D distances in the first camera's frame."""
    residual = (prediction.float() - target).norm(dim=-1)
    return residual_loss(residual, confidence.float(), valid, confidence_weight)


def vggt_dense_losses(
    prediction: Float[Tensor, "B F H W D"],
    confidence: Float[Tensor, "B F H W"],
    target: Float[Tensor, "B F H W D"],
    valid: Bool[Tensor, "B F H W"],
    gradient: str = "grad",
    valid_range: float | None = 0.98,
) -> dict[str, Tensor]:
    """"confidence", "residual" and "gradient" terms of depth maps (D = 1) or point maps (D = 3); VGGT adds them up.

    ``confidence``: mean of ``e c - 0.2 log c``; ``residual``: mean of e, the length of the error; either over the
    values below its own ``valid_range`` quantile (None: over all). ``gradient``: differences of neighbours at four
    scales ("grad"), or angles between surface normals at three ("normal"), weighed by confidence as above with "_conf";
    "none": zero.
    """
    if int(valid.sum()) < MIN_PIXELS:
        nothing = prediction.sum() * 0.0 + confidence.sum() * 0.0
        return {"confidence": nothing, "residual": nothing, "gradient": nothing}
    prediction, confidence, target = prediction.float(), confidence.float(), target.clamp(-CLAMP, CLAMP)
    residual = (target[valid] - prediction[valid]).norm(dim=-1).clamp(max=CLAMP)
    sure = confidence[valid]
    confident = (residual * sure - CONFIDENCE_WEIGHT * sure.log()).clamp(-CLAMP, CLAMP)
    return {
        "confidence": _below_quantile(confident, valid_range).mean(),
        "residual": _below_quantile(residual, valid_range).mean(),
        "gradient": gradient_loss(gradient, prediction, confidence, target, valid),
    }


def _below_quantile(values: Tensor, share: float | None) -> Tensor:
    """Values below the ``share`` quantile (nearest rank); all of them where too few are there or would be left."""
    if share is None or values.numel() <= MIN_KEPT:
        return values
    rank = round(share * (values.numel() - 1)) + 1
    kept = values < values.detach().kthvalue(rank).values.clamp(max=CLAMP)
    return values[kept] if int(kept.sum()) > MIN_KEPT else values


def gradient_loss(form: str, prediction: Tensor, confidence: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Differences of neighbours at four scales ("grad"), or angles of normals at three ("normal"); "_conf": weighed."""
    forms: dict[str, tuple[Callable[..., Tensor], int]] = {"grad": (_difference_loss, 4), "normal": (_normal_loss, 3)}
    if form == "none":
        return prediction.sum() * 0.0
    name, _, weighed = form.partition("_")
    if name not in forms or weighed not in ("", "conf"):
        raise ValueError(f"unknown gradient form {form!r}; expected grad, grad_conf, normal, normal_conf or none")
    loss, scales = forms[name]
    flat = [x.flatten(0, 1) for x in (prediction, target, valid, confidence)]
    total = prediction.new_zeros(())
    for scale in range(scales):
        p, t, m, c = (x[:, :: 2**scale, :: 2**scale] for x in flat)
        total = total + loss(p, t, m, c if weighed else None)
    return total / scales


def _weighed(values: Tensor, confidence: Tensor | None) -> Tensor:
    return values if confidence is None else values * confidence - CONFIDENCE_WEIGHT * confidence.log()


def _difference_loss(
    prediction: Float[Tensor, "N H W D"],
    target: Float[Tensor, "N H W D"],
    valid: Bool[Tensor, "N H W"],
    confidence: Float[Tensor, "N H W"] | None,
) -> Tensor:
    """Sum of the absolute differences of neighbouring errors over the number of valid values.

    With confidence, ``- 0.2 log c`` counts on invalid pixels too, as it does in VGGT.
    """
    mask = valid[..., None].expand_as(prediction).to(prediction.dtype)
    error = (prediction - target) * mask
    sure = None if confidence is None else confidence[..., None]
    across = (error[:, :, 1:] - error[:, :, :-1]).abs() * (mask[:, :, 1:] * mask[:, :, :-1])
    down = (error[:, 1:] - error[:, :-1]).abs() * (mask[:, 1:] * mask[:, :-1])
    across = _weighed(across.clamp(max=CLAMP), None if sure is None else sure[:, :, 1:])
    down = _weighed(down.clamp(max=CLAMP), None if sure is None else sure[:, 1:])
    return (across.sum() + down.sum()) / mask.sum().clamp(min=1.0)


def _normal_loss(
    prediction: Float[Tensor, "N H W 3"],
    target: Float[Tensor, "N H W 3"],
    valid: Bool[Tensor, "N H W"],
    confidence: Float[Tensor, "N H W"] | None,
) -> Tensor:
    """Mean of 1 - cos between the four normals of every pixel and those of the target."""
    ours, usable = corner_normals(prediction, valid)
    theirs, _ = corner_normals(target, valid)
    if int(usable.sum()) < MIN_NORMALS:
        return prediction.sum() * 0.0
    cosine = (ours[usable] * theirs[usable]).sum(-1).clamp(-1 + NORMAL_EPS, 1 - NORMAL_EPS)
    sure = None if confidence is None else confidence.expand(4, *confidence.shape)[usable]
    return _weighed((1 - cosine).clamp(-CLAMP, CLAMP), sure).mean()


@full_precision()
def corner_normals(
    points: Float[Tensor, "N H W 3"], valid: Bool[Tensor, "N H W"]
) -> tuple[Float[Tensor, "4 N H W 3"], Bool[Tensor, "4 N H W"]]:
    """Unit normals of the four corners that each pixel makes with two neighbours, and where all three are valid.

    Corners in order: up-left, left-down, down-right, right-up. Outside the image nothing is valid.
    """
    padded = F.pad(points, (0, 0, 1, 1, 1, 1))
    known = F.pad(valid, (1, 1, 1, 1))
    middle = slice(1, -1)
    sides = [(slice(None, -2), middle), (middle, slice(None, -2)), (slice(2, None), middle), (middle, slice(2, None))]
    arms = [padded[:, rows, columns] - points for rows, columns in sides]
    there = [known[:, rows, columns] & valid for rows, columns in sides]
    pairs = [(i, (i + 1) % 4) for i in range(4)]
    normals = torch.stack([torch.cross(arms[a], arms[b], dim=-1) for a, b in pairs])
    usable = torch.stack([there[a] & there[b] for a, b in pairs])
    return F.normalize(normals, dim=-1, eps=NORMAL_EPS), usable


def metric_depth_loss(
    prediction_m: Float[Tensor, "*batch H W"],
    target_m: Float[Tensor, "*batch H W"],
    valid: Bool[Tensor, "*batch H W"],
    alpha: float = 1.0,
    eps: float = 1e-3,
) -> Tensor:
    """``b^2 + mean (e-b)^2 / (1 + alpha |e-b|)``, ``e = log(d+eps) - log(d*+eps)``, b = mean e, per image.

    Averaged over images that have valid pixels. At ``alpha = 0`` it is exactly ``mean e^2``.
    """
    mask = valid.flatten(-2).to(torch.float32)
    error = (prediction_m.float() + eps).log() - (target_m.float().clamp(min=0) + eps).log()
    error = error.flatten(-2) * mask
    count = mask.sum(-1)
    mean = error.sum(-1) / count.clamp(min=1)
    centred = (error - mean[..., None]) * mask
    spread = (centred.square() / (1 + alpha * centred.abs())).sum(-1) / count.clamp(min=1)
    return masked_mean(mean.square() + spread, count > 0)


# ---- grounding -------------------------------------------------------------------------------------------------------


def grounding_losses(
    output: GroundingOutput,
    targets: Float[Tensor, "B E G 7"],
    target_mask: Bool[Tensor, "B E G"],
    expression_mask: Bool[Tensor, "B E"] | None = None,
) -> dict[str, Tensor]:
    """Scalar losses "diou", "l1" (metres), "yaw" (1 - cos 2 error, in 0..2) and "nce" (nats).

    A query matches a target when it stands inside its box (slightly enlarged); a target that no query stands in takes
    the nearest one. Box losses are means over targets (within a target over its queries) and layers. InfoNCE between
    queries and ``<loc>`` has several positives: the probability of a target is the sum over its queries, beside the
    learned "no such object", which is the positive of an expression without a target. With G targets each is to get
    1/G: ``-1/G sum_g log(sum_{q in g} exp l_q / sum_all exp l)``, a mean over expressions.

    Args:
        output: of the grounding decoder.
        targets: boxes in the scene frame, padded.
        target_mask: which targets exist; none at all means "no such object".
        expression_mask: which expressions exist (all by default).
    """
    exists = torch.ones_like(output.none_logit, dtype=torch.bool) if expression_mask is None else expression_mask
    target_mask = target_mask & exists[..., None]
    positives = match_queries(output, targets, target_mask)
    nce = choice_loss(output.logits, output.none_logit, positives, target_mask, exists)
    return {**_box_losses(output, targets, positives), "nce": nce}


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


def choice_loss(
    logits: Float[Tensor, "B E Q"],
    none_logit: Float[Tensor, "B E"],
    positives: Bool[Tensor, "B E G Q"],
    target_mask: Bool[Tensor, "B E G"],
    exists: Bool[Tensor, "B E"],
) -> Tensor:
    """InfoNCE of :func:`grounding_losses` of queries, or of given boxes, that are ``positives`` of targets.

    Mean over expressions; one whose targets have no query (an empty scene) is left out.
    """
    log_p = torch.cat([logits, none_logit[..., None]], -1).float().log_softmax(-1)
    found = positives.any(-1)
    each = torch.logsumexp(log_p[:, :, None, :-1].masked_fill(~positives, MASKED), -1)
    named = -(each * found).sum(-1) / found.sum(-1).clamp(min=1)
    loss = torch.where(found.any(-1), named, -log_p[..., -1])
    return masked_mean(loss, exists & (found.any(-1) | ~target_mask.any(-1)))
