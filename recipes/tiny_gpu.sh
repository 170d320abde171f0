#!/usr/bin/env bash
# `tiny` in the paper's order on one GPU: two teachers, stage 1, stage 2. Run again, each step resumes.
#   recipes/tiny_gpu.sh [RUNS]      RUNS: folder for data and runs (default: runs)
# DRY=1 stops after the dry runs, which check data and weights and measure memory and time.
set -euo pipefail
runs=${1:-runs}
data=(--data "$runs/shards")

# 1. Data: 2880 rooms, 8 frames each.
vidllm rooms shards --seeds 10000:12880 -o "$runs/shards"

# 2. Dry runs.
vidllm train teacher geometry "${data[@]}" --out "$runs/teacher_geometry" --dry-run
vidllm train stage2 "${data[@]}" --out "$runs/tiny" --dry-run
if [ -n "${DRY:-}" ]; then exit; fi

# 3. A language model of the rooms' texts: the language-only baseline, and the initial language model.
vidllm train blind "${data[@]}" --tokenizer "$runs/tokenizer" --out "$runs/blind" --steps 1600
for run in teacher_geometry teacher_language stage1; do mkdir -p "$runs/$run" && cp -r "$runs/tokenizer" "$runs/$run/"; done

# 4. The teachers.
vidllm train teacher geometry "${data[@]}" --out "$runs/teacher_geometry" --steps "${TEACH:-8000}"
vidllm train teacher language "${data[@]}" --out "$runs/teacher_language" --steps "${TEACH:-8000}" --contrastive-steps 5000

# 5. Stage 1, with the teachers' tokens cached on disk.
stage1=("${data[@]}" --out "$runs/stage1" --steps "${STAGE1:-4000}" --teacher-cache "$runs/teacher_cache"
  --teacher-geometry "$runs/teacher_geometry/model" --teacher-language "$runs/teacher_language/model")
vidllm train stage1 "${stage1[@]}" --dry-run
vidllm train stage1 "${stage1[@]}"

# 6. Stage 2, from stage 1's encoder and adapter and the language model.
vidllm train stage2 "${data[@]}" --out "$runs/tiny" --init-from "$runs/stage1/model" --language-from "$runs/blind" \
  --steps "${STAGE2:-30000}" --language-start 4000 --true-geometry-until 16000 --clip-images 64 --window-scenes 24

# 7. Evaluation on unseen rooms, and curves.
vidllm rooms eval --seeds 1000:1200 --model "$runs/tiny/model" --blind "$runs/blind" --device cuda
vidllm train plot "$runs/tiny" -o "$runs/tiny/curves.png"
