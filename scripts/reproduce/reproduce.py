#!/usr/bin/env python3
"""Trains the attention methods on the same tokens in the same order, evaluates them under sparse and full attention,
and writes one page with tables and pictures, OUT/report.md.

Usage: scripts/reproduce/run.sh minute|hour|night [options]

  minute  a model of 0.8M parameters on the Perl manuals, on a CPU
  hour    a model of 110M parameters (72M with byte tokens), 131M tokens per run, one seed, on GPUs
  night   the same model, 302M tokens per run, three seeds

The same command continues an interrupted study at what is missing. More --methods, --variant and --seeds may be added
later; the page has every complete run. Anything else that differs is refused. docs/study.md describes the page.
"""
import argparse
import fcntl
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import page
import prepare
import runs
from plan import (ROOT, SIZES, Study, StudyError, read_json, settings_of_method, settings_of_variant, shown,
                  split_name, wrong_usage)


HELD_OUT_OF_SMOLLM = 0.0005  # as scripts/prepare_smollm.sh: of a corpus that is much larger than the others


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise wrong_usage(message)


def parse(arguments):
    parser = Parser(prog="scripts/reproduce/run.sh", description=__doc__, usage=argparse.SUPPRESS,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("size", choices=SIZES)
    add("--out", metavar="DIR", help="directory of the study (default: runs/study-SIZE)")
    add("--methods", metavar="LIST", default="ssa,moba,nsa,full",
        help="of ssa, moba, nsa, full and nsa-WINDOW; nsa is two runs, with windows of 128 and 512 tokens (minute: 32 "
        "and 128)")
    add("--variant", metavar="NAME=METHOD,KEY=VALUE,...", action="append", default=[],
        help="another run: a method with other config keys; can be repeated")
    add("--seeds", metavar="LIST", help="of initial weights, order of the data and ssa's draws (default: 42; night: "
        "42,43,44)")
    add("--config", metavar="FILE", help="configuration of every run, instead of the size's")
    add("--tokens", metavar="N", help="tokens to train each run on, as in 300M, rounded up to whole steps")
    add("--gpus", metavar="N", type=int, help="GPUs to use; 0 is the CPU (default: all there are; minute: 0)")
    add("--jobs", metavar="N", type=int, help="runs at the same time (default: one per GPU; one on a CPU)")
    add("--corpus", metavar="PATH", nargs="+",
        help="text to train on: files and directories, as for ssa_tokenize --input (default: documentation packages of "
        "the distribution, 1.1 GB; minute: package perl-doc, 9 MB)")
    add("--smollm", metavar="DIR", help="a directory of Parquet files to train on (scripts/download_smollm.sh)")
    add("--tokenizer", metavar="T", help="as for ssa_tokenize (default: bytes)")
    add("--data", metavar="DIR", help="tokenized data instead of a corpus: train/ and validation/, or train/ and eval/")
    add("--bin", metavar="DIR", help="programs that are built already; nothing is installed")
    return parser.parse_args(arguments)


def number_of_gpus():
    """What CUDA_VISIBLE_DEVICES or else nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [place for place in visible.split(",") if place]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        return []
    return [str(i) for i, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def places_of(args, size):
    """(device, [GPU or None] with an entry per run at the same time)"""
    if args.gpus == 0 or (args.gpus is None and not size.on_gpu):
        return "cpu", [None] * (args.jobs or 1)
    gpus = number_of_gpus()
    if not gpus:
        raise wrong_usage(f"{args.size}: no GPU here; expected one, or --gpus 0 for the CPU")
    if args.gpus is not None and not 0 < args.gpus <= len(gpus):
        raise wrong_usage(f"--gpus {args.gpus}: there are {len(gpus)} GPUs")
    gpus = gpus[:args.gpus]
    return "cuda", [gpus[i % len(gpus)] for i in range(args.jobs or len(gpus))]


def tokens_of(text):
    match = re.fullmatch(r"([1-9]\d*)([kMG]?)", text)
    if not match:
        raise wrong_usage(f"--tokens {text}: expected a number, also with k, M or G")
    return int(match[1]) * {"": 1, "k": 10 ** 3, "M": 10 ** 6, "G": 10 ** 9}[match[2]]


def text_of(args, size):
    """The corpus: a name, or a list of paths; None with --data."""
    named = [option for option in ("data", "corpus", "smollm") if getattr(args, option)]
    if len(named) > 1:
        raise wrong_usage(f"--{named[0]} and --{named[1]}: expected one of them")
    if args.data:
        if args.tokenizer:
            raise wrong_usage("--tokenizer and --data: expected one of them")
        return None
    paths = args.corpus or ([args.smollm] if args.smollm else None)
    if not paths:
        return size.corpus
    for path in paths:
        if not Path(path).exists():
            raise wrong_usage(f"{'--smollm' if args.smollm else '--corpus'} {path}: no such file or directory")
    return [str(Path(path).resolve()) for path in paths]


def tokenizer_of(args):
    """A path does not depend on the working directory."""
    if args.data:
        return None
    named = args.tokenizer or "bytes"
    return str(Path(named).resolve()) if Path(named).exists() else named


def row_keys(train):
    """The keys whose values multiply to the rows of a step; a run has one rank."""
    if train.get("global_batch_size") is not None:
        return ["global_batch_size"]
    accumulates = train.get("gradient_accumulation_steps") is not None
    return ["per_device_train_batch_size"] + ["gradient_accumulation_steps"] * accumulates


def config_of(args, size):
    """The configuration, with what a study needs from it; ssa_train checks the rest."""
    path = Path(args.config) if args.config else ROOT / "configs" / size.config
    config = read_json(path)
    if not isinstance(config, dict) or not all(isinstance(config.get(section), dict) for section in ("model", "train")):
        raise StudyError(f"{path}: found no objects model and train, expected a configuration of ssa_train", 2)
    for section, keys in (("model", ("block_size", "block_counts", "num_hidden_layers", "hidden_size")),
                          ("train", ("max_length", *row_keys(config["train"])))):
        for key in keys:
            found = config[section].get(key)
            if type(found) is not int or found < 1:
                raise StudyError(f"{path}: {section}.{key}: found {shown(found)}, expected a positive integer", 2)
    if config["train"].get("global_batch_size_schedule"):
        raise StudyError(f"{path}: train.global_batch_size_schedule: found one, expected steps of the same size", 2)
    return config


def fixed_of(args, size, device):
    """What must not change during a study."""
    config = config_of(args, size)
    train = config["train"]
    per_step = math.prod(train[key] for key in ["max_length", *row_keys(train)])
    tokens = tokens_of(args.tokens) if args.tokens else size.tokens
    steps = -(-tokens // per_step)
    return {"size": args.size, "tokens": steps * per_step, "steps": steps, "device": device,
            "corpus": text_of(args, size), "tokenizer": tokenizer_of(args),
            "data": str(Path(args.data).resolve()) if args.data else None, "held_out": HELD_OUT_OF_SMOLLM if args.smollm else size.held_out,
            "block_counts": list(size.block_counts), "evaluations": 10 if size.on_gpu else 0, "config": config}


def runs_of(args, size):
    found = {}
    for method in args.methods.split(","):
        found.update(settings_of_method(method, size))
    for variant in args.variant:
        found.update(settings_of_variant(variant, size))
    return found


def seeds_of(args, size):
    if not args.seeds:
        return list(size.seeds)
    if not re.fullmatch(r"\d+(,\d+)*", args.seeds):
        raise wrong_usage(f"--seeds {args.seeds}: expected numbers separated by commas")
    return [int(seed) for seed in args.seeds.split(",")]


def lock(directory):
    """Held until the process ends."""
    file = open(directory / "lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise StudyError(f"{directory}: another run.sh is at work on it", 2) from None
    return file


def run(args):
    size = SIZES[args.size]
    if args.jobs is not None and args.jobs < 1:
        raise wrong_usage(f"--jobs {args.jobs}: expected at least 1")
    device, places = places_of(args, size)
    fixed, wanted, seeds = fixed_of(args, size, device), runs_of(args, size), seeds_of(args, size)
    study = Study(args.out or f"runs/study-{args.size}")
    if args.data:
        for split in ("train", "validation"):
            name = split_name(args.data, split)
            if not (Path(args.data) / name / "dataset.json").exists():
                raise wrong_usage(f"--data {args.data}: there is no {name}/dataset.json, expected tokenized data in "
                                  "train/ and in validation/ or eval/")
    try:
        study.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"--out {study.directory}: {error.strerror}", 2) from None
    others = sorted(name for name in os.listdir(study.directory) if name != "lock")
    if others and not study.file.exists():
        raise wrong_usage(f"--out {study.directory}: not empty ({others[0]}) and holds no study; expected a new directory")
    held = lock(study.directory)
    command = shlex.join(["scripts/reproduce/run.sh", *sys.argv[1:]])
    study.extend(fixed, wanted, seeds, command)
    binaries = prepare.programs(args.bin, bool(args.smollm), study.directory / "build.log")
    if not args.data:
        prepare.tokenize(study, binaries)
    runner = runs.Runner(study, binaries, places, device)
    for name in (variant.partition("=")[0] for variant in args.variant):
        problem = runner.problem_of(name)
        if problem:
            study.forget(name, command)
            raise StudyError(f"--variant {name}: {problem}", 2)
    prepare.say(f"training and evaluating {len(study.names())} runs of {fixed['steps']} steps, {len(places)} at a time")
    try:
        runner.run()
    finally:
        page.write(study)
    held.close()


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, interrupt)
    try:
        run(parse(sys.argv[1:]))
    except KeyboardInterrupt:
        print("run.sh: stopped by a signal; the same command continues", file=sys.stderr)
        return runs.STOPPED
    except StudyError as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
