"""Builders of small and mounted things, named as in ``furniture``: lamps, screens, vessels, wall pieces, openings."""

from __future__ import annotations

import math

from vidllm_rooms.world.furniture import DARK, STEEL
from vidllm_rooms.world.parts import Kit

PAPER = (0.90, 0.88, 0.80)
PANE = (0.80, 0.89, 0.97)
GREEN = (0.20, 0.42, 0.16)


def floor_lamp(k: Kit) -> None:
    h, r, s = k.draw(1.35, 1.75), k.draw(0.18, 0.24), k.draw(0.28, 0.38)
    k.solid("cylinder", (0.0, 0.0, 0.015), (0.28, 0.28, 0.03))
    k.post(0.0, 0.0, (0.03, h - s), 0.03)
    k.solid("cylinder", (0.0, 0.0, h - s / 2), (2 * r, 2 * r, s), None, "lampshade")


def table_lamp(k: Kit) -> None:
    h, r = k.draw(0.34, 0.52), k.draw(0.10, 0.15)
    k.solid("cylinder", (0.0, 0.0, 0.012), (0.14, 0.14, 0.024))
    k.solid("ellipsoid", (0.0, 0.0, h * 0.27), (0.12, 0.12, h * 0.46))
    k.solid("cylinder", (0.0, 0.0, h * 0.76), (2 * r, 2 * r, h * 0.48), None, "lampshade")


def ceiling_lamp(k: Kit) -> None:
    drop, r = k.draw(0.25, 0.45), k.draw(0.18, 0.28)
    k.post(0.0, 0.0, (0.16, drop), 0.02, DARK)
    ball = k.chance(0.5)
    high = 0.22 if ball else 0.16
    k.solid("ellipsoid" if ball else "cylinder", (0.0, 0.0, high / 2), (2 * r, 2 * r, high), None, "lampshade")


def plant(k: Kit) -> None:
    h, r = k.draw(0.6, 1.3), k.draw(0.2, 0.32)
    pot = k.draw(0.22, 0.32)
    k.solid("cylinder", (0.0, 0.0, pot / 2), (1.1 * pot, 1.1 * pot, pot), k.other, "plain")
    k.post(0.0, 0.0, (pot, h * 0.7), 0.03, GREEN)
    for i in range(6):
        angle, z = i * 2.4, pot + (h - pot) * (0.3 + 0.1 * i)
        spread = r * (0.75 if i < 5 else 0.0)
        centre = (spread * math.cos(angle), spread * math.sin(angle), min(z, h - 0.16))
        k.solid("ellipsoid", centre, (1.25 * r, 1.25 * r, k.draw(0.22, 0.32)), None, "leaves")
    k.solid("ellipsoid", (0.0, 0.0, pot + 0.08), (r, r, 0.14), GREEN, "leaves")


def flower(k: Kit) -> None:
    h = k.draw(0.24, 0.36)
    k.solid("cylinder", (0.0, 0.0, 0.05), (0.11, 0.11, 0.10), k.other, "plain")
    for i in range(5):
        angle, reach = i * 2.2, 0.05 if i else 0.0
        x, y, z = reach * math.cos(angle), reach * math.sin(angle), h - 0.045 - 0.022 * i
        k.post(x * 0.7, y * 0.7, (0.10, z), 0.008, GREEN)
        k.solid("ellipsoid", (x, y, z), (0.10, 0.10, 0.085), None, "leaves")
    k.solid("ellipsoid", (0.0, 0.0, 0.12), (0.13, 0.13, 0.06), GREEN, "leaves")


def tv(k: Kit) -> None:
    w = k.draw(0.8, 1.3)
    h = w * 0.57
    k.block(0.44 * w, 0.2, (0.0, 0.02), DARK, "plain")
    k.block(0.1, (-0.01, 0.03), (0.02, 0.10), DARK, "plain")
    k.block(w, 0.05, (0.07, 0.07 + h))
    k.block(w - 0.08, (-0.031, -0.025), (0.11, 0.03 + h), None, "screen")


def monitor(k: Kit) -> None:
    w = k.draw(0.48, 0.68)
    h = w * 0.58
    k.solid("cylinder", (0.0, 0.02, 0.01), (0.22, 0.18, 0.02), DARK, "plain")
    k.block(0.05, (0.02, 0.05), (0.02, 0.22), DARK, "plain")
    k.block(w, 0.04, (0.12, 0.12 + h))
    k.block(w - 0.05, (-0.026, -0.02), (0.145, 0.095 + h), None, "screen")


def laptop(k: Kit) -> None:
    w = k.draw(0.30, 0.38)
    d = w * 0.7
    k.block(w, d, (0.0, 0.02))
    k.block(w - 0.06, (-d / 2 + 0.09, d / 2 - 0.03), (0.02, 0.024), DARK, "checker")
    k.block(w, (d / 2 - 0.012, d / 2), (0.021, 0.02 + d))
    k.block(w - 0.024, (d / 2 - 0.016, d / 2 - 0.012), (0.035, d), None, "screen")


def book(k: Kit) -> None:
    w, d, h = k.draw(0.15, 0.22), k.draw(0.21, 0.30), k.draw(0.025, 0.06)
    k.block(w, d, (0.0, 0.005))
    k.block((-w / 2 + 0.003, w / 2 - 0.006), d - 0.012, (0.005, h - 0.005), PAPER, "books")
    k.block(w, d, (h - 0.005, h))
    k.block((-w / 2 - 0.004, -w / 2 + 0.004), d, (0.0005, h - 0.0005))


def book__standing(k: Kit) -> None:
    w, d, h = k.draw(0.03, 0.07), k.draw(0.15, 0.20), k.draw(0.21, 0.29)
    k.block((-w / 2, -w / 2 + 0.005), (-d / 2 + 0.004, d / 2), (0.0, h))
    k.block((w / 2 - 0.005, w / 2), (-d / 2 + 0.004, d / 2), (0.0, h))
    k.block(w - 0.01, d - 0.012, (0.002, h - 0.006), PAPER, "books")
    k.block(w - 0.001, (-d / 2, -d / 2 + 0.006), (0.0005, h - 0.0005))


def box(k: Kit) -> None:
    w, d, h = k.draw(0.25, 0.5), k.draw(0.22, 0.42), k.draw(0.18, 0.40)
    k.block(w, d, (0.0, h - 0.002))
    k.block(w + 0.002, 0.05, (h * 0.75, h), (0.72, 0.62, 0.45), "flat")


def vase(k: Kit) -> None:
    h, r = k.draw(0.20, 0.36), k.draw(0.06, 0.10)
    k.solid("cylinder", (0.0, 0.0, 0.01), (1.1 * r, 1.1 * r, 0.02))
    k.solid("ellipsoid", (0.0, 0.0, h * 0.38), (2 * r, 2 * r, h * 0.70))
    k.post(0.0, 0.0, (h * 0.6, h - 0.012), 0.9 * r)
    k.solid("cylinder", (0.0, 0.0, h - 0.006), (1.3 * r, 1.3 * r, 0.012))


def cup(k: Kit) -> None:
    r, h = k.draw(0.04, 0.055), k.draw(0.08, 0.12)
    k.post(0.0, 0.0, (0.0, h), 2 * r)
    k.solid("cylinder", (0.0, 0.0, h), (1.7 * r, 1.7 * r, 0.002), (0.22, 0.13, 0.08), "flat")
    k.block((r - 0.004, r + 0.03), 0.014, (h * 0.65, h * 0.8))
    k.block((r + 0.018, r + 0.029), 0.012, (h * 0.25, h * 0.65))
    k.block((r - 0.004, r + 0.03), 0.014, (h * 0.2, h * 0.32))


def bowl(k: Kit) -> None:
    r, h = k.draw(0.11, 0.16), k.draw(0.07, 0.10)
    k.solid("cylinder", (0.0, 0.0, 0.008), (r, r, 0.016))
    k.solid("cylinder", (0.0, 0.0, 0.012 + (h - 0.016) / 2), (2 * r, 2 * r, h - 0.02))
    k.solid("cylinder", (0.0, 0.0, h - 0.002), (1.8 * r, 1.8 * r, 0.004), k.other, "flat")


def bottle(k: Kit) -> None:
    r, h = k.draw(0.035, 0.05), k.draw(0.24, 0.33)
    k.post(0.0, 0.0, (0.0, h * 0.6), 2 * r)
    k.solid("ellipsoid", (0.0, 0.0, h * 0.6), (2 * r, 2 * r, h * 0.24))
    k.post(0.0, 0.0, (h * 0.6, h - 0.02), 0.75 * r)
    k.post(0.0, 0.0, (h - 0.022, h), 0.85 * r, DARK)


def ball(k: Kit) -> None:
    d = k.draw(0.16, 0.30)
    k.solid("ellipsoid", (0.0, 0.0, d / 2), (d, d, d))
    k.solid("cylinder", (0.0, 0.0, d / 2), (d * 1.001, d * 1.001, d * 0.06), k.other, "flat")


def pillow(k: Kit) -> None:
    w, d, h = k.draw(0.38, 0.56), k.draw(0.30, 0.38), k.draw(0.10, 0.15)
    k.block(0.92 * w, 0.92 * d, (h * 0.3, h * 0.68))
    k.solid("ellipsoid", (0.0, 0.0, h / 2), (w, d, h))


def rug(k: Kit) -> None:
    h = k.draw(0.010, 0.016)
    if k.chance(0.7):
        w, d = k.draw(1.3, 2.2), k.draw(0.9, 1.6)
        k.block(w, d, (0.0, h), None, "ornament")
    else:
        w = k.draw(1.0, 1.7)
        k.solid("cylinder", (0.0, 0.0, h / 2), (w, w, h), None, "ornament")


def picture(k: Kit) -> None:
    w, h = k.draw(0.35, 1.0), k.draw(0.35, 0.75)
    k.block(w, (-0.012, 0.018), (0.0, h), k.other, "wood")
    k.block(w - 0.07, (-0.016, -0.012), (0.035, h - 0.035), None, "painting")


def mirror(k: Kit) -> None:
    w, h = k.draw(0.5, 0.8), k.draw(0.7, 1.2)
    rim = 0.17 * w
    k.block(w, (-0.012, 0.018), (0.0, h))
    k.block(w - 2 * rim, (-0.016, -0.012), (rim, h - rim), (0.74, 0.77, 0.79), "flat")


def clock(k: Kit) -> None:
    d = k.draw(0.28, 0.42)
    k.solid("ellipsoid", (0.0, 0.0, d / 2), (d, 0.05, d))
    k.solid("ellipsoid", (0.0, -0.016, d / 2), (d * 0.5, 0.03, d * 0.5), PAPER, "flat")
    k.block(0.014, (-0.036, -0.030), (d / 2, d * 0.70), DARK, "flat")
    k.block((0.0, d * 0.15), (-0.036, -0.030), (d / 2 - 0.007, d / 2 + 0.007), DARK, "flat")


def trash_can(k: Kit) -> None:
    r, h = k.draw(0.12, 0.17), k.draw(0.28, 0.55)
    k.post(0.0, 0.0, (0.0, h - 0.02), 2 * r)
    k.solid("cylinder", (0.0, 0.0, h - 0.012), (2.14 * r, 2.14 * r, 0.022))
    k.solid("cylinder", (0.0, 0.0, h - 0.001), (1.8 * r, 1.8 * r, 0.002), DARK, "flat")


def basket(k: Kit) -> None:
    w, d, h = k.draw(0.38, 0.5), k.draw(0.28, 0.36), k.draw(0.26, 0.42)
    k.block(w, d, (0.0, h))
    k.block(w + 0.024, d + 0.024, (h - 0.05, h - 0.01))
    k.block(w - 0.06, d - 0.06, (h, h + 0.012), (0.86, 0.84, 0.80), "fabric")


def suitcase(k: Kit) -> None:
    w, d, h = k.draw(0.36, 0.48), k.draw(0.20, 0.28), k.draw(0.52, 0.70)
    k.block(w, d, (0.04, h), None, "stripes")
    for x in (-w / 2 + 0.05, w / 2 - 0.05):
        k.block((x - 0.025, x + 0.025), d - 0.04, (0.0, 0.04), DARK, "flat")
        k.post(x * 0.5, d / 2 - 0.03, (h, h + 0.28), 0.015, STEEL)
    k.block(0.6 * w, (d / 2 - 0.045, d / 2 - 0.015), (h + 0.27, h + 0.30), DARK, "flat")


def door(k: Kit) -> None:
    w, h = k.draw(0.80, 0.98), k.draw(1.98, 2.10)
    k.block(w + 0.14, (-0.005, 0.02), (0.0, h + 0.07), k.other, "wood")
    k.block(w, (-0.02, 0.019), (0.01, h))
    for z0, z1 in ((0.18, h * 0.42), (h * 0.5, h - 0.16)):
        k.block(w - 0.26, (-0.03, -0.02), (z0, z1))
    side = 1 if k.chance(0.5) else -1
    left, right = sorted((side * (w / 2 - 0.05), side * (w / 2 - 0.17)))
    k.block((left, right), (-0.07, -0.045), (1.0, 1.025), STEEL, "flat")
    k.block((left + 0.045, right - 0.045), (-0.045, -0.02), (1.0, 1.025), STEEL, "flat")


def window(k: Kit) -> None:
    w, h = k.draw(0.8, 1.7), k.draw(0.9, 1.4)
    blind = h * k.draw(0.30, 0.45)
    k.block(w, (-0.01, 0.02), (0.0, h))
    rim = 0.08
    k.block(w - 2 * rim, (-0.016, -0.01), (rim, h - rim), PANE, "sky")
    k.block(0.05, (-0.024, -0.016), (rim, h - rim))
    k.block(w - 2 * rim, (-0.035, -0.0245), (h - rim - blind, h - rim), None, "stripes")
    k.block(w + 0.08, (-0.10, 0.019), (-0.035, 0.0))


def curtain(k: Kit) -> None:
    w, h, folds = k.draw(0.35, 0.55), k.draw(1.9, 2.15), 5
    for i in range(folds):
        x = -w / 2 + (i + 0.5) * w / folds
        k.solid("cylinder", (x, -0.01 if i % 2 else 0.01, h / 2), (w / folds * 1.15, 0.07, h))
    k.block(w + 0.06, 0.024, (h, h + 0.025), k.other, "plain")


def radiator(k: Kit) -> None:
    w, h, ribs = k.draw(0.7, 1.2), k.draw(0.5, 0.65), 7
    k.block(w, (-0.02, 0.03), (0.12, h - 0.03))
    for i in range(ribs):
        x = -w / 2 + (i + 0.5) * w / ribs
        k.block((x - w / ribs * 0.33, x + w / ribs * 0.33), (-0.05, 0.025), (0.10, h))
    for x in (-w / 2 + 0.06, w / 2 - 0.06):
        k.block((x - 0.02, x + 0.02), (-0.015, 0.02), (0.0, 0.12), STEEL, "flat")
