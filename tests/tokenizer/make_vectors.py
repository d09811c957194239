#!/usr/bin/env python3
"""Makes the small tokenizers of this directory, and vectors.jsonl: texts and their ids in Hugging Face tokenizers.

Run by hand when a case is added; the tests need only what it wrote.
Example: pip install tokenizers==0.23.3 pyarrow && python3 tests/tokenizer/make_vectors.py BOOK.txt
BOOK.txt: any public-domain text to train the merges on (the stored byte-level ones come from Shakespeare's plays).
"""
import json
import pathlib
import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
# A pattern of no known tokenizer, which has no loop of its own: words by capital letter, numbers by two, the rest.
OTHER = r"\p{Lu}?\p{Ll}+|\p{N}{2}|[\p{Lu}\p{M}]+|\s+"
EXTRA = ("Größe naïve café œuvre Ångström señor. Привет, мир! Ελληνικά γράμματα. 日本語の文章です。中文句子。 한국어 문장 "
         "हिन्दी वाक्य العربية 🙂🙂👍🏽 1234567890 3.14159 def f(x):\n    return x + 1\n\n\tif (a[0] == 'b') {}\r\n") * 40


def train(text):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=640, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior, invert), byte_level(use_regex=False)])


def tokenizers_of(vocab, merges):
    def make(pre_tokenizer, added=(), normalizer=None, **model):
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, **model))
        tokenizer.pre_tokenizer = pre_tokenizer
        if normalizer:
            tokenizer.normalizer = normalizer
        for token in added:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        return tokenizer

    def special(text, **options):
        return AddedToken(text, special=True, normalized=False, **options)

    end = special("<|endoftext|>")
    spaces = [AddedToken(" " * n, normalized=True) for n in range(8, 1, -1)]
    fancy = [end, special("<l>", lstrip=True), special("<r>", rstrip=True), special("<both>", lstrip=True, rstrip=True),
             AddedToken("word", single_word=True, normalized=False), AddedToken("wordy", normalized=False),
             AddedToken("é", normalized=True), AddedToken("\u212b", normalized=True)]
    yield "gpt2", make(byte_level(), [AddedToken("<|endoftext|>", special=True, normalized=True)])
    yield "llama3", make(split(LLAMA3), [special("<|begin_of_text|>"), special("<|end_of_text|>")], ignore_merges=True)
    yield "smollm2", make(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]), [end])
    yield "neox", make(byte_level(), [end, *spaces], normalizers.NFC())
    yield "qwen2", make(split(QWEN2, "removed", True), fancy, normalizers.NFC())
    yield "prefix", make(pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level(add_prefix_space=True)]), [end])
    yield "other", make(split(OTHER), [end])


def sentencepiece_tokenizers(text):
    """SentencePiece's structure: characters, bytes where there is none, spaces as U+2581."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator([text, "    deep  code" * 40], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]

    def make(normalizer, pre_tokenizer, decoder, **options):
        one = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, **options))
        if normalizer:
            one.normalizer = normalizer
        if pre_tokenizer:
            one.pre_tokenizer = pre_tokenizer
        one.decoder = decoder
        one.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
        one.add_tokens([AddedToken("plain", normalized=True)])
        return one

    mark = "\u2581"
    parts = [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    yield "llama2", make(normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)]), None, strip)
    yield "mistral", make(None, pre_tokenizers.Metaspace(mark, "first", False), strip)
    yield "always", make(None, pre_tokenizers.Metaspace(mark, "always", True), strip, ignore_merges=True)
    yield "gemma", make(normalizers.Replace(" ", mark), pre_tokenizers.Split(" ", "merged_with_previous"),
                        decoders.Sequence(parts))


def texts_of(rng):
    yield from ["", " ", "  ", "\n", "a", " a", "a ", "  a", "a  ", "\t", "\r\n", "a\r\n\r\n  b", "a\n \n b", "   \n\n   x  ",
                "I'll we're IT'S don'T 'tis 'S '\u017f '\u017fo ''s '", "x'sy it's' 'll'", "1 12 123 1234 12345 1a2b",
                "3.14,15 \u00b2\u00bd\u2160\u0661 1\u06602", "a  1  b", "Hello, World! -- (end)...\n\n", "!!\n!!\r\n?? \n",
                "<|endoftext|>", "a<|endoftext|> b<|endoftext|><|endoftext|>c", "<|endoftext|", "<|begin_of_text|>x<|end_of_text|>",
                "a <l> b <r> c  <both>  d<l><r><both>", "word wordy sword word. word_ (word)word", "é e\u0301 E\u0301 \u212b \u00c5",
                "\uac01\u1100\u1161\u11a8 \u1112\u1161\u11ab\uae00", "\u0344 \u0958 \u1e9b\u0323 q\u0307\u0323 q\u0323\u0307",
                "\u0f71\u0f74 \u0cca \u0bca \u2adc \ufb1d\u05b7", "a\u0085b\u00a0c\u1680d\u2003e\u2028f\u3000g", "\u200d\u200c\ufeff",
                "        deep\n            code    \n", "def f(x):\n\treturn x\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 9,
                "the " * 30, "ThisIsCamelCase HTTPServer9", "\u11de0 \u16ff4 \U00011de0\U00016ff4\U0001e08f\u07fd\u0897",
                "Größe naïve café 日本語の文章です 中文 한국어 हिन्दी العربية Привет Ελληνικά 🙂👍🏽👨‍👩‍👧"]
    pools = [list(range(32, 127)), [9, 10, 13, 32, 32, 32, 0xA0, 0x2003, 0x3000], list(range(0xC0, 0x370)),
             list(range(0x4E00, 0x4E80)) + list(range(0x3040, 0x30A0)) + list(range(0x1100, 0x1110)),
             list(range(0x900, 0x980)) + list(range(0x600, 0x680)), [ord(c) for c in "'stTrReEvVmMlLdD\u017f  "],
             [ord(c) for c in "0123456789\u0660\u00b2\u2160 "], list(range(0x1F300, 0x1F640)) + [0x200D], None]
    for _ in range(160):
        out = []
        for _ in range(rng.randint(1, 8)):
            pool = rng.choice(pools)
            for _ in range(rng.randint(1, 10)):
                c = rng.randrange(0x110000) if pool is None else rng.choice(pool)
                if not 0xD800 <= c < 0xE000:
                    out.append(chr(c))
        yield "".join(out)


def main():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")[:400000] + EXTRA
    vocab, merges = train(text)
    texts = list(texts_of(random.Random(11)))
    with open(HERE / "vectors.jsonl", "w", encoding="ascii") as out:
        made = list(tokenizers_of(vocab, merges))
        for name, tokenizer in made:
            content = json.loads(tokenizer.to_str())
            if name == "gpt2":  # merges as older files write them
                content["model"]["merges"] = [" ".join(m) for m in content["model"]["merges"]]
            (HERE / f"{name}.tokenizer.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
        for item in texts:
            ids = {name: tokenizer.encode(item, add_special_tokens=False).ids for name, tokenizer in made}
            out.write(json.dumps({"text": item, **ids}, separators=(",", ":")) + "\n")

    with open(HERE / "sentencepiece.jsonl", "w", encoding="ascii") as out:
        made = list(sentencepiece_tokenizers(text[:200000] + EXTRA))
        for name, tokenizer in made:
            (HERE / f"{name}.tokenizer.json").write_text(
                json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":")) + "\n")
        for item in [*texts, "<s>a b</s> c", " <s> a", "a<s>", "plain a plain", "\u2581a \u2581\u2581b", "a \u2581b", "<0x41>", "\0"]:
            ids = {name: tokenizer.encode(item, add_special_tokens=False).ids for name, tokenizer in made}
            out.write(json.dumps({"text": item, **ids}, separators=(",", ":")) + "\n")

    rows = [f"Document {i}." if i % 7 else None for i in range(1, 41)]
    talks = [[{"role": "user", "content": f"Question {i}"}, {"role": "assistant", "content": "Answer"}] for i in range(1, 41)]
    pq.write_table(pa.table({"id": list(range(40)), "text": rows, "messages": talks}), HERE.parent / "data_tools/forty.parquet",
                   row_group_size=15, compression="none", use_dictionary=False, write_page_checksum=True)


main()
