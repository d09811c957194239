#!/usr/bin/env bash
# From nothing to a trained model: installs missing packages, builds, tokenizes English text, trains the tiny SSA model
# on it (on a GPU if there is one), evaluates it under sparse and under full attention, lets it write, and draws its curves.
#
# Usage: scripts/quickstart.sh [--with-parquet] [FILE...]
#
# FILE: .txt or .jsonl, also with .gz or .zst, or .parquet with a text column. A tenth of the text is held out for
# evaluation. Without files it takes the Perl manuals of the distribution's perl-doc package, about 9 MB of English.
# --with-parquet builds ssa_tokenize with Apache Arrow C++, from a pyarrow wheel in build/pyarrow.
#
# Writes data/tiny/train, data/tiny/eval and runs/tiny. Nothing is deleted: other data of an earlier call is moved to
# data/tiny/earlier-N, and an earlier run to runs/tiny-N. Can be repeated, also after an interruption.
# STEPS in the environment: the steps to train, 600 as in configs/tiny.json.
set -euo pipefail

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"
  exit 0
fi

say() { printf '\n== %s\n' "$*"; }
fail() { echo "quickstart.sh: $*" >&2; exit 1; }
wrong_usage() { echo "quickstart.sh: $*; see scripts/quickstart.sh --help" >&2; exit 2; }

# 1. The arguments, before anything is installed, built or written.
with_parquet=false parquet=false
files=()
for argument in "$@"; do
  case $argument in
    --with-parquet) with_parquet=true; continue ;;
    -*) wrong_usage "unknown option $argument, expected --with-parquet or files" ;;
  esac
  [ -e "$argument" ] || wrong_usage "$argument: no such file"
  [ -f "$argument" ] || wrong_usage "$argument: not a file"
  [ -r "$argument" ] || wrong_usage "$argument: cannot be read"
  [ -s "$argument" ] || wrong_usage "$argument: is empty"
  case $argument in
    *.parquet) parquet=true ;;
    *.txt | *.jsonl | *.txt.gz | *.jsonl.gz | *.txt.zst | *.jsonl.zst) ;;
    *) wrong_usage "$argument: unknown kind, expected .txt, .jsonl (also with .gz or .zst) or .parquet" ;;
  esac
  files+=("$(realpath "$argument")")
done
cd "$(dirname "$0")/.."
if $parquet && ! $with_parquet && ! grep -qs '^SSA_PARQUET:STRING=ON' build/CMakeCache.txt; then
  wrong_usage "Parquet files need --with-parquet"
fi
steps=${STEPS:-600}
[[ $steps =~ ^[1-9][0-9]*$ ]] || wrong_usage "STEPS is $steps, expected a number of at least 1"
data=data/tiny run=runs/tiny
mkdir -p "$data" runs
new=$(mktemp -d "$data/new.XXXXXX")
trap 'rm -rf "$new"' EXIT

# 2. Installing.
say "installing missing packages"
scripts/install.sh
case "${files[*]:-}" in *.zst*) command -v zstd >/dev/null || scripts/install.sh zstd ;; esac

# 3. The text: training text in $new/text/train, held-out text in $new/text/eval.
unpacked() {
  case $1 in
    *.gz) gzip -dc -- "$1" ;;
    *.zst) zstd -dcq -- "$1" ;;
    *) cat -- "$1" ;;
  esac
}

# Where to cut the text file $1 so that about a tenth is held out: after a line, else after a word, else after a character.
cut_of() {
  local size cut rest
  size=$(wc -c <"$1")
  cut=$((size - (size + 9) / 10))
  rest=$(tail -c +$((cut + 1)) "$1" | head -n 1 | wc -c)
  if [ $((cut + rest)) -ge "$size" ]; then
    rest=$(tail -c +$((cut + 1)) "$1" | LC_ALL=C grep -abom1 ' ' | head -n 1 | cut -d: -f1 || true)
    rest=$((${rest:--1} + 1))
    [ $((cut + rest)) -lt "$size" ] || rest=0
  fi
  cut=$((cut + rest))
  while [ $cut -lt "$size" ] && [ "$(od -An -tu1 -j$cut -N1 "$1" | awk '{print ($1 >= 128 && $1 < 192)}')" = 1 ]; do
    cut=$((cut + 1))
  done
  echo $cut
}

mkdir -p "$new/text/train" "$new/text/eval"
if $parquet; then
  say "taking ${#files[@]} files of yours; a tenth of their documents is held out for evaluation"
elif [ ${#files[@]} -gt 0 ]; then
  say "taking ${#files[@]} files of yours; the last tenth of each is held out for evaluation"
  n=0
  for file in "${files[@]}"; do
    name=$(basename "$file") name=$n-${name%.gz} name=${name%.zst} n=$((n + 1))
    unpacked "$file" >"$new/whole" 2>/dev/null || fail "$file: cannot be unpacked; is it complete?"
    case $name in
      *.txt)
        cut=$(cut_of "$new/whole")
        head -c "$cut" "$new/whole" >"$new/text/train/$name"
        tail -c +$((cut + 1)) "$new/whole" >"$new/text/eval/$name" ;;
      *)  # whole records; the only record of a file is used for training
        records=$(grep -c '' "$new/whole" || true)
        held=$(((records + 9) / 10))
        [ "$held" -lt "$records" ] || held=0
        head -n $((records - held)) "$new/whole" >"$new/text/train/$name"
        tail -n "$held" "$new/whole" >"$new/text/eval/$name" ;;
    esac
    rm "$new/whole"
  done
  find "$new/text" -name '*.txt' -size 0 -delete
  find "$new/text" -name '*.jsonl' -size 0 -delete
  bytes=$(cat "$new/text/train"/* | wc -c)
  [ "$bytes" -ge 2048 ] || fail "the training text has $bytes bytes, expected at least 2048: 8 sequences of 256 bytes"
  [ -n "$(ls "$new/text/eval")" ] || fail "nothing is left to hold out: expected a second record in one of the files"
else
  say "fetching the Perl manuals (package perl-doc)"
  scripts/perl_manuals.sh "$new/text"
fi

# 4. Building: a line that updates on a terminal, one per tenth of the build elsewhere.
build_progress() {
  local line done total= tenth=-1
  while IFS= read -r line; do
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
    done=${BASH_REMATCH[1]}
    [ "$total" = "${BASH_REMATCH[2]}" ] || { total=${BASH_REMATCH[2]} tenth=-1; }
    if [ -t 1 ]; then
      printf '\rbuilt %s of %s' "$done" "$total"
    elif [ $((10 * done / total)) -gt $tenth ]; then
      tenth=$((10 * done / total))
      echo "built $done of $total"
    fi
  done
  if [ -t 1 ] && [ -n "$total" ]; then echo; fi
}

say "building (log: build/build.log)"
mkdir -p build
options=(-DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF -DSSA_CUDA=AUTO -DSSA_SANITIZE=OFF -DSSA_NATIVE=ON
  "-DSSA_WERROR=${SSA_WERROR:-OFF}")
command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
if $with_parquet; then
  scripts/install.sh python3-venv
  [ -x build/pyarrow/bin/pip ] || python3 -m venv build/pyarrow
  build/pyarrow/bin/pip install -q pyarrow
  options+=(-DSSA_PARQUET=ON "-DSSA_PYTHON=$PWD/build/pyarrow/bin/python")
fi
if ! cmake -S . -B build -G Ninja "${options[@]}" >build/build.log 2>&1 ||
  ! cmake --build build 2>&1 | tee -a build/build.log | build_progress; then
  tail -n 30 build/build.log >&2
  fail "the build failed; the whole log is build/build.log"
fi

# 5. Tokenizing into $new, and into place when it is complete.
say "tokenizing"
if $parquet; then
  build/bin/ssa_tokenize --tokenizer bytes --input "${files[@]}" --validation-fraction 0.1 --output "$new/both"
  mv "$new/both/train" "$new/train"
  mv "$new/both/validation" "$new/eval"
else
  for split in train eval; do
    build/bin/ssa_tokenize --tokenizer bytes --input "$new/text/$split"/* --output "$new/$split"
  done
fi

# The first free name of $1-1, $1-2, ...
free_name() {
  local n=1
  while [ -e "$1-$n" ]; do n=$((n + 1)); done
  echo "$1-$n"
}

same=true
for split in train eval; do cmp -s "$new/$split/dataset.json" "$data/$split/dataset.json" || same=false; done
if $same; then
  echo "$data has this data already"
else
  earlier=
  for split in train eval; do
    if [ -e "$data/$split" ]; then
      [ -n "$earlier" ] || { earlier=$(free_name "$data/earlier") && mkdir "$earlier"; }
      mv "$data/$split" "$earlier/$split"
      echo "moved the earlier $data/$split to $earlier/$split"
    fi
    mv "$new/$split" "$data/$split"
  done
fi
build/bin/ssa_inspect "$data/train"

# 6. Training, evaluating, writing, drawing.
if [ -e "$run" ]; then
  earlier=$(free_name "$run")
  mv "$run" "$earlier"
  say "moved the earlier run $run to $earlier; delete it if you do not need it"
fi
say "training $run (configs/tiny.json)"
build/bin/ssa_train --config configs/tiny.json --set train.max_steps="$steps"

say "evaluating the trained model on held-out text"
build/bin/ssa_eval --model "$run" --data "$data/eval" --mode both
echo "for comparison, a model that knows only how frequent each token is:"
build/bin/ssa_inspect "$data/eval" --unigram | tail -n 1

say "what the trained model writes after \"The function\""
build/bin/ssa_eval --model "$run" --generate "The function" --max-new-tokens 200 --temperature 0.7 2>/dev/null

say "the run as a page for a browser: losses, attention by layer, log and config"
build/bin/ssa_inspect "$run" --html "$run/report.html"
