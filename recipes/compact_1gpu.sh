#!/usr/bin/env bash
# `compact` (VGGT-1B and Qwen3-0.6B) on one GPU of 48 GB, on rooms at the paper's resolution. Run again, it resumes.
#   recipes/compact_1gpu.sh WEIGHTS [RUNS]
# WEIGHTS holds VGGT-1B, Qwen3-0.6B and clip-vit-large-patch14-336 as published, under their own licences.
# ROOMS, FRAMES, STAGE1, STAGE2 and TEST are the numbers of rooms, of frames a room and of steps, and the rooms of the test;
# JOBS processes render. DRY=1 stops after the dry runs, before anything is rendered or imported.
set -euo pipefail
weights=$1
runs=${2:-runs/compact}
data=(--data "$runs/shards")

# 1. Dry runs: sizes on the disk, checkpoints, teachers, memory. The preset of the stages also chooses rates, batches and
#    losses (vidllm.training.config.compact). Rooms have a shorter side of 518 pixels.
rooms=(--seeds "10000:$((10000 + ${ROOMS:-4000}))" --frames "${FRAMES:-16}" --shorter-side 518 -o "$runs/shards")
start=(--preset compact --vggt "$weights/VGGT-1B" --lm "$weights/Qwen3-0.6B" --weights-dtype float32 -o "$runs/start")
stage1=("${data[@]}" --out "$runs/stage1" --preset compact --init-from "$runs/start"
  --teacher-geometry "$weights/VGGT-1B" --teacher-language "$weights/clip-vit-large-patch14-336"
  --prefetch 4 --workers 2 --steps "${STAGE1:-10000}")
stage2=("${data[@]}" --out "$runs/stage2" --preset compact --prefetch 4 --workers 2 --steps "${STAGE2:-20000}")
vidllm rooms shards "${rooms[@]}" --dry-run
vidllm import "${start[@]}" --dry-run
vidllm train stage1 "${stage1[@]}" --dry-run --planned
vidllm train stage2 "${stage2[@]}" --init-from "$runs/start" --dry-run --planned
if [ -n "${DRY:-}" ]; then exit; fi

# 2. Rooms and the initial model.
vidllm rooms shards "${rooms[@]}" --jobs "${JOBS:-4}"
if [ ! -e "$runs/start/config.json" ]; then vidllm import "${start[@]}"; fi

# 3. Dry runs with both: real steps are timed.
vidllm train stage1 "${stage1[@]}" --dry-run
vidllm train stage2 "${stage2[@]}" --init-from "$runs/start" --dry-run

# 4. Both stages.
vidllm train stage1 "${stage1[@]}"
vidllm train stage2 "${stage2[@]}" --init-from "$runs/stage1/model"

# 5. Evaluation, and curves.
vidllm rooms eval --seeds "${TEST:-1000:1200}" --model "$runs/stage2/model" --device cuda --dtype bfloat16
vidllm train plot "$runs/stage1" "$runs/stage2" -o "$runs/curves.png"
