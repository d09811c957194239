#!/usr/bin/env bash
# Downloads the SmolLM corpus that SSA-1B was trained on (EleutherAI/SmolLM2-135M-100B, Parquet shards).
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: scripts/download_smollm.sh DIR [PATTERN]

Downloads the Parquet files of EleutherAI/SmolLM2-135M-100B whose names match PATTERN (default: all of them) into DIR,
through the Hugging Face command line (pip install huggingface_hub). Existing files are not downloaded again, so the
same command continues an interrupted download. HF_TOKEN is used if it is set.

Examples:
  scripts/download_smollm.sh data/smollm-parquet                        # everything
  scripts/download_smollm.sh data/smollm-parquet '*00000-of-*.parquet'  # one shard, to try things out
HELP
}

case "${1:-}" in
  "" ) usage >&2; exit 2 ;;
  -h | --help) usage; exit 0 ;;
esac

target=$1
pattern=${2:-*.parquet}
repository=EleutherAI/SmolLM2-135M-100B

if command -v hf >/dev/null; then
  client=(hf download)
elif command -v huggingface-cli >/dev/null; then
  client=(huggingface-cli download)
else
  echo "download_smollm.sh: neither hf nor huggingface-cli found, expected one: pip install huggingface_hub" >&2
  exit 2
fi

mkdir -p "$target"
"${client[@]}" "$repository" --repo-type dataset --include "$pattern" --local-dir "$target" || {
  echo "download_smollm.sh: $repository was not downloaded, expected huggingface.co to be reachable; the same command" \
    "continues" >&2
  exit 1
}

count=$(find "$target" -name '*.parquet' -not -path '*/.cache/*' | wc -l)
if [ "$count" -eq 0 ]; then
  echo "download_smollm.sh: no .parquet file in $target, expected files of $repository that match $pattern" >&2
  exit 1
fi
echo "$count Parquet files in $target"
