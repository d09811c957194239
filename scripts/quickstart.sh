#!/usr/bin/env bash
# From nothing to a trained model: installs what is missing, builds, tokenizes English text, trains the tiny SSA model on
# it (on a GPU if there is one), evaluates it under sparse and under full attention, and draws the loss curves.
#
# Usage: scripts/quickstart.sh [--with-parquet] [TEXT FILES (.txt or .jsonl, or .parquet with a text column)...]
# Without files it takes the Perl manuals of the distribution's perl-doc package, about 9 MB of English.
# --with-parquet builds ssa_tokenize with Apache Arrow C++, from a pyarrow wheel in build/pyarrow.
set -euo pipefail
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"
  exit 0
fi
with_parquet=false
if [ "${1:-}" = --with-parquet ]; then
  with_parquet=true
  shift
fi
files=()
for file in "$@"; do files+=("$(realpath "$file")"); done
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

say "installing what is missing"
scripts/install.sh
options=()
if $with_parquet; then
  scripts/install.sh python3-venv
  [ -x build/pyarrow/bin/pip ] || python3 -m venv build/pyarrow
  build/pyarrow/bin/pip install -q pyarrow
  options=(-DSSA_PARQUET=ON -DSSA_PYTHON="$PWD/build/pyarrow/bin/python")
fi

say "building (log: build/build.log)"
mkdir -p build
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF "${options[@]}" >build/build.log 2>&1 &&
  cmake --build build >>build/build.log 2>&1 || { tail -n 30 build/build.log; echo "the build failed" >&2; exit 1; }

data=data/tiny run=runs/tiny
rm -rf "$data"
mkdir -p "$data/text/train" "$data/text/eval"
if [[ "${files[*]}" == *.parquet* ]]; then
  say "tokenizing ${#files[@]} files of yours; a tenth of their documents is kept for evaluation"
  build/bin/ssa_tokenize --tokenizer bytes --input "${files[@]}" --validation-fraction 0.1 --output "$data/both"
  mv "$data/both/train" "$data/train"
  mv "$data/both/validation" "$data/eval"
elif [ ${#files[@]} -gt 0 ]; then
  say "taking ${#files[@]} files of yours; the last tenth of their lines is kept for evaluation"
  n=0
  for file in "${files[@]}"; do
    [ -r "$file" ] || { echo "quickstart.sh: cannot read $file" >&2; exit 1; }
    lines=$(wc -l <"$file") name=$n-$(basename "$file") n=$((n + 1))
    [ "$lines" -ge 2 ] || { echo "quickstart.sh: $file has $lines lines, expected at least 2: some are kept for evaluation" >&2; exit 1; }
    held=$(((lines + 9) / 10))
    head -n $((lines - held)) "$file" >"$data/text/train/$name"
    tail -n "$held" "$file" >"$data/text/eval/$name"
  done
else
  say "fetching the Perl manuals (package perl-doc)"
  (cd "$data" && apt-get download -qq perl-doc 2>/dev/null && dpkg-deb -x perl-doc_*.deb package) ||
    { echo "quickstart.sh: apt-get could not download perl-doc; name text files of your own instead" >&2; exit 1; }
  n=0
  for pod in $(find "$data/package" -name '*.pod' | LC_ALL=C sort); do
    split=train
    [ $((n % 20)) -eq 10 ] && split=eval
    if [ $split = train ]; then bytes=100000000; else bytes=16000; fi # some of each manual that is held out
    head -c $bytes "$pod" >"$data/text/$split/$(basename "$pod" .pod).txt"
    n=$((n + 1))
  done
fi

say "tokenizing"
for split in train eval; do
  [ -e "$data/$split/dataset.json" ] && continue
  build/bin/ssa_tokenize --tokenizer bytes --input "$data/text/$split"/* --output "$data/$split"
done
build/bin/ssa_inspect "$data/train"

say "training $run (configs/tiny.json)"
build/bin/ssa_train --config configs/tiny.json --resume none

say "evaluating the trained model on held-out text"
build/bin/ssa_eval --model "$run" --data "$data/eval" --mode both
echo "for comparison, a model that knows only how frequent each token is:"
build/bin/ssa_inspect "$data/eval" --unigram | tail -n 1

say "drawing the loss curves"
plotting_python() {
  for python in python3 /usr/bin/python3; do
    "$python" -c 'import matplotlib' 2>/dev/null && { echo "$python"; return; }
  done
  return 1
}
if python=$(plotting_python) || { scripts/install.sh python3-matplotlib && python=$(plotting_python); }; then
  "$python" scripts/plot_run.py "$run" --output "$run/loss.png"
else
  echo "no matplotlib: install python3-matplotlib, then: python3 scripts/plot_run.py $run --output $run/loss.png"
fi
