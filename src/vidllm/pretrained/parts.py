"""Parts of published models (the teachers of stage 1): found by their headers first, then loaded without the rest.

Any checkpoint that ``vidllm import`` reads can be used. Finding a part reads headers and configurations, and raises the
errors that loading it would raise; loading reads only the tensors of this part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import CLIPVisionModel

from vidllm.baselines.cascade import CascadeConfig
from vidllm.io.weight_files import Checkpoint, LoadedCheckpoint, open_checkpoint
from vidllm.model.compact_weights import is_compact, load_compact
from vidllm.model.cross_task_adapter import CrossTaskAdapter
from vidllm.model.encoder import DinoEncoder, newer_names
from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.huggingface import VidLLMConfig
from vidllm.model.loading import check_finite, expected_weights, load_config, weightless
from vidllm.pretrained import licences
from vidllm.pretrained.clip import clip_config, clip_source
from vidllm.pretrained.conversion import Source, load_strictly, plan, planned
from vidllm.pretrained.dinov2 import dinov2_config, dinov2_source
from vidllm.pretrained.llava_3d import tower_of
from vidllm.pretrained.report import Report
from vidllm.pretrained.vggt import parts_of, vggt_source

OURS = ("vidllm", "vidllm_cascade", "vidllm_reconstruction")


@dataclass(frozen=True)
class Part:
    """A part that was found: its module, without weights before :meth:`load`, and the source of these.

    ``beneath``: prefix of the plan's names before those of the module.
    """

    module: nn.Module
    source: Source
    report: Report
    beneath: str = ""

    def load(self) -> nn.Module:
        """The module with its weights, in float32 and in evaluation mode; ValueError for one that is not finite."""
        tensors = {name.removeprefix(self.beneath): tensor for name, tensor in planned(self.report, [self.source])}
        load_strictly(self.module, tensors, self.source.name)
        check_finite(self.module, self.source.checkpoint.place)
        return self.module.eval()


def find_part(build: Callable[[], nn.Module], source: Source, beneath: str = "") -> Part:
    """Plan a part from headers; ValueError, naming the place, if weights are missing or have another shape.

    ``beneath``: prefix of the source's names.
    """
    with weightless():
        module = build()
    expected = {beneath + name: shape for name, shape in expected_weights(module).items()}
    return Part(module, source, plan(expected, [source]), beneath)


def find_geometry(place: str, attention: bool = False) -> Part:
    """``encoder`` (and ``adapter``, where there is one; and ``attention``) of VGGT, DINOv2, a cascade or our model.

    Raises ValueError, naming the place, for another kind of model, and where weights are missing or do not fit.
    """
    checkpoint = open_checkpoint(place)
    kind = (checkpoint.settings() or {}).get("model_type")
    encoder: Any
    adapter = trunk = None
    if kind in OURS:
        config = load_config(place)
        encoder, trunk = config.encoder, config.attention
        adapter = None if isinstance(config, CascadeConfig) else config.adapter
        source = _our_source(checkpoint, ("encoder.", "adapter.", "attention."))
    elif kind in ("dinov2", "dinov2_with_registers"):
        encoder = dinov2_config(checkpoint)
        source = dinov2_source(checkpoint, encoder)
    else:
        parts = parts_of(checkpoint)
        encoder, trunk, source = parts.encoder, parts.attention, vggt_source(checkpoint, parts)
    if attention and trunk is None:
        raise ValueError(f"{place}: an encoder alone; its tokens after global attention need VGGT or a model of ours")

    def build() -> nn.Module:
        module = nn.Module()
        module.encoder = DinoEncoder(encoder)
        if adapter is not None:
            module.adapter = CrossTaskAdapter(adapter, encoder.hidden_size)
        if attention and trunk is not None:
            module.attention = GlobalFrameAttention(trunk, encoder.hidden_size)
        return module

    return find_part(build, source)


def find_tower(place: str) -> Part:
    """CLIP's vision tower: of a CLIP, inside or beside LLaVA-3D, or of a cascade.

    Raises ValueError as :func:`find_geometry`.
    """
    checkpoint = open_checkpoint(place)
    kind = str((checkpoint.settings() or {}).get("model_type", "clip"))
    if kind == "vidllm_cascade":
        config: VidLLMConfig = load_config(place)
        assert isinstance(config, CascadeConfig)
        vision, source = config.vision_config, _our_source(checkpoint, ("clip.",))
    elif kind.startswith("llava"):
        vision, source = tower_of(checkpoint)
    else:
        vision, source = clip_config(checkpoint.settings(), checkpoint.place), clip_source(checkpoint)
    return find_part(lambda: CLIPVisionModel(vision), source, "clip.")


def _our_source(checkpoint: Checkpoint, fills: tuple[str, ...]) -> Source:
    """One of our model folders: its weights have our names, or their older ones."""
    if is_compact(checkpoint.folder):
        checkpoint = LoadedCheckpoint(
            checkpoint.place, checkpoint.folder, checkpoint.shards, load_compact(checkpoint.folder)
        )
    return Source("vidllm", checkpoint, lambda key, tensor: list(newer_names({key: tensor}).items()), fills,
                  licences.METRIC)  # fmt: skip
