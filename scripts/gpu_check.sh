#!/bin/bash
# Runs on a GPU what CI cannot: the op tests, compute-sanitizer over them, and the benchmark. Logs go to a folder.
#   scripts/gpu_check.sh BIN_DIR LOG_DIR [tests|sanitize|bench ...]
# BIN_DIR holds ops_tests and ssa_bench, and in lib/ the shared libraries that this machine lacks. Without a list of
# parts all of them run. ONLY narrows tests and sanitize to test cases whose name matches (Catch2 pattern).
# The exit code is 0 when everything that ran is clean.
set -u
bin=$1 logs=$2
shift 2
parts=${*:-tests sanitize bench}
only=${ONLY:-*CUDA*}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$bin/lib
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
mkdir -p "$logs"
failed=0

# step NAME COMMAND...: runs it, keeps its output, says how it ended.
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
  step tests timeout 300 "$bin/ops_tests" "$only" ;;
esac
case " $parts " in *" bench "*)
  step bench timeout 200 "$bin/ssa_bench" ${BENCH_OPTIONS:-}
  cat "$logs/bench.log" ;;
esac
case " $parts " in *" sanitize "*)
  # Only this project's kernels are watched: racecheck takes minutes over cuBLASLt's.
  for tool in memcheck racecheck synccheck; do
    step $tool timeout ${SANITIZE_SECONDS:-300} compute-sanitizer --tool $tool --kernel-regex kns=ssa --error-exitcode 9 "$bin/ops_tests" "$only"
  done ;;
esac
exit $failed
