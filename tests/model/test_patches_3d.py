from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from vidllm.model.patches_3d import (
    PositionEmbedding,
    Projector,
    back_project,
    depth_at_centres,
    patch_centres,
    voxel_pool,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "llava3d_patches" / "scene.safetensors"


def random_cameras(frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(1, frames, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    translation = torch.randn(1, frames, 3, 1, generator=generator, dtype=torch.float64)
    k = torch.tensor([[60.0, 0.0, 20.0], [0.0, 55.0, 15.0], [0.0, 0.0, 1.0]]).expand(1, frames, 3, 3)
    return k, torch.cat([rotation, translation], -1).float()


def test_patch_centres_are_pixel_corners_of_even_patches() -> None:
    centres = patch_centres((2, 3), 14)
    assert centres.tolist() == [[7, 7], [21, 7], [35, 7], [7, 21], [21, 21], [35, 21]]


def test_back_projection_inverts_projection() -> None:
    k, extrinsics = random_cameras(3)
    depth = 1 + 4 * torch.rand(1, 3, 28, 42, generator=torch.Generator().manual_seed(1))
    centre, _ = depth_at_centres(depth, (2, 3), 14)
    world, valid = back_project(depth, k, extrinsics, (2, 3), 14)
    camera = torch.einsum("bfij,bfpj->bfpi", extrinsics[..., :3], world) + extrinsics[..., None, :, 3]
    pixel = torch.einsum("bfij,bfpj->bfpi", k, camera)
    assert valid.all()
    torch.testing.assert_close(camera[..., 2], centre, atol=1e-5, rtol=1e-5)
    expected = patch_centres((2, 3), 14).expand(1, 3, -1, -1)
    torch.testing.assert_close(pixel[..., :2] / pixel[..., 2:], expected, atol=1e-3, rtol=1e-5)
    square = torch.cat([extrinsics, torch.tensor([0.0, 0, 0, 1]).expand(1, 3, 1, 4)], -2)
    torch.testing.assert_close(back_project(depth, k, square, (2, 3), 14)[0], world)


def test_depth_at_the_centre_is_exact_on_a_slanted_plane() -> None:
    v, u = torch.meshgrid(torch.arange(28) + 0.5, torch.arange(28) + 0.5, indexing="ij")
    depth = 1 / (0.2 + 0.01 * u + 0.004 * v)  # inverse depth of a plane is affine in the pixel
    for patch in (14, 7):
        grid = (28 // patch, 28 // patch)
        centre, _ = depth_at_centres(depth[None, None], grid, patch)
        at = patch_centres(grid, patch)
        torch.testing.assert_close(centre[0, 0], 1 / (0.2 + 0.01 * at[:, 0] + 0.004 * at[:, 1]))


def test_unknown_depth_is_masked_and_finite() -> None:
    k, extrinsics = random_cameras(1)
    depth = torch.full((1, 1, 28, 28), 2.0)
    depth[..., :14, :14] = 0
    depth[..., :14, 14:] = float("nan")
    depth[..., 20, 6] = float("inf")  # one of the four pixels of the third patch: the other three decide
    points, valid = back_project(depth, k, extrinsics, (2, 2), 14)
    assert valid.tolist() == [[[False, False, True, True]]]
    assert points.isfinite().all() and (points[0, 0, :2] == 0).all()
    assert depth_at_centres(depth, (2, 2), 14)[0][0, 0, 2] == 2


def cloud(n: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positions = 2 * torch.randn(2, n, 3, generator=generator)
    features = torch.randn(2, n, 5, generator=generator, requires_grad=True)
    return features, positions, torch.rand(2, n, generator=generator) > 0.1


def test_pooling_is_the_mean_of_each_voxel_in_key_order() -> None:
    features, positions, valid = cloud()
    pooled = voxel_pool(features, positions, valid, 0.7, 1000)
    for b in range(2):
        keys = [tuple(key) for key in (positions[b] / 0.7).round().long().tolist()]
        kept = sorted({key for key, ok in zip(keys, valid[b].tolist(), strict=True) if ok})
        assert int(pooled.mask[b].sum()) == len(kept) and bool(pooled.mask[b, : len(kept)].all())
        for slot, key in enumerate(kept):
            members = [i for i, own in enumerate(keys) if own == key and valid[b, i]]
            assert pooled.inverse[b, members].tolist() == [slot] * len(members)
            torch.testing.assert_close(pooled.features[b, slot], features[b, members].mean(0))
            torch.testing.assert_close(pooled.positions[b, slot], positions[b, members].mean(0))
    assert (pooled.inverse[~valid] == -1).all() and (pooled.features[~pooled.mask] == 0).all()


def test_pooling_sends_gradient_to_valid_patches_only() -> None:
    features, positions, valid = cloud()
    voxel_pool(features, positions, valid, 0.7, 1000).features.sum().backward()
    assert features.grad is not None
    assert ((features.grad.abs().sum(-1) > 0) == valid).all()


def test_pooling_ignores_the_order_of_patches_and_the_batch() -> None:
    features, positions, valid = cloud()
    pooled = voxel_pool(features, positions, valid, 0.5, 1000)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    shuffled = voxel_pool(features[:, order], positions[:, order], valid[:, order], 0.5, 1000)
    torch.testing.assert_close(shuffled.features, pooled.features)
    assert torch.equal(shuffled.inverse, pooled.inverse[:, order])
    for b in range(2):
        alone = voxel_pool(features[b : b + 1], positions[b : b + 1], valid[b : b + 1], 0.5, 1000)
        assert torch.equal(alone.features[0], pooled.features[b, : alone.features.shape[1]])


def test_the_voxel_grows_until_under_the_cap() -> None:
    features, positions, valid = cloud()
    free = voxel_pool(features, positions, valid, 0.2, 1000)
    capped = voxel_pool(features, positions, valid, 0.2, 50)
    assert int(free.mask.sum(1).max()) > 50 >= int(capped.mask.sum(1).max())
    assert (capped.voxel_size > 0.2).all() and (free.voxel_size == 0.2).all()
    assert torch.equal(capped.features, voxel_pool(features, positions, valid, 0.2, 50).features)


def test_empty_and_far_scenes() -> None:
    features, positions, valid = cloud()
    positions[1, 0] = torch.tensor([3e9, -4e9, 5e9])
    valid[0], valid[1, 0] = False, True
    pooled = voxel_pool(features, positions, valid, 0.2, 1000)
    assert not pooled.mask[0].any() and pooled.mask[1].any()
    assert pooled.features.isfinite().all()
    nothing = voxel_pool(features[:1], positions[:1], valid[:1], 0.2, 1000)
    assert nothing.features.shape == (1, 1, 5) and not nothing.mask.any()


def test_rounding_is_half_to_even() -> None:
    positions = torch.zeros(1, 5, 3)
    positions[0, :, 0] = torch.tensor([-0.25, 0.0, 0.25, 0.75, 1.25])  # voxels of 0.5 m: -0, 0, 0, 2, 2
    pooled = voxel_pool(torch.ones(1, 5, 1), positions, torch.ones(1, 5, dtype=torch.bool), 0.5, 9)
    assert pooled.inverse.tolist() == [[0, 0, 0, 1, 1]]


def test_embedding_and_projector_names_and_shapes() -> None:
    embedding, projector = PositionEmbedding(8), Projector(8, 16)
    assert {name.rsplit(".", 1)[0] for name in embedding.state_dict()} == {
        f"position_embedding_head.{i}" for i in (0, 1, 3)
    }
    assert set(projector.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert projector(embedding(torch.zeros(2, 4, 3))).shape == (2, 4, 16)


def test_llava_3d_is_reproduced() -> None:
    golden = {k: v.float() if v.is_floating_point() else v for k, v in load_file(GOLDEN).items()}
    embedding, projector = PositionEmbedding(48), Projector(48, 64)
    for module, prefix in ((embedding, "positional_embedding."), (projector, "mm_projector.")):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)})
    positions, everywhere = golden["world_xyz"].reshape(1, 64, 3), torch.ones(1, 64, dtype=torch.bool)
    embedded = embedding(positions)
    torch.testing.assert_close(embedded, golden["pos_embed"].reshape(1, 64, 48))
    pooled = voxel_pool(golden["clip_features"].reshape(1, 64, 48) + embedded, positions, everywhere, 0.2, 2560)
    assert torch.equal(pooled.inverse, golden["point_to_voxel"])
    torch.testing.assert_close(pooled.features[0], golden["pooled_voxel_features"])
    torch.testing.assert_close(projector(pooled.features)[0], golden["projected"])
    points = golden["rounding.xyz"]
    inverse = voxel_pool(points, points, torch.ones(1, 7, dtype=torch.bool), 0.2, 99).inverse
    assert torch.equal(inverse, golden["rounding.point_to_voxel"])
