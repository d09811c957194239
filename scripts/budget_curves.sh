#!/usr/bin/env bash
# Trains four tiny models (ssa, moba, nsa, full) on the same tokens, evaluates each under several budgets of sparse
# attention and under full attention, and makes the table and picture of loss against budget in docs/evaluating.md.
#
# Usage: scripts/budget_curves.sh [DATA] [OUTPUT]
#
# DATA (default data/tiny) has train/ and eval/, as scripts/quickstart.sh writes them. OUTPUT (default
# runs/budgets.png) is the picture. The run of a method goes to runs/budget-METHOD-STEPS, what it prints to
# runs/budget-METHOD-STEPS.log; a run that is complete is not trained again, and one that was interrupted continues.
# In the environment: STEPS (600), BLOCK_COUNTS (1,2,4,8,16), DEVICE (auto), PYTHON (one with matplotlib).
set -euo pipefail
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"
  exit 0
fi
fail() { echo "budget_curves.sh: $*" >&2; exit 1; }
data=$(realpath -m "${1:-data/tiny}") output=$(realpath -m "${2:-runs/budgets.png}")
cd "$(dirname "$0")/.."
steps=${STEPS:-600} counts=${BLOCK_COUNTS:-1,2,4,8,16} device=${DEVICE:-auto}
[[ $steps =~ ^[1-9][0-9]*$ ]] || fail "STEPS is $steps, expected a number of at least 1"
for split in train eval; do
  [ -d "$data/$split" ] || fail "$data/$split: no such directory; scripts/quickstart.sh makes it"
done
for program in ssa_train ssa_eval; do
  [ -x build/bin/$program ] || fail "build/bin/$program: no such program; scripts/quickstart.sh builds it"
done
plotting_python() {
  for candidate in "${PYTHON:-python3}" /usr/bin/python3; do
    "$candidate" -c 'import matplotlib' 2>/dev/null && { echo "$candidate"; return; }
  done
  return 1
}
python=$(plotting_python) || fail "no Python with matplotlib: install python3-matplotlib, or name one in PYTHON"

mkdir -p runs "$(dirname "$output")"
files=()
for method in ssa moba nsa full; do
  run=runs/budget-$method-$steps
  build/bin/ssa_train --config configs/tiny.json --device "$device" --set attention.method=$method \
    --set output_dir="$run" --set data.path="$data/train" --set data.eval_path=null --set train.eval_steps=0 \
    --set train.max_steps="$steps" --set train.attention_stats_steps=0 >"$run.log" || {
    tail -n 5 "$run.log" >&2
    fail "training $run failed; its output is in $run.log"
  }
  build/bin/ssa_eval --model "$run" --data "$data/eval" --device "$device" --block-counts "$counts" \
    --output "$run/budgets.json"
  files+=("$method=$run/budgets.json")
done
"$python" scripts/plot_eval.py "${files[@]}" --table --output "$output"
