"""Golden records of other people's networks (tests/golden/geometry), from their own code at tiny sizes.

    git clone https://github.com/ByteDance-Seed/Depth-Anything-3 && git clone https://github.com/microsoft/MoGe
    pip install einops addict omegaconf
    PYTHONPATH=Depth-Anything-3/src:MoGe python scripts/record_geometry.py da3 da3_metric moge

Weights and pictures come from a formula (tests/made_weights.py); the records hold names, shapes and outputs. Packages
that the networks import and do not call are replaced by empty ones. The records were made from the commits 2c21ea8
(Depth Anything 3) and 0744441 (MoGe).
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from made_weights import Record, made_images, made_weights  # noqa: E402

FOLDER = TESTS / "golden" / "geometry"
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
EVERY = 7  # pixels of a map that are kept


def filled(network: nn.Module, before: str = "", **biases: float) -> dict[str, Any]:
    """A record's shapes under published names (``before`` the network's own) and biases, after these were its weights.

    ``biases``: constants by the network's names, with __ for the points.
    """
    shapes = {before + name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    constants = {before + name.replace("__", "."): value for name, value in biases.items()}
    weights = made_weights(shapes, constants)
    network.load_state_dict({name.removeprefix(before): tensor for name, tensor in weights.items()}, strict=False)
    network.eval()
    return {"shapes": shapes, "biases": constants}


def sampled(values: Tensor) -> Tensor:
    """Some of the pixels of maps (..., H, W)."""
    return values.flatten(-2)[..., ::EVERY]


def without(name: str, folder: str) -> None:
    """A package whose ``__init__`` is not run."""
    package = types.ModuleType(name)
    package.__path__ = [str(Path(place) / folder) for place in sys.path if (Path(place) / folder).is_dir()]
    sys.modules[name] = package


def da3_network(single: bool) -> nn.Module:
    """Tiny: six blocks, the odd ones from the third on over frames, or none for single pictures."""
    for name in ("depth_anything_3", "depth_anything_3.model"):
        without(name, name.replace(".", "/"))
    from depth_anything_3.model.cam_dec import CameraDec
    from depth_anything_3.model.da3 import DepthAnything3Net
    from depth_anything_3.model.dinov2.dinov2 import DinoV2
    from depth_anything_3.model.dinov2.vision_transformer import DinoVisionTransformer
    from depth_anything_3.model.dpt import DPT
    from depth_anything_3.model.dualdpt import DualDPT

    start, width, channels = -1 if single else 2, 64, (8, 12, 16, 20)
    starts = {"alt_start": start, "qknorm_start": start, "rope_start": start, "cat_token": not single}
    net = DinoV2("vits", [2, 3, 4, 5], **starts)
    net.pretrained = DinoVisionTransformer(
        img_size=56, patch_size=14, embed_dim=width, depth=6, num_heads=1 if single else 2, **starts
    )
    if single:
        return DepthAnything3Net(net, DPT(width, output_dim=1, features=16, out_channels=channels))
    head = DualDPT(2 * width, output_dim=2, features=16, out_channels=channels)
    return DepthAnything3Net(net, head, CameraDec(2 * width), nn.Identity())


def da3() -> None:
    """Depth, confidence and cameras of one, two and five frames; of five the reference is not the first."""
    network, outputs = da3_network(single=False), {}
    told = filled(network, "model.", cam_dec__fc_fov__0__bias=1.0)
    for frames, height, width in ((1, 56, 56), (2, 42, 70), (5, 70, 42)):
        found = network((made_images(frames, height, width) - MEAN) / STD)
        kept = {"depth": sampled(found.depth), "confidence": sampled(found.depth_conf),
                "extrinsics": found.extrinsics[..., :3, :], "intrinsics": found.intrinsics}  # fmt: skip
        outputs |= {f"{name}.{frames}": value for name, value in kept.items()}
    settings = {"config": {"net": {"out_layers": [2, 3, 4, 5]}}}
    Record.write(FOLDER / "da3.npz", {"settings": settings, **told}, outputs)


def da3_metric() -> None:
    """Depth of the canonical camera and the sky."""
    network = da3_network(single=True)
    told = filled(network, "model.")
    images = (made_images(2, 42, 70) - MEAN) / STD
    found = network.head(network.backbone(images)[0], 42, 70, patch_start_idx=0)  # before the sky is filled
    settings = {"model_name": "da3metric-large", "config": {"net": {"out_layers": [2, 3, 4, 5]}}}
    outputs = {"depth": sampled(found.depth), "sky": sampled(found.sky)}
    Record.write(FOLDER / "da3_metric.npz", {"settings": settings, **told}, outputs)


def moge() -> None:
    """MoGe-2's points, mask and factor to metres."""
    sys.modules |= {name: mock.MagicMock() for name in ("cv2", "utils3d")}
    from moge.model.dinov2.hub import backbones
    from moge.model.dinov2.models.vision_transformer import DinoVisionTransformer
    from moge.model.v2 import MoGeModel

    def tiny(pretrained: bool) -> nn.Module:
        return DinoVisionTransformer(img_size=56, patch_size=14, embed_dim=64, depth=4, num_heads=1, mlp_ratio=4,
                                     init_values=1.0, ffn_layer="mlp", block_chunks=0)  # fmt: skip

    backbones.tiny = tiny
    form = {"res_block_in_norm": "none", "res_block_hidden_norm": "none",
            "resamplers": ["conv_transpose", "conv_transpose", "conv_transpose", "bilinear"]}  # fmt: skip
    widths = [24, 20, 16, 12, 8]

    def head(out: int) -> dict[str, Any]:
        return {"dim_in": widths, "dim_out": [None] * 4 + [out], "dim_res_blocks": widths,
                "num_res_blocks": [0, 1, 1, 1, 0], **form}  # fmt: skip

    config = {
        "encoder": {"backbone": "tiny", "intermediate_layers": [0, 1, 2, 3], "dim_out": 24},
        "neck": {"dim_in": [26, 2, 2, 2, 2], "dim_out": None, "dim_res_blocks": widths,
                 "num_res_blocks": [0, 2, 2, 2, 0], **form},
        "points_head": head(3), "normal_head": head(3), "mask_head": head(1), "scale_head": {"dims": [64, 16, 1]},
        "remap_output": "exp", "num_tokens_range": [8, 20],
    }  # fmt: skip
    network = MoGeModel(**config)
    told = filled(network)
    found = network(made_images(2, 48, 64)[0], 20)
    outputs = {"points": sampled(found["points"].movedim(-1, 1)), "mask": sampled(found["mask"])}
    Record.write(FOLDER / "moge.npz", {"settings": {"model_config": config}, **told},
                 {**outputs, "scale": found["metric_scale"]})  # fmt: skip


def main() -> None:
    """Write the records that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = {"da3": da3, "da3_metric": da3_metric, "moge": moge}
    parser.add_argument("records", nargs="+", choices=sorted(known))
    for name in parser.parse_args().records:
        with torch.no_grad():
            known[name]()


if __name__ == "__main__":
    main()
