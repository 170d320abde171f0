"""Importers of published weights: key maps as data, every key accounted for."""

from vidllm.pretrained.vggt import VGGTReconstruction, load_vggt, vggt_state_dict

__all__ = ["VGGTReconstruction", "load_vggt", "vggt_state_dict"]
