#!/usr/bin/env python3
"""Takes the English text out of Debian packages: scripts/debian_corpus.sh runs it.

Usage: scripts/debian_text.py PACKAGES OUTPUT [--sources NAME,...]
PACKAGES/SOURCE/*.deb are read. Writes OUTPUT/SOURCE.jsonl, OUTPUT/licenses.tsv and OUTPUT/copyright/PACKAGE. Paragraphs
that occurred before, in any source, are left out, and documents that are short or not English prose.

Example: scripts/debian_text.py packages corpus --sources books
"""
import argparse
import gzip
import hashlib
import html
import json
import lzma
import multiprocessing
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LEAST_CHARACTERS = 300   # of a document
LEAST_COMMON = 0.12      # share of a document's words that are among the most common ones of English
LARGEST_FILE = 64 << 20  # bytes, unpacked
COMMON = frozenset("the of and to a in is that for it as with be on by this are or an from at not can if which will have "
                   "has its was you when but all use used one".split())
OTHER_LANGUAGES = re.compile(  # de, pt_BR, zh-cn and so on as a part of a path or a suffix
    r"(?:^|[/._-])(?:af|ar|ast|bg|bn|ca|cs|da|de|el|eo|es|et|eu|fa|fi|fr|ga|gl|gu|he|hi|hr|hu|id|it|ja|ka|ko|lt|lv|mk|ml|"
    r"mr|nb|nl|nn|no|pa|pl|pt|ro|ru|si|sk|sl|sq|sr|sv|ta|te|th|tr|uk|vi|zh)"
    r"(?:[_-][A-Za-z]{2,4})?(?:@\w+)?(?:/|\.html?$|\.txt$|(?:\.gz)?$)")
LEFT_OUT = re.compile(  # files without prose of their own
    r"/(?:changelog|copyright|news|todo|authors|thanks|install|genindex|py-modindex|search|searchindex|classes|functions|"
    r"files|annotated|namespaces|globals|hierarchy|inherits|doxygen_crawl|objects|index-all|allclasses[\w-]*|all)"
    r"(?:[._-][^/]*)?$|/_sources/|/_modules/|/_static/|_source\.html|-members\.html|/src-html/|/examples?/|"
    r"/src/.*\.rs\.html", re.IGNORECASE)

DROPPED_BLOCKS = re.compile(
    r"<(script|style|head|nav|footer|svg|noscript|template|button|form|select)\b.*?</\1\s*>|<!--.*?-->",
    re.IGNORECASE | re.DOTALL)
PREFORMATTED = re.compile(r"<(pre|screen|programlisting|code mime)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
INLINE = re.compile(
    r"</?(?:a|abbr|acronym|app|b|big|bdi|cite|cmd|code|command|dfn|em|email|emphasis|file|filename|font|gui|guiseq|i|"
    r"input|ins|key|keycap|keyseq|kbd|link|literal|mark|option|output|path|q|quote|replaceable|s|samp|small|span|strong|"
    r"sub|sup|sys|systemitem|tt|u|ulink|userinput|var|varname|wbr|xref)\b[^>]*>", re.IGNORECASE)
TAG = re.compile(r"<[^>]*>")
SPACES = re.compile(r"[ \t\r\f\v\u00a0]+")
BLANK_LINES = re.compile(r"\n\s*\n")


def from_markup(text):
    """The paragraphs of HTML, DocBook or Mallard."""
    text = DROPPED_BLOCKS.sub(" ", text).replace("¶", "")  # Sphinx links headings to themselves
    paragraphs = []

    def add(part):
        part = TAG.sub("\n\n", INLINE.sub("", part))
        for paragraph in BLANK_LINES.split(html.unescape(part)):
            paragraphs.append(" ".join(paragraph.split()))

    end = 0
    for block in PREFORMATTED.finditer(text):
        add(text[end:block.start()])
        lines = html.unescape(TAG.sub("", block.group(2))).expandtabs(4).splitlines()
        paragraphs.append("\n".join(line.rstrip() for line in lines).strip("\n"))
        end = block.end()
    add(text[end:])
    return paragraphs


def from_text(text):
    """The paragraphs of plain text, Markdown or reStructuredText, with their line breaks."""
    text = re.sub(r"[^\n]\x08", "", text)  # overstruck characters
    lines = (line.rstrip() for line in text.expandtabs(4).splitlines())
    return [paragraph.strip("\n") for paragraph in BLANK_LINES.split("\n".join(lines))]


MACROS_WITH_TEXT = frozenset(
    "SH SS B I BR IR RB RI BI IB SM SB Sh Ss Nm Nd Fl Ar Pa Xr Em Sy Li Dq Sq Ql Qq Op Oo Ic Cm Dv Ev Va Vt Fa Fn Ft It "
    "Pq Ad An Er Tn No Bx Fx UR MT".split())
MACROS_THAT_END_A_PARAGRAPH = frozenset("PP P LP TP IP HP Pp sp br SH SS Sh Ss It RS RE El TQ".split())
NAMES_IN_MDOC = re.compile(r"\b(?:Fl|Ar|Pa|Xr|Em|Sy|Li|Dq|Sq|Ql|Qq|Op|Ic|Cm|Dv|Ev|Va|Vt|Fa|Pq|Ns|Ap|Nm)\b ?")
ESCAPES = {"-": "-", "e": "\\", " ": " ", "~": " ", "0": " ", "'": "'", "`": "`", "t": " ", ".": ".", "\\": "\\"}
CHARACTERS = {"bu": "*", "em": "--", "en": "-", "lq": '"', "rq": '"', "oq": "'", "cq": "'", "aq": "'", "dq": '"',
              "co": "(c)", "ga": "`", "ti": "~", "ha": "^", "rs": "\\", "mu": "x", "<=": "<=", ">=": ">=", "->": "->",
              "<-": "<-", "mi": "-", "hy": "-", "at": "@", "sh": "#", "Do": "$", "or": "|", "ba": "|"}
ESCAPE = re.compile(r"\\(?:f(?:\(..|\[[^\]]*\]|.)|s[-+]?\d+|\((..)|\[([^\]]*)\]|\*(?:\(..|\[[^\]]*\]|.)|[hvwDlLoX]'[^']*'|"
                    r"[mkFMn](?:\(..|\[[^\]]*\]|.)|(.)|$)")


def unescaped(line):
    def text_of(match):
        name = match.group(1) or match.group(2)
        if name:
            if re.fullmatch(r"u[0-9A-F]{4,5}", name):
                return chr(int(name[1:], 16))
            return CHARACTERS.get(name, "")
        return ESCAPES.get(match.group(3) or "", "")

    return ESCAPE.sub(text_of, line)


def from_manual(text):
    """The paragraphs of a manual page in man or mdoc."""
    if re.match(r"\.so ", text):
        return []
    mdoc = re.search(r"^\.Dd ", text, re.MULTILINE) is not None
    paragraphs, lines, literal, skipped = [], [], False, None

    def end():
        if lines:
            paragraphs.append(("\n" if literal else " ").join(lines))
        lines.clear()

    for line in text.splitlines():
        if skipped:
            skipped = None if line.startswith(skipped) else skipped
            continue
        if line[:1] not in (".", "'"):
            line = unescaped(line).rstrip()
            if line.strip():
                lines.append(line if literal else line.strip())
            else:
                end()
            continue
        macro, _, arguments = line[1:].strip().partition(" ")
        if macro.startswith('\\"') or macro == "":
            continue
        if macro in ("de", "de1", "ig", "am"):
            skipped = ".."
            continue
        if macro in ("TS", "EQ", "PS"):
            skipped = "." + {"TS": "TE", "EQ": "EN", "PS": "PE"}[macro]
            continue
        if macro in ("nf", "EX", "Bd", "Vb"):
            end()
            literal = True
        elif macro in ("fi", "EE", "Ed", "Ve"):
            end()
            literal = False
        elif macro in MACROS_THAT_END_A_PARAGRAPH:
            end()
        if macro in MACROS_WITH_TEXT or macro == "IP":
            words = re.findall(r'"((?:[^"]|"")*)"|(\S+)', arguments)
            words = [quoted.replace('""', '"') if quoted else word for quoted, word in words]
            if macro == "IP":
                words = words[:1]
            joined = ("" if macro in ("BR", "IR", "RB", "RI", "BI", "IB") else " ").join(words)
            if mdoc:
                joined = NAMES_IN_MDOC.sub("", joined)
            joined = unescaped(joined).strip()
            if joined and not (macro == "IP" and len(joined) < 3):
                lines.append(joined)
        if macro in ("SH", "SS", "Sh", "Ss"):
            end()
    end()
    return paragraphs


def dictionary_entries(path):
    """The entries of a dictd dictionary: NAME.dict.dz with NAME.index next to it."""
    digits = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}

    def number(text):
        value = 0
        for character in text:
            value = value * 64 + digits[character]
        return value

    data = gzip.open(path).read() if path.suffix == ".dz" else path.read_bytes()
    index = Path(re.sub(r"\.dict(?:\.dz)?$", ".index", str(path)))
    places = set()
    for line in index.read_bytes().decode("utf-8", "replace").splitlines():
        fields = line.split("\t")
        if len(fields) >= 3 and not fields[0].startswith("00"):
            places.add((number(fields[1]), number(fields[2])))
    for begin, size in sorted(places):
        yield data[begin:begin + size].decode("utf-8", "replace")


def read(path):
    if path.stat().st_size > LARGEST_FILE:
        return ""
    open_file = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with open_file(path, "rb") as file:
        data = file.read(LARGEST_FILE)
    if b"\0" in data[:4096]:
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def reader_of(name):
    """What reads a file of that name, a path in the package; None if it has no text."""
    bare = re.sub(r"\.(?:gz|xz)$", "", name)
    if LEFT_OUT.search(name):
        return None
    if re.search(r"/man/man[1-9][a-z]*/[^/]+\.[1-9][a-z]*$", bare):
        return from_manual
    if re.search(r"/man/", bare) or OTHER_LANGUAGES.search(re.sub(r"/help/C/", "/", bare)):
        return None
    if re.search(r"\.(?:html?|xhtml|html\.en|page|docbook)$", bare):
        return from_markup
    if re.search(r"\.(?:rst|txt|md|text|asc|adoc)$", bare) or re.search(r"/(?:games/fortunes|misc)/[\w-]+$", bare):
        return from_text
    return None


def documents_of(package):
    """[(file, paragraphs)] of a .deb, its version, licenses and copyright file."""
    package = Path(package)
    documents = []
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "-x", package, directory], check=True)
        root = Path(directory)
        name = package.name.split("_")[0]
        licenses, copyright_text = "not in the package", ""
        copyright_file = root / "usr/share/doc" / name / "copyright"
        if copyright_file.is_file():
            copyright_text = copyright_file.read_text(errors="replace")
            short = dict.fromkeys(re.findall(r"^License:[ \t]*(\S.*?)\s*$", copyright_text, re.MULTILINE))
            licenses = "; ".join(short) or "see the copyright file"
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            file = "/" + str(path.relative_to(root))
            if re.search(r"\.dict(?:\.dz)?$", file):
                entries = list(dictionary_entries(path))
                for first in range(0, len(entries), 100):  # an entry is short
                    documents.append((file, [entry.strip() for entry in entries[first:first + 100]]))
                continue
            reader = reader_of(file)
            if reader:
                documents.append((file, reader(read(path))))
    version = subprocess.run(["dpkg-deb", "-f", package, "Version"], check=True, capture_output=True, text=True).stdout
    return name, version.strip(), licenses, copyright_text, documents


def is_english(text):
    words = re.findall(r"[a-z]+", text.lower())
    letters = sum(map(len, words))
    common = sum(word in COMMON for word in words)
    return bool(words) and letters > 0.4 * len(text) and common >= LEAST_COMMON * len(words)


class Seen:
    """Which paragraphs occurred."""

    def __init__(self):
        self.digests = set()

    def add(self, paragraph):
        """Whether it is new."""
        digest = hashlib.blake2b(" ".join(paragraph.split()).encode("utf-8", "replace"), digest_size=8).digest()
        before = len(self.digests)
        self.digests.add(digest)
        return len(self.digests) > before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sources", metavar="NAME,...", help="default: every directory in PACKAGES")
    args = parser.parse_args()
    names = args.sources.split(",") if args.sources else sorted(p.name for p in args.packages.iterdir() if p.is_dir())
    seen = Seen()
    rows = []
    (args.output / "copyright").mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool() as pool:
        for source in names:
            packages = sorted((args.packages / source).glob("*.deb"))
            if not packages:
                sys.exit(f"debian_text.py: {args.packages / source}: no .deb files")
            total = count = repeated = 0
            draft = args.output / f".{source}.jsonl"
            with open(draft, "w", encoding="utf-8") as out:
                for name, version, licenses, copyright_text, documents in pool.imap(documents_of, packages):
                    size = 0
                    for file, paragraphs in documents:
                        kept = []
                        for paragraph in filter(None, paragraphs):
                            if seen.add(paragraph):
                                kept.append(paragraph)
                            else:
                                repeated += len(paragraph)
                        text = "\n\n".join(kept)
                        if len(text) < LEAST_CHARACTERS or not is_english(text):
                            continue
                        text = text.encode("utf-8", "replace").decode("utf-8")  # no lone surrogates
                        out.write(json.dumps({"text": text, "package": name, "file": file}, ensure_ascii=False) + "\n")
                        size += len(text.encode("utf-8"))
                        count += 1
                    total += size
                    rows.append((source, name, version, size, licenses))
                    if copyright_text:
                        (args.output / "copyright" / name).write_text(copyright_text)
            draft.rename(args.output / f"{source}.jsonl")
            print(f"{source}: {count} documents, {total / 1e6:.1f} MB of text, {repeated / 1e6:.1f} MB repeated", flush=True)
    with open(args.output / "licenses.tsv", "w", encoding="utf-8") as table:
        table.write("source\tpackage\tversion\tbytes\tlicenses\n")
        for row in rows:
            table.write("\t".join(map(str, row)) + "\n")
    print(f"all: {sum(row[3] for row in rows) / 1e6:.1f} MB of text; licenses: {args.output / 'licenses.tsv'}")


if __name__ == "__main__":
    main()
