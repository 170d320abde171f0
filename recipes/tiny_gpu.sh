#!/usr/bin/env bash
# `tiny` in the paper's order on one GPU: two teachers, stage 1, stage 2. Run again, each step resumes.
#   recipes/tiny_gpu.sh [RUNS]      RUNS: folder for data and runs (default: runs)
# ROOMS, WORDS, TEACH, STAGE1, STAGE2 and TEST are the numbers of rooms and steps, and the rooms of the test; JOBS processes
# render. DRY=1 stops after the dry runs, before anything is rendered.
set -euo pipefail
runs=${1:-runs}
data=(--data "$runs/shards")

rooms=(--seeds "10000:$((10000 + ${ROOMS:-2880}))" -o "$runs/shards")

# 1. Dry runs.
vidllm rooms shards "${rooms[@]}" --dry-run
vidllm train teacher geometry "${data[@]}" --out "$runs/teacher_geometry" --dry-run --planned
vidllm train stage2 "${data[@]}" --out "$runs/tiny" --dry-run --planned
if [ -n "${DRY:-}" ]; then exit; fi

# 2. Data: rooms of 8 frames each; dry runs with them, in which real steps are timed.
vidllm rooms shards "${rooms[@]}" --jobs "${JOBS:-4}"
vidllm train teacher geometry "${data[@]}" --out "$runs/teacher_geometry" --dry-run
vidllm train stage2 "${data[@]}" --out "$runs/tiny" --dry-run

# 3. A language model of the rooms' texts: the language-only baseline, and the initial language model.
vidllm train blind "${data[@]}" --tokenizer "$runs/tokenizer" --out "$runs/blind" --steps "${WORDS:-1600}"
for run in teacher_geometry teacher_language stage1; do mkdir -p "$runs/$run" && cp -r "$runs/tokenizer" "$runs/$run/"; done

# 4. The teachers.
vidllm train teacher geometry "${data[@]}" --out "$runs/teacher_geometry" --steps "${TEACH:-8000}"
vidllm train teacher language "${data[@]}" --out "$runs/teacher_language" --steps "${TEACH:-8000}" \
  --contrastive-steps "${CONTRAST:-5000}"

# 5. Stage 1, with the teachers' tokens cached on disk.
stage1=("${data[@]}" --out "$runs/stage1" --steps "${STAGE1:-4000}" --teacher-cache "$runs/teacher_cache"
  --teacher-geometry "$runs/teacher_geometry/model" --teacher-language "$runs/teacher_language/model")
vidllm train stage1 "${stage1[@]}" --dry-run
vidllm train stage1 "${stage1[@]}"

# 6. Stage 2, from stage 1's encoder and adapter and the language model.
vidllm train stage2 "${data[@]}" --out "$runs/tiny" --init-from "$runs/stage1/model" --language-from "$runs/blind" \
  --steps "${STAGE2:-30000}" --language-start 4000 --true-geometry-until 16000 --clip-images 64 --window-scenes 24

# 7. Evaluation on unseen rooms, and curves.
vidllm rooms eval --seeds "${TEST:-1000:1200}" --model "$runs/tiny/model" --blind "$runs/blind" --device cuda
vidllm train plot "$runs/tiny" -o "$runs/tiny/curves.png"
