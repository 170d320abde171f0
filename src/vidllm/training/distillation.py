"""Losses of stage 1: two frozen teachers, one for each stream, and the structure of their tokens (Eqs 5 to 7).

    L = L_geo + L_lang + lambda L_sc
    L_geo  = mean_i || norm(T'_geom,i) - norm(Y_geom,i) ||^2
    L_lang = 1 - cos(pool(T'_lang), pool(Y_lang)),  pool: mean over a frame's patches
    L_sc   = 1/M^2 || Z Z^T - Y Y^T ||_F^2,         Z, Y: the normalised tokens of both streams of a scene, M rows

The M x M matrices of Eq 7 are not formed (54 GB at 32 frames of 37 x 49 patches). With ``||A||`` the Frobenius norm,

    || Z Z^T - Y Y^T ||^2 = || Z^T Z ||^2 + || Y^T Y ||^2 - 2 || Z^T Y ||^2

holds exactly and needs only C x C matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.geometry.precision import full_precision


@dataclass(frozen=True)
class Streams:
    """Tokens of both streams on one patch grid: of the student, projected to the teachers' widths, or the teachers'.

    ``geometry`` (B,F,P,Cg) and ``language`` (B,F,P,Cl).
    """

    geometry: Tensor
    language: Tensor


class Projections(nn.Module):
    """One linear layer per stream from the student's width to the teacher's, discarded after stage 1.

    If the widths are equal the layer is initialised to the identity, so a student that equals its teacher has no loss.
    """

    def __init__(self, width: int, geometry_width: int, language_width: int) -> None:
        super().__init__()
        self.geometry = _projection(width, geometry_width)
        self.language = _projection(width, language_width)

    def forward(self, geometry: Float[Tensor, "B F P C"], language: Float[Tensor, "B F P C"]) -> Streams:
        """The adapter's two streams at the teachers' widths."""
        return Streams(self.geometry(geometry), self.language(language))


def _projection(width: int, teacher_width: int) -> nn.Linear:
    layer = nn.Linear(width, teacher_width)
    if width == teacher_width:
        nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def distillation_losses(student: Streams, teacher: Streams, structure: str = "joint") -> dict[str, Tensor]:
    """"geo", "lang" (Eq 6) and "structure" (Eq 7, per scene), unweighted. Only the student has gradients.

    ``structure``: "joint" is Eq 7, which also compares patches of the two streams with each other and needs teachers of
    one width; "streams" is the mean of Eq 7 over the single streams.
    """
    teacher = Streams(teacher.geometry.detach(), teacher.language.detach())
    for name in ("geometry", "language"):
        shapes = [tuple(getattr(streams, name).shape) for streams in (student, teacher)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name}: student tokens {shapes[0]} and teacher tokens {shapes[1]} differ; "
                "project the student and resample the teacher's grid first"
            )
    ours, theirs = ((unit(s.geometry).flatten(1, 2), unit(s.language).flatten(1, 2)) for s in (student, teacher))
    if structure == "streams":
        alike = (gram_loss(ours[0], theirs[0]).mean() + gram_loss(ours[1], theirs[1]).mean()) / 2
    else:
        check_structure(structure, teacher.geometry.shape[-1], teacher.language.shape[-1])
        alike = gram_loss(torch.cat(ours, 1), torch.cat(theirs, 1)).mean()
    return {
        "geo": geometry_loss(student.geometry, teacher.geometry),
        "lang": language_loss(student.language, teacher.language), "structure": alike,
    }  # fmt: skip


@full_precision()
def geometry_loss(student: Float[Tensor, "B F P C"], teacher: Float[Tensor, "B F P C"]) -> Float[Tensor, ""]:
    """L_geo: mean squared distance of the unit tokens, 0 to 4."""
    return (unit(student) - unit(teacher)).square().sum(-1).mean()


@full_precision()
def language_loss(student: Float[Tensor, "B F P C"], teacher: Float[Tensor, "B F P C"]) -> Float[Tensor, ""]:
    """L_lang: 1 - cos of the mean tokens of each frame, averaged over frames, 0 to 2."""
    return 1 - F.cosine_similarity(student.float().mean(2), teacher.float().mean(2), dim=-1).mean()


def check_structure(structure: str, geometry: int, language: int) -> None:
    """ValueError for an unknown form of Eq 7, or teachers of different widths with "joint"."""
    if structure not in ("joint", "streams"):
        raise ValueError(f"structure must be 'joint' or 'streams', received {structure!r}")
    if structure == "joint" and geometry != language:
        raise ValueError(
            f"the teachers are {geometry} and {language} wide, and Eq 7 compares their tokens with each other; "
            "take teachers of one width, or --structure streams"
        )


@full_precision()
def gram_loss(student: Float[Tensor, "*batch M C"], teacher: Float[Tensor, "*batch M D"]) -> Float[Tensor, "*batch"]:
    """``1/M^2 || Z Z^T - Y Y^T ||_F^2`` for M tokens each, computed from C x C products (float32, autocast off).

    The widths C and D may differ. Memory is linear in M.
    """
    z, y = student.float(), teacher.float()
    z, y = z / z.shape[-2] ** 0.5, y / y.shape[-2] ** 0.5
    squares = [(a.transpose(-1, -2) @ b).square().sum((-2, -1)) for a, b in ((z, z), (y, y), (z, y))]
    return squares[0] + squares[1] - 2 * squares[2]


def unit(tokens: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
    """Tokens normalised to length one, in float32."""
    return F.normalize(tokens.float(), dim=-1)


def resample_grid(
    tokens: Float[Tensor, "B F Q C"], grid: tuple[int, int], wanted: tuple[int, int]
) -> Float[Tensor, "B F P C"]:
    """Tokens resampled to another patch grid of the same picture: bilinear, with averaging if it is coarser."""
    if tokens.shape[2] != grid[0] * grid[1]:
        raise ValueError(f"grid {grid} has {grid[0] * grid[1]} patches, but the tokens have {tokens.shape[2]}")
    if grid == wanted:
        return tokens
    planes = tokens.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(planes.float(), wanted, mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(2).transpose(1, 2).unflatten(0, tokens.shape[:2]).to(tokens.dtype)
