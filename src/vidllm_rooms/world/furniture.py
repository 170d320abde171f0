"""Builders of the large pieces, named as their categories: seats, tables, beds and storage."""

from __future__ import annotations

from vidllm_rooms.world.parts import Kit

STEEL = (0.62, 0.63, 0.65)
DARK = (0.10, 0.10, 0.11)
LINEN = (0.90, 0.89, 0.86)


def chair(k: Kit) -> None:
    w, d, seat, top = k.draw(0.40, 0.50), k.draw(0.42, 0.52), k.draw(0.43, 0.48), k.draw(0.80, 1.00)
    k.legs(w - 0.02, d - 0.02, seat - 0.05, 0.04, k.other if k.chance(0.5) else None)
    k.block(w, d, (seat - 0.05, seat))
    back = (d / 2 - 0.04, d / 2)
    if k.chance(0.5):
        k.block(w - 0.02, back, (seat, top))
        return
    for x in (-w / 2 + 0.025, w / 2 - 0.025):
        k.block((x - 0.02, x + 0.02), back, (seat, top - 0.01))
    k.block(w - 0.01, (back[0] + 0.005, back[1] - 0.005), (top - 0.16, top))
    k.block(w - 0.09, (back[0] + 0.01, back[1] - 0.01), (seat + 0.08, seat + 0.18))


def office_chair(k: Kit) -> None:
    w, d, seat, top = k.draw(0.46, 0.54), k.draw(0.46, 0.54), k.draw(0.44, 0.50), k.draw(0.92, 1.15)
    k.block(0.56, 0.05, (0.02, 0.06), DARK, "plain")
    k.block(0.05, 0.56, (0.025, 0.055), DARK, "plain")
    k.post(0.0, 0.0, (0.06, seat - 0.08), 0.06, STEEL)
    k.block(w, d, (seat - 0.08, seat))
    k.block(0.06, (d / 2 - 0.02, d / 2 + 0.015), (seat - 0.06, seat + 0.15), DARK, "plain")
    k.block(w - 0.04, (d / 2 - 0.05, d / 2 + 0.03), (seat + 0.12, top))
    for s in (-1, 1):
        x = s * (w / 2 + 0.03)
        k.block((x - 0.025, x + 0.025), (-0.12, 0.14), (seat + 0.18, seat + 0.22), DARK, "plain")
        k.block((x - 0.015, x + 0.015), (-0.02, 0.04), (seat - 0.04, seat + 0.18), DARK, "plain")


def _upholstered(k: Kit, width: float, cushions: int) -> None:
    depth, seat, top = k.draw(0.78, 0.95), k.draw(0.38, 0.45), k.draw(0.72, 0.90)
    arm, back = k.draw(0.12, 0.2), k.draw(0.16, 0.24)
    front, rear, foot = -depth / 2, depth / 2, 0.08
    k.legs(width - 0.1, depth - 0.1, foot, 0.05, k.other)
    k.block(width - 0.02, (front + 0.02, rear - 0.01), (foot, seat - 0.12))
    for s in (-1, 1):
        inner, outer = s * (width / 2 - arm), s * width / 2
        k.block((min(inner, outer), max(inner, outer)), (front, rear - 0.015), (foot + 0.01, seat + k.draw(0.16, 0.2)))
    k.block(width - 2 * arm + 0.02, (rear - back, rear), (foot + 0.02, top))
    inside = width - 2 * arm
    for i in range(cushions):
        x0 = -inside / 2 + i * inside / cushions
        k.block((x0 + 0.008, x0 + inside / cushions - 0.008), (front + 0.01, rear - back), (seat - 0.12, seat))
    k.support(seat, inside, (front + 0.05, rear - back), 0.5, "seat")


def armchair(k: Kit) -> None:
    _upholstered(k, k.draw(0.75, 0.98), 1)


def sofa(k: Kit) -> None:
    width = k.draw(1.5, 2.3)
    _upholstered(k, width, 2 if width < 1.9 else 3)


def bench(k: Kit) -> None:
    w, d, h = k.draw(0.9, 1.4), k.draw(0.34, 0.42), k.draw(0.42, 0.48)
    k.block(w, d, (h - 0.06, h))
    for x in (-w / 2 + 0.1, w / 2 - 0.1):
        k.block((x - 0.03, x + 0.03), d - 0.06, (0.0, h - 0.06))
    k.support(h, w, d, 0.8, "seat")


def stool(k: Kit) -> None:
    r, h = k.draw(0.16, 0.20), k.draw(0.42, 0.72)
    k.solid("cylinder", (0.0, 0.0, h - 0.03), (2 * r, 2 * r, 0.06))
    k.legs(1.5 * r, 1.5 * r, h - 0.06, 0.035)
    k.block(1.2 * r, 0.024, (0.16, 0.185))
    k.support(h, 1.4 * r, 1.4 * r, 0.8)


def _four_legged(k: Kit, w: float, d: float, h: float, thick: float) -> None:
    k.block(w, d, (h - 0.04, h))
    k.legs(w - 0.06, d - 0.06, h - 0.04, thick)
    k.block(w - 0.16, (-d / 2 + 0.05, -d / 2 + 0.07), (h - 0.12, h - 0.04))
    k.support(h, w, d)


def table(k: Kit) -> None:
    h = k.draw(0.70, 0.78)
    if k.chance(0.7):
        _four_legged(k, k.draw(1.1, 1.8), k.draw(0.75, 0.95), h, 0.07)
        return
    r = k.draw(0.42, 0.6)
    k.solid("cylinder", (0.0, 0.0, h - 0.02), (2 * r, 2 * r, 0.04))
    k.post(0.0, 0.0, (0.03, h - 0.04), 0.12)
    k.solid("cylinder", (0.0, 0.0, 0.015), (1.1 * r, 1.1 * r, 0.03))
    k.support(h, 1.36 * r, 1.36 * r)


def coffee_table(k: Kit) -> None:
    w, d, h = k.draw(0.8, 1.2), k.draw(0.45, 0.65), k.draw(0.35, 0.46)
    k.block(w, d, (h - 0.04, h))
    k.legs(w - 0.02, d - 0.02, h - 0.04, 0.05)
    if k.chance(0.6):
        k.block(w - 0.06, d - 0.06, (0.11, 0.13))
    k.support(h, w, d)


def desk(k: Kit) -> None:
    w, d, h = k.draw(1.1, 1.6), k.draw(0.6, 0.75), k.draw(0.72, 0.77)
    s = 1 if k.chance(0.5) else -1
    k.block(w, d, (h - 0.03, h))
    left, right = sorted((s * (w / 2 - 0.02), s * (w / 2 - 0.42)))
    k.block((left, right), (-d / 2 + 0.03, d / 2 - 0.01), (0.04, h - 0.03))
    for i in range(3):
        z = 0.07 + i * (h - 0.12) / 3
        k.block((left + 0.02, right - 0.02), (-d / 2 + 0.015, -d / 2 + 0.03), (z, z + (h - 0.12) / 3 - 0.025))
        middle = (left + right) / 2
        k.block((middle - 0.06, middle + 0.06), (-d / 2 + 0.002, -d / 2 + 0.015), (z + 0.09, z + 0.11), STEEL, "flat")
    other = -s * (w / 2 - 0.04)
    for y in (-d / 2 + 0.04, d / 2 - 0.04):
        k.block((other - 0.03, other + 0.03), (y - 0.03, y + 0.03), (0.0, h - 0.03))
    k.block(w - 0.1, (d / 2 - 0.03, d / 2 - 0.012), (h - 0.35, h - 0.03))
    k.support(h, w, d)


def bed(k: Kit) -> None:
    w, length, h = (k.draw(0.9, 1.1) if k.chance(0.4) else k.draw(1.4, 1.8)), k.draw(1.95, 2.15), k.draw(0.42, 0.56)
    head = k.draw(0.85, 1.15)
    front, rear = -length / 2, length / 2
    k.block(w, (front, rear - 0.06), (0.08, h - 0.20), k.other, "wood")
    k.legs(w - 0.06, length - 0.16, 0.08, 0.06, k.other)
    k.block(w - 0.04, (front + 0.03, rear - 0.06), (h - 0.20, h - 0.03), LINEN, "fabric")
    k.block(w + 0.03, (front + 0.005, rear - 0.55), (h - 0.24, h))
    k.block(w + 0.02, (rear - 0.06, rear), (0.0, head))
    k.support(h - 0.03, w - 0.1, (rear - 0.54, rear - 0.08), 0.6, "bed")
    k.support(h, w - 0.2, (front + 0.1, rear - 0.6), 0.6, "blanket")


def wardrobe(k: Kit) -> None:
    doors = 2 if k.chance(0.6) else 3
    w, d, h = doors * k.draw(0.42, 0.55), k.draw(0.55, 0.65), k.draw(1.85, 2.2)
    k.block(w, (-d / 2 + 0.02, d / 2), (0.0, h))
    for i in range(doors):
        x0 = -w / 2 + i * w / doors
        k.block((x0 + 0.012, x0 + w / doors - 0.012), (-d / 2 + 0.004, -d / 2 + 0.02), (0.09, h - 0.03))
        x = x0 + (0.07 if i % 2 else w / doors - 0.07)
        k.block((x - 0.012, x + 0.012), (-d / 2 - 0.02, -d / 2 + 0.004), (0.95, 1.2), STEEL, "flat")


def bookshelf(k: Kit) -> None:
    w, d, h = k.draw(0.7, 1.2), k.draw(0.28, 0.36), k.draw(1.3, 2.0)
    levels = max(3, round(h / 0.4))
    k.block((-w / 2, -w / 2 + 0.03), d, (0.0, h))
    k.block((w / 2 - 0.03, w / 2), d, (0.0, h))
    k.block(w - 0.06, (d / 2 - 0.015, d / 2 - 0.002), (0.02, h - 0.01))
    gap = (h - 0.06) / levels
    for i in range(levels + 1):
        z = 0.03 + i * gap
        k.block(w - 0.06, (-d / 2 + 0.004, d / 2 - 0.015), (z - 0.014, z + 0.014))
        free, kind = (gap - 0.03, "shelf") if i < levels else (0.4, "top" if h < 1.6 else "high")
        if i:
            k.support(z + 0.014, w - 0.08, (-d / 2 + 0.01, d / 2 - 0.02), free, kind)


def _drawers(k: Kit, w: float, d: float, h: float, rows: int, columns: int) -> None:
    front = -d / 2
    k.block(w, (front + 0.018, d / 2), (0.05, h))
    k.legs(w - 0.02, d - 0.06, 0.05, 0.04, k.other)
    dw, dh = (w - 0.02) / columns, (h - 0.09) / rows
    for i in range(rows):
        for j in range(columns):
            x0, z0 = -w / 2 + 0.01 + j * dw, 0.07 + i * dh
            k.block((x0 + 0.01, x0 + dw - 0.01), (front + 0.004, front + 0.018), (z0 + 0.01, z0 + dh - 0.01))
            x, z = x0 + dw / 2, z0 + dh * 0.6
            k.block((x - 0.05, x + 0.05), (front - 0.014, front + 0.004), (z - 0.01, z + 0.01), STEEL, "flat")
    k.support(h, w, (front + 0.02, d / 2))


def nightstand(k: Kit) -> None:
    _drawers(k, k.draw(0.38, 0.52), k.draw(0.34, 0.42), k.draw(0.45, 0.60), 2, 1)


def dresser(k: Kit) -> None:
    _drawers(k, k.draw(0.8, 1.3), k.draw(0.42, 0.52), k.draw(0.75, 1.0), 3, 2)


def cabinet(k: Kit) -> None:
    _drawers(k, k.draw(1.1, 1.7), k.draw(0.36, 0.46), k.draw(0.45, 0.65), 1, 3)


def refrigerator(k: Kit) -> None:
    w, d, h = k.draw(0.58, 0.72), k.draw(0.60, 0.70), k.draw(1.55, 1.95)
    split = h * (0.36 if k.chance(0.5) else 0.68)
    front = -d / 2
    k.block(w, (front + 0.05, d / 2), (0.0, h))
    for z0, z1 in ((0.06, split - 0.008), (split + 0.008, h - 0.005)):
        k.block(w - 0.006, (front, front + 0.045), (z0, z1))
        grip = (z1 - 0.4, z1 - 0.1) if z0 < 0.1 else (z0 + 0.1, z0 + 0.4)
        k.block((w / 2 - 0.09, w / 2 - 0.06), (front - 0.035, front), grip, STEEL, "flat")


def stove(k: Kit) -> None:
    w, d, h = k.draw(0.55, 0.65), k.draw(0.58, 0.64), k.draw(0.85, 0.92)
    front = -d / 2
    k.block(w, (front + 0.02, d / 2), (0.0, h - 0.02))
    k.block(w - 0.04, (front + 0.004, front + 0.02), (0.12, h - 0.16))
    k.block(w - 0.28, (front - 0.002, front + 0.004), (0.28, h - 0.34), DARK, "flat")
    k.block(w - 0.12, (front - 0.03, front - 0.01), (h - 0.22, h - 0.195), STEEL, "flat")
    k.block(w + 0.008, (front, d / 2), (h - 0.02, h - 0.005))
    for x in (-w / 4, w / 4):
        for y in (-d / 5, d / 5):
            k.solid("cylinder", (x, y, h - 0.0015), (0.17, 0.17, 0.008), DARK, "flat")
    k.support(h + 0.0025, w, (front + 0.05, d / 2), 0.6)


def washing_machine(k: Kit) -> None:
    w, d, h = 0.60, k.draw(0.52, 0.60), k.draw(0.82, 0.87)
    front = -d / 2
    k.block(w, (front, d / 2), (0.0, h))
    k.solid("ellipsoid", (0.0, front, h * 0.48), (0.40, 0.08, 0.40), STEEL, "flat")
    k.solid("ellipsoid", (0.0, front - 0.012, h * 0.48), (0.29, 0.09, 0.29), DARK, "flat")
    k.block((-w / 2 + 0.03, -0.06), (front - 0.006, front), (h - 0.12, h - 0.03), (0.85, 0.85, 0.86), "flat")
    k.post(0.15, front - 0.005, (h - 0.11, h - 0.05), 0.05, STEEL)
    k.support(h, w, (front, d / 2), 0.8)
