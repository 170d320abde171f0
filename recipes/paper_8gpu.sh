#!/usr/bin/env bash
# The paper's size and order on eight GPUs of 80 GB: VGGT-1B and LLaVA-3D-7B as teachers and initial weights, stage 1,
# stage 2 with a frozen encoder, evaluation on ScanNet's benchmarks. Run again, each step resumes.
#   recipes/paper_8gpu.sh WEIGHTS SCANNET [RUNS]
# WEIGHTS holds VGGT-1B and LLaVA-3D-7B as published; SCANNET holds scans/ and the language sets (docs/benchmarks.md).
# Both keep their own licences. LORA=16 trains the language model with LoRA of that rank. DRY=1 stops after the dry runs.
set -euo pipefail
weights=$1
scannet=$2
runs=${3:-runs/paper}
gpus=8
data=(--data "$runs/shards")
train=(torchrun --nproc-per-node "$gpus" -m vidllm train)

# 1. Rooms with a shorter side of 518 pixels and 32 frames, and ScanNet's training scenes in the same form.
vidllm data check "$scannet" --quick
vidllm rooms shards --seeds 10000:14000 --frames 32 --shorter-side 518 -o "$runs/shards"
vidllm data pack "$scannet" --frames 32 --shorter-side 518 --split train -o "$runs/shards"

# 2. The initial model.
if [ ! -e "$runs/start/config.json" ]; then
  vidllm import --preset paper --vggt "$weights/VGGT-1B" --llava-3d "$weights/LLaVA-3D-7B" -o "$runs/start"
fi

# 3. Dry runs of the two stages. The preset also chooses rates, batches and losses (vidllm.training.config.paper).
stage1=(stage1 "${data[@]}" --out "$runs/stage1" --preset paper --init-from "$runs/start"
  --teacher-geometry "$weights/VGGT-1B" --teacher-language "$weights/LLaVA-3D-7B"
  --steps "${STAGE1:-20000}")
stage2=(stage2 "${data[@]}" --out "$runs/stage2" --preset paper --steps "${STAGE2:-20000}" --lora-rank "${LORA:-0}")
vidllm train "${stage1[@]}" --dry-run --gpus "$gpus"
vidllm train "${stage2[@]}" --init-from "$runs/start" --dry-run --gpus "$gpus"
if [ -n "${DRY:-}" ]; then exit; fi

# 4. Both stages.
"${train[@]}" "${stage1[@]}"
"${train[@]}" "${stage2[@]}" --init-from "$runs/stage1/model"
vidllm train plot "$runs/stage1" "$runs/stage2" -o "$runs/curves.png"

# 5. The benchmarks.
for task in scanqa sqa3d scan2cap scanrefer multi3drefer reconstruction; do
  vidllm eval "$task" --data "$scannet" -o "$runs/eval/$task" --model "$runs/stage2/model" --device cuda --dtype bfloat16
done
