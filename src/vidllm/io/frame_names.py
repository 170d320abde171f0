"""Times written as names: TUM's ``1305031453.359684.png``, EuRoC's ``1403636579763555584.png``."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNITS = {13: 1_000, 16: 1_000_000, 19: 1_000_000_000}  # digits of a time since 1970: milli-, micro-, nanoseconds


def stem(name: str) -> str:
    """A file's name without folders and without suffixes of letters; decimals stay (``1305031453.36.png``)."""
    return re.sub(r"(\.[A-Za-z][A-Za-z0-9]*)+$", "", name.replace("\\", "/").rsplit("/", 1)[-1])


def times_of(names: Sequence[str]) -> list[float] | None:
    """Seconds that names (suffixes aside) are, or None where they are not all times, or not all different ones.

    A time is a number of seconds with a decimal point, or a whole number of 13, 16 or 19 digits: milli-, micro- or
    nanoseconds since 1970.
    """
    words = [stem(name) for name in names]
    if words and all(re.fullmatch(r"[0-9]{1,12}\.[0-9]{1,12}", word) for word in words):
        times = [float(word) for word in words]
    elif words and all(re.fullmatch(r"[0-9]+", word) for word in words) and len({len(word) for word in words}) == 1:
        unit = _UNITS.get(len(words[0]))
        if unit is None:
            return None
        times = [int(word) / unit for word in words]
    else:
        return None
    return times if len(set(times)) == len(times) else None


def number_of(name: str) -> int | None:
    """The whole number in a name (``frame-000012.color.png``: 12), None where it holds none, several or a decimal."""
    found = re.findall(r"[0-9]+", stem(name))
    return int(found[0]) if len(found) == 1 and len(found[0]) <= 18 else None
