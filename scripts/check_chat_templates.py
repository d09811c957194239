#!/usr/bin/env python3
"""Compares the texts that ssa_tokenize --chat-template makes of conversations with those of transformers.

Each file is a chat template (chat_template.jinja) or a tokenizer_config.json with one. Random conversations have system,
user and assistant messages in turn and in disorder, other roles, empty texts, texts of all scripts, white space of every
kind at their ends, thoughts, special tokens, tool calls and missing texts. Where transformers renders a conversation,
ssa_tokenize must make the same text or refuse it by name; where transformers refuses it, ssa_tokenize must refuse it
too. Needs transformers and jinja2.

Example: pip install transformers jinja2 && pip download --no-deps trl && unzip -q trl-*.whl 'trl/chat_templates/*'
         python3 scripts/check_chat_templates.py trl/chat_templates/{qwen3,gemma3,deepseekv3}.jinja
"""
import argparse
import collections
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

from check_tokenizers import TO_CHAR, byte_level, tokenizer_file

SPECIAL = ("<|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <bos> "
           "<start_of_turn> <end_of_turn> <s> </s> [INST] [/INST] <\uff5cbegin\u2581of\u2581sentence\uff5c> "
           "<\uff5cUser\uff5c> <\uff5cAssistant\uff5c> <\uff5cend\u2581of\u2581sentence\uff5c>").split()
END = "<|end_of_document|>"  # no template writes it
TOKENS = [("<|start_header_id|>", "<|begin_of_text|>", "<|eot_id|>"), ("<start_of_turn>", "<bos>", "<eos>"),
          ("[INST]", "<s>", "</s>"), (SPECIAL[-3], SPECIAL[-4], SPECIAL[-1])]  # what a template holds; its bos, its eos
SPACES = " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\u180e"
WORDS = ["", "Hi", "What is 2 + 2?", "\u4f60\u597d", "\u0645\u0631\u062d\u0628\u0627", "\U0001f9d1\u200d\U0001f4bb", "e\u0301", "{{ x }}", "\\n", "\"quoted\"",
         "<think>", "</think>", "<think>\n\n</think>\n\n", "<think>\nWhy?\n</think>\n\nSo.", "<tool_response>",
         "</tool_response>", "line\nline", "\n", "\n\n", "/no_think", "\u2581", "\x00\x7f", *SPECIAL]


def conversation(rng):
    def text():
        words = [rng.choice(WORDS) + "".join(rng.choices(SPACES, k=rng.choice([0, 0, 1, 3])))
                 for _ in range(rng.choice([0, 1, 1, 2, 5]))]
        return "".join(rng.choices(SPACES, k=rng.choice([0, 0, 0, 2]))) + "".join(words)

    count = rng.randint(1, 7)
    roles = ["user" if i % 2 == 0 else "assistant" for i in range(count)]
    if rng.random() < 0.4:
        roles.insert(0, "system")
    if rng.random() < 0.25:
        roles[rng.randrange(len(roles))] = rng.choice(["user", "assistant", "system", "tool", "developer", "ipython"])
    messages = [{"role": role, "content": text()} for role in roles]
    message = rng.choice(messages)
    odd = rng.random()
    if odd < 0.02:
        message["tool_calls"] = rng.choice([None, [{"function": {"name": "f", "arguments": {}}, "id": "123456789"}]])
    elif odd < 0.04:
        message["content"] = None
    elif odd < 0.05:
        message["reasoning_content"] = "Why?"
    return messages


def ours(binary, template, conversations, directory):
    """The text of each conversation, "" if it was omitted, None if it was refused; and the reasons of the refusals."""
    vocab = {TO_CHAR[b]: b for b in range(256)}
    tokenizer = tokenizer_file(vocab, byte_level(True), {text: 256 + i for i, text in enumerate([*SPECIAL, END])})
    directory = pathlib.Path(directory)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with open(directory / "chats.jsonl", "w", encoding="ascii") as file:
        for messages in conversations:
            file.write(json.dumps({"messages": messages}) + "\n")
    common = [binary, "--tokenizer", directory / "tokenizer.json", "--eos-token", END]
    result = subprocess.run([*common, "--quiet", "--input", directory / "chats.jsonl", "--conversations-field", "messages",
                             "--chat-template", template, "--on-error", "quarantine", "--output", directory / "out"],
                            capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{template}: {result.stderr.strip()}")
    lines = subprocess.run([*common, "--decode", directory / "out"], check=True, capture_output=True).stdout.splitlines()
    decoded = iter([json.loads(line)["text"] for line in lines])
    quarantine = directory / "out/quarantine.jsonl"
    refused = quarantine.read_text(encoding="utf-8").splitlines() if quarantine.exists() else []
    rows = {record["row"]: record["error"] for record in map(json.loads, refused)}
    return [None if row in rows else next(decoded) for row in range(1, len(conversations) + 1)], rows


def theirs(path, text, conversations):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bos, eos = next(((bos, eos) for mark, bos, eos in TOKENS if mark in text), (None, None))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos)
    tokenizer.chat_template = text
    for messages in conversations:
        try:
            yield tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception:  # jinja2's, of raise_exception and of texts that are null
            yield None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path, help="chat templates to check")
    parser.add_argument("--conversations", type=int, default=2000, help="random conversations per template (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the conversations (default: %(default)s)")
    parser.add_argument("--binary", default="build/bin/ssa_tokenize", help="ssa_tokenize to check (default: %(default)s)")
    args = parser.parse_args()
    failed = False
    print("| template | conversations | equal | refused by both | refused by ssa_tokenize | different |\n|---|---|---|---|---|---|")
    for path in args.files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            text = json.loads(text)["chat_template"]
        rng = random.Random(args.seed)
        conversations = [conversation(rng) for _ in range(args.conversations)]
        with tempfile.TemporaryDirectory() as directory:
            made, reasons = ours(args.binary, path, conversations, directory)
        counts, kinds, first = collections.Counter(), collections.Counter(), None
        for row, (mine, expected) in enumerate(zip(made, theirs(path, text, conversations)), 1):
            kind = "equal" if mine == expected is not None else "both" if mine is expected is None else \
                "ours" if mine is None else "different"
            counts[kind] += 1
            if kind == "ours":
                kinds[re.sub('message \\d+|role "\\w+"', lambda match: match[0].split()[0], reasons[row])] += 1
            if kind == "different":
                first = first or (conversations[row - 1], mine, expected)
        print(f"| {path.name} | {len(conversations)} | {counts['equal']} | {counts['both']} | {counts['ours']} | "
              f"{counts['different']} |", flush=True)
        for reason, count in kinds.most_common():
            print(f"  {count} refused: {reason}", file=sys.stderr)
        if first:
            failed = True
            print(f"{path}: {first[0]}\n  is {first[1]!r}\n  expected {first[2]!r}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
