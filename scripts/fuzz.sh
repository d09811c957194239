#!/usr/bin/env bash
# Fuzzes the readers of tokenizer files, JSONL and .idx files, and the encoder, with libFuzzer.
set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'HELP'
Usage: scripts/fuzz.sh [SECONDS [TARGET...]]

Builds the fuzz targets of tests/fuzz with clang (libFuzzer, address and undefined-behavior sanitizers) in build-fuzz
and runs each for SECONDS (60). The inputs that they collect stay in build-fuzz/corpus/TARGET. Fails at the first crash.
Needs clang and libomp-dev.

Example: scripts/fuzz.sh 900 json_line idx
HELP
  exit 0
fi

cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(json_line encode tokenizer_file idx)
cmake -S . -B build-fuzz -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSSA_CUDA=OFF \
  -DSSA_PARQUET=OFF -DSSA_SANITIZE=ON -DBUILD_TESTING=ON -DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link
cmake --build build-fuzz --target "${targets[@]/#/fuzz_}"

for target in "${targets[@]}"; do
  corpus=build-fuzz/corpus/$target
  mkdir -p "$corpus"
  case $target in
    tokenizer_file)
      for file in tests/tokenizer/*.tokenizer.json; do
        { printf ' '; cat "$file"; } >"$corpus/$(basename "$file")"
      done
      printf 'IIQ== 0\nIg== 1\n' >"$corpus/ranks"
      ;;
    encode) head -c 20000 tests/tokenizer/make_vectors.py >"$corpus/seed" ;;
    json_line) printf '{"text": "a\\u00e9\\n", "x": [1, {"y": null}]}' >"$corpus/seed" ;;
    idx) # two documents of 8 uint16 tokens and one of 16
      printf 'MMIDIDX\0\0\1\0\0\0\0\0\0\0\10\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0' >"$corpus/seed"
      printf '\10\0\0\0\10\0\0\0\20\0\0\0' >>"$corpus/seed"
      printf '\0\0\0\0\0\0\0\0\20\0\0\0\0\0\0\0\40\0\0\0\0\0\0\0' >>"$corpus/seed"
      printf '\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0' >>"$corpus/seed"
      ;;
  esac
  echo "$target: $seconds seconds"
  log=build-fuzz/$target.log
  if ! "build-fuzz/bin/fuzz_$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="build-fuzz/$target-" "$corpus" >"$log" 2>&1; then
    grep -E 'ERROR|SUMMARY|#[0-9]+ 0x' "$log" | head -n 25 || true
    echo "fuzz.sh: $target failed; see $log and build-fuzz/$target-*" >&2
    exit 1
  fi
  grep number_of_executed "$log"
done
