"""What a model's uncertainties are worth: factors that were measured on validation rooms, kept beside the weights.

``vidllm rooms calibrate`` writes ``calibration.json`` into a model's folder. It holds for the weights it was measured
with; for others, and without it, uncertainties are called uncalibrated.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from vidllm.io.atomic import write_json
from vidllm.io.files import read_json_object

FILE = "calibration.json"
SHARE = 0.9  # of the truths that an interval shall hold
DEVIATIONS = 1.645  # standard deviations on either side that hold SHARE of a normal distribution
SPREAD_FLOOR = 0.05  # of the scale, relative: images that agree entirely may all be wrong
_BLOCKS, _BLOCK = 64, 4096


@dataclass(frozen=True)
class Calibration:
    """Factors on what the model says itself.

    ``depth``: on the standard deviation of the metric depth model's bins; ``scale``: on the images' spread (with
    SPREAD_FLOOR), for the standard deviation of the logarithm of the scale; ``boxes``: rows of (score up to which the
    row holds, 90% distance of the true centre over the centre's distance from the first camera, 90% of the largest
    absolute logarithm of true over told sides); ``seeds``: the rooms.
    """

    depth: float
    scale: float
    boxes: tuple[tuple[float, float, float], ...]
    seeds: str

    @classmethod
    def read(cls, folder: str | Path) -> Calibration | None:
        """That of a model's folder; None where there is none for these weights. ValueError for a damaged file."""
        file = Path(folder) / FILE
        if not file.is_file():
            return None
        held = read_json_object(file)
        try:
            if held["weights"] != weights_digest(folder):
                return None
            rows = tuple((float(score), float(centre), float(size)) for score, centre, size in held["boxes"])
            found = cls(float(held["depth"]), float(held["scale"]), rows, str(held["seeds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not a calibration ({type(error).__name__}: {error}); write it again with "
                             "vidllm rooms calibrate") from error  # fmt: skip
        return found

    def write(self, folder: str | Path) -> Path:
        """Keep it beside the weights of a folder; OutputError where that fails."""
        write_json(Path(folder) / FILE, {**asdict(self), "weights": weights_digest(folder)})
        return Path(folder) / FILE

    def scale_factor(self, spread: float) -> float:
        """How many times the true scale may be above or below the told one, 90%."""
        return math.exp(DEVIATIONS * self.scale * math.hypot(spread, SPREAD_FLOOR))

    def box_errors(self, score: float) -> tuple[float, float]:
        """90% of a box's centre error over its distance, and of its sides' relative error, at a score."""
        row = next((row for row in self.boxes if score <= row[0]), self.boxes[-1])
        return row[1], math.exp(row[2]) - 1


def weights_digest(folder: str | Path) -> str:
    """16 hexadecimal digits of the sizes of a folder's weights and of blocks spread over them."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            for number in range(_BLOCKS):
                opened.seek(size * number // _BLOCKS)
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]
