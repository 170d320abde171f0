#!/usr/bin/env bash
# The shipped `tiny` (preset tiny-dinov2) on two CPU cores. Run again, each step resumes.
#   recipes/tiny_dinov2_cpu.sh DINOV2 [RUNS]     DINOV2: weights of ViT-S/14 (file, folder, or facebook/dinov2-small)
# TINY: a model of preset `tiny` to begin with (default: RUNS/tiny/both/model, trained first by tiny_cpu.sh if it is not there).
# CLIPS: folder of posed clips to train on beside the rooms (docs/training.md). ROOMS, NEAR, SEE, JOINT, METRES and TEST are sizes;
# all of it in miniature: TINY=MODEL ROOMS=16 NEAR=16 FIT=2 SEE=4 JOINT=4 METRES=4 CHECK=600:604 TEST=1000:1002.
# DRY=1 stops after the dry runs. A GPU for some minutes: tiny_gpu_10min.sh.
set -euo pipefail
dinov2=$1
runs=${2:-runs}
export OMP_NUM_THREADS=1
data=(--data "$runs/shards")
if [ -n "${CLIPS:-}" ]; then data+=(--posed-clips "$CLIPS" --posed-share 0.25); fi

# 1. Dry runs, then rooms as a renderer shows them, and as people film them.
rooms=(--seeds "10000:$((10000 + ${ROOMS:-2000}))" --shorter-side 168 -o "$runs/shards")
filmed=(--seeds "30000:$((30000 + ${NEAR:-8000}))" --shorter-side 168 --look life -o "$runs/shards")
vidllm rooms shards "${rooms[@]}" --dry-run
vidllm rooms shards "${filmed[@]}" --dry-run
vidllm train stage2 --preset tiny-dinov2 "${data[@]}" --out "$runs/both" --dry-run --planned
if [ -n "${DRY:-}" ]; then exit; fi
vidllm rooms shards "${rooms[@]}" --jobs "${JOBS:-2}"
vidllm rooms shards "${filmed[@]}" --jobs "${JOBS:-2}"

tiny=${TINY:-$runs/tiny/both/model}
if [ ! -d "$tiny" ]; then TEST=${TEST:-1000:1200} "$(dirname "$0")/tiny_cpu.sh" "$runs/tiny"; fi

# 2. Geometry. The encoder is frozen; global-frame attention begins as that of the preset `tiny`, widened.
sight=(--preset tiny-dinov2 --freeze-encoder --vary-share 0.5 --window-scenes 6 --window-frames 2 2 3 4
  --camera-weight 8 --rotation-weight 5 --translation-weight 4 --fov-weight 2.5 --bearing-weight 2 --gravity-weight 40
  --metric-weight 15 --guide-weight 0.3 --guide-layers 1)
vidllm train stage2 "${data[@]}" "${sight[@]}" --encoder-from "$dinov2" --geometry-from "$tiny" \
  --fit-steps "${FIT:-500}" --out "$runs/see" --seed 11 \
  --steps "${SEE:-14000}" --language-start 1000000000 --spread-share 0.3 --clip-frames 3 4 4 6 --sides 112 140 \
  --decay-fraction 0.35 --learning-rate 0.0003 --semantic-weight 1.2 --naming-weight 3

# 3. Geometry and language. The language half begins as that of the preset `tiny`, widened.
vidllm train stage2 "${data[@]}" "${sight[@]}" --init-from "$runs/see/model" --language-from "$tiny" \
  --out "$runs/both" --seed 21 --steps "${JOINT:-2200}" --true-geometry-until 500 --language-start 0 \
  --language-share 0.85 --language-only-share 0.6 --named-share 0.2 --clip-images 16 --clip-frames 4 4 6 8 \
  --sides 140 168 --learning-rate 0.0007 --vision-scale 0.35 --warmup-steps 20 --decay-fraction 0.5 --naming-weight 2 \
  --text-weight 3 --word-weight 0.8 --resemble-weight 0.8 --place-weight 0.4 --questions 22 --captions 1 --plain 6 \
  --places 4 --spatial 3 --max-text-tokens 1100 --export int8

# 4. The metric depth model alone; with clips, half of the steps are on them.
vidllm train stage2 "${data[@]}" --preset tiny-dinov2 --init-from "$runs/both/model" --train-only metric_depth \
  --out "$runs/metres" --seed 31 --steps "${METRES:-800}" --language-start 1000000000 ${CLIPS:+--posed-share 0.5} \
  --window-scenes 4 --window-frames 2 --sides 140 168 --vary-share 0.6 --window-dense-frames 2 --metric-weight 15 \
  --learning-rate 0.0005 --warmup-steps 20 --decay-fraction 0.5 --guide-weight 0 --correspondence-weight 0 \
  --patch-point-weight 0 --semantic-weight 0 --naming-weight 0 --export int8

# 5. What its uncertainties are worth, measured on rooms that are not trained on; then all measures on others.
vidllm rooms calibrate "$runs/metres/model" --seeds "${CHECK:-600:640}" --closed-vocabulary
vidllm rooms eval --seeds "${TEST:-1000:1200}" --model "$runs/metres/model"
