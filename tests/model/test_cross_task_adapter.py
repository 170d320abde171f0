from __future__ import annotations

import itertools

import pytest
import torch

from vidllm.model.configuration import AdapterConfig
from vidllm.model.cross_task_adapter import EXCHANGES, CrossTaskAdapter

WIDTH = 24
CASES = [
    *({"variant": v, "bridge_per_frame": f} for v, f in itertools.product(EXCHANGES, (False, True))),
    {"variant": "bridge", "fuse_streams": True},
]


def build(layer_scale_init: float = 0.0, **options: object) -> CrossTaskAdapter:
    torch.manual_seed(0)
    config = AdapterConfig(num_heads=3, bridge_tokens=5, layer_scale_init=layer_scale_init, **options)  # type: ignore[arg-type]
    return CrossTaskAdapter(config, WIDTH)


def tokens(batch: int = 2, frames: int = 3) -> torch.Tensor:
    return torch.randn(batch, frames, 7, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", CASES)
def test_both_streams_pass_through_at_the_start(options: dict[str, object]) -> None:
    out = build(**options)(tokens())
    assert torch.equal(out.geometry, tokens()) and torch.equal(out.language, tokens())
    if options["variant"] != "bridge":
        assert out.bridge is None
    else:
        assert out.bridge is not None
        assert out.bridge.shape == ((2, 3, 5, WIDTH) if options.get("bridge_per_frame") else (2, 5, WIDTH))


@pytest.mark.parametrize("options", CASES)
def test_every_parameter_has_a_gradient(options: dict[str, object]) -> None:
    adapter = build(0.1, **options)
    out = adapter(tokens())
    assert not torch.equal(out.geometry, out.language)
    (out.geometry.square().sum() + out.language.pow(3).sum()).backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_layer_scale_learns_from_zero() -> None:
    adapter = build()
    out = adapter(tokens())
    (out.geometry.pow(3).sum() + out.language.pow(3).sum()).backward()
    gammas = {name: p.grad for name, p in adapter.named_parameters() if name.endswith("gamma")}
    assert len(gammas) == 4 and all(g is not None and (g != 0).any() for g in gammas.values())


def test_the_bridge_is_the_sum_of_two_attentions() -> None:
    adapter = build(0.1)
    geometry, language = adapter.phi_geometry(tokens()).flatten(1, 2), adapter.phi_language(tokens()).flatten(1, 2)
    bridge = adapter.exchange
    queries = bridge.norm(bridge.tokens).expand(2, -1, -1)

    def by_hand(attention: torch.nn.Module, memory: torch.Tensor) -> torch.Tensor:
        q, (k, v) = attention.query(queries), attention.key_value(memory).chunk(2, -1)
        q, k, v = (x.unflatten(-1, (3, 8)).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        return attention.output((weights @ v).transpose(1, 2).flatten(2))

    expected = by_hand(bridge.read_geometry, bridge.norm_geometry(geometry))
    expected = expected + by_hand(bridge.read_language, bridge.norm_language(language))
    torch.testing.assert_close(adapter(tokens()).bridge, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", ["concat_self_attention", "cross_attention", "bridge"])
def test_information_crosses_frames_only_when_asked(variant: str) -> None:
    changed = tokens()
    changed[:, 2] += 1.0 + torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    for per_frame in (False, True):
        adapter = build(0.5, variant=variant, bridge_per_frame=per_frame)
        before, after = adapter(tokens()).language[:, 0], adapter(changed).language[:, 0]
        assert torch.allclose(before, after, atol=1e-6) == per_frame


@pytest.mark.parametrize("options", CASES)
def test_a_batch_is_its_scenes_and_frames_permute(options: dict[str, object]) -> None:
    adapter = build(0.1, **options)
    both, alone = adapter(tokens()), adapter(tokens()[1:])
    torch.testing.assert_close(both.geometry[1:], alone.geometry)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(adapter(tokens()[:, order]).language, both.language[:, order], atol=1e-5, rtol=1e-4)


def test_bfloat16_follows_float32() -> None:
    adapter = build(0.1)
    reference = adapter(tokens()).geometry
    half = adapter.bfloat16()(tokens().bfloat16()).geometry
    assert half.dtype == torch.bfloat16
    assert (half - reference).abs().max() < 0.05


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        CrossTaskAdapter(AdapterConfig(num_heads=5), WIDTH)
    config = AdapterConfig()
    config.variant = "mixture"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="bridge"):
        CrossTaskAdapter(config, WIDTH)
