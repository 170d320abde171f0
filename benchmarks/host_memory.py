"""Host memory of each process while a model is loaded for a sharded run (FSDP), measured on the CPU and counted for 8.

    python benchmarks/host_memory.py              # two processes, a model of 115 million numbers
    python benchmarks/host_memory.py --width 1024

"anonymous" is memory that the process itself filled; "mapped" are pages of the weights' files, which all
processes of a machine share and the system may drop. On GPUs shards lie there, and the host holds a tensor at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from own_process import most
from transformers import AutoConfig

from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import load_pretrained, read_weights, unread_model
from vidllm.model.presets import preset
from vidllm.model.text import build_tokenizer
from vidllm.training.config import changed, paper
from vidllm.training.distributed import shard_blocks
from vidllm.training.preflight import count_run, gib

ANONYMOUS, MAPPED = "RssAnon", "RssFile"


def write_model(folder: Path, width: int) -> None:
    """A model whose language model has twelve layers of this width, with random weights in float16."""
    tokenizer = build_tokenizer(["how many chairs are there"] * 50, 300)
    config: VidLLMConfig = preset("tiny")
    config.text_config = AutoConfig.for_model(
        "llama", hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12, num_attention_heads=8,
        vocab_size=len(tokenizer),
    )  # fmt: skip
    VidLLMForConditionalGeneration(config).half().save_pretrained(folder)
    VidLLMProcessor.from_config(config, tokenizer).save_pretrained(folder)


def sharded(rank: int, port: int, processes: int, folder: Path) -> None:
    """One of several processes: the model is sharded, then read; what it took is written beside the model."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(processes))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    load_pretrained(Path(__file__).parents[1] / "src" / "vidllm" / "weights" / "tiny")  # what is imported and kept once
    with most(ANONYMOUS, MAPPED) as peaks:
        model: Any = unread_model(folder)
        run: Any = SimpleNamespace(device=torch.device("cpu"), modules=lambda: {"model": model})
        shard_blocks(run, processes)
        read_weights(model, folder, run.device)
    local = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    shard = sum(p.numel() * p.element_size() for p in local)
    (folder / f"took.{rank}.json").write_text(json.dumps({**peaks, "shard": shard}))
    dist.destroy_process_group()


def whole(_: int, folder: Path) -> None:
    """One process that loads the whole model, as every process would without sharding."""
    torch.set_num_threads(1)
    load_pretrained(Path(__file__).parents[1] / "src" / "vidllm" / "weights" / "tiny")
    with most(ANONYMOUS, MAPPED) as peaks:
        load_pretrained(folder)
    (folder / "took.whole.json").write_text(json.dumps(peaks))


def main() -> None:
    """Measure, count, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--width", type=int, default=768)
    options.add_argument("--processes", type=int, default=2)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, given.width)
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        mp.spawn(sharded, args=(port, given.processes, folder), nprocs=given.processes)
        mp.spawn(whole, args=(folder,), nprocs=1)
        for rank in range(given.processes):
            took = json.loads((folder / f"took.{rank}.json").read_text())
            print(f"process {rank}: shard {gib(took['shard'])}, peak anonymous {gib(took[ANONYMOUS])} "
                  f"({took[ANONYMOUS] / took['shard']:.2f} x), mapped {gib(took[MAPPED])}")  # fmt: skip
        took = json.loads((folder / "took.whole.json").read_text())
        print(f"whole model in one process: peak anonymous {gib(took[ANONYMOUS])}, mapped {gib(took[MAPPED])}")
    counts = count_run(changed(paper(), out="nowhere"))
    print(f"paper: weights {gib(counts.states()['weights'])} in float32, a shard of eight "
          f"{gib(counts.states(8)['weights'])}; read so, the largest tensor that passes the host is a table of "
          f"{gib(4 * 32768 * 4096)}")  # fmt: skip


if __name__ == "__main__":
    main()
