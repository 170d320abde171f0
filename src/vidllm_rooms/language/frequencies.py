"""Frequencies over 700 rendered rooms, counted by ``priors.measure``: what a guesser may know without looking."""

from __future__ import annotations

# fmt: off
#: category -> share of rooms in which 0, 1, 2, 3, 4, 5 of it are seen.
COUNTS: dict[str, tuple[float, ...]] = {
    "armchair": (0.681, 0.257, 0.053, 0.009, 0.0, 0.0), "ball": (0.923, 0.073, 0.004, 0.0, 0.0, 0.0),
    "basket": (0.897, 0.094, 0.006, 0.003, 0.0, 0.0), "bed": (0.769, 0.231, 0.0, 0.0, 0.0, 0.0),
    "bench": (0.891, 0.096, 0.011, 0.001, 0.0, 0.0), "book": (0.867, 0.119, 0.014, 0.0, 0.0, 0.0),
    "bookshelf": (0.754, 0.221, 0.02, 0.004, 0.0, 0.0), "bottle": (0.957, 0.04, 0.001, 0.001, 0.0, 0.0),
    "bowl": (0.934, 0.06, 0.004, 0.001, 0.0, 0.0), "box": (0.903, 0.087, 0.009, 0.001, 0.0, 0.0),
    "cabinet": (0.66, 0.307, 0.031, 0.001, 0.0, 0.0), "ceiling lamp": (0.954, 0.046, 0.0, 0.0, 0.0, 0.0),
    "chair": (0.594, 0.203, 0.071, 0.059, 0.05, 0.023), "clock": (0.897, 0.093, 0.01, 0.0, 0.0, 0.0),
    "coffee table": (0.779, 0.221, 0.0, 0.0, 0.0, 0.0), "cup": (0.987, 0.011, 0.001, 0.0, 0.0, 0.0),
    "curtain": (0.769, 0.219, 0.013, 0.0, 0.0, 0.0), "desk": (0.786, 0.133, 0.081, 0.0, 0.0, 0.0),
    "door": (0.394, 0.606, 0.0, 0.0, 0.0, 0.0), "dresser": (0.751, 0.227, 0.02, 0.0, 0.0, 0.001),
    "floor lamp": (0.78, 0.186, 0.03, 0.004, 0.0, 0.0), "flower": (0.891, 0.099, 0.01, 0.0, 0.0, 0.0),
    "laptop": (0.81, 0.161, 0.026, 0.001, 0.001, 0.0), "mirror": (0.79, 0.187, 0.02, 0.003, 0.0, 0.0),
    "monitor": (0.873, 0.089, 0.037, 0.001, 0.0, 0.0), "nightstand": (0.817, 0.113, 0.07, 0.0, 0.0, 0.0),
    "office chair": (0.863, 0.086, 0.046, 0.004, 0.001, 0.0), "picture": (0.603, 0.303, 0.07, 0.023, 0.001, 0.0),
    "pillow": (0.696, 0.196, 0.101, 0.007, 0.0, 0.0), "plant": (0.76, 0.204, 0.033, 0.003, 0.0, 0.0),
    "radiator": (0.9, 0.086, 0.014, 0.0, 0.0, 0.0), "refrigerator": (0.903, 0.091, 0.006, 0.0, 0.0, 0.0),
    "rug": (0.833, 0.167, 0.0, 0.0, 0.0, 0.0), "sofa": (0.707, 0.291, 0.001, 0.0, 0.0, 0.0),
    "stool": (0.86, 0.13, 0.01, 0.0, 0.0, 0.0), "stove": (0.93, 0.07, 0.0, 0.0, 0.0, 0.0),
    "suitcase": (0.861, 0.123, 0.013, 0.003, 0.0, 0.0), "table": (0.806, 0.194, 0.0, 0.0, 0.0, 0.0),
    "table lamp": (0.831, 0.141, 0.026, 0.001, 0.0, 0.0), "trash can": (0.839, 0.146, 0.014, 0.001, 0.0, 0.0),
    "tv": (0.783, 0.216, 0.001, 0.0, 0.0, 0.0), "vase": (0.933, 0.063, 0.004, 0.0, 0.0, 0.0),
    "wardrobe": (0.751, 0.203, 0.04, 0.006, 0.0, 0.0), "washing machine": (0.966, 0.03, 0.004, 0.0, 0.0, 0.0),
    "window": (0.46, 0.384, 0.156, 0.0, 0.0, 0.0),
}

#: category -> (mean, deviation) of its height in metres.
HEIGHTS: dict[str, tuple[float, float]] = {
    "armchair": (0.81, 0.05), "ball": (0.24, 0.04), "basket": (0.35, 0.05), "bed": (1.0, 0.08), "bench": (0.45, 0.02),
    "book": (0.11, 0.1), "bookshelf": (1.64, 0.19), "bottle": (0.29, 0.03), "bowl": (0.08, 0.01), "box": (0.3, 0.07),
    "cabinet": (0.55, 0.06), "ceiling lamp": (0.35, 0.05), "chair": (0.9, 0.06), "clock": (0.36, 0.04),
    "coffee table": (0.41, 0.03), "cup": (0.1, 0.01), "curtain": (2.05, 0.07), "desk": (0.74, 0.01),
    "door": (2.11, 0.03), "dresser": (0.87, 0.07), "floor lamp": (1.53, 0.11), "flower": (0.31, 0.03),
    "laptop": (0.26, 0.02), "mirror": (0.94, 0.15), "monitor": (0.46, 0.03), "nightstand": (0.53, 0.04),
    "office chair": (1.02, 0.07), "picture": (0.55, 0.12), "pillow": (0.13, 0.01), "plant": (0.94, 0.18),
    "radiator": (0.58, 0.04), "refrigerator": (1.74, 0.12), "rug": (0.01, 0.0), "sofa": (0.81, 0.05),
    "stool": (0.57, 0.09), "stove": (0.89, 0.02), "suitcase": (0.91, 0.06), "table": (0.74, 0.02),
    "table lamp": (0.43, 0.05), "trash can": (0.43, 0.07), "tv": (0.66, 0.08), "vase": (0.28, 0.05),
    "wardrobe": (2.02, 0.1), "washing machine": (0.84, 0.01), "window": (1.18, 0.14),
}

#: category -> (mean, deviation) of its longer horizontal side in metres.
LENGTHS: dict[str, tuple[float, float]] = {
    "armchair": (0.9, 0.05), "ball": (0.24, 0.04), "basket": (0.47, 0.03), "bed": (2.06, 0.06), "bench": (1.19, 0.13),
    "book": (0.23, 0.05), "bookshelf": (0.96, 0.15), "bottle": (0.09, 0.01), "bowl": (0.28, 0.03),
    "box": (0.39, 0.06), "cabinet": (1.4, 0.18), "ceiling lamp": (0.47, 0.06), "chair": (0.48, 0.02),
    "clock": (0.36, 0.04), "coffee table": (1.0, 0.11), "cup": (0.13, 0.01), "curtain": (0.51, 0.06),
    "desk": (1.36, 0.14), "door": (1.03, 0.05), "dresser": (1.04, 0.15), "floor lamp": (0.42, 0.03),
    "flower": (0.19, 0.0), "laptop": (0.34, 0.02), "mirror": (0.66, 0.08), "monitor": (0.58, 0.06),
    "nightstand": (0.45, 0.04), "office chair": (0.61, 0.02), "picture": (0.7, 0.19), "pillow": (0.47, 0.05),
    "plant": (0.71, 0.09), "radiator": (0.96, 0.14), "refrigerator": (0.69, 0.03), "rug": (1.66, 0.3),
    "sofa": (1.91, 0.24), "stool": (0.36, 0.02), "stove": (0.64, 0.02), "suitcase": (0.42, 0.04),
    "table": (1.3, 0.25), "table lamp": (0.25, 0.03), "trash can": (0.31, 0.03), "tv": (1.04, 0.14),
    "vase": (0.16, 0.02), "wardrobe": (1.15, 0.25), "washing machine": (0.62, 0.02), "window": (1.32, 0.26),
}

#: category -> (mean, deviation) of the distance in metres from the first camera to its centre.
REMOTENESS: dict[str, tuple[float, float]] = {
    "armchair": (2.88, 0.96), "ball": (2.87, 0.74), "basket": (3.14, 0.9), "bed": (3.29, 0.92), "bench": (3.81, 1.12),
    "book": (2.61, 0.76), "bookshelf": (3.46, 1.31), "bottle": (2.43, 0.92), "bowl": (3.03, 0.71),
    "box": (3.02, 0.87), "cabinet": (3.71, 1.15), "ceiling lamp": (2.81, 0.8), "chair": (3.1, 0.97),
    "clock": (3.61, 1.08), "coffee table": (3.07, 0.89), "cup": (2.09, 0.46), "curtain": (3.61, 1.37),
    "desk": (3.68, 1.12), "door": (3.25, 1.46), "dresser": (3.61, 1.17), "floor lamp": (2.8, 1.15),
    "flower": (2.89, 0.82), "laptop": (3.1, 0.99), "mirror": (3.73, 1.23), "monitor": (3.62, 1.15),
    "nightstand": (3.95, 0.93), "office chair": (3.18, 1.0), "picture": (3.64, 1.25), "pillow": (3.28, 0.88),
    "plant": (3.01, 1.09), "radiator": (4.01, 1.29), "refrigerator": (3.37, 1.4), "rug": (3.12, 0.89),
    "sofa": (3.55, 1.16), "stool": (3.21, 1.07), "stove": (3.52, 1.18), "suitcase": (2.88, 1.02),
    "table": (3.22, 0.88), "table lamp": (3.73, 0.89), "trash can": (3.03, 0.96), "tv": (3.55, 1.22),
    "vase": (2.76, 0.93), "wardrobe": (3.07, 1.24), "washing machine": (3.56, 1.09), "window": (3.56, 1.31),
}

#: carrying category -> share of each category among what stands on it.
LOADS: dict[str, dict[str, float]] = {
    "armchair": {"pillow": 1.0},
    "bed": {"book": 0.13, "laptop": 0.23, "pillow": 0.64},
    "bench": {"book": 0.33, "pillow": 0.67},
    "bookshelf": {"book": 0.4, "bottle": 0.04, "bowl": 0.24, "vase": 0.32},
    "cabinet": {
        "book": 0.01, "bottle": 0.02, "bowl": 0.02, "flower": 0.04, "table lamp": 0.03, "tv": 0.86,
        "vase": 0.02,
    },
    "coffee table": {"book": 0.22, "bowl": 0.15, "flower": 0.17, "laptop": 0.28, "vase": 0.18},
    "desk": {
        "book": 0.03, "bottle": 0.01, "box": 0.05, "cup": 0.0, "flower": 0.03, "laptop": 0.24,
        "monitor": 0.55, "table lamp": 0.08,
    },
    "dresser": {
        "book": 0.13, "bottle": 0.08, "bowl": 0.11, "cup": 0.02, "flower": 0.17, "table lamp": 0.3,
        "tv": 0.09, "vase": 0.09,
    },
    "nightstand": {"book": 0.03, "flower": 0.1, "table lamp": 0.88},
    "rug": {
        "ball": 0.03, "basket": 0.01, "chair": 0.06, "coffee table": 0.77, "floor lamp": 0.03, "plant": 0.03,
        "stool": 0.01, "suitcase": 0.04, "trash can": 0.01,
    },
    "sofa": {"pillow": 1.0},
    "stool": {"book": 0.17, "cup": 0.17, "flower": 0.67},
    "stove": {"bottle": 0.5, "bowl": 0.5},
    "table": {"book": 0.15, "bottle": 0.12, "bowl": 0.13, "cup": 0.04, "flower": 0.21, "laptop": 0.2, "vase": 0.13},
    "washing machine": {"basket": 1.0},
}
