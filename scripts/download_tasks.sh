#!/usr/bin/env bash
# Downloads the documents of ssa_eval's tasks and writes them as the files that --task-dir expects.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: scripts/download_tasks.sh DIR [TASK...] [--from DOWNLOADS]

Writes DIR/TASK.jsonl, and DIR/TASK_train.jsonl where few-shot examples come from another split; for wikitext
DIR/wikitext.txt. Without TASK, all of them except longbench:

  task              data set on Hugging Face               configuration       fields
  arc_easy          allenai/ai2_arc                        ARC-Easy            question, choices, answerKey
  arc_challenge     allenai/ai2_arc                        ARC-Challenge       question, choices, answerKey
  piqa              baber/piqa                             any                 goal, sol1, sol2, label
  hellaswag         Rowan/hellaswag                        any                 activity_label, ctx_a, ctx_b, endings,
                                                                               label
  lambada_openai    EleutherAI/lambada_openai              default             text
  lambada_standard  cimec/lambada                          any                 text
  wikitext          EleutherAI/wikitext_document_level     wikitext-2-raw-v1   page
  longbench         zai-org/LongBench                      data.zip            all; DIR/longbench_NAME.jsonl for its
                                                                               English and code tasks, also NAME_e

RULER's documents depend on the tokenizer: scripts/make_ruler.py writes them.

Downloads go through the Hugging Face command line, from each data set's Parquet branch, to DIR/downloads; existing files
are not downloaded again. --from takes files that were downloaded before, for example on a machine without network:
DOWNLOADS/TASK/CONFIGURATION/SPLIT/*.parquet (or .jsonl), DOWNLOADS/longbench/data.zip. Needs pip install huggingface_hub
pyarrow. HF_TOKEN is used if it is set; PYTHON is the Python to convert with (default: python3).

Examples:
  scripts/download_tasks.sh tasks
  build/bin/ssa_eval --model runs/my-run --tasks arc_easy,piqa --task-dir tasks --num-fewshot 5
HELP
}

fail() { echo "download_tasks.sh: $*" >&2; exit 2; }
not_downloaded() {
  echo "download_tasks.sh: $1 was not downloaded, expected huggingface.co to be reachable, or --from DOWNLOADS" >&2
  exit 1
}

# task, data set, configuration, evaluated split, split of the few-shot examples or -, fields
tasks="arc_easy allenai/ai2_arc ARC-Easy test train question,choices,answerKey
arc_challenge allenai/ai2_arc ARC-Challenge test train question,choices,answerKey
piqa baber/piqa * validation train goal,sol1,sol2,label
hellaswag Rowan/hellaswag * validation train activity_label,ctx_a,ctx_b,endings,label
lambada_openai EleutherAI/lambada_openai default test - text
lambada_standard cimec/lambada * test validation text
wikitext EleutherAI/wikitext_document_level wikitext-2-raw-v1 test - page"
converted=$(awk '{print $1}' <<<"$tasks")
known=$converted$'\n'longbench

target="" downloads="" wanted=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --from) [ $# -ge 2 ] || fail "--from: no directory"; downloads=$2; shift ;;
    -*) fail "$1: no such option, expected --from or --help" ;;
    *)
      if [ -z "$target" ]; then
        target=$1
      elif grep -qx -- "$1" <<<"$known"; then
        wanted+=("$1")
      else
        fail "$1: no such task, expected one of: ${known//$'\n'/, }"
      fi
      ;;
  esac
  shift
done
[ -n "$target" ] || { usage >&2; exit 2; }
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted <<<"$converted"

python=${PYTHON:-python3}
client=()
if [ -n "$downloads" ]; then
  [ -d "$downloads" ] || fail "--from $downloads: no such directory"
else
  for program in "hf" "huggingface-cli"; do
    command -v "$program" >/dev/null && { client=("$program" download); break; }
  done
  [ ${#client[@]} -gt 0 ] || fail "neither hf nor huggingface-cli found, expected one: pip install huggingface_hub"
  "$python" -c 'import pyarrow' 2>/dev/null || fail "pyarrow is missing for $python: $python -m pip install pyarrow"
  downloads=$target/downloads
fi
mkdir -p "$target"

# convert OUTPUT FIELDS FILES...: the fields of every row, one JSON object per line; the pages of wikitext as text.
convert() {
  "$python" - "$@" <<'PYTHON'
import json
import sys

output, fields, files = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]


def rows_of(file):
    if file.endswith(".jsonl"):
        with open(file, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    from pyarrow import parquet

    return parquet.read_table(file).to_pylist()


rows = []
for file in files:
    for number, row in enumerate(rows_of(file), 1):
        missing = [field for field in fields if field not in row]
        if missing:
            sys.exit(f"download_tasks.sh: {file}: row {number} has no {missing[0]}, expected {', '.join(fields)}")
        rows.append({field: row[field] for field in fields})
with open(output, "w", encoding="utf-8") as out:
    if fields == ["page"]:
        out.write("\n".join(row["page"] for row in rows))
    else:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
print(f"{output}: {len(rows)} documents")
PYTHON
}

while read -r task repository configuration split examples fields; do
  [[ " ${wanted[*]} " == *" $task "* ]] || continue
  for part in "$split" "$examples"; do
    [ "$part" != - ] || continue
    if [ ${#client[@]} -gt 0 ]; then
      "${client[@]}" "$repository" --repo-type dataset --revision refs/convert/parquet \
        --include "$configuration/$part/*.parquet" --local-dir "$downloads/$task" </dev/null || not_downloaded "$repository"
    fi
    # The configuration may be a pattern.
    mapfile -t files < <(find "$downloads/$task" -path "$downloads/$task/$configuration/$part/*" \
      \( -name '*.parquet' -o -name '*.jsonl' \) -not -path '*/.cache/*' 2>/dev/null | LC_ALL=C sort)
    [ ${#files[@]} -gt 0 ] || fail "$downloads/$task/$configuration/$part: no .parquet file of $repository"
    name=$task.jsonl
    [ "$part" = "$split" ] || name=${task}_train.jsonl
    [ "$task" != wikitext ] || name=wikitext.txt
    convert "$target/$name" "$fields" "${files[@]}"
  done
done <<<"$tasks"

if [[ " ${wanted[*]} " == *" longbench "* ]]; then
  if [ ${#client[@]} -gt 0 ]; then
    "${client[@]}" zai-org/LongBench --repo-type dataset --include data.zip --local-dir "$downloads/longbench" </dev/null ||
      not_downloaded zai-org/LongBench
  fi
  [ -f "$downloads/longbench/data.zip" ] || fail "$downloads/longbench/data.zip: no such file, expected zai-org/LongBench's"
  "$python" - "$downloads/longbench/data.zip" "$target" <<'PYTHON'
import pathlib
import sys
import zipfile

chinese = {"dureader", "lsht", "multifieldqa_zh", "passage_retrieval_zh", "vcsum"}
archive, target = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
names = [name for name in archive.namelist() if name.endswith(".jsonl") and pathlib.Path(name).stem not in chinese]
if not names:
    sys.exit(f"download_tasks.sh: {sys.argv[1]}: no .jsonl files of English and code tasks")
for name in names:
    file, text = target / f"longbench_{pathlib.Path(name).name}", archive.read(name)
    file.write_bytes(text)
    documents = text.strip().count(b"\n") + 1
    print(f"{file}: {documents} documents")
PYTHON
fi
