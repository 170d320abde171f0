"""Calibrations in YAML: OpenCV's FileStorage, ROS camera_info, ORB-SLAM's settings, Kalibr's and EuRoC's sensors.

Pixel centres lie at whole numbers, as OpenCV's do.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.io.cameras.matrices import half_centres
from vidllm.io.cameras.records import Intrinsics, a_number, pinhole, refuse_lens, tell_distortion
from vidllm.io.files import read_text

_MAX_BYTES = 2**20
_MATRICES = ("camera_matrix", "cameramatrix", "k", "intrinsic_matrix", "m1")
_DISTORTIONS = ("distortion_coefficients", "distcoeffs", "dist_coeffs", "distortion_coeffs", "d")
_ORDER = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # OpenCV's
_PINHOLES = ("pinhole", "perspective", "plumb_bob", "radtan", "radial-tangential", "rational_polynomial", "none", "")


def read_yaml_intrinsics(path: Path) -> Intrinsics:
    """K, the picture size if the file has one, and a warning of distortion; ValueError naming the file."""
    content = _lower(_load(path), path)
    inner = [value for value in content.values() if isinstance(value, dict) and _matrix(value, path) is not None]
    matrix = _matrix(content, path)
    if matrix is None and len(inner) == 1:
        content, matrix = inner[0], _matrix(inner[0], path)
    if matrix is None:
        what = f"{len(inner)} cameras here; keep one" if inner else "no intrinsics here"
        raise ValueError(f"{path}: {what} (expected camera_matrix; fx, fy, cx, cy; or intrinsics and resolution)")
    for name in ("camera_model", "distortion_model", "type"):
        kind = str(content.get(name) or "").lower()
        if (kind not in _PINHOLES and name != "type") or kind in ("kannalabrandt8", "fisheye", "omni"):
            raise refuse_lens(kind[:40], f"{path}: {name}")
    size = _size(content, path)
    tell_distortion(matrix, size, _distortion(content, path), str(path))
    return Intrinsics(half_centres(matrix, path), size, str(path))


def _load(path: Path) -> dict[str, Any]:
    import yaml

    text = re.sub(r"\A%YAML:1\.0.*", "%YAML 1.1", read_text(path, _MAX_BYTES))
    if text.startswith("%YAML 1.1") and not re.search(r"^---", text, re.MULTILINE):
        text = text.split("\n", 1)[-1]

    class Loader(yaml.SafeLoader):
        """Plain values and opencv-matrix; a key that comes twice with other values is an error."""

    def mapping(loader: Any, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, value = (loader.construct_object(part, deep=True) for part in (key_node, value_node))
            key = str(key)
            if key in found and found[key] != value:
                line = key_node.start_mark.line + 1
                raise ValueError(f"{path}: line {line}: {key[:40]} again, with another value; keep one of them")
            found[key] = value
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", mapping)
    try:
        content = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}: {where}not YAML ({problem[:120]}); write the file again") from None
    except (RecursionError, TypeError, OverflowError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not YAML that can be read ({type(error).__name__}); write the file again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected names with values, as in a calibration file of OpenCV")
    return content


def _lower(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Names in lower case without ORB-SLAM's ``Camera.``; one level of mappings below likewise."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = re.sub(r"^camera1?\.", "", str(key).lower())
        if name in found and found[name] != value:
            raise ValueError(f"{path}: {name} twice, with different values; keep one of them")
        found[name] = {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else value
    return found


def _matrix(content: dict[str, Any], path: Path) -> np.ndarray | None:
    """K of a mapping, None without one; ValueError if it has two that differ."""
    found = []
    for name in (name for name in _MATRICES if name in content):
        numbers = _numbers(content[name], f"{path}: {name}")
        if len(numbers) != 9:
            raise ValueError(f"{path}: {name}: {len(numbers)} numbers, expected a 3x3 matrix")
        found.append(np.array(numbers, np.float64).reshape(3, 3))
    if all(name in content for name in ("fx", "fy", "cx", "cy")):
        found.append(pinhole(*(_float(content[name], f"{path}: {name}") for name in ("fx", "fy", "cx", "cy"))))
    listed = content.get("intrinsics")
    if isinstance(listed, list):
        numbers = [_float(x, f"{path}: intrinsics") for x in listed]
        if len(numbers) != 4:
            raise ValueError(f"{path}: intrinsics of {len(numbers)} numbers, expected fx, fy, cx, cy")
        found.append(pinhole(*numbers))
    if any(not np.array_equal(found[0], other, equal_nan=True) for other in found[1:]):
        raise ValueError(f"{path}: two intrinsics that differ; keep one of them")
    return found[0] if found else None


def _numbers(value: Any, where: str) -> list[float]:
    """The numbers of a list, of a list of lists or of an opencv-matrix, by rows."""
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list) or len(value) > 64:
        raise ValueError(f"{where}: expected a list of numbers")
    cells = [cell for row in value for cell in (row if isinstance(row, list) else [row])]
    return [_float(cell, where) for cell in cells]


def _float(value: Any, where: str) -> float:
    if isinstance(value, str):  # YAML 1.1 takes 5e+02 and 1e-3 for words
        try:
            return float(value)
        except ValueError:
            pass
    return a_number(value, where)


def _size(content: dict[str, Any], path: Path) -> tuple[int, int] | None:
    pairs = [(content.get(w), content.get(h)) for w, h in (("image_width", "image_height"), ("width", "height"))]
    for name in ("resolution", "image_size"):
        value = content.get(name)
        if isinstance(value, list) and len(value) == 2:
            pairs.append((value[0], value[1]))
    told = {(_side(h, path), _side(w, path)) for w, h in pairs if w is not None and h is not None}
    if len(told) > 1:
        raise ValueError(f"{path}: two sizes of pictures; keep one of them")
    return told.pop() if told else None


def _side(value: Any, path: Path) -> int:
    found = _float(value, f"{path}: the pictures' size")
    if not (found.is_integer() and 0 < found < 10**6):
        raise ValueError(f"{path}: pictures of {found:g} pixels a side")
    return int(found)


def _distortion(content: dict[str, Any], path: Path) -> dict[str, float]:
    told = {name: _float(content[name], f"{path}: {name}") for name in _ORDER if name in content}
    for name in _DISTORTIONS:
        if content.get(name) is not None:
            numbers = _numbers(content[name], f"{path}: {name}")
            if len(numbers) > len(_ORDER) and any(numbers[len(_ORDER) :]):
                warnings.warn(f"{path}: terms of {name} beyond the eighth are not looked at", stacklevel=2)
            told |= dict(zip(_ORDER, numbers, strict=False))
    return told
