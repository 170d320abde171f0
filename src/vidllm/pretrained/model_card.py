"""The model card of an import: what it is made of, under whose licences, and what is not trained yet."""

from __future__ import annotations

from collections import Counter

from vidllm.pretrained.report import Report

_WHAT = {
    "cascade": "VGGT and LLaVA-3D as one model on plain RGB video: VGGT reconstructs, it is brought to metres, "
    "LLaVA-3D is asked with the resulting posed depth. Nothing was trained for it; it is the paper's baseline.",
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
    lines += ["", "## Where each part comes from", "", "| part | weights | from |", "|---|---|---|"]
    loaded = Counter((name.split(".")[0], source) for name, (source, _) in report.loaded.items())
    lines += [f"| {part} | {count} | {source} |" for (part, source), count in loaded.items()]
    initial = Counter(name.split(".")[0] for name in report.initial)
    lines += [f"| {part} | {count} | initial values |" for part, count in initial.items()]
    lines += ["", f"{len(report.unused)} keys were not used; `import_report.json` names every key.", ""]
    lines += [f"- {note}" for note in report.notes]
    return "\n".join(lines) + "\n"
