#!/usr/bin/env bash
# The preset `tiny`, a small ViT as its encoder, from random weights on two CPU cores. Run again, each step resumes.
#   recipes/tiny_cpu.sh [RUNS]      RUNS: folder for data and runs (default: runs)
# It needs the extra train (pip install 'vidllm[train]'). ROOMS, WORDS, SEE, DRILL, PLACES, SPEAK and JOINT are the numbers of
# rooms and steps; the defaults take about five hours. JOBS processes render. DRY=1 stops after the dry runs.
# A short run of a few minutes, to check that everything works: ROOMS=48 WORDS=8 SEE=6 DRILL=4 PLACES=4 SPEAK=4 JOINT=4 TEST=1000:1004.
set -euo pipefail
runs=${1:-runs}
export OMP_NUM_THREADS=1
data=(--data "$runs/shards")
if ! python -c 'import accelerate' 2> /dev/null; then
  echo "$0: joint training in two processes needs the extra train: pip install 'vidllm[train]'" >&2
  exit 2
fi

# 1. Dry runs, then data: 10000 rooms, 8 frames each (7.5 GB).
rooms=(--seeds "10000:$((10000 + ${ROOMS:-10000}))" -o "$runs/shards")
vidllm rooms shards "${rooms[@]}" --dry-run
vidllm train stage2 --preset tiny "${data[@]}" --out "$runs/both" --dry-run --planned
if [ -n "${DRY:-}" ]; then exit; fi
vidllm rooms shards "${rooms[@]}" --jobs "${JOBS:-2}"

# 2. A language model of the rooms' texts: the language-only baseline, and the initial language model.
vidllm train blind "${data[@]}" --tokenizer "$runs/tokenizer" --out "$runs/blind" --steps "${WORDS:-1600}"

# 3. Geometry, and the language half on oracle features, in parallel on one core each.
for run in see drill places speak both; do mkdir -p "$runs/$run" && cp -r "$runs/tokenizer" "$runs/$run/"; done
vidllm train stage2 --preset tiny "${data[@]}" --out "$runs/see" --seed 11 --steps "${SEE:-6000}" \
  --language-start 1000000000 --spread-share 0.45 --window-frames 2 2 3 4 --clip-frames 3 4 4 6 --decay-fraction 0.5 \
  --learning-rate 0.0008 --camera-weight 8 --rotation-weight 5 --translation-weight 4 --fov-weight 2.5 --bearing-weight 2 \
  --gravity-weight 40 --metric-weight 15 --guide-weight 0.6 --guide-layers 1 2 3 --semantic-weight 1.2 --naming-weight 3 &
seeing=$!
named=(--language-start 0 --language-share 1 --language-only-share 1 --named-share 1 --learning-rate 0.0012)
loud=(--text-weight 3 --word-weight 0.8 --resemble-weight 0.8 --place-weight 0.4)
vidllm train stage2 --preset tiny "${data[@]}" --out "$runs/drill" --seed 12 --steps "${DRILL:-900}" \
  --language-from "$runs/blind" "${named[@]}" "${loud[@]}" --decay-fraction 0.05 --questions 0 --references 4 --captions 0 \
  --plain 16
vidllm train stage2 --preset tiny "${data[@]}" --out "$runs/places" --seed 14 --steps "${PLACES:-500}" \
  --init-from "$runs/drill/model" "${named[@]}" "${loud[@]}" --decay-fraction 0.05 --questions 6 --references 2 \
  --captions 0 --plain 2 --places 24
vidllm train stage2 --preset tiny "${data[@]}" --out "$runs/speak" --seed 13 --steps "${SPEAK:-1500}" \
  --init-from "$runs/places/model" "${named[@]}" "${loud[@]}" --questions 24 --captions 1 --plain 4 --places 6
wait $seeing

# 4. Joint training from both, on both cores.
torchrun --nproc-per-node 2 -m vidllm train stage2 --preset tiny "${data[@]}" --out "$runs/both" --seed 21 \
  --init-from "$runs/see/model" --language-from "$runs/speak/model" --steps "${JOINT:-720}" --true-geometry-until 350 \
  --language-start 0 --language-share 1 --language-only-share 0.78 --named-share 0.3 --clip-frames 4 4 5 8 \
  --learning-rate 0.0011 --vision-scale 0.35 --warmup-steps 20 --decay-fraction 0.4 --camera-weight 8 \
  --rotation-weight 5 --translation-weight 4 --fov-weight 2.5 --bearing-weight 2 --gravity-weight 40 --metric-weight 15 \
  --guide-weight 0.6 --guide-layers 1 2 3 --naming-weight 2 "${loud[@]}" --questions 22 --captions 1 --plain 6 --places 4

# 5. Evaluation on unseen rooms.
vidllm rooms eval --seeds "${TEST:-1000:1200}" --model "$runs/both/model" --blind "$runs/blind"
