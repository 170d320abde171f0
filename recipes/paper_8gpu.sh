#!/usr/bin/env bash
# The paper's size and order on eight GPUs of 80 GB: VGGT-1B and LLaVA-3D-7B as teachers and initial weights, stage 1,
# stage 2 with a frozen encoder, evaluation on ScanNet's benchmarks. Run again, each step resumes.
#   recipes/paper_8gpu.sh WEIGHTS SCANNET [RUNS]
# WEIGHTS holds VGGT-1B and LLaVA-3D-7B as published; SCANNET holds scans/ and the language sets (docs/benchmarks.md).
# Both keep their own licences. LORA=16 trains the language model with LoRA of that rank. ROOMS, FRAMES, STAGE1 and STAGE2 are
# the numbers of rooms, of frames a scene and of steps; GPUS processes train, JOBS processes render. DRY=1 stops after the
# dry runs, before anything is rendered, packed or imported.
set -euo pipefail
weights=$1
scannet=$2
runs=${3:-runs/paper}
gpus=${GPUS:-8}
data=(--data "$runs/shards")
train=(torchrun --nproc-per-node "$gpus" -m vidllm train)

# 1. Dry runs: sizes on the disk, checkpoints, teachers, memory. The preset of the stages also chooses rates, batches and
#    losses (vidllm.training.config.paper). Rooms and ScanNet's training scenes have a shorter side of 518 pixels.
size=(--frames "${FRAMES:-32}" --shorter-side 518 -o "$runs/shards")
rooms=(--seeds "10000:$((10000 + ${ROOMS:-4000}))" "${size[@]}")
start=(--preset paper --vggt "$weights/VGGT-1B" --llava-3d "$weights/LLaVA-3D-7B" -o "$runs/start")
stage1=(stage1 "${data[@]}" --out "$runs/stage1" --preset paper --init-from "$runs/start"
  --teacher-geometry "$weights/VGGT-1B" --teacher-language "$weights/LLaVA-3D-7B"
  --prefetch 4 --workers 2 --steps "${STAGE1:-20000}")
stage2=(stage2 "${data[@]}" --out "$runs/stage2" --preset paper --prefetch 4 --workers 2
  --steps "${STAGE2:-20000}" --lora-rank "${LORA:-0}")
vidllm data check "$scannet" --quick
vidllm rooms shards "${rooms[@]}" --dry-run
vidllm data pack "$scannet" "${size[@]}" --split train --dry-run
vidllm import "${start[@]}" --dry-run
vidllm train "${stage1[@]}" --dry-run --planned --gpus "$gpus"
vidllm train "${stage2[@]}" --init-from "$runs/start" --dry-run --planned --gpus "$gpus"
if [ -n "${DRY:-}" ]; then exit; fi

# 2. Rooms, ScanNet's training scenes in the same form, and the initial model.
vidllm rooms shards "${rooms[@]}" --jobs "${JOBS:-8}"
vidllm data pack "$scannet" "${size[@]}" --split train
if [ ! -e "$runs/start/config.json" ]; then vidllm import "${start[@]}"; fi

# 3. Dry runs with all of it.
vidllm train "${stage1[@]}" --dry-run --gpus "$gpus"
vidllm train "${stage2[@]}" --init-from "$runs/start" --dry-run --gpus "$gpus"

# 4. Both stages.
"${train[@]}" "${stage1[@]}"
"${train[@]}" "${stage2[@]}" --init-from "$runs/stage1/model"
vidllm train plot "$runs/stage1" "$runs/stage2" -o "$runs/curves.png"

# 5. The benchmarks.
for task in scanqa sqa3d scan2cap scanrefer multi3drefer reconstruction; do
  vidllm eval "$task" --data "$scannet" -o "$runs/eval/$task" --model "$runs/stage2/model" --device cuda --dtype bfloat16
done
