"""Published reconstruction networks for the cascade (``vidllm import --geometry NAME``; docs/geometry_models.md).

An importer has the hub id of the weights, their licence, a function that reads the network's configuration from the
headers of the weights and config.json, and a key map to our names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidllm.io.weight_files import Checkpoint, open_checkpoint
from vidllm.pretrained import depth_anything_3, map_anything, pi3, vggt_omega
from vidllm.pretrained.conversion import Source, Translate, source_beneath
from vidllm.pretrained.licences import Licence

#: Where the cascade holds the network.
PREFIX = "geometry_model."


@dataclass(frozen=True)
class GeometryImporter:
    """A published network.

    hub: the id of its weights, None where they are given out on request alone. licence: its terms. settings: the
    configuration (``kind`` and its fields, :func:`vidllm.baselines.geometry.read_settings`) of a checkpoint, by its
    headers; ValueError for another model.
    translate: its keys in the network (:data:`~vidllm.pretrained.conversion.Translate`). side: the longer side of its
    frames in pixels. implied: weights that our network has and the published one does not
    (:func:`~vidllm.pretrained.conversion.unused_tokens`).
    """

    hub: str | None
    licence: Licence
    settings: Callable[[Checkpoint], dict[str, Any]]
    translate: Translate
    side: int
    implied: tuple[str, ...] = ()


def _depth_anything_3(name: str, hub: str, terms: str, commercial: bool) -> GeometryImporter:
    return GeometryImporter(
        hub, Licence(f"Depth Anything 3 ({name})", terms, commercial),
        lambda checkpoint: depth_anything_3.settings(checkpoint, name), depth_anything_3.translate, 504,
        depth_anything_3.IMPLIED,
    )  # fmt: skip


def _pi3(name: str, hub: str) -> GeometryImporter:
    terms = "code BSD-3-Clause, weights CC BY-NC 4.0 (non-commercial)."
    return GeometryImporter(
        hub, Licence(name, terms, False), lambda checkpoint: pi3.settings(checkpoint, name), pi3.translate, 574,
        pi3.IMPLIED,
    )  # fmt: skip


#: The networks by the name that ``--geometry`` takes.
GEOMETRY: dict[str, GeometryImporter] = {
    "da3-small": _depth_anything_3("da3-small", "depth-anything/DA3-SMALL", "Apache-2.0, code and weights.", True),
    "da3-base": _depth_anything_3("da3-base", "depth-anything/DA3-BASE", "Apache-2.0, code and weights.", True),
    "da3-large": _depth_anything_3("da3-large", "depth-anything/DA3-LARGE-1.1",
                                   "code Apache-2.0, weights CC BY-NC 4.0 (non-commercial).", False),
    "map-anything": GeometryImporter(
        "facebook/map-anything-apache", Licence(
            "MapAnything", "code Apache-2.0; weights Apache-2.0 (map-anything-apache) or CC BY-NC 4.0 (map-anything, "
            "non-commercial): see the card of the checkpoint that was given.", None,
        ), map_anything.settings, map_anything.translate, 518, map_anything.IMPLIED,
    ),
    "pi3": _pi3("pi3", "yyfz233/Pi3"),
    "pi3x": _pi3("pi3x", "yyfz233/Pi3X"),
    "vggt-omega": GeometryImporter(
        None, Licence(
            "VGGT-Omega", "FAIR Noncommercial Research License, code and weights; on request at "
            "huggingface.co/facebook/VGGT-Omega.", False, agreement=True,
        ), vggt_omega.settings, vggt_omega.translate, 592,
    ),
}  # fmt: skip


def find_geometry_model(name: str, place: str | Path | None = None) -> tuple[dict[str, Any], Source, int]:
    """Settings of a network, its weights for an import (under :data:`PREFIX`) and the longer side of its frames.

    ``place``: a file, a folder or a hub id; None: where it is published. ValueError for an unknown name and, naming the
    place, for another model.
    """
    if name not in GEOMETRY:
        raise ValueError(f"--geometry: expected one of {', '.join(GEOMETRY)}, received {name!r:.60}")
    importer = GEOMETRY[name]
    if (found := importer.hub if place is None else place) is None:
        raise ValueError(f"--geometry {name}: {importer.licence.terms} Give the file as --geometry-weights")
    checkpoint = open_checkpoint(found)
    settings = importer.settings(checkpoint)
    own = Source(name, checkpoint, importer.translate, (), importer.licence)
    return settings, source_beneath(PREFIX, own, settings["hidden_size"], importer.implied), importer.side
