#!/usr/bin/env bash
# Tokenizes the SmolLM shards for configs/ssa-1b.json.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: scripts/prepare_smollm.sh PARQUET_DIR TOKENIZER OUTPUT_DIR [ssa_tokenize options]

Tokenizes every Parquet file below PARQUET_DIR (scripts/download_smollm.sh) with TOKENIZER, the Llama 3 one for the
published models: a tokenizer.json, its directory, or tokenizer.model. One document in 2000 goes to OUTPUT_DIR/validation,
the others go to OUTPUT_DIR/train. With data/smollm as OUTPUT_DIR the training data is where configs/ssa-1b.json and the
other 1B and 300M configs look for it. The same command continues where an interrupted one stopped. SSA_TOKENIZE names
the program (build/bin/ssa_tokenize, or the installed one), which must read Parquet.

Example:
  scripts/prepare_smollm.sh data/smollm-parquet llama3 data/smollm --workers 32
  mpirun -n 8 build/bin/ssa_train --config configs/ssa-1b.json --set data.eval_path=data/smollm/validation
HELP
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
if [ $# -lt 3 ]; then
  usage >&2
  exit 2
fi

source=$1
tokenizer=$2
output=$3
shift 3
program=${SSA_TOKENIZE:-}
if [ -z "$program" ]; then
  here=$(cd "$(dirname "$0")" && pwd)
  program=$here/../build/bin/ssa_tokenize
  if [ ! -x "$program" ] && [ -x "$here/../../../bin/ssa_tokenize" ]; then program=$here/../../../bin/ssa_tokenize; fi
fi
if [ ! -x "$program" ]; then
  echo "prepare_smollm.sh: $program not found, expected a build: cmake -S . -B build -DSSA_PARQUET=ON && ninja -C build" >&2
  exit 2
fi

exec "$program" --tokenizer "$tokenizer" --input "$source" --output "$output" --text-field text \
  --validation-fraction 0.0005 "$@"
