#!/usr/bin/env bash
# Trains four tiny models (ssa, moba, nsa, full) on the same tokens, evaluates each under several budgets of sparse
# attention and under full attention, and makes the README's table and picture of loss against budget.
#
# Usage: scripts/budget_curves.sh [DATA] [OUTPUT]
# DATA (default data/tiny) holds train/ and eval/, as scripts/quickstart.sh leaves them; OUTPUT (default
# docs/budgets.png) is the picture. Runs go to runs/budget-METHOD, what they print to runs/budget-METHOD.log; one that
# is there already is not trained again. STEPS, BLOCK_COUNTS and DEVICE in the environment: 600, 1,2,4,8,16, auto.
set -euo pipefail
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"
  exit 0
fi
data=$(realpath "${1:-data/tiny}") output=$(realpath -m "${2:-docs/budgets.png}")
cd "$(dirname "$0")/.."
steps=${STEPS:-600} counts=${BLOCK_COUNTS:-1,2,4,8,16} device=${DEVICE:-auto} python=${PYTHON:-python3}
for split in train eval; do
  [ -d "$data/$split" ] && continue
  echo "budget_curves.sh: $data/$split: no such directory; scripts/quickstart.sh makes it" >&2
  exit 1
done
mkdir -p runs "$(dirname "$output")"
files=()
for method in ssa moba nsa full; do
  run=runs/budget-$method
  build/bin/ssa_train --config configs/tiny.json --device "$device" --set attention.method=$method \
    --set output_dir="$run" --set data.path="$data/train" --set data.eval_path=null --set train.eval_steps=0 \
    --set train.max_steps="$steps" --set train.attention_stats_steps=0 >"$run.log" || {
    tail -n 5 "$run.log" >&2
    exit 1
  }
  build/bin/ssa_eval --model "$run" --data "$data/eval" --device "$device" --block-counts "$counts" \
    --output "$run/budgets.json"
  files+=("$method=$run/budgets.json")
done
"$python" scripts/plot_eval.py "${files[@]}" --table --output "$output"
