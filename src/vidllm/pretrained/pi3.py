"""Pi3's and Pi3X's weights: their configuration by the headers alone, and their key map."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained import dinov2
from vidllm.pretrained.conversion import KeyMap, Pairs, Renames
from vidllm.pretrained.headers import Sizes, count, image_side, read_sizes

#: Key map to :class:`vidllm.baselines.geometry.pi3.Pi3`, but for its encoder and attention.
RENAMES: Renames = (
    (r"((?:point|conf|camera|metric)_(?:decoder|head)\..+|metric_token)", r"\1"),
    (r"image_(?:mean|std)", ""),
    (r"(?:depth_encoder|ray_embed|pose_inject_blk)\..+|depth_emb", ""),  # what is known, as input
)
_MAP = KeyMap(RENAMES)
_BLOCK = re.compile(r"decoder\.(\d+)\.(.+)")
_EMBEDDINGS = "encoder.backbone.embeddings"
_TABLE, _REGISTERS = f"{_EMBEDDINGS}.position_embeddings", f"{_EMBEDDINGS}.register_tokens"
_SIZES: Sizes = {
    "patch_size": (f"{_EMBEDDINGS}.patch_embeddings.projection.weight", -1), "hidden_size": (_TABLE, -1),
    "encoder_depth": "encoder.backbone.encoder.layer.", "encoder_registers": (_REGISTERS, 1),
    "depth": "attention.frame_blocks.", "special_tokens": ("attention.register_token", 2),
    "decoder_width": ("point_decoder.projects.weight", 0), "decoder_depth": "point_decoder.blocks.",
    "point_width": ("point_decoder.linear_out.weight", 0), "camera_width": ("camera_decoder.linear_out.weight", 0),
}  # fmt: skip
#: The weight of DINOv2 that this one has not.
IMPLIED = (f"{_EMBEDDINGS}.mask_token",)


def translate(key: str, tensor: Tensor) -> Pairs | None:
    """One of the weights under our names (:data:`~vidllm.pretrained.conversion.Translate`)."""
    if key.startswith("encoder."):
        return dinov2.translate(key.removeprefix("encoder."), tensor)
    block = _BLOCK.fullmatch(key)
    if block is not None:
        pair, over_frames = divmod(int(block[1]), 2)
        return [(f"attention.{'global' if over_frames else 'frame'}_blocks.{pair}.{block[2]}", tensor)]
    if key == "register_token":  # the same in the first frame and in the others
        both = tensor.expand(-1, 2, -1, -1)
        return [("attention.camera_token", both[:, :, :1]), ("attention.register_token", both[:, :, 1:])]
    return _MAP.translate(key, tensor)


def settings(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The configuration of a Pi3 ("pi3") or Pi3X ("pi3x"); ValueError for another model, and for the other of both."""
    fields, shapes = read_sizes(checkpoint, translate, "Pi3", _SIZES)
    kind = "pi3x" if "metric_token" in shapes else "pi3"
    if kind != name:
        raise ValueError(f"{checkpoint.place}: holds {kind}, expected {name}; say --geometry {kind}")
    fields |= {"kind": kind, "image_size": image_side(shapes[_TABLE], fields["patch_size"])}
    fields["special_tokens"] += 1  # the camera's
    if kind == "pi3x":
        stage = "point_head.upsample_blocks."
        fields |= {
            "metric_width": shapes["metric_decoder.projects_x.weight"][0],
            "upsampling": [shapes[f"{stage}{n}.0.0.weight"][1] for n in range(count(shapes, stage))],
            "last_channels": shapes["point_head.output_block.0.0.weight"][0],
        }
    return fields
