#!/usr/bin/env bash
# Fetches the Perl manuals of the distribution's package perl-doc, about 9 MB of English, as training and held-out text.
#
# Usage: scripts/perl_manuals.sh DIR [BYTES]
#
# Writes DIR/train/NAME.txt, and DIR/eval/NAME.txt with the first BYTES (16000) of every twentieth manual. Nothing is
# installed. Needs apt-get with a package index (apt-get update) and dpkg-deb.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "$1" = --help ] || [ "$1" = -h ]; then
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//p}' "$0"
  [ $# -eq 1 ] || exit 2
  exit 0
fi
held_out=${2:-16000}
mkdir -p "$1/train" "$1/eval"
package=$(mktemp -d "$1/package.XXXXXX")
trap 'rm -rf "$package"' EXIT
(cd "$package" && apt-get -o APT::Sandbox::User=root download -qq perl-doc 2>/dev/null && dpkg-deb -x perl-doc_*.deb .) || {
  echo "perl_manuals.sh: apt-get could not download perl-doc; name text files of your own instead" >&2
  exit 1
}
n=0
for pod in $(find "$package" -name '*.pod' | LC_ALL=C sort); do
  split=train bytes=100000000
  [ $((n % 20)) -ne 10 ] || split=eval bytes=$held_out
  head -c $bytes "$pod" >"$1/$split/$(basename "$pod" .pod).txt"
  n=$((n + 1))
done
