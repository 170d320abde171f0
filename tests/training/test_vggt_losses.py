"""VGGT's losses: values and gradients of the reference training code, and its rules for what counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vidllm.training.losses import camera_losses, corner_normals, normalise, vggt_dense_losses

CASES = (
    "default(camera l1, depth grad .98)", "point(normal .98)", "depth_grad_conf_no_quantile", "point_normal_conf",
    "camera_l2",
)
TOLERANCE = 1e-5
REFINEMENTS = [f"pose_enc_iter.{i}" for i in range(4)]
PARTS = {"depth": ("depth", "depth_conf"), "point": ("world_points", "world_points_conf")}


@pytest.fixture(scope="module")
def readme(golden) -> dict[str, Any]:
    return json.loads((golden / "vggt_loss" / "README.json").read_text())


@pytest.fixture(scope="module")
def given(golden) -> dict[str, Tensor]:
    return load_file(golden / "vggt_loss" / "inputs.safetensors")


@pytest.fixture(scope="module")
def reference(golden) -> dict[str, Tensor]:
    return load_file(golden / "vggt_loss" / "outputs.safetensors")


@pytest.fixture(scope="module")
def targets(given):
    return normalise(given["depths"], given["extrinsics"], given["intrinsics"], pixel_offset=0.0)


def close(ours: Tensor, theirs: Tensor, scale: float | None = None) -> bool:
    return float((ours - theirs).abs().max()) <= TOLERANCE * (scale or float(theirs.abs().max()))


def losses_of(case: dict[str, Any], predicted: dict[str, Tensor], targets) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}
    objective = torch.zeros(())
    for part, told in case.items():
        if part == "camera":
            refined = [predicted[name] for name in REFINEMENTS]
            terms = camera_losses(refined, targets.pose, targets.valid, form=told["loss_type"])
            names = {"camera": "camera", "translation": "T", "rotation": "R", "fov": "FL"}
            found |= {f"loss_{names[name]}": value for name, value in terms.items()}
            objective = objective + told["weight"] * terms["camera"]
        else:
            values, sure = (predicted[name] for name in PARTS[part])
            wanted = targets.depth[..., None] if part == "depth" else targets.points
            share = told["valid_range"] if told["valid_range"] > 0 else None
            terms = vggt_dense_losses(values, sure, wanted, targets.valid, told["gradient_loss_fn"], share)
            names = {"confidence": "conf", "residual": "reg", "gradient": "grad"}
            found |= {f"loss_{names[name]}_{part}": value for name, value in terms.items()}
            objective = objective + told["weight"] * sum(terms.values())
    return {**found, "objective": objective}, objective


def test_normalised_ground_truth(targets, reference, readme):
    assert close(targets.pose, reference["gt_pose_enc"])
    translation = targets.extrinsics[..., 3:] / targets.scale[:, None, None, None]
    assert close(torch.cat([targets.extrinsics[..., :3], translation], -1), reference["extrinsics_n"])
    stride = readme["stride"]
    assert close(targets.depth.flatten()[::stride], reference["depths_n"])
    seen = targets.valid[..., None].expand_as(targets.points).flatten()[::stride]
    assert close(targets.points.flatten()[::stride][seen], reference["world_points_n"][seen])


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_references(name, readme, given, reference, targets):
    assert set(readme["cases"]) == set(CASES)
    known = ("depths", "extrinsics", "intrinsics")
    predicted = {k: v.clone().requires_grad_() for k, v in given.items() if k not in known}
    found, objective = losses_of(readme["cases"][name], predicted, targets)
    assert {k: v.item() for k, v in found.items()} == pytest.approx(readme["loss_values"][name], rel=TOLERANCE)
    objective.backward()
    checked = 0
    for key, told in readme["gradients"].items():
        case, _, tensor = key.split("|")
        if case != name:
            continue
        gradient = predicted[tensor].grad
        assert gradient is not None
        shown = gradient if "pose" in tensor else gradient.flatten()[:: readme["stride"]]
        assert close(shown, reference[key], told["abs_max"]), key
        assert float(gradient.abs().max()) == pytest.approx(told["abs_max"], rel=TOLERANCE)
        assert float(gradient.double().abs().sum()) == pytest.approx(told["abs_sum"], rel=TOLERANCE)
        checked += 1
    assert checked == sum(key.startswith(name + "|") for key in readme["gradients"]) > 0


def test_the_pixel_centre_is_an_argument(given):
    """VGGT's pixel centres lie on the indices, ours half a pixel further: the points differ by that much."""
    ours = normalise(given["depths"], given["extrinsics"], given["intrinsics"])
    theirs = normalise(given["depths"], given["extrinsics"], given["intrinsics"], 0.0)
    a, b = (t.points * t.scale[:, None, None, None, None] for t in (ours, theirs))
    shift = a - b
    inverse_focal = torch.stack([given["intrinsics"][..., i, i] for i in (0, 1)], -1).reciprocal().norm(dim=-1)
    wanted = 0.5 * given["depths"] * inverse_focal[..., None, None]
    torch.testing.assert_close(shift.norm(dim=-1), wanted, rtol=2e-3, atol=1e-4)
    assert float(wanted.max()) > 0.1


def test_a_batch_with_under_a_hundred_pixels_has_no_dense_loss():
    prediction = torch.rand(1, 2, 8, 8, 1, requires_grad=True)
    confidence = 1 + torch.rand(1, 2, 8, 8)
    valid = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    for count, counted in ((99, False), (100, True)):
        valid.view(-1)[:count] = True
        terms = vggt_dense_losses(prediction, confidence, torch.ones(1, 2, 8, 8, 1), valid)
        assert (float(sum(t.detach() for t in terms.values())) != 0) is counted
        prediction.grad = None
        sum(terms.values()).backward()
        assert bool(prediction.grad.any()) is counted


def test_a_scene_counts_for_the_camera_by_its_first_frame():
    target = torch.zeros(2, 2, 9)
    told = torch.ones(2, 2, 9, requires_grad=True)
    valid = torch.ones(2, 2, 20, 20, dtype=torch.bool)
    valid[1, 0] = False
    valid[1, 0].view(-1)[:100] = True  # one too few
    camera_losses([told], target, valid)["camera"].backward()
    assert bool(told.grad[0].all()) and not bool(told.grad[1].any())
    none = camera_losses([told], target, valid & False)
    assert all(float(t.detach()) == 0 for t in none.values())
    assert float(camera_losses([told], target, valid)["camera"].detach()) == pytest.approx(1 + 1 + 0.5)
    with pytest.raises(ValueError, match="'l1' or 'l2'"):
        camera_losses([told], target, valid, form="huber")


def test_normals_of_a_plane_point_one_way():
    v, u = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    plane = torch.stack([u, v, 0.5 * u + 2], -1)[None]
    normals, usable = corner_normals(plane, torch.ones(1, 4, 5, dtype=torch.bool))
    one = normals[usable]
    torch.testing.assert_close(one, one[:1].expand_as(one))
    assert usable.sum().item() == 4 * 3 * 4  # a corner needs a neighbour on either side
    valid = torch.ones(1, 10, 12, dtype=torch.bool)
    points, same = torch.rand(1, 1, 10, 12, 3), torch.ones(1, 1, 10, 12)
    terms = vggt_dense_losses(points, same, points, valid[None], "normal")
    assert float(terms["gradient"]) == pytest.approx(0, abs=1e-6) and float(terms["residual"]) == 0
    with pytest.raises(ValueError, match="unknown gradient form"):
        vggt_dense_losses(points, same, points, valid[None], "curl")
