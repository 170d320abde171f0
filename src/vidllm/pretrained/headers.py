"""The sizes of a published network, read off the shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.conversion import Translate

Shapes = dict[str, tuple[int, ...]]
#: Of each field of a configuration the weight and its dimension, or the beginning of numbered parts that are counted.
Sizes = Mapping[str, str | tuple[str, int]]


def read_sizes(
    checkpoint: Checkpoint, translate: Translate, kind: str, sizes: Sizes, needed: Iterable[str] = ()
) -> tuple[dict[str, Any], Shapes]:
    """Fields of a configuration, and the shapes they are read from (:func:`shapes_here`).

    ``needed``: weights that must be there beside those of ``sizes``.
    """
    read = [at[0] for at in sizes.values() if isinstance(at, tuple)]
    shapes = shapes_here(checkpoint, translate, kind, (*read, *needed))
    found = {name: count(shapes, at) if isinstance(at, str) else shapes[at[0]][at[1]] for name, at in sizes.items()}
    return found, shapes


def shapes_here(checkpoint: Checkpoint, translate: Translate, kind: str, needed: Iterable[str] = ()) -> Shapes:
    """Shapes by our names; ValueError where one of ``needed`` is missing: another network than ``kind``."""
    found: Shapes = {}
    first = "it holds no tensor"
    for number, (key, tensor) in enumerate(checkpoint.shapes()):
        first = first if number else f"its keys begin with {key}"
        try:
            found |= {name: tuple(part.shape) for name, part in translate(key, tensor) or ()}
        except RuntimeError:  # a tensor that cannot be cut as that of this network
            raise ValueError(f"{checkpoint.place}: not a {kind} checkpoint ({key} is {tuple(tensor.shape)})") from None
    if any(name not in found for name in needed):
        raise ValueError(f"{checkpoint.place}: not a {kind} checkpoint ({first})")
    return found


def image_side(positions: tuple[int, ...], patch: int) -> int:
    """Pixels of a side of the images that DINOv2's table of positions (1, 1 + P, C) was made for."""
    return patch * round((positions[1] - 1) ** 0.5)


def count(shapes: Shapes, beginning: str) -> int:
    """How many numbered parts there are: one more than the largest number after ``beginning``."""
    numbers = (re.match(re.escape(beginning) + r"(\d+)\.", name) for name in shapes)
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)
