#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: first under the address and undefined-behaviour sanitizers,
# then as released. Ends with ctest's summary.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

build_and_test() {  # folder, then cmake options
  local folder=$1
  shift
  cmake -S . -B "$folder" -G Ninja -DSSA_WERROR=ON "${launcher[@]}" "$@"
  cmake --build "$folder"
  ctest --test-dir "$folder" --output-on-failure --parallel "$(nproc)"
}

build_and_test build-sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSSA_SANITIZE=ON -DSSA_CUDA=OFF
build_and_test build -DCMAKE_BUILD_TYPE=Release
