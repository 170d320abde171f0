#!/usr/bin/env bash
# `compact` (VGGT-1B and Qwen3-0.6B) on one GPU of 48 GB, on rooms at the paper's resolution. Run again, it resumes.
#   recipes/compact_1gpu.sh WEIGHTS [RUNS]
# WEIGHTS holds VGGT-1B, Qwen3-0.6B and clip-vit-large-patch14-336 as published, under their own licences.
# DRY=1 stops after the dry runs, which check data and weights and measure memory and time.
set -euo pipefail
weights=$1
runs=${2:-runs/compact}
data=(--data "$runs/shards")

# 1. Rooms with a shorter side of 518 pixels, 16 frames each.
vidllm rooms shards --seeds 10000:14000 --frames 16 --shorter-side 518 -o "$runs/shards"

# 2. The initial model.
if [ ! -e "$runs/start/config.json" ]; then
  vidllm import --preset compact --vggt "$weights/VGGT-1B" --lm "$weights/Qwen3-0.6B" --weights-dtype float32 -o "$runs/start"
fi

# 3. Dry runs of the two stages. The preset also chooses rates, batches and losses (vidllm.training.config.compact).
stage1=("${data[@]}" --out "$runs/stage1" --preset compact --init-from "$runs/start"
  --teacher-geometry "$weights/VGGT-1B" --teacher-language "$weights/clip-vit-large-patch14-336"
  --steps "${STAGE1:-10000}")
stage2=("${data[@]}" --out "$runs/stage2" --preset compact --steps "${STAGE2:-20000}")
vidllm train stage1 "${stage1[@]}" --dry-run
vidllm train stage2 "${stage2[@]}" --init-from "$runs/start" --dry-run
if [ -n "${DRY:-}" ]; then exit; fi

# 4. Both stages.
vidllm train stage1 "${stage1[@]}"
vidllm train stage2 "${stage2[@]}" --init-from "$runs/stage1/model"

# 5. Evaluation, and curves.
vidllm rooms eval --seeds 1000:1200 --model "$runs/stage2/model" --device cuda --dtype bfloat16
vidllm train plot "$runs/stage1" "$runs/stage2" -o "$runs/curves.png"
