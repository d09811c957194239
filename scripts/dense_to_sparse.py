#!/usr/bin/env python3
"""Trains a small dense LLaMA with transformers, continues it as ssa, and compares and draws the losses.

Usage: scripts/dense_to_sparse.py FILE... [--output DIR] [--dense-steps N] [--steps N] [--warmup N]
FILEs are text. DIR (default runs/dense-to-sparse) gets the dense model (dense/), the data, the run (ssa/) and the picture
loss.png. Checks that the dense model under full attention has, here, the loss that transformers computes, to 1e-5: in
ssa_eval and in the first step of ssa_train.
Needs torch, transformers and matplotlib, and the programs in build/bin. Takes about ten minutes of processor time.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import plotting

TOKENS, EVAL_ROWS, BATCH = 256, 64, 8
BLOCK_SIZE, BLOCK_COUNTS = 4, 2  # few enough that sparse attention costs the dense model something
TOLERANCE = 1e-5  # nats; float32 in both


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"dense_to_sparse.py: {' '.join(map(str, command))}: exit code {result.returncode}: "
                 f"{result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def write_rows(path, rows):
    """Documents of TOKENS - 1 characters: with the end of text, each is one row."""
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def train_dense(rows, steps, directory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=257, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=TOKENS, bos_token_id=256, eos_token_id=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        batch = rows[torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"dense step {step + 1}/{steps}  loss {loss.item():.4f}", flush=True)
    model.save_pretrained(directory)
    return model


def mean_loss(model, rows):
    import torch

    with torch.no_grad():
        return sum(model(row[None], labels=row[None]).loss.double().item() for row in rows) / len(rows)


def evaluate(programs, model, data, output):
    """{mode: loss} of ssa_eval."""
    run(programs / "ssa_eval", "--model", model, "--data", data, "--device", "cpu", "--max-length", TOKENS,
        "--block-size", BLOCK_SIZE, "--block-counts", BLOCK_COUNTS, "--output", output)
    return {document["config"]["model_args"]["mode"]: next(iter(document["results"].values()))["loss,none"]
            for document in json.loads(output.read_text())}


def check(what, ours, theirs):
    print(f"{what}: {ours:.7f}, transformers {theirs:.7f}, difference {abs(ours - theirs):.1e}")
    if not abs(ours - theirs) <= TOLERANCE:
        sys.exit(f"dense_to_sparse.py: {what}: {ours}, transformers computes {theirs}")


def draw(pyplot, metrics, start, dense, output, warmup):
    figure, axes = plotting.panel_axes(pyplot, 1, 1, 5.4, 3.8)
    axis, curves = axes[0], []
    points = [line for line in metrics if "eval_loss_sparse" in line]
    for index, (mode, name) in enumerate((("sparse", "ssa, sparse attention"), ("full", "ssa, full attention"))):
        steps = [0] + [line["step"] for line in points]
        losses = [start[mode]] + [line[f"eval_loss_{mode}"] for line in points]
        curves += axis.plot(steps, losses, label=name, **plotting.curve_style(index, mode == "full", len(steps)))
    curves.append(axis.axhline(dense, color="black", linewidth=0.8, linestyle=":", label="dense model, transformers"))
    if warmup:
        axis.axvspan(0, warmup, color="0.9", zorder=0)
    axis.set_title(f"A dense LLaMA continued as ssa, {BLOCK_COUNTS} blocks of {BLOCK_SIZE} of {TOKENS} tokens")
    axis.set_xlabel("step" + (" (gray: attention.dense_warmup_steps)" if warmup else ""))
    axis.set_ylabel("held-out loss (nats per byte)")
    plotting.legend_below(axis, curves, columns=3)
    plotting.save(figure, output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="text to train on")
    parser.add_argument("--output", default="runs/dense-to-sparse", type=Path, metavar="DIR",
                        help="default: %(default)s")
    parser.add_argument("--build", default="build", type=Path, metavar="DIR",
                        help="build directory with the programs in bin/ (default: %(default)s)")
    parser.add_argument("--dense-steps", default=1500, type=int, metavar="N",
                        help="steps to train the dense model (default: %(default)s)")
    parser.add_argument("--steps", default=300, type=int, metavar="N",
                        help="steps to continue it as ssa (default: %(default)s)")
    parser.add_argument("--warmup", default=50, type=int, metavar="N",
                        help="attention.dense_warmup_steps of these steps (default: %(default)s)")
    args = parser.parse_args()
    pyplot = plotting.load_pyplot()
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"dense_to_sparse.py: skipped: {error}; needs torch and transformers")
        sys.exit(77)
    transformers.utils.logging.disable_progress_bar()
    programs = args.build / "bin"
    text = "".join(file.read_text(encoding="utf-8") for file in args.files)
    text = text.encode("ascii", "replace").decode()  # so that a character is a token
    size = TOKENS - 1
    rows = [text[i:i + size] for i in range(0, len(text) - size, size)]
    needed = EVAL_ROWS + BATCH * args.steps
    if len(rows) < needed:
        sys.exit(f"dense_to_sparse.py: {len(rows)} rows of {size} characters, expected at least {needed}")
    if args.output.exists():
        sys.exit(f"dense_to_sparse.py: {args.output}: exists, expected a new directory")
    args.output.mkdir(parents=True)
    # Held-out rows are spread over the text; the run's first batch is the first rows of the training data.
    stride = len(rows) // EVAL_ROWS
    held_out = rows[::stride][:EVAL_ROWS]
    training = [row for i, row in enumerate(rows) if i % stride or i // stride >= EVAL_ROWS]
    for name, part in (("train", training), ("held-out", held_out)):
        write_rows(args.output / f"{name}.jsonl", part)
        run(programs / "ssa_tokenize", "--tokenizer", "bytes", "--input", args.output / f"{name}.jsonl", "--output",
            args.output / name)
    ids = {name: torch.tensor([list(row.encode()) + [256] for row in part])
           for name, part in (("train", training), ("held-out", held_out))}

    dense = args.output / "dense"
    # The dense model sees the rows after those of the run first.
    model = train_dense(ids["train"].roll(-BATCH * args.steps, 0), args.dense_steps, dense)
    expected = mean_loss(model, ids["held-out"])
    start = evaluate(programs, dense, args.output / "held-out", args.output / "start.json")
    check("held-out loss, ssa_eval, full attention", start["full"], expected)
    print(f"held-out loss, ssa_eval, sparse attention: {start['sparse']:.4f}")

    config = {"model": str(dense / "config.json"), "init_from": str(dense), "output_dir": str(args.output / "ssa"),
              "attention": {"method": "ssa", "dense_warmup_steps": args.warmup},
              "data": {"path": str(args.output / "train"), "shuffle": False,
                       "eval_path": str(args.output / "held-out")},
              "train": {"max_length": TOKENS, "per_device_train_batch_size": BATCH, "learning_rate": 3e-4,
                        "min_lr": 3e-5, "warmup_steps": 10, "max_steps": args.steps, "eval_steps": 20},
              "checkpoint": {"save_steps": 0}}
    (args.output / "ssa.json").write_text(json.dumps(config, indent=1))
    run(programs / "ssa_train", "--config", args.output / "ssa.json", "--device", "cpu", "--set",
        f"model.block_size={BLOCK_SIZE}", "--set", f"model.block_counts={BLOCK_COUNTS}")
    metrics = plotting.read_metrics(args.output / "ssa")
    if args.warmup > 0:
        check("training loss, ssa_train, step 1", metrics[0]["ce_loss"], mean_loss(model, ids["train"][:BATCH]))
    last = metrics[-1]
    print(f"after {args.steps} steps: sparse {last['eval_loss_sparse']:.4f}, full {last['eval_loss_full']:.4f}")
    draw(pyplot, metrics, start, expected, args.output / "loss.png", args.warmup)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
