"""What a training step costs without taking it: the real modules run forward and backward on tensors without storage.

Every tensor that lives is counted (the peak is the step's memory), every matrix product and convolution too (part by
part, forward and backward). What depends on values - pooling, sampling, matching - is left out by who walks the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from vidllm.model import transformer
from vidllm.model.dtypes import resolve_dtype
from vidllm.model.live_memory import LiveBytes


@dataclass
class StepCost:
    """Operations of each part (a multiply-add counts as two), and the bytes that live at most in the step.

    ``activations``: all that lives beside weights, gradients and optimiser; ``copies``: the part of it that is
    half-precision copies of weights, which autocast makes.
    """

    forward: dict[str, int] = field(default_factory=dict)
    backward: dict[str, int] = field(default_factory=dict)
    activations: int = 0
    copies: int = 0

    @property
    def flops(self) -> int:
        """All of them."""
        return sum(self.forward.values()) + sum(self.backward.values())


class Walk:
    """Told by who walks a step which part it has just gone through, and where its outputs are."""

    def __init__(self, counter: _Counter) -> None:
        self._counter, self._before, self._part = counter, 0, "losses"
        self.cost = StepCost()

    def part(self, name: str, *outputs: Tensor) -> None:
        """Operations since the last call were ``name``'s; backward, those from where ``outputs`` are reached."""
        self._book(self.cost.forward, name)
        for output in outputs:
            if output.requires_grad:
                output.register_hook(lambda _, name=name: self._enter(name))

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""
        self._part = "losses"
        loss.backward()
        self._book(self.cost.backward, self._part)

    def _enter(self, name: str) -> None:
        self._book(self.cost.backward, self._part)
        self._part = name

    def _book(self, table: dict[str, int], name: str) -> None:
        total = self._counter.flops
        if total > self._before:
            table[name] = table.get(name, 0) + total - self._before
        self._before = total


class _Counter(LiveBytes):
    """Counts operations too, and how many of the bytes at the peak are half-precision copies of weights."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__(weights)
        self.flops = self.copies = self.copies_at_peak = 0
        self._weights = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what the operation made."""
        before = self.peak
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._weights:
            storage = made.untyped_storage()
            self.copies += storage.nbytes()
            finalize(storage, self._drop, storage.nbytes())
        if self.peak > before:
            self.copies_at_peak = self.copies
        count = _FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        return made

    def _drop(self, size: int) -> None:
        self.copies -= size


def measure_step(modules: list[nn.Module], step: Callable[[Walk], Tensor], dtype: str, device: str) -> StepCost:
    """The cost of ``step``, which computes a loss of fake ``modules`` (see :func:`fake_module`) under autocast.

    ``device``: "cuda" for fused attention everywhere, "cpu" for what a CPU computes. Must be called within the
    :func:`no_storage` in which the modules were made.
    """
    weights = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    with _attention_of(device), _Counter(weights) as counter:
        handles = [p.register_post_accumulate_grad_hook(_forget) for p in trained]
        walk = Walk(counter)
        with torch.autocast("cpu", torch.bfloat16, enabled=resolve_dtype(dtype, device)[0] != "float32"):
            loss = step(walk)
        walk.backward(loss)
        for handle in handles:
            handle.remove()
    walk.cost.activations, walk.cost.copies = counter.peak, counter.copies_at_peak
    return walk.cost


@contextmanager
def no_storage() -> Iterator[None]:
    """Tensors made inside have shapes and no numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def fake_module(module: nn.Module) -> nn.Module:
    """A module built on the meta device with its weights as fake ones of a CPU (in place); tied ones stay tied."""
    made: dict[int, Tensor] = {}

    def same(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            learns = tensor.requires_grad
            made[id(tensor)] = nn.Parameter(empty, learns) if isinstance(tensor, nn.Parameter) else empty
        return made[id(tensor)]

    kept = [tensor for tensor in (*module.parameters(), *module.buffers())]  # so that no id is used twice
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = same(tensor)  # type: ignore[assignment]
    del kept
    return module


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _attention_of(device: str) -> Iterator[None]:
    """A GPU never writes attention out; a CPU does so up to a number of tokens."""
    before = transformer.EAGER_TOKENS
    transformer.EAGER_TOKENS = before if device == "cpu" else 0
    try:
        yield
    finally:
        transformer.EAGER_TOKENS = before


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
