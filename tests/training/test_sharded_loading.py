"""A sharded run reads its weights after it was sharded: the same weights, and never a whole model in a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interruptions import free_port
from micro_start import save_start, short_run, weights_of
from torch.distributed.tensor import DTensor

from vidllm.model.config_fields import flat
from vidllm.model.loading import load_pretrained
from vidllm.training.config import NO_SUPERVISION, TrainConfig, changed
from vidllm.training.distributed import ProcessGroup, gather_weights, shard_blocks
from vidllm.training.stage2 import Run


def _one(rank: int, port: int, config: TrainConfig) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ.update(LOCAL_WORLD_SIZE="2", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    ProcessGroup.from_environment(cpu=True)
    run = Run.build(config)
    assert run.unread and all(p.is_meta for p in run.model.parameters())
    shard_blocks(run, 2)
    run.read_later()
    wanted = load_pretrained(str(config.start.init_from))[0]
    parameters = dict(run.model.named_parameters())
    assert any(isinstance(p, DTensor) for p in parameters.values())
    for name, value in wanted.named_parameters():
        ours = parameters.get(name, parameters.get(f"{name.removesuffix('.weight')}.base_layer.weight"))
        assert torch.equal(ours.full_tensor() if isinstance(ours, DTensor) else ours, value), name
    for name, value in wanted.named_buffers():
        assert torch.equal(run.model.get_buffer(name), value), name
    matrices = {n: p.full_tensor() for n, p in parameters.items() if ".lora_" in n}
    assert matrices and all(bool(value.any()) is (".lora_A." in name) for name, value in matrices.items())
    gather_weights(run, keep=rank == 0)
    if rank == 0:
        run.export(Path(config.loop.out))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_weights_are_read_into_shards(rooms_folder, tmp_path):
    start = save_start(tmp_path / "start", rooms_folder)
    config = changed(
        short_run(rooms_folder, start, tmp_path / "run"), **flat(NO_SUPERVISION), parallel="fsdp", device="cpu",
        lora_rank=2,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    Run.build(config)  # writes the tokenizer, and shows that one process builds as before
    mp.spawn(_one, args=(free_port(), config), nprocs=2)
    before = weights_of(tmp_path / "start")
    after = weights_of(tmp_path / "run" / "model")
    assert set(before) == set(after)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value.half().float(), rtol=1e-3, atol=1e-3)
