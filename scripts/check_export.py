#!/usr/bin/env python3
"""Compares this program with transformers on exported models, in float32 on the CPU, and checks that this program reads
models saved by transformers.

Usage: scripts/check_export.py [--build DIR] [--lengths FIRST:LAST[:STEP]] [--case NAME...]
Trains small models of every method, with and without llama3 RoPE scaling, exports them, and loads the directories with
trust_remote_code. Checks in each inference mode: logits for every length, generation with and without a cache, a
left-padded batch, the loss, overrides of block_counts, block_size and rope_scaling, and sharded weights.
Needs torch and transformers, and ssa_train, ssa_tokenize, ssa_export and dump_logits from the build. Exit code 77 when
torch or transformers is missing.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOLERANCE = 1e-4  # for a float32 logit; logits here reach about 10
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # short, so that all three wavelength bands occur
CASES = {  # name: method, rope_scaling, other model keys, other attention keys
    "ssa": ("ssa", None, {}, {}),
    "ssa-llama3": ("ssa", LLAMA3, {"tie_word_embeddings": False}, {}),
    "ssa-reference": ("ssa", None, {"block_counts": 4}, {"selection": "reference"}),
    "full": ("full", None, {"num_key_value_heads": 4}, {}),
    "full-llama3": ("full", LLAMA3, {}, {}),
    "moba": ("moba", None, {"num_key_value_heads": 1}, {}),
    "moba-llama3": ("moba", LLAMA3, {}, {}),
    "nsa": ("nsa", None, {}, {}),
    "nsa-llama3": ("nsa", LLAMA3, {"window_size": 9, "tie_word_embeddings": False}, {}),
}


def run(command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)
    if result.returncode != 0:
        sys.exit(f"check_export.py: {' '.join(map(str, command))}: exit code {result.returncode}: "
                 f"{result.stderr.decode(errors='replace').strip() or result.stdout.decode(errors='replace').strip()}")
    return result.stdout


def make_model(directory, case, build):
    """A model trained for a few steps. Its initial weights are large, so that attention is far from uniform."""
    method, rope_scaling, model, attention = CASES[case]
    config = {
        "model": {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 10000.0,
                  "rope_scaling": rope_scaling, "initializer_range": 0.12, "block_size": 4, "block_counts": 3,
                  "max_position_embeddings": 512, "bos_token_id": 256, "eos_token_id": 256, **model},
        "output_dir": f"runs/{case}",
        "attention": {"method": method, **attention},
        "data": {"path": "data"},
        "train": {"max_length": 128, "per_device_train_batch_size": 4, "learning_rate": 0.003, "warmup_steps": 1,
                  "max_steps": 10},
    }
    (directory / f"{case}.json").write_text(json.dumps(config, indent=1))
    run([build / "ssa_train", "--config", f"{case}.json", "--device", "cpu"], cwd=directory)
    run([build / "ssa_export", f"runs/{case}", f"exported/{case}", "--dtype", "f32"], cwd=directory)
    run([build / "ssa_export", f"runs/{case}", f"sharded/{case}", "--dtype", "f32", "--max-shard-size", "0.0001"],
        cwd=directory)
    return directory / "runs" / case, directory / "exported" / case


class Check:
    def __init__(self, build, directory, lengths):
        self.build, self.directory, self.lengths = build, directory, lengths
        self.failures = 0

    def report(self, name, worst, limit=TOLERANCE):
        good = worst <= limit  # false for NaN
        self.failures += not good
        print(f"{name:52} {worst:9.2e}  {'ok' if good else 'FAILED'}", flush=True)

    def ours(self, source, mode, ids, lengths):
        """This program's logits for the first n ids, for each n in lengths."""
        import numpy

        file = self.directory / "ids"
        file.write_bytes(numpy.asarray(ids, dtype=numpy.int32).tobytes())
        data = run([self.build / "dump_logits", source, mode, file, *lengths])
        flat = numpy.frombuffer(data, dtype=numpy.float32).reshape(sum(lengths), -1)
        return numpy.split(flat, numpy.cumsum(lengths)[:-1])

    def compare(self, name, model, source, mode, ids, lengths):
        import torch

        worst = 0.0
        for length, ours in zip(lengths, self.ours(source, mode, ids, lengths)):
            theirs = model(ids[None, :length]).logits[0]
            worst = max(worst, (theirs - torch.from_numpy(ours.copy())).abs().max().item())
        self.report(name, worst)

    def generation(self, name, model, ids):
        """Greedy tokens with and without a cache, and the logits with a cache filled in chunks."""
        import torch

        prompt = ids[None, :21]
        tokens = {use: model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40,
                                      eos_token_id=None, do_sample=False, use_cache=use) for use in (True, False)}
        self.report(f"{name}: tokens with and without cache", float((tokens[True] != tokens[False]).sum()), 0)
        whole = model(tokens[True]).logits
        cache, steps, at = None, [], 0
        for size in [7, 1, 5] + [1] * (tokens[True].shape[1] - 13):  # chunks that start and end within blocks
            out = model(tokens[True][:, at:at + size], past_key_values=cache, use_cache=True)
            cache, at = out.past_key_values, at + size
            steps.append(out.logits)
        self.report(f"{name}: logits with cache", (torch.cat(steps, 1) - whole).abs().max().item())

    def padded_batch(self, name, model, ids):
        """Sequences of several lengths, left-padded: logits and greedy tokens equal those of each sequence alone."""
        import torch

        lengths, width = (1, 6, 30, 47, 83), 83
        batch = torch.full((len(lengths), width), 256)
        mask = torch.zeros_like(batch)
        for i, n in enumerate(lengths):
            batch[i, width - n:], mask[i, width - n:] = ids[i:i + n], 1
        logits = model(batch, attention_mask=mask).logits
        tokens = model.generate(batch, attention_mask=mask, max_new_tokens=20, eos_token_id=None, do_sample=False)
        worst, different = 0.0, 0
        for i, n in enumerate(lengths):
            row = ids[None, i:i + n]
            worst = max(worst, (model(row).logits[0] - logits[i, width - n:]).abs().max().item())
            alone = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=20, eos_token_id=None,
                                   do_sample=False)
            different += int((alone[0, n:] != tokens[i, width:]).sum())
        self.report(f"{name}: left-padded logits", worst)
        self.report(f"{name}: left-padded tokens", float(different), 0)

    def loss(self, name, model, ids):
        import torch

        labels = ids[None, :60].clone()
        labels[0, 10:20] = -100
        out = model(ids[None, :60], labels=labels)
        targets = labels[0, 1:]
        losses = -out.logits[0, :-1].log_softmax(-1)[torch.arange(59), targets.clamp(min=0)]
        self.report(f"{name}: loss", abs(out.loss.item() - losses[targets != -100].mean().item()), 1e-5)

    def overrides(self, case, unchanged, exported, mode, ids):
        """Other budgets and scalings, given to transformers by keyword and to this program in config.json. Each must
        change the logits, or the comparison would prove nothing."""
        from transformers import AutoModelForCausalLM

        before = unchanged(ids[None]).logits
        for change in ({"block_counts": 1}, {"block_counts": 100}, {"block_size": 7, "block_counts": 2},
                       {"rope_scaling": {**LLAMA3, "factor": 8.0}}):
            model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, inference_mode=mode,
                                                         **json.loads(json.dumps(change))).eval()
            changed = self.directory / "changed"
            changed.mkdir(exist_ok=True)
            config = json.loads((exported / "config.json").read_text())
            (changed / "config.json").write_text(json.dumps({**config, **change}))
            (changed / "model.safetensors").unlink(missing_ok=True)
            (changed / "model.safetensors").symlink_to(exported / "model.safetensors")
            text = ", ".join(f"{key} {value if isinstance(value, int) else 'llama3'}" for key, value in change.items())
            self.compare(f"{case} {mode}: {text}", model, changed, mode, ids, [1, 50, 133])
            chunks = case == "ssa-reference" and "block_counts" in change  # its chunks are block_size / 2 at any budget
            if not chunks and (model(ids[None]).logits - before).abs().max() < 100 * TOLERANCE:
                self.report(f"{case} {mode}: {text} changes nothing", math.nan)

    def saved_again(self, case, model, ids):
        """This program reads what transformers saves of a loaded model."""
        saved = self.directory / "saved" / case
        model.save_pretrained(saved)
        self.compare(f"{case}: saved by transformers, read here", model, saved, model.config.inference_mode, ids, [77])

    def sharded(self, case, model):
        """Weights split over several files are equal bit for bit."""
        from transformers import AutoModelForCausalLM

        directory = self.directory / "sharded" / case
        same = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).state_dict()
        different = sum(not weight.equal(same[name]) for name, weight in model.state_dict().items())
        shards = len(list(directory.glob("model-*-of-*.safetensors")))
        self.report(f"{case}: weights from {shards} shards", different if shards > 1 else math.nan, 0)

    def case(self, case):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        run_directory, exported = make_model(self.directory, case, self.build)
        tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
        text = "Sparse attention, d\u00e9j\u00e0 vu \U0001f642\n\x00end"
        ids = tokenizer(text).input_ids
        good = ids == list(text.encode()) and tokenizer.decode(ids) == text and tokenizer.eos_token_id == 256
        self.report(f"{case}: tokenizer", 0 if good else math.nan)
        ids = torch.randint(0, 257, (300,), generator=torch.Generator().manual_seed(len(case)))
        modes = ["sparse"] if CASES[case][0] == "nsa" else ["sparse", "full"]
        for mode in modes:
            model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, inference_mode=mode).eval()
            name = f"{case} {mode}"
            self.compare(f"{name}: logits, {len(self.lengths)} lengths", model, run_directory, mode, ids, self.lengths)
            self.generation(name, model, ids)
            self.padded_batch(name, model, ids)
            self.loss(name, model, ids)
            if mode == "sparse":
                self.overrides(case, model, exported, mode, ids)
                self.saved_again(case, model, ids)
                self.sharded(case, model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", metavar="DIR")
    parser.add_argument("--lengths", default="1:300", metavar="FIRST:LAST[:STEP]")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"check_export.py: skipped: {error}; needs torch and transformers")
        sys.exit(77)
    first, last, *step = map(int, args.lengths.split(":"))
    lengths = list(range(first, last + 1, *step))
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the models are too small for several threads
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; the largest difference of each check")
    build = Path(args.build).resolve() / "bin"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.environ["HF_MODULES_CACHE"] = str(directory / "modules")
        (directory / "text.txt").write_text(Path(__file__).read_text())
        run([build / "ssa_tokenize", "--tokenizer", "bytes", "--input", directory / "text.txt", "--output",
             directory / "data"])
        check = Check(build, directory, lengths)
        for case in args.case:
            check.case(case)
    if check.failures:
        sys.exit(f"check_export.py: {check.failures} checks failed")


if __name__ == "__main__":
    main()
