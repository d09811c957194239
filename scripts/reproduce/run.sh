#!/usr/bin/env bash
# Trains the attention methods on the same tokens, evaluates them, and writes one page with tables and pictures.
# Usage: scripts/reproduce/run.sh minute|hour|night [options]; --help lists the options.
set -euo pipefail

scripts=$(cd "$(dirname "$0")/.." && pwd)
command -v python3 >/dev/null || "$scripts/install.sh" python3
exec python3 "$scripts/reproduce/reproduce.py" "$@"
