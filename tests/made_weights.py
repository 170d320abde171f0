"""Weights and pictures from a formula, the same everywhere: golden records of other people's networks need not hold
them. Published weights are not needed either: a record tells their names and shapes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def made(name: str, shape: Sequence[int]) -> Tensor:
    """Numbers in (-1, 1) that depend on the name and on the place alone."""
    places = np.arange(1, 1 + int(np.prod(shape)), dtype=np.float64)
    waves = np.sin(places * 12.9898 + zlib.crc32(name.encode()) % 1000) * 43758.5453
    return torch.from_numpy((2 * (waves - np.floor(waves)) - 1).reshape(shape)).float()


def made_weight(name: str, shape: Sequence[int]) -> Tensor:
    """A weight of the size that a trained one has: factors of norms near 1, rows of unit length, small biases."""
    values = made(name, shape)
    if len(shape) < 2:
        gain = name.endswith((".weight", ".gamma")) or ".lambda" in name
        return 1 + 0.2 * values if gain else 0.2 * values
    return values * (3 / max(1, int(np.prod(shape[1:])))) ** 0.5


def made_weights(shapes: Mapping[str, Sequence[int]], biases: Mapping[str, float]) -> dict[str, Tensor]:
    """All weights of a network; ``biases``: constants of some."""
    return {name: torch.full(tuple(shape), biases[name]) if name in biases else made_weight(name, shape)
            for name, shape in shapes.items()}  # fmt: skip


def made_images(frames: int, height: int, width: int) -> Tensor:
    """Pictures (1,F,3,H,W) in [0, 1]."""
    return (made(f"images {frames}", (1, frames, 3, height, width)) + 1) / 2


class Record:
    """A golden record: JSON ``settings`` and ``shapes`` by name, and outputs (float32) by name. ``biases``: constants
    of some weights, so that outputs are not out of range.
    """

    def __init__(self, file: Path) -> None:
        with np.load(file) as stored:
            told = json.loads(str(stored["told"]))
            self.outputs = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "told"}
        self.settings, self.shapes, self.biases = told["settings"], told["shapes"], told["biases"]

    def weights(self) -> dict[str, Tensor]:
        """The weights that gave the outputs, under their published names."""
        return made_weights(self.shapes, self.biases)

    @staticmethod
    def write(file: Path, told: Mapping[str, object], outputs: Mapping[str, Tensor]) -> None:
        """Write a record; ``told``: settings, shapes and biases."""
        arrays = {name: value.detach().float().numpy() for name, value in outputs.items()}
        np.savez_compressed(file, told=np.array(json.dumps(told)), **arrays)
