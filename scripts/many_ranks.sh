#!/usr/bin/env bash
# Many ranks on one machine without GPUs: a tiny model trains on the CPU with more ranks than cores, stops halfway with a
# checkpoint, resumes, and must end with the weights, moments and metrics, to the bit, of a run that did not stop; and with
# the losses of one rank, up to 1e-5 of them. Prints the seconds of each part.
#
# Usage: scripts/many_ranks.sh [--ranks N] [--stage S] [--build DIR]
#
#   --ranks N    64
#   --stage S    distributed.zero_stage, 0 to 3; 2
#   --build DIR  build directory with bin/ssa_train, build
#
# Needs mpirun (Open MPI) and about 100 MB of memory per rank. Exit code: 0 equal, 1 otherwise, 2 wrong usage.
set -euo pipefail

usage() { sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"; }
wrong_usage() { echo "many_ranks.sh: $*; see scripts/many_ranks.sh --help" >&2; exit 2; }
fail() { echo "many_ranks.sh: $*" >&2; exit 1; }

ranks=64 stage=2 build=build
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage; exit 0 ;;
    --ranks | --stage | --build)
      [ $# -ge 2 ] || wrong_usage "$1 needs a value"
      case $1 in
        --ranks) ranks=$2 ;;
        --stage) stage=$2 ;;
        --build) build=$2 ;;
      esac
      shift 2 ;;
    *) wrong_usage "unknown argument $1" ;;
  esac
done
[[ $ranks =~ ^[1-9][0-9]{0,3}$ ]] || wrong_usage "--ranks: found $ranks, expected an integer from 1 to 9999"
[[ $stage =~ ^[0-3]$ ]] || wrong_usage "--stage: found $stage, expected 0, 1, 2 or 3"

root=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$build" ] || build=$root/$build
train=$(realpath -m "$build")/bin/ssa_train
[ -x "$train" ] || fail "$train: no such program; build it, or give --build"
command -v mpirun >/dev/null || fail "there is no mpirun"
directory=$(mktemp -d "${TMPDIR:-/tmp}/many_ranks.XXXXXX")
trap 'rm -rf "$directory"' EXIT
cd "$directory"
cp -r "$root/tests/golden/cases/ssa-sparse-stream/." .
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive

run() {  # NAME RANKS STEPS OUTPUT
  local begin=$SECONDS
  mpirun --oversubscribe -n "$2" "$train" --config config.json --device cpu --set output_dir="$4" \
    --set train.per_device_train_batch_size=1 --set train.global_batch_size="$ranks" --set train.max_steps="$3" \
    --set train.num_train_epochs=99999 --set train.lr_scheduler_type=constant_with_warmup --set train.min_lr=0 \
    --set checkpoint.save_steps=3 --set distributed.zero_stage="$stage" --set distributed.timeout_seconds=600 \
    >"$1.log" 2>&1 || { tail -n 5 "$1.log" >&2; fail "$1: mpirun failed"; }
  echo "$1: $((SECONDS - begin)) s"
}
run "$ranks ranks, 6 steps" "$ranks" 6 whole
run "$ranks ranks, 3 steps" "$ranks" 3 halves
run "$ranks ranks, resumed, 3 more steps" "$ranks" 6 halves
run "1 rank, 6 steps" 1 6 one

for file in model optimizer; do
  cmp whole/checkpoints/step-00000006/$file.safetensors halves/checkpoints/step-00000006/$file.safetensors ||
    fail "the resumed run differs in $file.safetensors"
done
losses() { sed 's/.*"loss":\([^,}]*\).*/\1/' "$1/metrics.jsonl"; }
[ "$(losses whole)" = "$(losses halves)" ] || fail "the resumed run differs in its losses"
paste <(losses whole) <(losses one) |
  awk '{ d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > 1e-5) exit 1 } END { if (NR != 6) exit 1 }' ||
  fail "the losses differ from those of one rank: $(losses whole | tr '\n' ' '), expected $(losses one | tr '\n' ' ')"
echo "equal: to the bit after the resume, and to 1e-5 with one rank"
