"""Golden records of Pi3, Pi3X, MapAnything and VGGT-Omega (tests/golden/geometry), from their own code at tiny sizes.

    git clone https://github.com/yyfz/Pi3 && git clone https://github.com/facebookresearch/map-anything
    git clone https://github.com/facebookresearch/vggt-omega
    pip install uniception==0.1.7 einops --no-deps
    PYTHONPATH=Pi3:map-anything:vggt-omega python scripts/record_multi_view.py pi3 pi3x map_anything vggt_omega

Weights and pictures come from a formula (tests/made_weights.py); the records hold names, shapes and outputs. Widths
that the code has as numbers are replaced in its text before it is run; packages that it imports and does not call are
replaced by empty ones. The records were made from the commits 9fa3ddb (Pi3), f7ebafb (MapAnything) and 39a0cb8
(VGGT-Omega).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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
WIDTH = 64  # one head of attention
_UNUSED = ("timm", "cv2", "torchvision", "omegaconf", "trimesh", "matplotlib", "minio", "sklearn")
#: In the text of Pi3's and Pi3X's networks: what is replaced by what.
_PI3 = (
    (r"dinov2_vitl14_reg\(pretrained=False\)", "small_dinov2(4)"), (r"\b1024\b|\b512\b", str(WIDTH)),
    (r"num_heads ?= ?(16|8)\b", "num_heads=1"), (r"dec_depth = 36", "dec_depth = 4"),
    (r"\[256, 128, 64\]", "[32, 32, 16]"), (r"last_conv_channels=32", "last_conv_channels=16"),
    (r"(\w*TransformerDecoder\()", r"\1depth=2, "), (r"\[1, 9, 17, 25, 33\]", "[1]"),
)  # fmt: skip


class Empty(types.ModuleType, MetaPathFinder, Loader):
    """A package of which every part is an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        unused = name.split(".")[0] in _UNUSED or name == "mapanything.utils.inference"
        return ModuleSpec(name, self, is_package=True) if unused else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def small_dinov2(registers: int, ffn: str = "mlp") -> nn.Module:
    """DINOv2 of two blocks, with registers or as it was without them."""
    from pi3.models.dinov2.models.vision_transformer import DinoVisionTransformer

    return DinoVisionTransformer(
        img_size=56, patch_size=14, embed_dim=WIDTH, depth=2, num_heads=1, init_values=1.0, block_chunks=0,
        num_register_tokens=registers, interpolate_antialias=registers > 0,
        interpolate_offset=0.0 if registers else 0.1, ffn_layer=ffn,
    )  # fmt: skip


def rewritten(name: str, changes: Sequence[tuple[str, str]], **known: Any) -> types.ModuleType:
    """A module with its text changed."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    for pattern, ours in changes:
        text = re.sub(pattern, ours, text)
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    vars(module).update(known)
    exec(compile(text, name, "exec"), vars(module))
    return module


def filled(network: nn.Module, ignored: str = "$.") -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network that was given made weights, but for buffers that the pattern ignores."""
    state = network.eval().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not re.search(ignored, name)}
    network.load_state_dict(made_weights(shapes, {}), strict=False)
    return shapes


def sampled(values: Tensor) -> Tensor:
    """Some of the pixels of maps (..., H, W)."""
    return values.flatten(-2)[..., ::EVERY]


def write(name: str, shapes: dict[str, tuple[int, ...]], outputs: dict[str, Tensor], **settings: Any) -> None:
    """Write a record; ``settings``: what its config.json tells."""
    Record.write(FOLDER / f"{name}.npz", {"settings": settings, "shapes": shapes, "biases": {}}, outputs)


def pi3(name: str = "pi3") -> None:
    """Local points, confidence logits, cameras and focal lengths; the scale of Pi3X."""
    from pi3.utils.geometry import recover_intrinsic_from_rays_d

    module = rewritten(f"pi3.models.{name}", _PI3, small_dinov2=small_dinov2)
    network = module.Pi3() if name == "pi3" else module.Pi3X()
    shapes, outputs = filled(network, "image_(mean|std)"), {}
    for frames, height, width in ((1, 56, 56), (3, 42, 70)):
        found = network(made_images(frames, height, width))
        k = recover_intrinsic_from_rays_d(found["local_points"], force_center_principal_point=True)
        outputs |= {
            f"points.{frames}": sampled(found["local_points"].movedim(-1, 2)),
            f"logits.{frames}": sampled(found["conf"][..., 0]), f"pose.{frames}": found["camera_poses"],
            f"focal.{frames}": torch.stack((k[..., 0, 0], k[..., 1, 1]), -1),
            f"metres.{frames}": found.get("metric", torch.ones(1)),
        }  # fmt: skip
    write(name, shapes, outputs)


def pi3x() -> None:
    """As :func:`pi3`."""
    pi3("pi3x")


def map_anything() -> None:
    """Local points, confidence, mask logits, cameras and scale of the published form, of pictures alone."""
    for name in ("mapanything.models", "mapanything.models.mapanything"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(p) / name.replace(".", "/")) for p in sys.path]
        sys.modules[name] = package
    torch.hub.load = lambda *_, **__: small_dinov2(0, "swiglufused")  # type: ignore[assignment]
    model = importlib.import_module("mapanything.models.mapanything.model")
    encoder = importlib.import_module("uniception.models.encoders.dinov2").DINOv2Encoder
    start = encoder.__init__

    def narrow(self: Any, *arguments: Any, **named: Any) -> None:
        start(self, *arguments, **named)
        self.enc_embed_dim = WIDTH

    encoder.__init__ = narrow
    inf, dense, whole = float("inf"), {"encoder_str": "dense_rep_encoder"}, {"encoder_str": "global_rep_encoder"}
    share = {
        "name": "share", "indices": [1, 3], "norm_intermediate": True, "depth": 6, "dim": WIDTH, "num_heads": 1,
        "distinguish_ref_and_non_ref_views": True, "mlp_ratio": 4, "qkv_bias": True, "init_values": 1e-5,
    }  # fmt: skip
    network = model.MapAnything(
        name="small",
        encoder_config={"encoder_str": "dinov2", "name": "dinov2", "size": "giant", "uses_torch_hub": True,
                        "norm_returned_features": False},
        info_sharing_config={
            "model_type": "alternating_attention", "model_return_type": "intermediate_features",
            "custom_positional_encoding": None, "module_args": share,
        },
        pred_head_config={
            "type": "dpt+pose", "adaptor_type": "raydirs+depth+pose+confidence+mask",
            "feature_head": {"feature_dim": 16, "hooks": [0, 1, 2, 3], "layer_dims": [8, 12, 16, 20]},
            "regressor_head": {"output_dim": 6}, "scale_head": {"output_dim": 1},
            "pose_head": {"num_resconv_block": 2, "rot_representation_dim": 4},
            "dpt_adaptor": {
                "name": "pixels", "ray_directions_mode": "linear", "ray_directions_normalize_to_unit_sphere": True,
                "ray_directions_normalize_to_unit_image_plane": False, "ray_directions_vmin": -inf,
                "ray_directions_vmax": inf, "ray_directions_clamp_min_of_z_dir": False,
                "ray_directions_z_dir_min": -inf, "depth_mode": "exp", "depth_vmin": 0, "depth_vmax": inf,
                "confidence_type": "exp", "confidence_vmin": 1, "confidence_vmax": inf,
            },
            "pose_adaptor": {
                "name": "pose", "cam_trans_mode": "linear", "cam_trans_vmin": -inf, "cam_trans_vmax": inf,
                "quaternions_mode": "linear", "quaternions_normalize": True, "quaternions_vmin": -inf,
                "quaternions_vmax": inf,
            },
            "scale_adaptor": {"name": "scale", "mode": "exp", "vmin": 1e-8, "vmax": inf},
        },
        geometric_input_config={
            "ray_dirs_encoder_config": dense | {"name": "r", "in_chans": 3, "apply_pe": False},
            "depth_encoder_config": dense | {"name": "d", "in_chans": 1, "apply_pe": False},
            "cam_rot_encoder_config": whole | {"name": "q", "in_chans": 4},
            "cam_trans_encoder_config": whole | {"name": "t", "in_chans": 3},
            "scale_encoder_config": whole | {"name": "s", "in_chans": 1},
            **dict.fromkeys(("overall_prob", "ray_dirs_prob", "depth_prob", "cam_prob", "sparse_depth_prob",
                            "pose_scale_norm_all_prob"), 0),
            "dropout_prob": 1,
        },
        use_register_tokens_from_encoder=True,
        info_sharing_mlp_layer_str="swiglufused",
    )  # fmt: skip
    shapes, outputs = filled(network, r"view_pos_table|^dense_head|^(ray_dirs|depth)_encoder\..*weight"), {}
    for frames, height, width in ((1, 56, 56), (3, 42, 70)):
        pictures = ((made_images(frames, height, width) - MEAN) / STD).unbind(1)
        found = network([{"img": picture, "data_norm_type": ["dinov2"]} for picture in pictures])
        seen = {name: torch.stack([view[name] for view in found], 1) for name in found[0]}
        outputs |= {
            f"points.{frames}": sampled(seen["pts3d_cam"].movedim(-1, 2)),
            f"confidence.{frames}": sampled(seen["conf"]),
            f"mask.{frames}": sampled(seen["non_ambiguous_mask_logits"]),
            f"translation.{frames}": seen["cam_trans"], f"quaternion.{frames}": seen["cam_quats"],
            f"metres.{frames}": found[0]["metric_scaling_factor"][:, 0],
        }  # fmt: skip
    write("map_anything", shapes, outputs, info_sharing_config={"module_args": {"indices": [1, 3]}})


def vggt_omega() -> None:
    """Pose encodings, depth and confidence, at the published depth; the text head is there and not run."""
    heads = [(r"num_heads(: int)? ?= ?16", r"num_heads\1=1"), (r"features: int = 256", "features: int = 16"),
             (r"\[256, 512, 1024, 1024\]", "[8, 12, 16, 20]")]  # fmt: skip
    module = importlib.import_module("vggt_omega.models.vggt_omega")
    for part, name in (
        ("aggregator", "Aggregator"), ("heads.camera_head", "CameraHead"), ("heads.dense_head", "DenseHead"),
        ("heads.text_alignment_head", "TextAlignmentHead"),
    ):  # fmt: skip
        setattr(module, name, getattr(rewritten(f"vggt_omega.models.{part}", heads), name))
    torch.cuda.is_bf16_supported = lambda *_: True  # type: ignore[assignment]
    network = module.VGGTOmega(embed_dim=WIDTH, enable_alignment=True)
    for name, mask in network.named_buffers():
        if name.endswith("bias_mask"):
            mask.copy_(torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(mask) // 3))
    shapes, outputs = filled(network, "bias_mask|periods"), {}
    network.text_alignment_head = None
    for frames, height, width in ((1, 64, 64), (3, 48, 80)):
        found = network(made_images(frames, height, width))
        outputs |= {
            f"pose.{frames}": found["pose_enc"], f"depth.{frames}": sampled(found["depth"][..., 0]),
            f"confidence.{frames}": sampled(found["depth_conf"]),
        }  # fmt: skip
    write("vggt_omega", shapes, outputs)


def main() -> None:
    """Write the records that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    known = {function.__name__: function for function in (pi3, pi3x, map_anything, vggt_omega)}
    parser.add_argument("records", nargs="+", choices=sorted(known))
    sys.meta_path.append(Empty("unused"))  # type: ignore[arg-type]
    for name in parser.parse_args().records:
        with torch.no_grad():
            known[name]()


if __name__ == "__main__":
    main()
