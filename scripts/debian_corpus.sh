#!/usr/bin/env bash
# Makes a corpus of English prose and technical text from Debian's documentation packages.
#
# Usage: scripts/debian_corpus.sh DIR [--sources NAME,...] [--keep-packages]
#   --sources        only these of: books, guides, reference, science, manuals, dictionaries
#   --keep-packages  keep the downloaded packages in DIR/packages, for another call
#
# Writes DIR/SOURCE.jsonl, a line {"text", "package", "file"} per document, and DIR/licenses.tsv: packages, versions,
# bytes of text and licenses, with the copyright files in DIR/copyright. Text is taken from HTML, DocBook, Mallard,
# reStructuredText, Markdown, plain text, manual pages and dictionaries; paragraphs that occurred before are left out.
# Nothing is installed. Needs apt with a package index (apt-get update), dpkg-deb, Python 3 and 2 GB in DIR: 1.1 GB are
# downloaded.
# Packages that this release of Debian does not have are named and left out.
#
# Example: scripts/debian_corpus.sh data/debian && build/bin/ssa_tokenize --tokenizer bytes \
#            --input data/debian/books.jsonl --output data/books
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "debian_corpus.sh: $1" >&2; exit "${2:-1}"; }

# A|B: the first of the two that there is.
books="debian-handbook debian-reference-en maint-guide developers-reference installation-guide-amd64 debian-policy
  debian-faq harden-doc aptitude-doc-en debmake-doc fortunes miscfiles mit-scheme-doc scheme48-doc lilypond-doc-html
  ada-reference-manual-2012 docutils-doc"
guides="gnome-user-docs libreoffice-help-en-us gnome-devel-docs apache2-doc bacula-doc git-doc libsvn-doc
  mercurial-common dar-docs exim4-doc-html postfix-doc nova-doc neutron-doc cinder-doc swift-doc ironic-doc heat-doc
  keystone-doc octavia-doc buildbot-doc icinga2-doc krb5-doc bind9-doc corosync-doc
  postgresql-doc-15|postgresql-doc-17 gnuplot-doc csound-doc imagemagick-6-doc|imagemagick-7-doc asciidoctor-doc
  sphinx-doc kicad-doc-en zsh-doc"
reference="linux-doc-6.1|linux-doc-6.12 rust-doc python3.11-doc|python3.13-doc cppreference-doc-en-html
  llvm-19-doc|llvm-15-doc clang-19-doc|clang-15-doc cmake-doc sqlite3-doc python-django-doc python-sqlalchemy-doc
  erlang-doc racket-doc qtbase5-doc-html qtdeclarative5-doc-html libboost1.81-doc|libboost1.83-doc icu-doc twisted-doc
  gradle-doc ant-doc ffmpeg-doc db5.3-doc libglib2.0-doc dpdk-doc pylint-doc numba-doc nim-doc nodejs-doc pike8.0-doc
  antlr4-doc sbcl-doc clisp-doc swi-prolog-doc derby-doc xapian-doc libxcb-doc python-tornado-doc python-pytest-doc
  python-hypothesis-doc python-aiohttp-doc python-cryptography-doc python-werkzeug-doc python-flask-doc
  python-jinja2-doc autoconf-doc libssl-doc"
science="python-scipy-doc python-pandas-doc python-statsmodels-doc python-sklearn-doc python-sympy-doc
  python-astropy-doc python-dask-doc python-xarray-doc python-biopython-doc python-nibabel-doc python-ase-doc
  sagemath-doc gap-doc singular-doc giac-doc maxima-doc octave-doc petsc3.18-doc|petsc3.22-doc rdkit-doc
  geographiclib-doc r-doc-html"
manuals="manpages manpages-dev freebsd-manpages git-man perl-doc tcl8.6-doc tk8.6-doc libx11-doc netpbm groff systemd
  zsh-common openssh-client openssl util-linux iproute2 nfs-common lvm2 btrfs-progs xfsprogs samba-common-bin postfix
  podman libvirt-clients qemu-utils apt dpkg-dev debhelper devscripts lintian erlang-manpages allegro4-doc
  libcurl4-doc nmap slapd openmpi-doc mpich-doc nftables iptables smartmontools mdadm cryptsetup
  postgresql-client-15|postgresql-client-17 gdal-bin coreutils slurm-client subversion libtiff-doc libibverbs-dev
  glibc-doc"
dictionaries="dict-gcide dict-wn dict-foldoc dict-jargon dict-devil dict-elements"

directory="" chosen="books,guides,reference,science,manuals,dictionaries" keep=false
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --sources) [[ $# -gt 1 ]] || fail "--sources: expected names" 2; chosen="$2"; shift 2 ;;
    --keep-packages) keep=true; shift ;;
    -*) fail "$1: no such option; --help lists them" 2 ;;
    *) [[ -z "$directory" ]] || fail "$1: expected one directory" 2; directory="$1"; shift ;;
  esac
done
[[ -n "$directory" ]] || { usage >&2; exit 2; }
IFS=, read -ra sources <<<"$chosen"
[[ ${#sources[@]} -gt 0 ]] || fail "--sources: expected names" 2
seen=","
for source in "${sources[@]}"; do
  case "$source" in
    books | guides | reference | science | manuals | dictionaries) ;;
    *) fail "--sources: no source $source, expected books, guides, reference, science, manuals or dictionaries" 2 ;;
  esac
  [[ "$seen" != *",$source,"* ]] || fail "--sources: $source is given twice, expected once" 2
  seen+="$source,"
  [[ ! -e "$directory/$source.jsonl" ]] || fail "$directory/$source.jsonl: exists already, expected a new directory"
done
for program in apt-get apt-cache dpkg-deb python3; do
  command -v "$program" >/dev/null || fail "$program is missing: this script runs on Debian and Ubuntu"
done
here="$(cd "$(dirname "$0")" && pwd)"
mkdir -p "$directory/packages"

declare -A available
while read -r name; do available[$name]=1; done < <(apt-cache dumpavail | sed -n 's/^Package: //p')
missing=()
for source in "${sources[@]}"; do
  wanted=() absent=()
  for choice in ${!source}; do
    found=""
    for name in ${choice//|/ }; do [[ -z "$found" && -n "${available[$name]:-}" ]] && found="$name"; done
    if [[ -z "$found" ]]; then
      missing+=("$choice")
      continue
    fi
    wanted+=("$found")
    compgen -G "$directory/packages/$source/${found}_*.deb" >/dev/null || absent+=("$found")
  done
  [[ ${#wanted[@]} -gt 0 ]] || fail "apt knows none of the packages of $source: run apt-get update first"
  mkdir -p "$directory/packages/$source"
  echo "$source: ${#wanted[@]} packages, ${#absent[@]} to download"
  [[ ${#absent[@]} -eq 0 ]] || (cd "$directory/packages/$source" &&
    apt-get -qq -o APT::Sandbox::User=root download "${absent[@]}") || fail "$source: download failed"
done
[[ ${#missing[@]} -eq 0 ]] || echo "not in this release, left out: ${missing[*]}" >&2

python3 "$here/debian_text.py" "$directory/packages" "$directory" --sources "$(IFS=,; echo "${sources[*]}")"
$keep || rm -rf "$directory/packages"
