#!/usr/bin/env bash
# A short stay on one GPU: `tiny` goes on from its newest weights for some minutes. Needs no network.
#   recipes/tiny_gpu_10min.sh [OUT]     OUT: what comes back (default: out), in files below 16 MiB: weights and rest.tar
# START    the model to go on from (default: the shipped one)     MINUTES  of training (default 7)
# CLIPS    folder of posed clips to train on beside the rooms     WHEELS   folder of wheels that are installed first
#          (what torch and transformers do not bring along: jaxtyping tyro docstring_parser typeguard)
# FIRST    first seed of the rooms: another one each time         TEST     seeds that it is evaluated on
# JOBS     processes that render, ROOMS each                      SCENES   windows of two frames a step
# All of it in miniature on a CPU, in three minutes:
#   DEVICE=cpu MINUTES=0.5 JOBS=1 ROOMS=16 SCENES=2 SIDES=112 TEST=2000:2001 COMPILE=0 recipes/tiny_gpu_10min.sh out
# To go on from what came back: mkdir next && tar xf out/rest.tar -C next && cp out/model.int8-* next/model/, START=next/model
set -euo pipefail
out=${1:-out}
work=${WORK:-$(mktemp -d)}
device=${DEVICE:-cuda}
jobs=${JOBS:-$(($(nproc) > 8 ? $(nproc) - 5 : 1))}
rooms=${ROOMS:-800}
first=${FIRST:-1000000}
here=$(cd "$(dirname "$0")/.." && pwd)
export OMP_NUM_THREADS=1 PYTHONPATH="$here/src:${PYTHONPATH:-}"
if [ -n "${WHEELS:-}" ]; then
  python -m pip install -q --no-index --no-deps --target "$work/site" "$WHEELS"/*.whl
  export PYTHONPATH="$work/site:$PYTHONPATH"
fi
if ! python -c 'import av' 2> /dev/null; then # no video is read here: a stand-in, since the wheel is large
  mkdir -p "$work/site/av/sidedata" "$work/site/av/video"
  touch "$work/site/av/error.py" "$work/site/av/sidedata/__init__.py" "$work/site/av/video/__init__.py"
  echo 'from av import error, sidedata, video' > "$work/site/av/__init__.py"
  echo 'class InputContainer: ...' > "$work/site/av/container.py"
  echo 'class Type: ...' > "$work/site/av/sidedata/sidedata.py"
  echo 'class VideoStream: ...' > "$work/site/av/video/stream.py"
  export PYTHONPATH="$work/site:$PYTHONPATH"
fi
command -v vidllm > /dev/null || vidllm() { python -m vidllm "$@"; }
start=${START:-$here/src/vidllm/weights/tiny}
mkdir -p "$out" "$work/shards"

# 1. Rooms: sixteen of each process first, then the others beside the training, which looks for new ones when it saves.
render() { vidllm rooms shards --look life --shorter-side 168 -o "$work/shards" --seeds "$1:$2" 2> /dev/null; }
for ((job = 0; job < jobs; job++)); do render $((first + job * rooms)) $((first + job * rooms + 16)) & done
wait
for ((job = 0; job < jobs; job++)); do render $((first + job * rooms + 16)) $((first + (job + 1) * rooms)) & done

# 2. Training, in bfloat16 where the device has it. Compiled blocks only where three steps of them run.
options=(--data "$work/shards" --init-from "$start" --freeze-encoder --language-start 1000000000 --dtype auto
  --device "$device" --window-scenes "${SCENES:-64}" --window-frames 2 2 3 4 --clip-frames 3 4 4 6 --spread-share 0.3
  --sides ${SIDES:-112 140 168} --vary-share 0.3 --learning-rate "${RATE:-0.0006}" --warmup-steps 50
  --decay-fraction 0.6 --camera-weight 8 --rotation-weight 5 --translation-weight 4 --fov-weight 2.5
  --bearing-weight 2 --gravity-weight 40 --metric-weight 15 --guide-weight 0 --semantic-weight 1.2 --naming-weight 3)
if [ -n "${CLIPS:-}" ]; then options+=(--posed-clips "$CLIPS" --posed-share 0.25); fi
if [ "${COMPILE:-1}" = 1 ] && vidllm train stage2 "${options[@]}" --out "$work/try" --steps 3 --compile-blocks; then
  options+=(--compile-blocks)
fi
vidllm train stage2 "${options[@]}" --out "$work/run" --steps 1000000 --minutes "${MINUTES:-7}" --prefetch "${AHEAD:-6}" \
  --save-minutes 1 --export int8
kill $(jobs -p) 2> /dev/null || true

# 3. What it has learned, and all of it in few files.
vidllm rooms eval --seeds "${TEST:-2000:2032}" --model "$work/run/model" --device "$device" --json > "$out/rooms.json"
if [ -d "$work/run/model" ]; then
  cp "$work/run/model"/model.int8-* "$out/"
  tar cf "$out/rest.tar" -C "$work/run" --exclude='model.int8-*' model auxiliary.safetensors log.jsonl config.json
fi
