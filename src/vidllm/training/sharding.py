"""FSDP2: the repeated blocks of a run's modules are split over the processes, the rest stays whole in each.

Encoder layers, frame and global blocks and the language model's layers are nearly all of a large model, and are called
as modules; heads, embeddings and what the loop calls by other methods are small and replicated. Sharded gradients are
averaged by FSDP2 as they come, the others by :meth:`World.average_gradients`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vidllm.training.trainable import Trainable

#: Class names of blocks that every process calls equally often in a step. (Grounding is called where there is a <loc>.)
BLOCKS = re.compile(r"Block|Dinov2\w*Layer|CLIPEncoderLayer|\w*DecoderLayer")


def is_sharded(run: Trainable) -> bool:
    """Whether any of a run's parameters is."""
    return any(isinstance(p, DTensor) for p in run.named_parameters().values())


def shard_blocks(run: Trainable, size: int) -> None:
    """Split the blocks of a run over ``size`` processes, and with them what its optimiser and averages hold of them."""
    mesh = init_device_mesh(run.device.type, (size,))
    before = run.named_parameters()
    for module in run.modules().values():
        for block in [part for part in module.modules() if BLOCKS.fullmatch(type(part).__name__)]:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    after = run.named_parameters()
    _repoint(run.optimizer, {id(old): after[name] for name, old in before.items()})
    averaging = run.averaging()
    weights = {} if averaging is None else dict(averaging.named_parameters())
    for name, value in run.averaged.items():
        run.averaged[name] = _like(weights[name], value)


def _repoint(optimizer: torch.optim.Optimizer, new: dict[int, nn.Parameter]) -> None:
    """Let an optimiser hold the sharded parameters; they get groups of their own (fused AdamW wants one sort)."""
    groups = []
    for group in optimizer.param_groups:
        params = [new[id(p)] for p in group["params"]]
        for sharded in (False, True):
            part = [p for p in params if isinstance(p, DTensor) == sharded]
            groups += [{**group, "params": part}] if part else []
    state: dict[Tensor, Any] = {}
    for old, slots in optimizer.state.items():
        parameter = new[id(old)]
        state[parameter] = {name: _like(parameter, value) for name, value in slots.items()}
    optimizer.param_groups[:] = groups
    optimizer.state.clear()
    optimizer.state.update(state)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A value of a parameter's shape, sharded as it is."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def gather_weights(run: Trainable, *, keep: bool) -> None:
    """Make a run's weights and averages whole again, for export; all processes call it, those that do not ``keep``
    forget them. The run trains no more.
    """
    for module in run.modules().values():
        for part in module.modules():
            for name, value in list(part._parameters.items()):
                if isinstance(value, DTensor):
                    whole = value.full_tensor().detach().cpu()
                    part._parameters[name] = nn.Parameter(whole, value.requires_grad) if keep else None
    for name, average in list(run.averaged.items()):
        if isinstance(average, DTensor):
            run.averaged[name] = average.full_tensor().cpu()
