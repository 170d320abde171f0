"""LLaVA-3D's own conventions, for weights that were trained with them (docs/method.md, section 7 has ours).

CLIP sees a square crop. A patch's point is that of its top-left pixel, at integer pixel coordinates, and every patch
counts. Requests are phrased and joined to the scene as in its training (Vicuna's conversation).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from vidllm.geometry.precision import full_precision
from vidllm.model.prompts import ASSISTANT, COORD_TOKEN, LOC_TOKEN, OBJECT_REQUEST, ROOM_REQUEST, VIDEO_TOKEN
from vidllm.model.prompts import VISUAL_PREFIX as OUR_PREFIX

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PIXEL_OFFSET = 0.5  # our pixel coordinates minus LLaVA-3D's, whose pixel centres are whole numbers

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SHORT_ANSWER = "Answer the question using one word or one phrase."
OBJECT_AT = f"The related object is located at {COORD_TOKEN}. Describe the object in detail."


def clip_images(images: Float[Tensor, "B F 3 H W"], side: int) -> Float[Tensor, "B F 3 s s"]:
    """Frames in [0, 1] as CLIP reads them: shorter side to ``side``, centre crop, normalised."""
    flat = images.flatten(0, 1).float()
    size = _resized(flat.shape[-2], flat.shape[-1], side)
    resized = F.interpolate(flat, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (resized.new_tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    normalised = (_crop(resized, side) - mean) / std
    return normalised.to(images.dtype).unflatten(0, images.shape[:2])


def clip_depth(
    depth: Float[Tensor, "B F H W"], intrinsics: Float[Tensor, "B F 3 3"], side: int
) -> tuple[Float[Tensor, "B F s s"], Float[Tensor, "B F 3 3"]]:
    """Depth (nearest pixel) and intrinsics on the crop of :func:`clip_images`; our pixel coordinates."""
    height, width = depth.shape[-2:]
    rows, columns = _resized(height, width, side)
    square = _crop(F.interpolate(depth.float(), size=(rows, columns), mode="nearest-exact"), side)
    k = intrinsics.float().clone()
    k[..., 0, :] *= columns / width
    k[..., 1, :] *= rows / height
    k[..., 0, 2] -= (columns - side) // 2
    k[..., 1, 2] -= (rows - side) // 2
    return square, k


def _resized(height: int, width: int, side: int) -> tuple[int, int]:
    """(rows, columns) with the shorter one ``side`` and the longer one rounded down."""
    if height <= width:
        return side, max(side, int(side * width / height))
    return max(side, int(side * height / width)), side


def _crop(maps: Tensor, side: int) -> Tensor:
    top, left = (maps.shape[-2] - side) // 2, (maps.shape[-1] - side) // 2
    return maps[..., top : top + side, left : left + side]


@full_precision()
def patch_points(
    depth: Float[Tensor, "B F s s"],
    intrinsics: Float[Tensor, "B F _ _"],
    world_from_camera: Float[Tensor, "B F 4 4"],
    patch_size: int,
) -> Float[Tensor, "B F h w 3"]:
    """World point of every patch's top-left pixel. Intrinsics for pixel centres at whole numbers (LLaVA-3D's).

    A pixel of depth zero gives the camera's own centre.
    """
    z = depth.float()[..., ::patch_size, ::patch_size]
    k, pose = intrinsics.float(), world_from_camera.float()
    v = torch.arange(z.shape[-2], device=z.device, dtype=torch.float32)[:, None] * patch_size
    u = torch.arange(z.shape[-1], device=z.device, dtype=torch.float32) * patch_size
    cell = (slice(None), slice(None), None, None)
    x = (u - k[..., 0, 2][cell]) * z / k[..., 0, 0][cell]
    y = (v - k[..., 1, 2][cell]) * z / k[..., 1, 1][cell]
    camera = torch.stack((x, y, z), dim=-1)
    return torch.einsum("bfij,bfhwj->bfhwi", pose[..., :3, :3], camera) + pose[..., None, None, :3, 3]


def encode_parts(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[list[int], list[int]]:
    """One of our prompts as (prefix ids, suffix ids) in LLaVA-3D's words; ValueError for one that asks for boxes.

    The prefix ends at the scene; what follows is encoded by itself, as in its training.
    """
    if LOC_TOKEN in prompt:
        raise ValueError("LLaVA-3D was released without a grounding decoder: ask or describe instead")
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if not prompt.startswith(OUR_PREFIX):
        return head, list(tokenizer.encode(prompt, add_special_tokens=False))
    before = list(tokenizer.encode(f"{SYSTEM} USER: ", add_special_tokens=False))
    scene = list(tokenizer.encode(VIDEO_TOKEN, add_special_tokens=False))
    request = prompt.removeprefix(OUR_PREFIX).removesuffix(ASSISTANT).strip()
    said = f"\n{phrased(request)} {ASSISTANT}" if request else ""
    return head + before + scene, list(tokenizer.encode(said, add_special_tokens=False)) if said else []


def phrased(request: str) -> str:
    """A request as LLaVA-3D was trained to read it: questions ask for a short answer, objects lie at a point."""
    if request == OBJECT_REQUEST.format(where=COORD_TOKEN):
        return OBJECT_AT
    return request if request == ROOM_REQUEST else f"{request} {SHORT_ANSWER}"
