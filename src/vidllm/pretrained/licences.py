"""Licence terms of imported weights, shown before they are used (no legal advice: read the licences)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """The terms of a published model: its usual name, the terms in one line, and whether they forbid commerce.

    ``commercial`` is None where it depends on the checkpoint. ``agreement``: the terms must be accepted before the
    weights are used (``--accept-licence``).
    """

    model: str
    terms: str
    commercial: bool | None
    agreement: bool = False


VGGT = Licence(
    "VGGT",
    "VGGT-1B: weights for non-commercial use only. VGGT-1B-Commercial (gated) is the same model under the VGGT License "
    "v1, which allows commercial use; give that one where it matters.",
    None,
)
LLAVA_3D = Licence(
    "LLaVA-3D",
    "code CC BY-NC-SA 4.0 (non-commercial); LLaVA-3D-7B's card says Apache-2.0 for the weights, which descend from "
    "Vicuna-7B (Llama 2 Community License) and from research data.",
    False,
)
DINOV2 = Licence("DINOv2", "Apache-2.0, code and weights.", True)
CLIP = Licence("CLIP", "MIT (OpenAI); its card advises against deployment without testing.", True)
CAUSAL_LM = Licence("language model", "its own: see the model card of the checkpoint that was given.", None)
METRIC = Licence("metric depth model", "that of the vidllm model it comes from: see its model card.", None)
