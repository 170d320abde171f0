"""Report of an import: which keys were loaded, left at their initial value or not used; and its model card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vidllm.pretrained.licences import Licence

_SHOWN = 6  # lines of one kind before "and N more"


@dataclass(frozen=True)
class Unused:
    """A key of a checkpoint that is not used, and why."""

    source: str
    key: str
    reason: str


@dataclass
class Report:
    """Every key of the model and of the checkpoints it was made from.

    ``loaded``: our name to (source, its key). ``initial``: our names left at their initial value. ``unused``: keys of
    the sources that are not used. ``notes``: choices of the import. ``licences``: of the sources, with their place.
    """

    loaded: dict[str, tuple[str, str]] = field(default_factory=dict)
    initial: list[str] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    licences: list[tuple[str, Licence]] = field(default_factory=list)

    @property
    def seen(self) -> str:
        """What the weights may have been trained on, in words."""
        names = ", ".join(dict.fromkeys(licence.model for _, licence in self.licences)) or "published checkpoints"
        return f"its weights come from {names}: what these were trained on is said by who made them"

    def lines(self, every_key: bool = False) -> list[str]:
        """The report as lines of text, by part; ``every_key`` names each key."""
        out = [f"loaded {len(self.loaded)}, left at their initial value {len(self.initial)}, "
               f"unused {len(self.unused)}"]  # fmt: skip
        loaded, initial = self.parts()
        counted = Counter({f"{part} from {source}": count for (part, source), count in loaded.items()})
        named = [f"{name} <- {source}: {key}" for name, (source, key) in self.loaded.items()]
        out += _grouped("loaded", counted, named, every_key)
        out += _grouped("initial", initial, self.initial, every_key)
        why = Counter(f"{u.source}: {u.reason}" for u in self.unused)
        out += _grouped("unused", why, [f"{u.source}: {u.key} ({u.reason})" for u in self.unused], every_key)
        out += [f"note      {note}" for note in self.notes]
        return out + self.licence_lines()

    def licence_lines(self) -> list[str]:
        """The terms of everything that was imported."""
        lines = [f"licence   {licence.model} ({place}): {licence.terms}" for place, licence in self.licences]
        if any(licence.commercial is False for _, licence in self.licences):
            lines.append("licence   this model holds non-commercial parts: use it for research only")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: every key by name."""
        return {
            "loaded": {name: {"source": source, "key": key} for name, (source, key) in self.loaded.items()},
            "initial": list(self.initial),
            "unused": [{"source": u.source, "key": u.key, "reason": u.reason} for u in self.unused],
            "notes": list(self.notes),
            "licences": [
                {"model": licence.model, "place": place, "terms": licence.terms, "commercial": licence.commercial}
                for place, licence in self.licences
            ],
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def parts(self) -> tuple[Counter[tuple[str, str]], Counter[str]]:
        """How many weights of each part come from which source, and how many are left at their initial value."""
        loaded = Counter((name.split(".")[0], source) for name, (source, _) in self.loaded.items())
        return loaded, Counter(name.split(".")[0] for name in self.initial)


def _grouped(word: str, counts: Counter[str], named: list[str], every_key: bool) -> list[str]:
    if every_key:
        return [f"{word:10s}{name}" for name in named]
    lines = [f"{word:10s}{count:5d}  {name}" for name, count in counts.most_common()]
    if word != "loaded" and len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], f"{word:10s}       and {len(lines) - _SHOWN} more kinds"]
    return lines


_WHAT = {
    "cascade": "VGGT, or the network named below in its place, and LLaVA-3D as one model on plain RGB video: the first "
    "reconstructs, it is brought to metres, LLaVA-3D is asked with the resulting posed depth. Nothing was trained for "
    "it; with VGGT it is the paper's baseline.",
    "reconstruction": "A reconstruction network on plain RGB video, brought to metres; it has no language model.",
}
_START = (
    "Vid-LLM initialised from published checkpoints, **before any training**: the encoder's tokens reach a projector "
    "that was trained on CLIP's, so its answers mean nothing until distillation (stage 1) has made the language stream "
    "CLIP's; what is named below as initial is random."
)


def model_card(preset: str, report: Report) -> str:
    """Markdown with the licences first."""
    commercial = [licence.commercial for _, licence in report.licences]
    lines = ["---", "license: other", "library_name: transformers", "pipeline_tag: image-text-to-text", "---",
             f"# vidllm {preset}", "", _WHAT.get(preset, _START), "", "## Licences", ""]  # fmt: skip
    lines += [f"- **{licence.model}** (`{place}`): {licence.terms}" for place, licence in report.licences]
    if False in commercial:
        lines.append("- Taken together: **not for commercial use**.")
    lines += ["", "## What it has seen", "",
              f"Any scene of a benchmark may be among it ({report.seen}). `seen.json` says so to `vidllm data seen`,",
              "which checks a benchmark's scenes against it."]  # fmt: skip
    lines += ["", "## Where each part comes from", "", "| part | weights | from |", "|---|---|---|"]
    loaded, initial = report.parts()
    lines += [f"| {part} | {count} | {source} |" for (part, source), count in loaded.items()]
    lines += [f"| {part} | {count} | initial values |" for part, count in initial.items()]
    lines += ["", f"{len(report.unused)} keys were not used; `import_report.json` names every key.", ""]
    lines += [f"- {note}" for note in report.notes]
    return "\n".join(lines) + "\n"
