#!/usr/bin/env bash
# The shipped `tiny` from nothing on two CPU cores. Every step can be stopped and started again: it goes on where it was.
#   recipes/tiny_cpu.sh [RUNS]      RUNS: folder for data and runs (default: runs)
set -euo pipefail
runs=${1:-runs}
export OMP_NUM_THREADS=1

# 1. The world: 8000 rooms, 8 frames each.
vidllm rooms shards --seeds 10000:18000 -o "$runs/shards"

# 2. A language model of the rooms' words alone: the baseline, and the start of the joint training.
vidllm train blind --data "$runs/shards" --tokenizer "$runs/tiny/tokenizer" --out "$runs/blind" --steps 1600

# 3. Geometry on short windows first (2500 steps), then geometry and language on whole clips.
torchrun --nproc-per-node 2 -m vidllm train stage2 --preset tiny --data "$runs/shards" --out "$runs/tiny" \
  --language-from "$runs/blind" --steps "${STEPS:-9000}"

# 4. What it has learned, on rooms it has never seen.
vidllm rooms eval --seeds 1000:1200 --model "$runs/tiny/model"
