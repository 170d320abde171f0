#!/usr/bin/env bash
# What five minutes on a GPU are to measure, most wanted first. Needs no network and no video decoder.
#   benchmarks/gpu_5min.sh [OUT]     OUT: the tables (default: gpu_tables), a file each, written as they are made
# MINUTES  after which no more is begun, and what is running is ended (default 4.5; all of it: about 9); each table has a
#          limit of its own too
# WHEELS   folder of wheels to install first (those that torch and transformers do not install: tyro docstring_parser
#          typeguard)
# LARGE, SMALL: the two presets. COUNTS, MANY, FEW: numbers of frames. RESIZED, SIZE: frames in VGGT's sizes.
# STEPS, SIDE, ROOMS, JOBS: training steps, and the rooms that they are taken on, ROOMS of each of JOBS processes that
# render. SLOWER: factor of the limits (a CPU with other work: 60, and MINUTES=90).
# A short run on a CPU, in some minutes:
#   DEVICE=cpu LARGE=tiny SMALL=tiny COUNTS="2 3" MANY=4 FEW=2 STEPS=2 SIDE=112 ROOMS=16 JOBS=1 REPEATS=1 SLOWER=10 \
#     RESIZED="84 112" SIZE="84 126" MINUTES=30 benchmarks/gpu_5min.sh out
set -uo pipefail
begun=$(date +%s)
out=$(mkdir -p "${1:-gpu_tables}" && cd "${1:-gpu_tables}" && pwd) || exit
device=${DEVICE:-cuda}
large=${LARGE:-paper}
small=${SMALL:-compact}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
until=$(python -c "print(int($begun + 60 * ${MINUTES:-4.5}))")
export PYTHONPATH="$here/src:${PYTHONPATH:-}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
if [ -n "${WHEELS:-}" ]; then
  python -m pip install -q --no-index --no-deps --target "$work/site" "$WHEELS"/*.whl
  export PYTHONPATH="$work/site:$PYTHONPATH"
fi
python -c 'import av' 2> /dev/null || export PYTHONPATH="$here/recipes/without_av:$PYTHONPATH"
cd "$here/benchmarks" || exit

: > "$out/progress.txt"
say() { # LINE: with the seconds since the start; in OUT/progress.txt too
  printf '%4d s  %s\n' $(($(date +%s) - begun)) "$1" | tee -a "$out/progress.txt"
}

table() { # NAME SECONDS COMMAND...: its output in OUT/NAME.txt, for as many seconds at most
  local left=$((until - $(date +%s))) limit=$(($2 * ${SLOWER:-1})) name=$1 code=0
  shift 2
  if [ "$left" -lt 10 ]; then
    say "$name: no time left"
    return
  fi
  [ "$left" -lt "$limit" ] && limit=$left
  timeout -k 5 "$limit" "$@" > "$out/$name.txt" 2> "$work/$name.log" || code=$?
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    say "$name: ended after its $limit s" | tee -a "$out/$name.txt"
  elif [ "$code" != 0 ]; then
    say "$name: failed with $code" | tee -a "$out/$name.txt"
  else
    say "$name: done"
  fi
  [ "$code" = 0 ] && [ -s "$out/$name.txt" ] && ! grep -q '| failed |' "$out/$name.txt" && return
  grep -v '^ *$' "$work/$name.log" | tail -n 25 > "$out/$name.log"
}

size() { # NAME SECONDS PRESET OPTIONS...
  local name=$1 seconds=$2
  shift 2
  table "$name" "$seconds" python full_size.py "$@" --device "$device" --no-video --repeats "${REPEATS:-2}" -o "$out/$name.txt"
}

steps() { # NAME SECONDS PRESET OPTIONS...
  local name=$1 seconds=$2
  shift 2
  table "$name" "$seconds" python training_steps.py "$@" --data "$work/shards" --device "$device" --steps "${STEPS:-20}"
}

render() { # FIRST: rooms for the training steps from this seed on, while the GPU is measured
  OMP_NUM_THREADS=1 nice timeout $((240 * ${SLOWER:-1})) python -m vidllm rooms shards --frames 8 \
    --seeds "$1:$(($1 + ${ROOMS:-4}))" --shorter-side "${SIDE:-518}" -o "$work/shards" > "$work/rooms.$1.log" 2>&1
}
for ((job = 0; job < ${JOBS:-4}; job++)); do render $((10000 + 16 * job)) & done

table versions 20 python -c "
import torch, transformers
print('torch', torch.__version__, 'transformers', transformers.__version__)
if torch.cuda.is_available():
    print(torch.cuda.get_device_name(), 'CUDA', torch.version.cuda, 'cuDNN', torch.backends.cudnn.version())"
table agreement 50 python gpu_agreement.py --device "$device" --seeds 1000:1002
# shellcheck disable=SC2086
size "$large" 100 "$large" --frames ${COUNTS:-8 16 32 64} ${MANY:-128}
# shellcheck disable=SC2086
size "${large}_resized" 35 "$large" --size ${RESIZED:-392 518} --vggt --frames ${FEW:-32}
wait
compgen -G "$work/shards/*.safetensors" > /dev/null ||
  { say "rooms were not rendered" && tail -n 3 "$work"/rooms.*.log; } | tee "$out/rooms.log"
steps "${large}_lora_steps" 60 "$large" --lora-rank 16
# shellcheck disable=SC2086
size "${small}_llava" 35 "$small" --llava --frames ${FEW:-32}
# shellcheck disable=SC2086
size "${large}_vggt_size" 30 "$large" --size ${SIZE:-336 518} --frames 8 ${FEW:-20}
steps "${small}_sharded_steps" 40 "$small" --sharded
steps "${small}_steps" 40 "$small"
# shellcheck disable=SC2086
size "${small}_compiled" 60 "$small" --compile --frames ${FEW:-32}
if [[ $device == cuda* ]]; then
  # shellcheck disable=SC2086
  size "${large}_graphs" 75 "$large" --llava --cuda-graphs --frames ${FEW:-32}
else
  say "${large}_graphs: skipped, CUDA graphs need a CUDA device"
fi
# Where there is more time: every number of frames by the smaller preset, and beside other forms of the same.
# shellcheck disable=SC2086
size "${small}_all" 60 "$small" --frames ${COUNTS:-8 16 32 64} ${MANY:-128}
# shellcheck disable=SC2086
size "${large}_forms" 150 "$large" --vggt --llava --frames ${COUNTS:-8 16 32 64} ${MANY:-128}
cat "$out"/*.txt
rm -rf "$work"
