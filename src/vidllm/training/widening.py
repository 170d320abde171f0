"""Transfer of a trained geometric half to a wider encoder (after Net2Net, Chen et al. 2016, arXiv:1511.05641).

Global-frame attention, camera head and gravity head of a narrower model are widened without changing their function:
every channel of their tokens is repeated n times, and the weights are adapted so that each layer gives its old outputs,
repeated. As the encoder is new, the adapter's geometric stream is then fitted to that of the narrower model on the same
pictures, as stage 1 fits it to VGGT's encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.model.huggingface import VidLLMForConditionalGeneration

GEOMETRY_HALF = ("attention", "camera_head", "gravity_head", "adapter.exchange")
_SETS_OF_HEADS = {"qkv": 3, "query": 1, "key_value": 2}  # layers whose outputs are heads; their inputs are channels
_READS_HEADS = ("proj", "output")  # the other way round
SOLVED_STEPS = 120  # pictures of the regression that the fit starts from
BRIDGE_WEIGHT, LEARNING_RATE = 0.3, 5e-4

Pictures = Callable[[int], Float[Tensor, "B F 3 H W"]]  # of a step, in [0, 1]


def spread_channels(x: Float[Tensor, "*batch C"], times: int) -> Float[Tensor, "*batch D"]:
    """Every channel repeated ``times`` times, next to each other."""
    return x.repeat_interleave(times, -1)


def take_geometry_half(model: VidLLMForConditionalGeneration, other: VidLLMForConditionalGeneration) -> None:
    """Load the geometric half of a model whose tokens are n times narrower.

    Weights of the adapter's bridge for the semantic stream are kept. ValueError for models of other depths, or if the
    sizes are not multiples.
    """
    for name in GEOMETRY_HALF:
        part, source = model.get_submodule(name), other.get_submodule(name).state_dict()
        own = part.state_dict()
        if own.keys() != source.keys():
            raise ValueError(f"the {name} of the two models has other layers; take a model of the same depths")
        part.load_state_dict({
            key: value if "language" in key else _widened(f"{name}.{key}", source[key], value.shape)
            for key, value in own.items()
        })  # fmt: skip


def _widened(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """Rows are outputs and columns inputs; heads are repeated in blocks, channels one by one."""
    if weight.ndim != len(shape) or any(wide % own for wide, own in zip(shape, weight.shape, strict=True)):
        raise ValueError(f"{name} is {tuple(weight.shape)}, which cannot be widened to {tuple(shape)}")
    times = [wide // own for wide, own in zip(shape, weight.shape, strict=True)]
    layer, kind = name.split(".")[-2:]
    if kind not in ("weight", "bias"):  # learned tokens, scales
        return spread_channels(weight, times[-1])
    if weight.ndim == 2:
        wide = weight.repeat(1, times[1]) if layer in _READS_HEADS else spread_channels(weight, times[1])
        weight = wide / times[1]
    if layer in _SETS_OF_HEADS:
        sets = weight.unflatten(0, (_SETS_OF_HEADS[layer], -1))
        return sets.repeat(1, times[0], *[1] * (weight.ndim - 1)).flatten(0, 1)
    return weight.repeat_interleave(times[0], 0)


def fit_adapter(
    model: VidLLMForConditionalGeneration,
    other: VidLLMForConditionalGeneration,
    pictures: Pictures,
    steps: int,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> float:
    """Fit the adapter's geometric stream and bridge to those of ``other``; the semantic stream is kept.

    Returns the mean squared error of the geometric stream over its variance (a moving average).
    """
    times = model.config.encoder.hidden_size // other.config.encoder.hidden_size
    adapter = model.adapter
    reference = type(adapter)(model.config.adapter, model.config.encoder.hidden_size).to(model.device)
    reference.load_state_dict(adapter.state_dict())
    say("the adapter is fitted to the geometric stream of geometry_from")
    _solve_projection(model, other, pictures, times)
    learned = list(adapter.parameters())
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    error = float("nan")
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * (1 - step / steps)
        images = pictures(step)
        with torch.no_grad():
            tokens = model.encoder(images).tokens
            wanted, kept = other.encode(images).streams, reference(tokens).language
        told = adapter(tokens)
        geometry = relative_error(told.geometry, spread_channels(wanted.geometry, times))
        loss = geometry + relative_error(told.language, kept)
        if told.bridge is not None and wanted.bridge is not None:
            loss = loss + BRIDGE_WEIGHT * relative_error(told.bridge, spread_channels(wanted.bridge, times))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        now = float(geometry.detach())
        error = now if step == 0 else 0.95 * error + 0.05 * now
        if step % 50 == 49:
            say(f"adapter, step {step + 1} of {steps}: error {error:.3f} of the stream's variance")
    return error


@torch.no_grad()
def _solve_projection(
    model: VidLLMForConditionalGeneration, other: VidLLMForConditionalGeneration, pictures: Pictures, times: int
) -> None:
    """Phi of Eq 1 from ridge regression: its first layer random, in pairs of opposite signs, so that the residual can
    be taken out exactly (gelu(x) - gelu(-x) = x); its second layer solved for.
    """
    phi = model.adapter.phi_geometry
    width, hidden = phi.gamma.shape[0], phi.expand.out_features
    half = torch.randn(hidden // 2, width, generator=torch.Generator().manual_seed(0)) * width**-0.5
    phi.expand.weight.copy_(torch.cat([half, -half]))
    phi.expand.bias.zero_()
    phi.gamma.fill_(1.0)
    moments, products = (torch.zeros(hidden + 1, n, dtype=torch.float64) for n in (hidden + 1, width))
    for step in range(SOLVED_STEPS):
        images = pictures(step)
        tokens = model.encoder(images).tokens
        wanted = spread_channels(other.encode(images).streams.geometry, times) - tokens
        h = F.gelu(phi.expand(phi.norm(tokens))).flatten(0, 2).double().cpu()
        h = torch.cat([h, h.new_ones(len(h), 1)], 1)
        moments += h.T @ h
        products += h.T @ wanted.flatten(0, 2).double().cpu()
    moments.diagonal().add_(1e-4 * moments.diagonal().mean())
    found = torch.linalg.solve(moments, products)
    phi.contract.weight.copy_(found[:-1].T)
    phi.contract.bias.copy_(found[-1])


def relative_error(told: Float[Tensor, "*batch C"], wanted: Float[Tensor, "*batch C"]) -> Tensor:
    """Mean squared error over the variance of each channel of ``wanted``."""
    scale = wanted.std(tuple(range(wanted.ndim - 1))) + 1e-3
    return F.mse_loss(told / scale, wanted / scale)
