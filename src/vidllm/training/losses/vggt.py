"""VGGT's losses as its released training code computes them: camera, depth and point map (docs/method.md, section 9).

Our own forms (``camera``, ``dense``) are the defaults of small-scale training; these are for fine-tuning VGGT itself
and for comparison with it. What differs from ours: residuals above their own 98th percentile are left out, point maps
are compared by their surface normals too, a gradient term may be weighed by confidence, a scene counts for the camera
only when its first frame has more than 100 valid pixels, and a batch with fewer than 100 has no dense loss at all.
Confidences that are not finite are no business of a loss: the loop skips such a step and counts it.
Targets are VGGT's when :func:`~vidllm.training.losses.targets.normalise` is given ``pixel_offset=0``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.precision import full_precision

CLAMP = 100.0  # targets, residuals and every single loss stay within
MIN_PIXELS = 100  # of a batch, for the dense losses; of a scene's first frame, for the camera
MIN_KEPT = 1000  # the percentile is taken only when more than this many remain
MIN_NORMALS = 10
CONFIDENCE_WEIGHT = 0.2
FIELD_OF_VIEW_WEIGHT = 0.5
NORMAL_EPS = 1e-8


def vggt_camera_losses(
    predictions: Sequence[Float[Tensor, "B F 9"]],
    target: Float[Tensor, "B F 9"],
    valid: Bool[Tensor, "B F H W"],
    form: str = "l1",
    decay: float = 0.6,
) -> dict[str, Tensor]:
    """"camera" = T + R + 0.5 FL and its parts "translation", "rotation", "fov".

    Every refinement i of n weighs ``decay**(n-1-i) / n``. "l1" takes means of absolute errors, "l2" of the lengths of
    the error vectors. Scenes whose first frame has at most 100 valid pixels are left out, with all their frames.
    """
    if form not in ("l1", "l2"):
        raise ValueError(f"camera loss form must be 'l1' or 'l2', received {form!r}")
    seen = valid[:, 0].sum((-1, -2)) > MIN_PIXELS
    parts = {"translation": slice(0, 3), "rotation": slice(3, 7), "fov": slice(7, 9)}
    totals = {name: target.new_zeros(()) for name in parts}
    for i, prediction in enumerate(predictions):
        weight = decay ** (len(predictions) - 1 - i) / len(predictions)
        error = (prediction.float() - target)[seen]
        for name, part in parts.items():
            each = error[..., part].abs() if form == "l1" else error[..., part].norm(dim=-1)
            if name == "translation":
                each = each.clamp(max=CLAMP)
            totals[name] = totals[name] + weight * (each.mean() if bool(seen.any()) else prediction.sum() * 0.0)
    whole = totals["translation"] + totals["rotation"] + FIELD_OF_VIEW_WEIGHT * totals["fov"]
    return {"camera": whole, **totals}


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
        "gradient": _gradient_term(gradient, prediction, confidence, target, valid),
    }


def _below_quantile(values: Tensor, share: float | None) -> Tensor:
    """Values below the ``share`` quantile (nearest rank); all of them where too few are there or would be left."""
    if share is None or values.numel() <= MIN_KEPT:
        return values
    rank = round(share * (values.numel() - 1)) + 1
    kept = values < values.detach().kthvalue(rank).values.clamp(max=CLAMP)
    return values[kept] if int(kept.sum()) > MIN_KEPT else values


def _gradient_term(form: str, prediction: Tensor, confidence: Tensor, target: Tensor, valid: Tensor) -> Tensor:
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
