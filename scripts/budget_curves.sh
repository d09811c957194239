#!/usr/bin/env bash
# Trains four tiny models (ssa, moba, nsa, full) on the same tokens, evaluates each under several budgets of sparse
# attention and under full attention, and makes a table and a picture of loss against budget.
#
# Usage: scripts/budget_curves.sh [DATA] [OUTPUT]
# DATA (default data/tiny) holds train/ and eval/, as scripts/quickstart.sh leaves them; OUTPUT (default
# runs/budgets.png) is the picture. Runs go to runs/budget-METHOD-STEPS, their output to runs/budget-METHOD-STEPS.log. A
# run that is complete is not trained again. Environment: STEPS (600), BLOCK_COUNTS (1,2,4,8,16), DEVICE (auto), PYTHON
# (python3; /usr/bin/python3 if that one has no matplotlib).
set -euo pipefail
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"
  exit 0
fi
data=$(realpath "${1:-data/tiny}") output=$(realpath -m "${2:-runs/budgets.png}")
cd "$(dirname "$0")/.."
steps=${STEPS:-600} counts=${BLOCK_COUNTS:-1,2,4,8,16} device=${DEVICE:-auto}
for split in train eval; do
  [ -d "$data/$split" ] && continue
  echo "budget_curves.sh: $data/$split: no such directory; scripts/quickstart.sh makes it" >&2
  exit 1
done
plotting_python() {
  for python in "${PYTHON:-python3}" /usr/bin/python3; do
    "$python" -c 'import matplotlib' 2>/dev/null && { echo "$python"; return; }
  done
  echo "budget_curves.sh: ${PYTHON:-python3} has no matplotlib, which draws the picture: scripts/install.sh" \
    "python3-matplotlib, or ${PYTHON:-python3} -m pip install matplotlib" >&2
  return 1
}
python=$(plotting_python)
mkdir -p runs "$(dirname "$output")"
files=()
for method in ssa moba nsa full; do
  run=runs/budget-$method-$steps
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
