#!/usr/bin/env bash
# Fuzzes the readers of foreign files with libFuzzer: tokenizer files, JSONL, idx files, and encoding itself.
set -euo pipefail

if [ "${1:-}" = -h ] || [ "${1:-}" = --help ]; then
  cat <<'HELP'
Usage: scripts/fuzz.sh [SECONDS [TARGET...]]

Builds the fuzz targets of tests/fuzz with clang (libFuzzer, address and undefined-behaviour sanitizers) in build-fuzz
and runs each for SECONDS (60). What it finds stays in build-fuzz/TARGET. Fails at the first crash.

Example: scripts/fuzz.sh 900 json_line idx
HELP
  exit 0
fi

cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(json_line encode tokenizer_file idx)
mkdir -p build-fuzz
flags=(-std=c++20 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -I. -Iinclude -Itests
  -DSSA_SOURCE_DIR="\"$PWD\"" -DSSA_WITH_PCRE2=0 -DSSA_WITH_CUDA=0)

objects=()
for source in src/tokenizer/*.cpp data_tools/json_line.cpp src/base/{file,checksum,mapped_file}.cpp \
  src/data/indexed_dataset.cpp; do
  object=build-fuzz/$(basename "$source" .cpp).o
  if [ ! "$object" -nt "$source" ]; then
    clang++ "${flags[@]}" -fsanitize=fuzzer-no-link -c "$source" -o "$object"
  fi
  objects+=("$object")
done

for target in "${targets[@]}"; do
  clang++ "${flags[@]}" -fsanitize=fuzzer "tests/fuzz/${target}_fuzz.cpp" "${objects[@]}" -lxxhash -o "build-fuzz/$target.bin"
  mkdir -p "build-fuzz/$target"
  case $target in
    tokenizer_file)
      for file in tests/tokenizer/*.tokenizer.json; do
        { printf ' '; cat "$file"; } >"build-fuzz/$target/$(basename "$file")"
      done
      printf 'IIQ== 0\nIg== 1\n' >"build-fuzz/$target/ranks"
      ;;
    encode) head -c 20000 tests/tokenizer/make_vectors.py >"build-fuzz/$target/seed" ;;
    json_line) printf '{"text": "a\\u00e9\\n", "x": [1, {"y": null}]}' >"build-fuzz/$target/seed" ;;
    idx) # two documents of 8 uint16 tokens and one of 16
      printf 'MMIDIDX\0\0\1\0\0\0\0\0\0\0\10\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0' >"build-fuzz/$target/seed"
      printf '\10\0\0\0\10\0\0\0\20\0\0\0' >>"build-fuzz/$target/seed"
      printf '\0\0\0\0\0\0\0\0\20\0\0\0\0\0\0\0\40\0\0\0\0\0\0\0' >>"build-fuzz/$target/seed"
      printf '\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0' >>"build-fuzz/$target/seed"
      ;;
  esac
  echo "$target: $seconds seconds"
  "build-fuzz/$target.bin" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/$target-" "build-fuzz/$target" 2>&1 | tail -n 25 | grep -E 'ERROR|SUMMARY|number_of_executed|crash|#[0-9]+ 0x' || true
  if compgen -G "build-fuzz/$target-crash-*" >/dev/null || compgen -G "build-fuzz/$target-timeout-*" >/dev/null ||
    compgen -G "build-fuzz/$target-oom-*" >/dev/null; then
    echo "fuzz.sh: $target failed, see build-fuzz/$target-*" >&2
    exit 1
  fi
done
