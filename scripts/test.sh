#!/usr/bin/env bash
# Installs missing packages, builds, and runs every test: first under the address and undefined-behavior sanitizers,
# except those that the description of the test preset "sanitize" lists, then as released. The builds are presets of
# CMakePresets.json, which state every option, so that it does not matter how the build directories were configured
# before.
#
# Where nvcc is installed every CUDA kernel is compiled too (a register spill is an error, and so are serialized
# products). The kernels are tested only on a machine with a GPU, where the release build has the CUDA backend. Where
# clang++ is installed, with libomp-dev and libclang-rt-dev, the sanitized build is made with it, in less time than with
# gcc. Where clang-format 14 is installed the formatting is checked. Skipped parts are reported. Ends with ctest's
# summary.
#
# SSA_WERROR=ON in the environment makes warnings errors.
#
# Usage: scripts/test.sh
set -euo pipefail

if [ $# -gt 0 ]; then
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"
  case "$1" in --help | -h) exit 0 ;; *) exit 2 ;; esac
fi
cd "$(dirname "$0")/.."

scripts/install.sh python3-matplotlib  # for the tests of the plots
say() { printf '\n== %s\n' "$*"; }
options=("-DSSA_WERROR=${SSA_WERROR:-OFF}")
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
else
  options+=(-DSSA_UNITY_TESTS=ON)
fi

say "formatting"
format=
for program in clang-format-14 clang-format; do
  command -v "$program" >/dev/null || continue
  [[ $("$program" --version) == *"version 14."* ]] && format=$program && break
done
if [ -n "$format" ] && git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  git ls-files -z '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 "$format" --dry-run -Werror
  echo "every file is formatted as clang-format 14 does it"
else
  echo "skipped: it needs clang-format 14 and a git checkout"
fi

say "CUDA kernels"
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  cmake --preset cuda "${options[@]}" -DCMAKE_UNITY_BUILD=ON
  cmake --build --preset cuda --target ssa_ops ssa_runtime ssa_comm | tee build-cuda/compile.log
  if grep "instructions are serialized" build-cuda/compile.log; then  # ptxas prints this as information, not as a warning
    echo "test.sh: the wgmma products of a kernel are serialized" >&2
    exit 1
  fi
else
  echo "skipped: nvcc is not installed"
fi

sanitize=sanitize
if command -v clang++ >/dev/null; then
  if echo 'int main() {}' | clang++ -fopenmp -fsanitize=address,undefined -x c++ - -o /dev/null 2>/dev/null; then
    sanitize=sanitize-clang
  else
    echo "gcc makes the sanitized build: clang++ has no OpenMP (libomp-dev) or no sanitizers (libclang-rt-dev)"
  fi
fi
for preset in $sanitize release; do
  say "tests, preset $preset"
  cmake --preset $preset "${options[@]}"
  cmake --build --preset $preset
  jobs=$(nproc)
  [ $preset = release ] && jobs=$((2 * jobs))  # many of its tests wait for time-outs
  ctest --preset $preset --parallel "$jobs"
done
