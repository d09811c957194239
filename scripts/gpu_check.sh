#!/bin/bash
# Runs on a GPU what CI cannot: the op tests, compute-sanitizer over them, and the benchmark.
#
# Usage: scripts/gpu_check.sh BIN_DIR LOG_DIR [tests|sanitize|bench ...]
#
# BIN_DIR has ops_tests and ssa_bench, and in lib/ the shared libraries that this machine lacks. If golden_tests, model_tests
# and train_tests are in BIN_DIR, they run too (train_tests starts ssa_train from its build directory). Logs go to LOG_DIR.
# Without a list of parts, all parts run. In the environment:
#   ONLY      a Catch2 pattern that restricts ops_tests, also under sanitize
#   RACE_BIN  the directory of a build with -DSSA_RACECHECK=ON, whose ops_tests run under racecheck: in other builds it
#             reports accesses that __syncwarp orders as hazards
# Exit code: 0 if everything that ran is clean, 1 otherwise, 2 wrong usage.
set -u

if [ $# -lt 2 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  sed -n '2,/^set -u/{/^set -u/d;s/^# \{0,1\}//;p}' "$0"
  case "${1:-}" in --help | -h) exit 0 ;; *) exit 2 ;; esac
fi
bin=$1 logs=$2
shift 2
parts=${*:-tests sanitize bench}
only=${ONLY:-*CUDA*}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$bin/lib
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
mkdir -p "$logs"
failed=0

# step NAME COMMAND...: runs the command, keeps its output, prints its exit code.
step() {
  local name=$1 begin=$SECONDS
  shift
  "$@" >"$logs/$name.log" 2>&1
  local code=$?
  echo "== $name: exit code $code, $((SECONDS - begin)) s"
  if [ $code -ne 0 ]; then
    failed=1
    tail -n 60 "$logs/$name.log"
  else
    tail -n 3 "$logs/$name.log"
  fi
}

case " $parts " in *" tests "*)
  step tests timeout 300 "$bin/ops_tests" "$only"
  for binary in golden_tests model_tests train_tests; do
    [ -x "$bin/$binary" ] && step $binary timeout 300 "$bin/$binary" "*on CUDA*"
  done ;;
esac
case " $parts " in *" bench "*)
  step bench timeout 200 "$bin/ssa_bench" ${BENCH_OPTIONS:-}
  cat "$logs/bench.log" ;;
esac
# sanitize NAME TOOL TEST_CASES [OPTIONS...]
sanitize() {
  local name=$1 tool=$2 tests=$3
  shift 3
  step "$name" timeout "${SANITIZE_SECONDS:-300}" compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" "$bin/ops_tests" "$tests"
}
case " $parts " in *" sanitize "*)
  sanitize memcheck memcheck "$only"
  sanitize synccheck synccheck "$only" --num-cuda-barriers 65536
  # Racecheck is slow, so every test case runs in a separate process, all in parallel. It breaks down in cuBLASLt's TMA
  # kernels ("failed to handle a hardware exception"): of what calls the library only a test that needs none of those.
  race_bin=${RACE_BIN:-$bin}
  racecheck() {
    timeout "${SANITIZE_SECONDS:-300}" compute-sanitizer --tool racecheck --error-exitcode 9 "${@:2}" \
      "$race_bin/ops_tests" "$1"
  }
  # From a comma on a name is cut: another pattern would begin there. Tests of refusals launch nothing.
  while read -r test; do
    case $test in
      matmul* | linear_cross_entropy*agrees*) continue ;;
      linear_cross_entropy*) options=(--kernel-name kns=cross_entropy) ;;
      *) options=() ;;
    esac
    log=$logs/racecheck_$(tr -cs 'a-zA-Z0-9\n' _ <<<"$test").log
    (racecheck "${test/,*/*}" "${options[@]}" >"$log" 2>&1; echo "exit code $?" >>"$log") &
  done < <("$race_bin/ops_tests" "$only" --list-test-names-only | grep CUDA | grep -v refuse)
  wait
  for log in "$logs"/racecheck_*.log; do
    echo "== $(basename "$log" .log): $(tail -n 1 "$log"), $(grep -c 'Race reported' "$log") races"
    [ "$(tail -n 1 "$log")" = "exit code 0" ] || failed=1
  done ;;
esac
exit $failed
