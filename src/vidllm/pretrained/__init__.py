"""Importers of published weights: key maps as data, every key accounted for."""

from vidllm.pretrained.importing import import_model, plan_import
from vidllm.pretrained.recipes import IMPORT_PRESETS, Ingredients
from vidllm.pretrained.report import Report
from vidllm.pretrained.vggt import VGGTReconstruction, load_vggt

__all__ = [
    "IMPORT_PRESETS",
    "Ingredients",
    "Report",
    "VGGTReconstruction",
    "import_model",
    "load_vggt",
    "plan_import",
]
