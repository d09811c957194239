#!/usr/bin/env python3
"""Times ssa_tokenize, tiktoken and Hugging Face tokenizers on the same text and processors, and compares their ids.

Prints a table with a row per text file and number of threads. ssa_tokenize is timed as its users run it: from the start
of the program, reading JSONL and writing the dataset, minus the time of the same run on one document (loading the
tokenizer). The other two get the texts as Python strings and only encode; Hugging Face's, the slowest, gets every
fifth document. The three run alternately for --rounds rounds, and the best round of each counts. A second table has CPU
seconds of all threads instead of time: they depend less on other load on the machine.
Needs numpy, tiktoken and tokenizers.

Example: pip install tokenizers tiktoken numpy
         python3 scripts/bench_tokenizers.py --tokenizer llama3/tokenizer.json --threads 1 2 latin.jsonl han.jsonl
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tiktoken_of(path):
    """The same tokenizer in tiktoken, whose ranks are the ids of a vocabulary in the order of its merges."""
    import tiktoken

    file = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    to_byte = {chr(b): b for b in printable}
    to_byte.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)})
    added = {token["content"] for token in file["added_tokens"]}
    ranks = {bytes(to_byte[c] for c in token): rank for token, rank in file["model"]["vocab"].items()
             if token not in added}
    steps = file["pre_tokenizer"].get("pretokenizers", [file["pre_tokenizer"]])
    pattern = next((step["pattern"]["Regex"] for step in steps if step["type"] == "Split"), GPT2)
    return tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_ours(binary, tokenizer, source, output, threads):
    import numpy as np

    shutil.rmtree(output, ignore_errors=True)
    start, used = time.perf_counter(), cpu_of_children()
    subprocess.run([binary, "--quiet", "--tokenizer", tokenizer, "--input", source, "--output", output, "--workers",
                    str(threads), "--special-tokens", "text"], check=True, stderr=subprocess.DEVNULL)
    return np.array([time.perf_counter() - start, cpu_of_children() - used])


def ids_of(directory):
    import numpy as np

    info = json.loads((pathlib.Path(directory) / "dataset.json").read_text())
    kind = {"uint16": "<u2", "int32": "<i4"}[info["dtype"]]
    ids = np.concatenate([np.fromfile(pathlib.Path(directory) / (s["name"] + ".bin"), kind) for s in info["shards"]])
    return ids, info["eos_token_id"]


def run_hugging_face(tokenizer, source):
    """In a new process: the number of threads is fixed at start-up."""
    import numpy as np

    code = ("import sys, json, time, tokenizers\n"
            "t = tokenizers.Tokenizer.from_file(sys.argv[1])\n"
            "x = [json.loads(l)['text'] for l in open(sys.argv[2], encoding='utf-8')]\n"
            "s, c = time.perf_counter(), time.process_time()\n"
            "for i in range(0, len(x), 1000): t.encode_batch_fast(x[i:i + 1000], add_special_tokens=False)\n"
            "print(time.perf_counter() - s, time.process_time() - c)")
    done = subprocess.run([sys.executable, "-c", code, tokenizer, source], check=True, capture_output=True)
    return np.array([float(value) for value in done.stdout.split()])


def texts_of(name, piece, megabytes):
    """The documents of a file, cut to `piece` characters, up to this size; repeated where there are less."""
    texts, size = [], 0
    while size < megabytes * 1e6:
        for line in open(name, encoding="utf-8"):
            text = json.loads(line)["text"]
            for part in (text[i:i + piece] for i in range(0, len(text), piece)):
                if size >= megabytes * 1e6:
                    return texts
                texts.append(part)
                size += len(part.encode())
    return texts


def write_jsonl(path, texts):
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)


def megabytes_of(texts):
    return sum(len(t.encode()) for t in texts) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a tokenizer.json whose ids follow its merges")
    parser.add_argument("--binary", default="build/bin/ssa_tokenize", help="ssa_tokenize to time (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1],
                        help="numbers of threads to time, each on as many cores (default: 1)")
    parser.add_argument("--megabytes", type=float, default=100,
                        help="size of each text, which is repeated or cut to it (default: %(default)s)")
    parser.add_argument("--piece", type=int, default=4000,
                        help="characters per document; longer texts are cut (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each program is timed (default: %(default)s)")
    parser.add_argument("texts", nargs="+", help=".jsonl files with a text field")
    args = parser.parse_args()
    try:
        import numpy as np
        import tiktoken
        import tokenizers
    except ImportError as error:
        sys.exit(f"bench_tokenizers.py: {error}; install with: {sys.executable} -m pip install "
                 "numpy tiktoken tokenizers")

    ranks = tiktoken_of(args.tokenizer)
    cores = sorted(os.sched_getaffinity(0))
    directory = tempfile.mkdtemp(prefix="bench_tokenizers_")
    source, single, output = f"{directory}/texts.jsonl", f"{directory}/one.jsonl", f"{directory}/out"
    pathlib.Path(single).write_text('{"text": "x"}\n')
    rows = []
    for name in args.texts:
        texts = texts_of(name, args.piece, args.megabytes)
        write_jsonl(source, texts)
        write_jsonl(f"{directory}/fifth.jsonl", texts[::5])
        megabytes = {"ssa_tokenize": megabytes_of(texts), "tiktoken": megabytes_of(texts),
                     "tokenizers": megabytes_of(texts[::5])}
        for threads in args.threads:
            os.environ["RAYON_NUM_THREADS"] = str(threads)
            os.sched_setaffinity(0, cores[:threads])  # reading and writing threads share these cores
            best = {system: np.full(2, 1e9) for system in megabytes}
            load = np.full(2, 1e9)
            for _ in range(args.rounds):
                load = np.minimum(load, run_ours(args.binary, args.tokenizer, single, output, threads))
                best["ssa_tokenize"] = np.minimum(best["ssa_tokenize"],
                                                  run_ours(args.binary, args.tokenizer, source, output, threads))
                start, used = time.perf_counter(), time.process_time()
                theirs = ranks.encode_ordinary_batch(texts, num_threads=threads)
                best["tiktoken"] = np.minimum(best["tiktoken"],
                                              [time.perf_counter() - start, time.process_time() - used])
                best["tokenizers"] = np.minimum(best["tokenizers"],
                                                run_hugging_face(args.tokenizer, f"{directory}/fifth.jsonl"))
            best["ssa_tokenize"] -= load
            ours, end = ids_of(output)
            equal = np.array_equal(ours, np.concatenate([np.array(ids + [end]) for ids in theirs]))
            rows.append((pathlib.Path(name).stem, threads, {s: megabytes[s] / best[s] for s in best}, equal))
            os.sched_setaffinity(0, cores)
    shutil.rmtree(directory)
    print(f"{args.tokenizer}, {args.megabytes:.0f} MB of each text, {os.cpu_count()} cores, "
          f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}")
    for kind, unit in enumerate(("MB/s", "MB per CPU second")):
        print(f"\n| {unit} | threads | ssa_tokenize | tiktoken | tokenizers | ratio to tiktoken | ids |\n|{'---|' * 7}")
        for name, threads, speeds, equal in rows:
            ours, tik, face = (speeds[s][kind] for s in ("ssa_tokenize", "tiktoken", "tokenizers"))
            print(f"| {name} | {threads} | {ours:.0f} | {tik:.1f} | {face:.1f} | {ours / tik:.1f} | "
                  f"{'equal' if equal else 'DIFFER'} |")
    return not all(equal for *_, equal in rows)


if __name__ == "__main__":
    sys.exit(main())
