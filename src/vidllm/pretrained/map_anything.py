"""MapAnything's weights (version 1.1): their configuration by headers and config.json, and their key map."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.conversion import KeyMap, Pairs, Renames
from vidllm.pretrained.headers import Sizes, image_side, read_sizes

_DPT = r"(?:dense_head\.0|dpt_feature_head)\."  # the same weights may be there under both names
_END = r"(?:dense_head\.1|dpt_regressor_head)\."
_FUSION = (("resConfUnit1", "skip"), ("resConfUnit2", "refine"), ("out_conv", "out"))
#: Key map to :class:`vidllm.baselines.geometry.map_anything.MapAnything`.
RENAMES: Renames = (
    (r"encoder\.model\.cls_token", "embeddings.cls_token"),
    (r"encoder\.model\.pos_embed", "embeddings.position_embeddings"),
    (r"encoder\.model\.patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"encoder\.model\.blocks\.(.+)", r"encoder_blocks.\1"),
    (r"fusion_norm_layer\.(.+)", r"fusion_norm.\1"),
    (r"(scale_token)", r"\1"),
    (r"info_sharing\.self_attention_blocks\.(.+)", r"shared_blocks.\1"),
    (r"info_sharing\.norm\.(.+)", r"norm.\1"),
    (r"info_sharing\.view_pos_table", ""),  # by its formula
    (r"pose_head\.proj\.(.+)", r"camera_proj.\1"),
    (r"pose_head\.(.+)", r"camera.\1"),
    (r"scale_head\.(.+)", r"scale.\1"),
    (rf"{_DPT}input_process\.(\d)\.0\.0\.(.+)", r"pixels.decoder.projects.\1.\2"),
    (rf"{_DPT}input_process\.(\d)\.0\.1\.(.+)", r"pixels.decoder.resizes.\1.\2"),
    (rf"{_DPT}(?:input_process\.(\d)\.1|scratch\.layer_rn\.(\d))\.weight", r"pixels.decoder.laterals.\1\2.weight"),
    *((rf"{_DPT}scratch\.layer{n + 1}_rn\.weight", f"pixels.decoder.laterals.{n}.weight") for n in range(4)),
    *(
        (rf"{_DPT}scratch\.refinenet{n + 1}\.{theirs}\.(.+)", rf"pixels.decoder.fusions.{n}.{ours}.\1")
        for n in range(4) for theirs, ours in _FUSION
    ),
    (rf"{_END}conv1\.(.+)", r"pixels.narrow.\1"),
    (rf"{_END}conv2\.(.+)", r"pixels.out.\1"),
    (r"(?:ray_dirs|depth|depth_scale|cam_rot|cam_trans|cam_trans_scale)_encoder\..+", ""),  # what is known, as input
)  # fmt: skip
_MAP = KeyMap(RENAMES)
_TABLE, _PROJECTS = "embeddings.position_embeddings", [f"pixels.decoder.projects.{level}.weight" for level in range(4)]
_SIZES: Sizes = {
    "patch_size": ("embeddings.patch_embeddings.projection.weight", -1), "hidden_size": (_TABLE, -1),
    "encoder_depth": "encoder_blocks.", "depth": "shared_blocks.", "features": ("pixels.narrow.weight", 1),
    "camera_width": ("camera_proj.weight", 0), "scale_width": ("scale.proj.weight", 0),
}  # fmt: skip
#: Weights of DINOv2 that this one has not.
IMPLIED = ("embeddings.mask_token", "embeddings.register_tokens")


def translate(key: str, tensor: Tensor) -> Pairs | None:
    """One of the weights under our names (:data:`~vidllm.pretrained.conversion.Translate`)."""
    if key.startswith("pose_head.") and tensor.ndim == 4:  # convolutions of 1 x 1 pixels are linear layers
        tensor = tensor.flatten(1)
    return _MAP.translate(key, tensor)


def settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration of a MapAnything 1.1; ValueError for another model, and for version 1."""
    fields, shapes = read_sizes(checkpoint, translate, "MapAnything", _SIZES, _PROJECTS)
    if "encoder_blocks.0.mlp.w12.weight" not in shapes:
        raise ValueError(f"{checkpoint.place}: MapAnything's version 1 has another form; give version 1.1, such as "
                         "facebook/map-anything-apache")  # fmt: skip
    told = ((checkpoint.settings() or {}).get("info_sharing_config") or {}).get("module_args") or {}
    return {
        **fields, "kind": "map_anything", "image_size": image_side(shapes[_TABLE], fields["patch_size"]),
        "taps": list(told.get("indices", (7, 11))), "out_channels": [shapes[name][0] for name in _PROJECTS],
    }  # fmt: skip
