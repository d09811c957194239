#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: first under the address and undefined-behaviour sanitizers,
# then as released. Where nvcc is installed every CUDA kernel is compiled too (a register spill is an error, and so are
# serialised products); they are tested only on a machine with a GPU, where the released build has the CUDA backend.
# Ends with ctest's summary.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

build_and_test() {  # directory, then cmake options
  local directory=$1
  shift
  cmake -S . -B "$directory" -G Ninja -DSSA_WERROR=ON "${launcher[@]}" "$@"
  cmake --build "$directory"
  ctest --test-dir "$directory" --output-on-failure --parallel "$(nproc)"
}

if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  cmake -S . -B build-cuda -G Ninja -DSSA_CUDA=ON -DSSA_WERROR=ON -DBUILD_TESTING=OFF "${launcher[@]}"
  cmake --build build-cuda --target ssa_ops ssa_runtime ssa_comm | tee build-cuda/compile.log
  if grep "instructions are serialized" build-cuda/compile.log; then  # ptxas says so as information, not as a warning
    echo "a kernel's wgmma products run one after the other" >&2
    exit 1
  fi
else
  echo "no nvcc here: the CUDA kernels are not compiled"
fi
build_and_test build-sanitize -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" -DSSA_SANITIZE=ON -DSSA_CUDA=OFF
build_and_test build -DCMAKE_BUILD_TYPE=Release
