"""Selection of frames: enough that neighbouring frames overlap.

Frames sampled uniformly from a long walk have little overlap and cannot be registered. Candidates, six per second of a
video or every picture of a folder, are registered to their predecessors on small pictures
(:mod:`vidllm.geometry.picture_motion`); a candidate is selected if the next one would share less than
``LEAST_OVERLAP`` with the last selected one, or could no longer be registered to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.picture_motion import compose, half_sides, overlap, register_pictures, small_pictures
from vidllm.io.frames import Frames, sampled_indices
from vidllm.io.video import iter_frames

CANDIDATES_HZ = 6.0
LEAST_OVERLAP = 0.7  # share of a frame's area that the next one still shows
LEAST_AGREEMENT = 0.6  # correlation below which two pictures are not registered
SIDE = 56  # pixels of the shorter side of candidates
AT_ONCE = 16  # pictures registered together


def choose_frames(source: Any, least: int, most: int) -> int | list[int]:
    """Indices of the frames to reconstruct, at most ``most``; or the number ``least`` if overlap needs no more frames.

    If overlap needs more than ``most`` frames, ``most`` of them are taken at equal distances, with a warning. Raises as
    :func:`vidllm.io.video.load_frames`.
    """
    numbers: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the chosen frames warns of damage
        candidates = iter_frames(source, shorter_side=SIDE, per_second=CANDIDATES_HZ)
        pictures = (_noted(frame, numbers) for frame in candidates)
        chosen = list(overlapping(pictures))
    if len(chosen) <= least:
        return least
    if len(chosen) > most:
        warnings.warn(f"the camera moves so much that {len(chosen)} frames are needed for an overlap of neighbours; "
                      f"taking {most} of them. Give a number of frames, or a shorter part of the video", stacklevel=2)
        chosen = [chosen[i] for i in sampled_indices(len(chosen), most)]
    return [numbers[i] for i in chosen]


def overlapping(pictures: Iterable[Float[Tensor, "1 1 h w"]]) -> Iterator[int]:
    """Indices of pictures (:func:`small_pictures`) that each overlap the next, including the first and last."""
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        return
    yield 0
    stay = torch.eye(2, 3)[None]
    taken, number, moved = 0, 0, stay
    for number, (step, agreement) in enumerate(_motions(first, pictures), 1):
        moved = compose(step, moved)
        if not _overlaps(moved, agreement, first):
            if taken < number - 1:
                taken, moved = number - 1, step
                yield taken
            if not _overlaps(moved, agreement, first):
                taken, moved = number, stay
                yield taken
    if taken < number:
        yield number


def _motions(before: Tensor, pictures: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each picture's motion from the one before it, and how well the two agree."""
    while some := list(islice(pictures, AT_ONCE)):
        both = torch.cat([before, *some])
        yield from zip(*(found.split(1) for found in register_pictures(both[:-1], both[1:])), strict=True)
        before = some[-1]


def _overlaps(moved: Tensor, agreement: Tensor, picture: Tensor) -> bool:
    share = overlap(moved, half_sides((picture.shape[-2], picture.shape[-1])))
    return float(share) >= LEAST_OVERLAP and float(agreement) >= LEAST_AGREEMENT


def _noted(frame: Frames, numbers: list[int]) -> Tensor:
    numbers += frame.indices.tolist()
    return small_pictures(frame.images)
