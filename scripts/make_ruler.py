#!/usr/bin/env python3
"""Writes RULER's documents for ssa_eval with the generators of lm-evaluation-harness: DIR/TASK.jsonl per task, with the
fields input, outputs, length, max_length and gen_prefix. They depend on the tokenizer, which measures their lengths.

The harness gets the essays, SQuAD and HotpotQA from the network; niah_single_1, niah_multikey_2, niah_multikey_3,
ruler_vt, ruler_cwe and ruler_fwe need none of them. It makes 500 documents per task and length; ssa_eval --limit takes
fewer of them.

Needs `pip install lm_eval[hf,ruler]`.

Example: python3 scripts/make_ruler.py tasks --tokenizer exported/model --lengths 4096,8192 niah_single_2 ruler_vt
"""
import argparse
import sys
from pathlib import Path

TASKS = ["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
         "niah_multivalue", "niah_multiquery", "ruler_vt", "ruler_cwe", "ruler_fwe", "ruler_qa_squad", "ruler_qa_hotpot"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where the files TASK.jsonl go")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"by default all: {', '.join(TASKS)}")
    parser.add_argument("--tokenizer", required=True, help="a directory written by ssa_export, or a name on Hugging Face")
    parser.add_argument("--lengths", default="4096", help="lengths of prompt and answer in tokens, separated by commas (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1234, help="of the harness's random numbers (default: %(default)s)")
    args = parser.parse_intermixed_args()
    tasks = args.tasks or TASKS
    for task in tasks:
        if task not in TASKS:
            parser.error(f"{task}: no such task, expected one of {', '.join(TASKS)}")
    if not all(length.isdigit() and int(length) > 0 for length in args.lengths.split(",")):
        parser.error(f"--lengths {args.lengths}, expected numbers of tokens separated by commas")
    try:
        import random

        import numpy
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        sys.exit(f"make_ruler.py: {error}; expected pip install lm_eval[hf,ruler]")

    random.seed(args.seed)
    numpy.random.seed(args.seed)
    lengths = [int(length) for length in args.lengths.split(",")]
    manager = TaskManager(metadata={"tokenizer": args.tokenizer, "max_seq_lengths": lengths})
    args.directory.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        documents = manager.load([task])["tasks"][task].eval_docs
        file = args.directory / f"{task}.jsonl"
        documents.to_json(str(file), force_ascii=False)
        print(f"{file}: {len(documents)} documents")
    return 0


if __name__ == "__main__":
    sys.exit(main())
