#!/usr/bin/env bash
# What a short stay on a GPU is to measure, most wanted first. Needs no network and no video decoder.
#   benchmarks/gpu_5min.sh [OUT]     OUT: the tables (default: gpu_tables), a file each, written as they are made
# MINUTES  after which no more is begun (default 4.5); what is running then is ended
# LARGE, SMALL, COUNTS, STEPS: the two presets, the numbers of frames, the training steps
# A short run on a CPU:
#   DEVICE=cpu LARGE=tiny SMALL=tiny COUNTS="2 3" STEPS=1 SIDE=112 MINUTES=20 benchmarks/gpu_5min.sh out
set -uo pipefail
out=$(mkdir -p "${1:-gpu_tables}" && cd "${1:-gpu_tables}" && pwd)
device=${DEVICE:-cuda}
large=${LARGE:-paper}
small=${SMALL:-compact}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
until=$(python -c "print(int($(date +%s) + 60 * ${MINUTES:-4.5}))")
export PYTHONPATH="$here/src:${PYTHONPATH:-}"
python -c 'import av' 2> /dev/null || export PYTHONPATH="$here/recipes/without_av:$PYTHONPATH"
cd "$here/benchmarks" || exit

table() { # NAME COMMAND...: its output in OUT/NAME.txt, while there is time
  local left=$((until - $(date +%s))) name=$1
  shift
  if [ "$left" -lt 5 ]; then
    echo "$name: no time left"
    return
  fi
  echo "$name: $left s left"
  timeout "$left" "$@" > "$out/$name.txt" 2> "$work/$name.log" || tail -n 3 "$work/$name.log" | tee -a "$out/$name.txt"
}
size() { python full_size.py "$@" --device "$device" --no-video --repeats 2; }
export -f size
export device

# Rooms for the training steps are rendered while the GPU is measured.
nice python -m vidllm rooms shards --seeds 10000:10016 --frames 8 --shorter-side "${SIDE:-518}" -o "$work/shards" \
  --jobs "${JOBS:-2}" > "$work/rooms.log" 2>&1 &
table agreement python gpu_agreement.py --device "$device" --seeds 1000:1003
# shellcheck disable=SC2086
table "$large" bash -c "size $large --llava --cuda-graphs --frames ${COUNTS:-8 32 128}"
table "${large}_vggt" bash -c "size $large --size ${SIZE:-336 518} --frames ${VGGT:-8 20}"
table "${small}_compiled" bash -c "size $small --compile --cuda-graphs --frames ${COUNTS:-8 32 128}"
wait
steps() { # PRESET OPTIONS...: training steps with random weights, the last lines of the log
  python -m vidllm train stage2 --data "$work/shards" --out "$work/run_$1_$RANDOM" --preset "$@" --device "$device" \
    --steps "${STEPS:-20}" --log-every 5 --language-start 0 2>&1 | tail -n 8
}
export -f steps
export work
table "${small}_steps" bash -c "steps $small"
table "${large}_lora_steps" bash -c "steps $large --lora-rank 16"
table "${small}_sharded" torchrun --nproc-per-node 1 -m vidllm train stage2 --data "$work/shards" --out "$work/sharded" \
  --preset "$small" --device "$device" --steps "${STEPS:-20}" --parallel fsdp --guide-weight 0 --word-weight 0
cat "$out"/*.txt
rm -rf "$work"
