"""Procedural textures: albedo at hit points, as a modulation of the primitive's colour.

Texture coordinates are metres in the primitive's own frame, in the plane across its dominant normal axis. All
randomness is from one tileable noise table. Detail finer than a pixel fades out with the pixel's footprint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import attrgetter

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_TILE = 512
_FINE = 4  # table entries per noise cell, so that the nearest entry will do


@dataclass(frozen=True)
class Surface:
    """n points: ``uv`` metres, ``unit`` -1..1 over the face, ``seed`` 0..1, ``footprint`` metres a pixel."""

    albedo: Float[Tensor, "n 3"]
    uv: Float[Tensor, "n 2"]
    unit: Float[Tensor, "n 2"]
    seed: Float[Tensor, " n"]
    footprint: Float[Tensor, " n"]

    def at(self, rows: Int[Tensor, " m"]) -> Surface:
        """These of the points."""
        return Surface(*(field.index_select(0, rows) for field in vars(self).values()))


@lru_cache(maxsize=4)
def _noise_table(device: str) -> Tensor:
    """Tileable fractal noise in -1..1 of (_TILE, _TILE), flattened; smooth over about _FINE entries."""
    rng = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.fftfreq(_TILE)[None]) * _FINE
    frequency[0, 0] = 1.0
    spectrum = np.fft.fft2(rng.normal(size=(_TILE, _TILE))) / frequency**0.9 * np.exp(-((frequency / 0.5) ** 2))
    spectrum[0, 0] = 0.0
    field = np.fft.ifft2(spectrum).real
    return torch.tensor(np.clip(field / (2.2 * field.std()), -1, 1), dtype=torch.float32, device=device).flatten()


def _noise(u: Tensor, v: Tensor) -> Tensor:
    i, j = (u * _FINE).long() & (_TILE - 1), (v * _FINE).long() & (_TILE - 1)
    return _noise_table(str(u.device)).index_select(0, j * _TILE + i)


def _hash(a: Tensor, b: Tensor, seed: Tensor) -> Tensor:
    """Pseudo-random 0..1 of integer cells."""
    return (torch.sin(a * 12.9898 + b * 78.233 + seed * 37.719) * 437.585).frac().abs()


def _fade(surface: Surface, period_m: float) -> Tensor:
    """1 where ``period_m`` is well resolved, 0 where it is below the pixel."""
    return (1.5 - 2.0 * surface.footprint / period_m).clamp(0, 1)


def _shade(surface: Surface, factor: Tensor) -> Tensor:
    return surface.albedo * factor[:, None]


def _cells(surface: Surface, size_m: float) -> tuple[Tensor, Tensor]:
    return surface.uv[:, 0] / size_m + surface.seed * 191.0, surface.uv[:, 1] / size_m + surface.seed * 83.0


def _grain(s: Surface, size_m: float, amount: float, middle: float = 1.0) -> Tensor:
    return middle + amount * _noise(*_cells(s, size_m))


def _wall(s: Surface) -> Tensor:
    """Plaster: broad stains and a fine grain."""
    broad, fine = _noise(*_cells(s, 0.045)), _noise(*_cells(s, 0.011))
    return _shade(s, 1 + 0.07 * broad + 0.09 * fine * _fade(s, 0.02))


def _wood(s: Surface) -> Tensor:
    """Grain along u with slow rings."""
    u, v = _cells(s, 1.0)
    grain = _noise(u * 9, v * 90)
    rings = torch.sin(v * 55 + 3.5 * _noise(u * 7, v * 12))
    return _shade(s, 0.97 + 0.16 * grain * _fade(s, 0.02) + 0.09 * rings * _fade(s, 0.08))


def _planks(s: Surface) -> Tensor:
    """A floor of boards 12 cm wide with staggered ends."""
    row = (s.uv[:, 1] / 0.12).floor()
    along = s.uv[:, 0] / 1.1 + _hash(row, row * 0.5, s.seed)
    board = along.floor()
    tone = 0.82 + 0.34 * _hash(row, board, s.seed)
    edge_v, edge_u = (s.uv[:, 1] / 0.12).frac().abs(), (along - board) * 9
    seam = ((edge_v < 0.06) | (edge_u < 0.06)).float() * 0.35 * _fade(s, 0.06)
    grain = _noise(s.uv[:, 0] * 9 + (row * 3.1 + board * 1.7) * 31, s.uv[:, 1] * 90)
    return _shade(s, 1 + 0.15 * grain * _fade(s, 0.02)) * (tone * (1 - seam))[:, None]


def _fabric(s: Surface) -> Tensor:
    weave = torch.sin(s.uv[:, 0] * 420) * torch.sin(s.uv[:, 1] * 420) * _fade(s, 0.015)
    return _shade(s, 0.97 + 0.12 * weave + 0.12 * _noise(*_cells(s, 0.012)))


def _carpet(s: Surface) -> Tensor:
    fine, broad = _noise(*_cells(s, 0.007)), _noise(*_cells(s, 0.03))
    return _shade(s, 0.96 + 0.20 * fine * _fade(s, 0.012) + 0.15 * broad)


def _ornament(s: Surface) -> Tensor:
    """A rug: a border and a field of lozenges."""
    edge = s.unit.abs().amax(1)
    lozenge = (((s.unit[:, 0] * 4).frac().abs() - 0.5).abs() + ((s.unit[:, 1] * 4).frac().abs() - 0.5).abs()) < 0.3
    border = ((edge > 0.78) & (edge < 0.86)).float()
    light = 1 - (1 - s.albedo) * 0.45
    mixed = torch.where((border + lozenge.float() * (edge < 0.74))[:, None] > 0, light, s.albedo)
    return mixed * _grain(s, 0.01, 0.18, 0.95)[:, None]


def _grid(s: Surface, width: float, height: float, joint: float, stagger: float) -> Tensor:
    """Plates with joints, each of its own tone."""
    y = s.uv[:, 1] / height
    row = y.floor()
    x = s.uv[:, 0] / width + stagger * row
    column = x.floor()
    inside_x, inside_y = x - column, y - row
    seam = ((inside_x < joint * height / width * 2) | (inside_y < joint)).float() * _fade(s, 0.05)
    tone = 0.84 + 0.26 * _hash(row, column, s.seed) + 0.10 * _noise(*_cells(s, 0.015))
    return _shade(s, tone * (1 - 0.30 * seam))


def _checker(s: Surface) -> Tensor:
    parity = ((s.uv[:, 0] / 0.25).floor() + (s.uv[:, 1] / 0.25).floor()) % 2
    return _shade(s, (0.80 + 0.32 * parity) * _grain(s, 0.012, 0.08))


def _stripes(s: Surface) -> Tensor:
    band = ((s.uv[:, 0] / 0.10).floor() % 2) * _fade(s, 0.1)
    return _shade(s, (0.86 + 0.22 * band) * _grain(s, 0.014, 0.08))


def _books(s: Surface) -> Tensor:
    """Page edges: thin dark lines across v."""
    return _shade(s, 0.94 + 0.06 * (torch.sin(s.uv[:, 1] * 1600) * _fade(s, 0.006)))


def _painting(s: Surface) -> Tensor:
    """A picture in shades of its colour: soft regions, a horizon and a disc."""
    u, v = s.unit[:, 0], s.unit[:, 1]
    field = _noise(u * 5 + s.seed * 211, v * 5 + s.seed * 97)
    light = 1 - (1 - s.albedo) * 0.55
    dark = s.albedo * 0.55
    mixed = torch.where((field > 0.25)[:, None], light, torch.where((field < -0.35)[:, None], dark, s.albedo))
    disc = (u - 0.8 * (s.seed - 0.5)).square() + (v - 0.3).square() < 0.06
    mixed = torch.where(disc[:, None], light * 0.5 + 0.5, mixed)
    ground = v < -0.45 + 0.15 * torch.sin(u * 3 + s.seed * 20)
    return torch.where(ground[:, None], dark * 0.7 + s.albedo * 0.3, mixed)


def _screen(s: Surface) -> Tensor:
    u, v = s.unit[:, 0], s.unit[:, 1]
    window = ((u + 0.25).abs() < 0.5) & ((v - 0.05).abs() < 0.6)
    line = ((v * 14).floor() % 2 == 0) & (_hash((v * 14).floor(), (u * 10).floor(), s.seed) > 0.35)
    light = 1 - (1 - s.albedo) * 0.6
    mixed = torch.where(window[:, None], light, s.albedo)
    return torch.where((window & line)[:, None], s.albedo * 0.6, mixed)


def _sky(s: Surface) -> Tensor:
    """What a window shows: a bright gradient with clouds and something green below."""
    cloud = _noise(*_cells(s, 0.05))[:, None]
    sky = s.albedo * (1 + 0.08 * cloud)
    garden = torch.tensor([0.45, 0.62, 0.40], device=s.uv.device) * (0.9 + 0.3 * cloud)
    low = (s.unit[:, 1] < -0.5 + 0.2 * cloud[:, 0])[:, None]
    return torch.where(low, garden, sky)


def _wicker(s: Surface) -> Tensor:
    x, y = s.uv[:, 0] / 0.03, s.uv[:, 1] / 0.015
    over = ((x.floor() + y.floor()) % 2) * _fade(s, 0.04)
    return _shade(s, (0.82 + 0.24 * over) * _grain(s, 0.02, 0.1))


def _marble(s: Surface) -> Tensor:
    u, v = _cells(s, 0.02)
    vein = (1 - 8 * (_noise(u * 0.6, v * 0.6) + 0.3 * _noise(u * 3, v * 3)).abs()).clamp_min(0)
    return _shade(s, 1 - 0.28 * vein)


def _print(s: Surface) -> Tensor:
    """A printed page: lines of words on its colour, blocks of another one, and a margin."""
    row, column = (s.uv[:, 1] / 0.012).floor(), (s.uv[:, 0] / 0.009).floor()
    word = _hash(row, (column / 4).floor() + row * 0.3, s.seed) > 0.22
    ink = ((s.uv[:, 1] / 0.012 - row) > 0.45) & word & (_hash(row, column, s.seed + 0.3) > 0.15)
    block = _hash((s.unit[:, 0] * 1.5).floor(), (s.unit[:, 1] * 2).floor(), s.seed) > 0.72
    inside = s.unit.abs().amax(1) < 0.86
    dark = (s.albedo.mean(1, keepdim=True) > 0.45).float()
    ground = torch.where(block[:, None], 1 - s.albedo * 0.8, s.albedo)
    share = ((ink & inside & ~block).float() * (0.25 + 0.75 * _fade(s, 0.02)))[:, None] * 0.8
    return ground * (1 - share) + share * (1 - dark) * 0.9


def _photo(s: Surface) -> Tensor:
    """A photograph: regions of many colours, sharp and soft edges, a light top."""
    u, v = s.unit[:, 0] * 3, s.unit[:, 1] * 3
    fields = [_noise(u * k + s.seed * 211 * k, v * k + s.seed * 97 + 31 * k) for k in (1.0, 1.7, 2.9)]
    colours = torch.stack([0.5 + 0.55 * fields[i] + 0.25 * fields[(i + 1) % 3].sign() for i in range(3)], -1)
    light = 0.75 + 0.25 * s.unit[:, 1:]
    return (0.65 * colours + 0.35 * s.albedo) * light


_FUNCTIONS: dict[str, Callable[[Surface], Tensor]] = {
    "plain": lambda s: _shade(s, _grain(s, 0.03, 0.05)),
    "flat": attrgetter("albedo"),
    "wall": _wall,
    "wood": _wood,
    "planks": _planks,
    "fabric": _fabric,
    "carpet": _carpet,
    "ornament": _ornament,
    "tiles": partial(_grid, width=0.30, height=0.30, joint=0.03, stagger=0.0),
    "brick": partial(_grid, width=0.24, height=0.08, joint=0.10, stagger=0.5),
    "checker": _checker,
    "stripes": _stripes,
    "books": _books,
    "painting": _painting,
    "screen": _screen,
    "sky": _sky,
    "leaves": lambda s: _shade(s, _grain(s, 0.008, 0.45, 0.92)),
    "wicker": _wicker,
    "marble": _marble,
    "lampshade": attrgetter("albedo"),
    "print": _print,
    "photo": _photo,
}
#: Names that a Primitive may carry; the index is what the ray-caster stores.
TEXTURES: tuple[str, ...] = tuple(_FUNCTIONS)
#: How much light a texture gives off by itself.
EMISSION: dict[str, float] = {"sky": 1.15, "lampshade": 0.75, "screen": 0.5}


def face_coordinates(
    local: Float[Tensor, "n 3"], normal: Float[Tensor, "n 3"], half: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """(metres, -1..1) coordinates in the face plane across the dominant axis of the local normal."""
    x, y, z = normal.abs().unbind(1)
    across = torch.where(x > torch.maximum(y, z), 1, 0)[:, None]
    upward = torch.where(z >= torch.maximum(x, y), 1, 2)[:, None]
    axes = torch.cat([across, upward], 1)
    uv = local.gather(1, axes)
    return uv, uv / half.gather(1, axes)


def albedo(texture: Int[Tensor, " n"], surface: Surface) -> Float[Tensor, "n 3"]:
    """Colour at n points; ``texture`` indexes TEXTURES. Values stay in 0..1."""
    out = surface.albedo.clone()
    for index in torch.bincount(texture).nonzero()[:, 0].tolist():
        rows = (texture == index).nonzero()[:, 0]
        out[rows] = _FUNCTIONS[TEXTURES[index]](surface.at(rows))
    return out.clamp_(0, 1)
