"""Depth Anything 3's weights: their configuration by the headers alone, and their key map."""

from __future__ import annotations

from typing import Any

from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.conversion import KeyMap, Renames, dpt_renames
from vidllm.pretrained.headers import count, image_side, shapes_here

_VIT = r"backbone\.pretrained"
#: Key map to :class:`vidllm.baselines.geometry.depth_anything_3.DepthAnything3`, without the "model." before all keys.
RENAMES: Renames = (
    (rf"{_VIT}\.cls_token", "encoder.embeddings.cls_token"),
    (rf"{_VIT}\.pos_embed", "encoder.embeddings.position_embeddings"),
    (rf"{_VIT}\.patch_embed\.proj\.(.+)", r"encoder.embeddings.patch_embeddings.projection.\1"),
    (rf"{_VIT}\.(camera_token|norm\..+|blocks\.\d+\.(?:norm[12]|attn|ls[12]|mlp\.fc[12])\..+)", r"encoder.\1"),
    *dpt_renames("head", "depth_head"),
    (r"head\.scratch\.(?:refinenet\d|output_conv\d)_aux\..+", ""),  # rays: a second way to the cameras
    (r"cam_dec\.backbone\.(.+)", r"camera_head.backbone.\1"),
    (r"cam_dec\.fc_t\.(.+)", r"camera_head.translation.\1"),
    (r"cam_dec\.fc_qvec\.(.+)", r"camera_head.quaternion.\1"),
    (r"cam_dec\.fc_fov\.0\.(.+)", r"camera_head.fov.\1"),
    (r"(?:cam_enc|gs_head|gs_adapter)\..+", ""),  # known cameras as input; Gaussians
)
#: The same to :class:`~vidllm.baselines.geometry.depth_anything_3.DepthAnything3Metric`.
METRIC_RENAMES: Renames = (
    (r"head\.scratch\.output_conv2\.(.+)", r"depth_head.out.depth.\1"),
    (r"head\.scratch\.sky_output_conv2\.(.+)", r"depth_head.out.sky.\1"),
    *RENAMES,
)
translate, translate_metric = (KeyMap(r, prefix=r"(?:model\.)?").translate for r in (RENAMES, METRIC_RENAMES))
#: Layers that the heads of the published models read, by depth and whether blocks attend over frames.
TAPS = {(12, True): (5, 7, 9, 11), (24, True): (11, 15, 19, 23), (24, False): (4, 11, 17, 23)}
#: Weights of DINOv2 that these have not.
IMPLIED = ("encoder.embeddings.mask_token", "encoder.embeddings.register_tokens")
#: Widths of the published models that attend over frames.
WIDTHS = {384: "da3-small", 768: "da3-base", 1024: "da3-large"}


def settings(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The configuration of a model that attends over frames; ValueError for another one, or of another name's size."""
    fields = sizes(checkpoint)
    if fields["cross_from"] == fields["depth"]:
        raise ValueError(f"{checkpoint.place}: a Depth Anything 3 of single pictures; give it as --metric-depth, and "
                         f"{name} as --geometry")  # fmt: skip
    published = WIDTHS.get(fields["hidden_size"], name)
    if published != name:
        raise ValueError(f"{checkpoint.place}: holds {published} (width {fields['hidden_size']}), expected {name}; its "
                         f"terms differ: say --geometry {published}")  # fmt: skip
    return {"kind": "depth_anything_3", **fields}


def metric_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration of the metric model of single pictures; ValueError for the relative one, and for another."""
    told = str((checkpoint.settings() or {}).get("model_name"))
    if "metric" not in told:
        raise ValueError(f"{checkpoint.place}: config.json names no metric Depth Anything 3 (model_name is {told}); "
                         "give DA3METRIC-LARGE as --metric-depth")  # fmt: skip
    return sizes(checkpoint)


def sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of the configuration, by the shapes of the weights; the layers that the head reads by config.json."""
    shapes = shapes_here(checkpoint, translate, "Depth Anything 3")
    table = "encoder.embeddings.position_embeddings"
    projection = "encoder.embeddings.patch_embeddings.projection.weight"
    needed = (table, projection, "encoder.blocks.0.attn.qkv.weight", "depth_head.decoder.laterals.0.weight",
              *(f"depth_head.decoder.projects.{level}.weight" for level in range(4)))  # fmt: skip
    if any(name not in shapes for name in needed):
        keys = [key.removeprefix("model.") for key, _ in checkpoint.shapes()]
        first = keys[0] if keys else "none"
        swiglu = any(".mlp.w12." in key for key in keys)
        why = "the giant model's form (SwiGLU) is not supported" if swiglu else f"its keys begin with {first}"
        raise ValueError(f"{checkpoint.place}: not a Depth Anything 3 that can be read ({why}); "
                         "give small, base or large")  # fmt: skip
    width, patch = shapes[table][-1], shapes[projection][-1]
    depth = count(shapes, "encoder.blocks.")
    normed = {int(name.split(".")[2]): shape[0] for name, shape in shapes.items() if name.endswith("q_norm.weight")}
    told = ((checkpoint.settings() or {}).get("config") or {}).get("net") or {}
    taps = told.get("out_layers", TAPS.get((depth, bool(normed))))
    if taps is None:
        raise ValueError(f"{checkpoint.place}: config.json does not say which of {depth} layers the head reads "
                         "(config.net.out_layers)")  # fmt: skip
    return {
        "hidden_size": width, "depth": depth, "num_heads": width // next(iter(normed.values()), 64),
        "patch_size": patch, "image_size": image_side(shapes[table], patch),
        "cross_from": min(normed, default=depth), "tap_layers": list(taps),
        "features": shapes["depth_head.decoder.laterals.0.weight"][0],
        "out_channels": [shapes[f"depth_head.decoder.projects.{level}.weight"][0] for level in range(4)],
    }  # fmt: skip
