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
    shapes = {before + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    constants = {before + name.replace("__", "."): value for name, value in biases.items()}
    weights = made_weights(shapes, constants)
    network.load_state_dict({name.removeprefix(before): tensor for name, tensor in weights.items()})
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


def da3_parts() -> Any:
    """The modules of Depth Anything 3 that are needed."""
    for name in ("depth_anything_3", "depth_anything_3.model"):
        without(name, name.replace(".", "/"))
    from depth_anything_3.model import cam_dec, da3, dpt, dualdpt
    from depth_anything_3.model.dinov2 import dinov2, vision_transformer

    return types.SimpleNamespace(**locals())


def da3_network(single: bool) -> nn.Module:
    """Tiny: six blocks, the odd ones from the third on over frames, or none for single pictures."""
    m, start, width = da3_parts(), -1 if single else 2, 64
    starts = {"alt_start": start, "qknorm_start": start, "rope_start": start, "cat_token": not single}
    vit = m.vision_transformer.DinoVisionTransformer(
        img_size=56, patch_size=14, embed_dim=width, depth=6, num_heads=1 if single else 2, **starts
    )
    net = m.dinov2.DinoV2("vits", [2, 3, 4, 5], **starts)
    net.pretrained = vit
    channels = (8, 12, 16, 20)
    if single:
        return m.da3.DepthAnything3Net(net, m.dpt.DPT(width, output_dim=1, features=16, out_channels=channels))
    head = m.dualdpt.DualDPT(2 * width, output_dim=2, features=16, out_channels=channels)
    camera = m.cam_dec.CameraDec(2 * width)
    return m.da3.DepthAnything3Net(net, head, camera, nn.Identity())


def da3() -> None:
    """Depth, confidence and cameras of one, two and five frames; of five the reference is not the first."""
    network, outputs = da3_network(single=False), {}
    told = filled(network, "model.", cam_dec__fc_fov__0__bias=1.0)
    for frames, height, width in ((1, 56, 56), (2, 42, 70), (5, 70, 42)):
        found = network((made_images(frames, height, width) - MEAN) / STD)
        outputs[f"depth.{frames}"], outputs[f"confidence.{frames}"] = sampled(found.depth), sampled(found.depth_conf)
        outputs[f"extrinsics.{frames}"], outputs[f"intrinsics.{frames}"] = found.extrinsics[..., :3, :], found.intrinsics
    settings = {"config": {"net": {"out_layers": [2, 3, 4, 5]}}}
    Record.write(FOLDER / "da3.npz", {"settings": settings, **told}, outputs)


def main() -> None:
    """Write the records that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = {"da3": da3}
    parser.add_argument("records", nargs="+", choices=sorted(known))
    for name in parser.parse_args().records:
        with torch.no_grad():
            known[name]()


if __name__ == "__main__":
    main()
