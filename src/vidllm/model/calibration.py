"""Calibration of a model's uncertainties: factors measured on validation rooms, stored with the weights.

``vidllm rooms calibrate`` writes ``calibration.json`` into a model's folder. It is valid only for the weights with
which it was measured; without it, uncertainties are called uncalibrated.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from vidllm.io.atomic import write_json
from vidllm.io.files import read_json_object

FILE = "calibration.json"
SHARE = 0.9  # coverage of the intervals
DEVIATIONS = 1.645  # half width of the SHARE interval of a normal distribution, in standard deviations
SPREAD_FLOOR = 0.05  # of the scale, relative: images that agree entirely may all be wrong
_BLOCKS, _BLOCK = 64, 4096


@dataclass(frozen=True)
class Calibration:
    """Factors of the model's own uncertainties.

    ``depth``: of the standard deviation over the bins of the metric depth model; ``scale``: of the spread over the
    images (with SPREAD_FLOOR), for the standard deviation of the logarithm of the scale; ``boxes``: rows of (maximum
    score, 90% quantile of the error of the centre over its distance from the first camera, 90% quantile of the largest
    absolute logarithm of true over predicted sides); ``seeds``: the rooms.
    """

    depth: float
    scale: float
    boxes: tuple[tuple[float, float, float], ...]
    seeds: str

    @classmethod
    def read(cls, folder: str | Path) -> Calibration | None:
        """The calibration in a model's folder; None without one for these weights. ValueError for a damaged file."""
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
        """Write it into the folder of the weights; OutputError if that fails."""
        write_json(Path(folder) / FILE, {**asdict(self), "weights": weights_digest(folder)})
        return Path(folder) / FILE

    def scale_factor(self, spread: float) -> float:
        """90% bound of the ratio between the true and the predicted scale."""
        return math.exp(DEVIATIONS * self.scale * math.hypot(spread, SPREAD_FLOOR))

    def box_errors(self, score: float) -> tuple[float, float]:
        """90% bounds of the error of a box's centre over its distance and of the relative error of its sides, at a
        score.
        """
        row = next((row for row in self.boxes if score <= row[0]), self.boxes[-1])
        return row[1], math.exp(row[2]) - 1


def weights_digest(folder: str | Path) -> str:
    """16 hexadecimal digits of a hash of the sizes of a folder's weights and of blocks spread over them."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            for number in range(_BLOCKS):
                opened.seek(size * number // _BLOCKS)
                digest.update(opened.read(_BLOCK))
    return digest.hexdigest()[:16]
