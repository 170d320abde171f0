"""What stands in one column of a benchmark's table: a system in a setting. Nothing else is ever mixed into it.

Settings of boxes and captions:

* ``raw``: the model's own boxes, registered by one known camera pose (``registration.py``);
* ``proposals-mask3d``, ``proposals-gt``: a choice among given boxes, those of Mask3D or the annotated objects';
* ``oracle-geometry``: as ``raw``, with true depth and poses in place of the model's.

Answers in words need no boxes: they have ``raw`` (the video alone), ``oracle-geometry`` and ``no-video``.

Systems: ``vidllm``; ``2d``, the same weights with the 3D position embedding off, so that the language model is not
told where its patches are (boxes still stand where the patches were lifted to); ``language-only``, a language model of
the same data that never saw a video; ``most-frequent``, one text for everything; ``mean-box``, one box for all, or the
given box nearest to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["answer", "caption", "box"]
Source = Literal["mask3d", "gt"]

SETTINGS = ("raw", "proposals", "oracle-geometry")
SOURCES: tuple[Source, ...] = ("mask3d", "gt")
NO_VIDEO = "no-video"

BASELINES_OF: dict[Kind, tuple[str, ...]] = {
    "answer": ("2d", "language-only", "most-frequent"),
    "caption": ("2d", "language-only", "most-frequent"),
    "box": ("2d", "mean-box"),
}


@dataclass(frozen=True)
class Variant:
    """A system in a setting; ``name`` is also that of its file of predictions."""

    system: str
    setting: str

    @property
    def name(self) -> str:
        """``system.setting``."""
        return f"{self.system}.{self.setting}"

    @property
    def source(self) -> str | None:
        """Whose boxes are given, ``mask3d`` or ``gt``; None where none are."""
        return self.setting.partition("proposals-")[2] or None

    @property
    def sees(self) -> bool:
        """Whether the system looks at the video."""
        return self.system in ("vidllm", "2d")


def variants(
    kind: Kind, settings: Sequence[str], source: Source | None, baselines: Sequence[str]
) -> tuple[Variant, ...]:
    """The variants of a task: our model in every setting, then each of the baselines, which ``BASELINES_OF`` lists.

    Baselines stand in every setting but ``oracle-geometry``. ``source`` is None where no proposals are there.

    Raises:
        ValueError: no setting, an unknown setting or baseline, one that the task does not have, or proposals without
            a source.
    """
    if not settings:
        raise ValueError(f"expected at least one setting of {', '.join(SETTINGS)}, received none")
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"no setting {name!r}; known: {', '.join(SETTINGS)}")
        if name == "proposals" and kind == "answer":
            raise ValueError("answers in words need no boxes: leave the setting 'proposals' out")
        if name == "proposals" and source is None:
            raise ValueError("the setting 'proposals' needs boxes: SCENE.mask.npz of Mask3D in ROOT, or --proposals gt")
    for name in baselines:
        if name not in BASELINES_OF[kind]:
            raise ValueError(f"no baseline {name!r} of this task; known: {', '.join(BASELINES_OF[kind])}")
    named = [f"proposals-{source}" if name == "proposals" else name for name in dict.fromkeys(settings)]
    found = [Variant("vidllm", setting) for setting in named]
    for name in (b for b in BASELINES_OF[kind] if b in baselines):
        if kind == "answer" and name != "2d":
            found.append(Variant(name, NO_VIDEO))
        else:
            found += [Variant(name, setting) for setting in named if setting != "oracle-geometry"]
    return tuple(found)
