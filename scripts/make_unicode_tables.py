#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_data.inc: the Unicode properties that tokenizers depend on.

Token ids depend on the Unicode version, so the tables follow what Hugging Face tokenizers 0.23 and tiktoken 0.14
compute, and not what the system's libraries know:
  \\p{L}, \\p{N}, \\s, \\w of the pre-tokenizer patterns   Unicode 16.0
  the Digits pre-tokenizer (Rust's char::is_numeric)    Unicode 17.0
  the NFC normalizer                                    Unicode 9.0
Needs `pip install unicodedata2==16.0.0`; the differences to the other two versions are listed below.

Example: python3 scripts/make_unicode_tables.py > src/tokenizer/unicode_data.inc
"""
import sys

import unicodedata2 as ud

# Numbers that Unicode 17.0 added to 16.0.
NUMBERS_OF_17 = "11de0-11de9 16ff4-16ff6"
# Characters with a combining class or a canonical decomposition that came after Unicode 9.0.
NORMALIZATION_AFTER_9 = """
7fd 897-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 105c9 105e4 10d24-10d27 10d69-10d6d 10eab-10eac
10efd-10eff 10f46-10f50 10f82-10f85 11070 1133b 11383 11385 1138e 11391 113c5 113c7-113c8 113ce-113d0 1145e 11839-1183a
11938 1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 11f41-11f42 16121-16128 1612f 16d68-16d6a
16ff0-16ff1 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e5ee-1e5ef"""
# \w is alphabetic + marks + Nd + Pc + join controls; these are the alphabetic ones that are neither letters nor Nl.
OTHER_ALPHABETIC = "24b6-24e9 1f130-1f149 1f150-1f169 1f170-1f189"
WHITE_SPACE = "9-d 20 85 a0 1680 2000-200a 2028-2029 202f 205f 3000"


def parse(text):
    out = set()
    for item in text.split():
        low, _, high = item.partition("-")
        out.update(range(int(low, 16), int(high or low, 16) + 1))
    return out


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(name, kind, rows):
    print(f"constexpr {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        item = " {" + ", ".join(f"0x{v:x}" if i < 2 else str(v) for i, v in enumerate(row)) + "},"
        if len(line) + len(item) > 118:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def main():
    if ud.unidata_version != "16.0.0":
        sys.exit(f"unicodedata2 {ud.unidata_version}, expected 16.0.0")
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    category = {c: ud.category(chr(c)) for c in points}
    letters = {c for c in points if category[c][0] == "L"}
    numbers = {c for c in points if category[c][0] == "N"}
    word = {c for c in points if category[c][0] in "LM" or category[c] in ("Nd", "Nl", "Pc")}
    word |= parse(OTHER_ALPHABETIC) | {0x200C, 0x200D}

    later = parse(NORMALIZATION_AFTER_9)
    decompositions, pairs, combining = [], [], {}
    for c in points:
        if c in later or 0xAC00 <= c <= 0xD7A3:  # Hangul syllables follow a formula
            continue
        if ud.combining(chr(c)):
            combining[c] = ud.combining(chr(c))
        text = ud.decomposition(chr(c))
        if text and text[0] != "<":
            parts = [int(v, 16) for v in text.split()]
            decompositions.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
            if len(parts) == 2 and ud.normalize("NFC", chr(c)) == chr(c):  # else excluded from composition
                pairs.append((parts[0], parts[1], c))

    print("// Written by scripts/make_unicode_tables.py; not to be edited.")
    emit("kLetterRanges", "Range", ranges(letters))
    emit("kNumberRanges", "Range", ranges(numbers))
    emit("kNumericRanges", "Range", ranges(numbers | parse(NUMBERS_OF_17)))
    emit("kSpaceRanges", "Range", ranges(parse(WHITE_SPACE)))
    emit("kWordRanges", "Range", ranges(word))
    print("// Code point and its canonical decomposition into one (second = 0) or two.")
    emit("kDecompositions", "Decomposition", decompositions)
    print("// First, second, and what they compose to.")
    emit("kCompositions", "Composition", pairs)
    print("// Ranges of equal combining class.")
    rows = []
    for c in sorted(combining):
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == combining[c]:
            rows[-1][1] = c
        else:
            rows.append([c, c, combining[c]])
    emit("kCombiningRanges", "Combining", rows)


main()
