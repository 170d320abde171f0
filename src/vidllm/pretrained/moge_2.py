"""MoGe-2's weights: their configuration by headers and the file's own settings, and their key map."""

from __future__ import annotations

from typing import Any

from vidllm.io.tensors import load_pickled
from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.conversion import KeyMap, Renames
from vidllm.pretrained.headers import count, image_side, shapes_here

_VIT = r"encoder\.backbone"
_PART, _OURS_PART = r"(neck|points|mask)(?:_head)?", r"\1"
#: Key map to :class:`vidllm.baselines.geometry.moge_2.MoGe2`.
RENAMES: Renames = (
    (rf"{_VIT}\.(cls_token|mask_token)", r"encoder.embeddings.\1"),
    (rf"{_VIT}\.pos_embed", "encoder.embeddings.position_embeddings"),
    (rf"{_VIT}\.patch_embed\.proj\.(.+)", r"encoder.embeddings.patch_embeddings.projection.\1"),
    (rf"{_VIT}\.(norm\..+|blocks\.\d+\.(?:norm[12]|attn|ls[12]|mlp)\..+)", r"encoder.\1"),
    (r"encoder\.output_projections\.(.+)", r"projects.\1"),
    (r"encoder\.image_(?:mean|std)", ""),
    (rf"{_PART}\.input_blocks\.(.+)", rf"{_OURS_PART}.inputs.\2"),
    (rf"{_PART}\.resamplers\.(.+)", rf"{_OURS_PART}.ups.\2"),
    (rf"{_PART}\.res_blocks\.(\d+\.\d+)\.layers\.2\.(.+)", rf"{_OURS_PART}.residuals.\2.conv1.\3"),
    (rf"{_PART}\.res_blocks\.(\d+\.\d+)\.layers\.5\.(.+)", rf"{_OURS_PART}.residuals.\2.conv2.\3"),
    (rf"{_PART}\.output_blocks\.4\.(.+)", rf"{_OURS_PART}.out.\2"),
    (r"scale_head\.(.+)", r"scale.\1"),
    (r"normal_head\..+", ""),
)
translate = KeyMap(RENAMES).translate
#: The weight of DINOv2 with registers that this one has not.
IMPLIED = ("encoder.embeddings.register_tokens",)
#: What we compute of the choices of its configuration.
_FORM = {"res_block_in_norm": "none", "res_block_hidden_norm": "none", "activation": "relu",
         "dim_times_res_block_hidden": 1, "resamplers": ["conv_transpose"] * 3 + ["bilinear"]}  # fmt: skip


def settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration; ValueError for MoGe-1, a model without metres, or a form that we do not compute."""
    shapes = shapes_here(checkpoint, translate, "MoGe-2")
    told = _told(checkpoint)
    needed = ("encoder.embeddings.position_embeddings", "scale.0.weight", "points.out.weight", "mask.out.weight",
              *(f"neck.inputs.{level}.weight" for level in range(5)))  # fmt: skip
    lacking = [name for name in needed if name not in shapes]
    if lacking:
        raise ValueError(f"{checkpoint.place}: not a MoGe-2 that gives metres ({lacking[0]} is missing); give one of "
                         "Ruicheng/moge-2-*")  # fmt: skip
    width, depth = shapes[needed[0]][-1], count(shapes, "encoder.blocks.")
    taps = told["encoder"]["intermediate_layers"]
    scales = sorted(name for name in shapes if name.startswith("scale.") and name.endswith(".weight"))
    return {
        "hidden_size": width, "depth": depth, "num_heads": max(1, width // 64),
        "image_size": image_side(shapes[needed[0]], 14),
        "tap_layers": list(range(depth - taps, depth)) if isinstance(taps, int) else list(taps),
        "widths": [shapes[f"neck.inputs.{level}.weight"][0] for level in range(5)],
        "neck_blocks": [count(shapes, f"neck.residuals.{level}.") for level in range(5)],
        "head_blocks": [count(shapes, f"points.residuals.{level}.") for level in range(5)],
        "scale_widths": [shapes[scales[0]][1], *(shapes[name][0] for name in scales)],
        "tokens": int(told.get("num_tokens_range", [1200, 3600])[-1]),
    }  # fmt: skip


def _told(checkpoint: Checkpoint) -> dict[str, Any]:
    """``model_config`` of the checkpoint; ValueError where it is missing or has a form that we do not compute."""
    file = checkpoint.shards[0]
    loaded = load_pickled(file, mapped=True) if file.suffix != ".safetensors" else checkpoint.settings() or {}
    told = loaded.get("model_config") if isinstance(loaded, dict) else None
    if not isinstance(told, dict) or "intermediate_layers" not in (told.get("encoder") or {}):
        raise ValueError(f"{checkpoint.place}: no model_config with the weights; give MoGe-2's model.pt as published")
    if told.get("remap_output") != "exp":
        raise ValueError(f"{checkpoint.place}: MoGe-2 with remap_output {told.get('remap_output')!r} is not supported, "
                         "only 'exp' is")  # fmt: skip
    for part in ("neck", "points_head", "mask_head"):
        for name, value in _FORM.items():
            found = (told.get(part) or {}).get(name, value)
            if found != value:
                raise ValueError(f"{checkpoint.place}: MoGe-2 with {part}.{name} {found!r:.60} is not supported, only "
                                 f"{value!r} is")  # fmt: skip
    return told
