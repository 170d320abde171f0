#!/usr/bin/env bash
# Some minutes of training of `tiny` on one GPU, from its newest weights. Needs no network.
#   recipes/tiny_gpu_10min.sh [OUT]     OUT: the results (default: out), in files below 16 MiB: weights and rest.tar
# START    the initial model (default: the shipped one)            MINUTES  of training (default 7)
# CLIPS    folder of posed clips, in addition to the rooms        WHEELS   folder of wheels to install first
#          (those that torch and transformers do not install: jaxtyping tyro docstring_parser typeguard)
# FIRST    first seed of the rooms: another one each time         TEST     seeds that it is evaluated on
# JOBS     processes that render, ROOMS each                      SCENES   windows of two frames a step
# WORKERS  processes that draw batches (threads of the process that trains keep a GPU waiting)
# A short run on a CPU, in three minutes:
#   DEVICE=cpu MINUTES=0.5 JOBS=1 ROOMS=16 SCENES=2 SIDES=112 TEST=2000:2001 COMPILE=0 WORKERS=1 AHEAD=2 recipes/tiny_gpu_10min.sh out
# To continue from the results: mkdir next && tar xf out/rest.tar -C next && cp out/model.int8-* next/model/, START=next/model
set -euo pipefail
out=${1:-out}
work=${WORK:-$(mktemp -d)}
device=${DEVICE:-cuda}
jobs=${JOBS:-$(($(nproc --all) > 12 ? $(nproc --all) - 10 : 1))}
rooms=${ROOMS:-800}
first=${FIRST:-1000000}
here=$(cd "$(dirname "$0")/.." && pwd)
export OMP_NUM_THREADS=1 PYTHONPATH="$here/src:${PYTHONPATH:-}"
if [ -n "${WHEELS:-}" ]; then
  python -m pip install -q --no-index --no-deps --target "$work/site" "$WHEELS"/*.whl
  export PYTHONPATH="$work/site:$PYTHONPATH"
fi
if ! python -c 'import av' 2> /dev/null; then # no video is read here: a stand-in with whatever is imported from it
  export PYTHONPATH="$here/recipes/without_av:$PYTHONPATH"
fi
command -v vidllm > /dev/null || vidllm() { python -m vidllm "$@"; }
start=${START:-$here/src/vidllm/weights/tiny}
mkdir -p "$out" "$work/shards"

# 1. Rooms: sixteen per process first, the others during training, which reads new ones when it saves.
render() { vidllm rooms shards --look life --shorter-side 168 -o "$work/shards" --seeds "$1:$2" 2> /dev/null; }
for ((job = 0; job < jobs; job++)); do render $((first + job * rooms)) $((first + job * rooms + 16)) & done
wait
for ((job = 0; job < jobs; job++)); do render $((first + job * rooms + 16)) $((first + (job + 1) * rooms)) & done

# 2. Training, in bfloat16 where the device has it. Blocks are compiled only if three steps with them run.
options=(--data "$work/shards" --init-from "$start" --freeze-encoder --language-start 1000000000 --dtype auto
  --device "$device" --window-scenes "${SCENES:-64}" --window-frames 2 2 3 4 --clip-frames 3 4 4 6 --spread-share 0.3
  --sides ${SIDES:-112 140 168} --vary-share 0.3 --learning-rate "${RATE:-0.0006}" --warmup-steps 50
  --decay-fraction 0.6 --camera-weight 8 --rotation-weight 5 --translation-weight 4 --fov-weight 2.5
  --bearing-weight 2 --gravity-weight 40 --metric-weight 15 --guide-weight 0 --semantic-weight 1.2 --naming-weight 3)
if [ -n "${CLIPS:-}" ]; then options+=(--posed-clips "$CLIPS" --posed-share 0.25); fi
if [ "${COMPILE:-1}" = 1 ] && vidllm train stage2 "${options[@]}" --out "$work/try" --steps 3 --compile-blocks; then
  options+=(--compile-blocks)
fi
vidllm train stage2 "${options[@]}" --out "$work/run" --steps 1000000 --minutes "${MINUTES:-7}" --prefetch "${AHEAD:-16}" \
  --workers "${WORKERS:-8}" --save-minutes 2 --export int8
kill $(jobs -p) 2> /dev/null || true

# 3. Evaluation, and the results in few files.
vidllm rooms eval --seeds "${TEST:-2000:2032}" --model "$work/run/model" --device "$device" --json > "$out/rooms.json"
if [ -d "$work/run/model" ]; then
  cp "$work/run/model"/model.int8-* "$out/"
  tar cf "$out/rest.tar" -C "$work/run" --exclude='model.int8-*' model auxiliary.safetensors log.jsonl config.json
fi
