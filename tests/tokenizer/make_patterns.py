#!/usr/bin/env python3
"""Writes patterns.jsonl: patterns and the pieces that the Split pre-tokenizer of Hugging Face tokenizers makes.

Run by hand when a case is added; the tests need only what it wrote.
Example: pip install tokenizers==0.23.3 && python3 tests/tokenizer/make_patterns.py
"""
import json
import pathlib
import random

from tokenizers import Regex, pre_tokenizers

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FAMILIES = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL,
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL,
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
              r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL,
    "deepseek numbers": r"\p{N}{1,3}",
    "deepseek han": "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "deepseek words": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                      "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
}
SYNTAX = [
    # Kimi K2's, with intersections; StarCoder's and Qwen 3.5's groups of numbers.
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    rf"{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]+"
    rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]*{CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|" + TAIL,
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+|\s+|[^\s]",
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL,
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))", r"(?<!\p{N})\p{N}{1,2}|\p{L}+", r"(?<=[a-z]{2})[A-Z]|(?<![a-z][a-z])\s",
    r"\p{N}{1,3}+", r"a{2}?", r"a{2}+b?", r"a{2,3}?", r"a{,2}", r"(?:ab){2,}", r"(?:ab){1,2}?a", r"a*?b", r"a++b", r"a?+a",
    r"x*", r"(?:a?)+b", r"(?:a|ab)(?:c|bcd)", r"(?>a+)b|a", r"(?:a*)*b", r"(?:\s|a)*?b", r"(a|b)(?:c|(?:d|e)f)*", "", "a|",
    r"a(?i)b|c", r"(?i)'S|K", r"(?i:[sdmt]|ll|ve|re)", r"(?i-i:a)B", r"(?m:.)+", r".+", r"\N+|\O",
    r"^a|b$", r"\Aa|a\z", r"a\Z|\n", r"\b", r"\B", r"\b\w+\b", r"\w+|\W", r"[\w]+|[^\w]", r"[[:word:]]+", r"\d+|\D",
    r"\s|\S+", r"\h+|\H", r"[^\n&&\s]+", r"[a-z&&[^aeiou]&&[^x]]+", r"[^a-c&&[b-z]]", r"[a-c-e]+", r"[-a]+", r"[a-]+",
    r"[a&b]+", r"[\x41-\x43\u0061]+|\x{1F600}", r"[[:digit:][:space:]]+", r"[^[:space:]]+", r"\p{Greek}+|\p{^L}", r"\P{^Lu}+",
    r"\p{Uppercase_Letter}\p{Ll}*", r"\p{Cyrillic}+|\p{Arab}+|\p{Thai}+|\p{Hangul}+|\p{Hiragana}+", r"\p{Common}+|\p{Inherited}+",
    r"\p{Cn}+|\p{Co}|\p{Cc}+|\p{Cf}", r"\p{Z}+|\p{Sm}+|\p{Sc}|\p{So}+|\p{Pd}", r"[\p{P}\p{S}]+", r"\p{Any}", r"\p{ASCII}+",
    r"(?x) a | b  # comment", r"(?#c)a", r"(?<n>a)|b", r"a{x|{|}", r"\_|\-|\/", r"\t|\e|\x00|\0",
]
BEHAVIORS = ["isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next"]


def texts_of(rng):
    yield from ["", "a", "b a", "aaaaaaab", "ab abc abcd", "a \U0001fae8", "I'll WE'RE don'T 'tis ''s 's\u017f \u212a", "1234567 12 1,234.5",
                "HelloWorld HTTPServer \u01c5a \u02b0 \u0301a\u0301 A\u0301b !\u0301", "  a\n\n b\r\n\r\n   c  ", "!!/\n/\n ?? //\r\n",
                "\u4e2d\u6587abc\u3042\u30a2\u9fa6 \ud55c\uad6d", "a\u180eb\u0085c\u00a0d\u200be", "\U00031350\U000323af\U0002ebf0 \U0001e030",
                "\x01\x02ab\x7f 12\x01", "a\u00b2\u00bc\u00b5_\u203f\u200d\u2160\u24b6", "ss\u00df \ufb01 SS", "a\na\n", "\n", "\u03b1\u03b2\u0410\u0431\u0e01\u0e34"]
    pools = [[ord(c) for c in "aabbcdexXYZ  '-_/\n\r\t019.,!"], [ord(c) for c in "'sStTrReEvVlLdDmM\u017f "],
             list(range(32, 127)) + [10, 13], [9, 10, 13, 32, 32, 0x85, 0xA0, 0x2003, 0x2028, 0x3000, 0x180E, 0x200B],
             list(range(0xC0, 0x250)) + [0x1C5, 0x1C8, 0x2B0, 0x301, 0x302, 0x345], list(range(0x370, 0x460)),
             list(range(0x4E00, 0x4E40)) + list(range(0x3040, 0x3100)) + list(range(0xAC00, 0xAC20)),
             list(range(0x600, 0x6F0)) + list(range(0x900, 0x980)) + list(range(0xE00, 0xE60)), None]
    for _ in range(60):
        out = []
        for _ in range(rng.randint(1, 6)):
            pool = rng.choice(pools)
            for _ in range(rng.randint(1, 9)):
                c = rng.randrange(0x110000) if pool is None else rng.choice(pool)
                if not 0xD800 <= c < 0xE000:
                    out.append(chr(c))
        yield "".join(out)


def main():
    rng = random.Random(7)
    texts = list(texts_of(rng))
    with open(pathlib.Path(__file__).parent / "patterns.jsonl", "w", encoding="ascii") as out:
        out.write(json.dumps(texts, separators=(",", ":")) + "\n")
        cases = [(pattern, "isolated", False) for pattern in [*FAMILIES.values(), *SYNTAX]]
        cases += [(pattern, behavior, invert) for pattern in (r"\s+", r"a|b|x*", r"[ab]") for behavior in BEHAVIORS
                  for invert in (False, True)]
        cases += [(FAMILIES["o200k"], "removed", True), (FAMILIES["deepseek words"], "removed", True)]
        for pattern, behavior, invert in cases:
            split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
            # The lengths of the pieces, and where each begins, in bytes.
            pieces = []
            for text in texts:
                begin = [0]
                for c in text:
                    begin.append(begin[-1] + len(c.encode()))
                pieces.append([n for _, (a, b) in split.pre_tokenize_str(text) for n in (begin[a], begin[b])])
            out.write(json.dumps({"pattern": pattern, "behavior": behavior, "invert": invert, "pieces": pieces},
                                 separators=(",", ":")) + "\n")


main()
