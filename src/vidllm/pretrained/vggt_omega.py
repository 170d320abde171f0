"""VGGT-Omega's weights: their configuration by the headers alone, and their key map."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from vidllm.baselines.geometry.vggt_omega import HEAD, VGGTOmegaSettings
from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.conversion import KeyMap, Pairs, Renames, dpt_renames
from vidllm.pretrained.headers import Sizes, read_sizes

_VIT, _MASK = r"aggregator\.patch_embed", ".attn.qkv.bias_mask"
#: Key map to :class:`vidllm.baselines.geometry.vggt_omega.VGGTOmega`.
RENAMES: Renames = (
    (r".+\.(?:bias_mask|periods|mask_token)", ""),
    (rf"{_VIT}\.patch_embed\.proj\.(.+)", r"encoder.patches.\1"),
    (rf"{_VIT}\.(.+)", r"encoder.\1"),
    (r"aggregator\.(.+)", r"attention.\1"),
    (r"(camera_head\..+|dense_head\.proj(?:_conf)?\..+)", r"\1"),
    *dpt_renames("dense_head", "dense_head"),
    (r"text_alignment_head\..+", ""),
)
_MAP = KeyMap(RENAMES)
_PROJECTS = [f"dense_head.decoder.projects.{level}.weight" for level in range(4)]
_SIZES: Sizes = {
    "patch_size": ("encoder.patches.weight", -1), "hidden_size": ("encoder.patches.weight", 0),
    "encoder_depth": "encoder.blocks.", "storage_tokens": ("encoder.storage_tokens", 1),
    "depth": "attention.frame_blocks.", "register_tokens": ("attention.register_token", 2),
    "camera_depth": "camera_head.trunk.", "features": ("dense_head.decoder.laterals.0.weight", 0),
}  # fmt: skip
_TURNED = re.compile(r"(?:encoder\.blocks|attention\.frame_blocks)\.\d+\.attn\.(?:(qkv)|[qk]_norm)\..+")


def translate(key: str, tensor: Tensor) -> Pairs | None:
    """One of the weights under our names (:data:`~vidllm.pretrained.conversion.Translate`).

    Keys of attention have no bias there: theirs is masked. Channels that turn together are j and j + D/2 of a head
    there, half of D for rows and half for columns here: the middle quarters change places.
    """
    name = _MAP(key)
    if not name:
        return None if name is None else []
    third = len(tensor) // 3 if tensor.ndim else 0
    if name.endswith(".attn.qkv.bias"):
        tensor = torch.cat((tensor[:third], torch.zeros_like(tensor[:third]), tensor[2 * third :]))
    turned = _TURNED.fullmatch(name)
    if turned is not None and turned[1]:
        tensor = torch.cat((_swapped(tensor[: 2 * third]), tensor[2 * third :]))
    elif turned is not None:
        tensor = _swapped(tensor)
    return [(name, tensor)]


def _swapped(rows: Tensor) -> Tensor:
    return rows.unflatten(0, (-1, 4, HEAD // 4))[:, [0, 2, 1, 3]].flatten(0, 2)


def settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration; ValueError for another model, and where the bias of attention's keys is not masked."""
    fields, shapes = read_sizes(checkpoint, translate, "VGGT-Omega", _SIZES, _PROJECTS)
    published = VGGTOmegaSettings()
    if (depth := fields["depth"]) != published.depth:
        raise ValueError(f"{checkpoint.place}: expected {published.depth} pairs of blocks, found {depth}; which of "
                         "them leave patches out is known of that depth alone")  # fmt: skip
    masks = [key for key, _ in checkpoint.shapes() if key.endswith(_MASK)]
    for key, mask in checkpoint.tensors(masks):
        if not torch.equal(mask.float(), torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(mask) // 3)):
            raise ValueError(f"{checkpoint.place}: {key} leaves out other biases than those of attention's keys; "
                             "fetch it again")  # fmt: skip
    return {"kind": "vggt_omega", **fields, "out_channels": [shapes[name][0] for name in _PROJECTS]}
