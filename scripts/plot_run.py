#!/usr/bin/env python3
"""Draws the curves of one or more training runs in one image.

Usage: scripts/plot_run.py RUN... [--output FILE]
A RUN is a run's output_dir, or a metrics.jsonl itself. Color and marker identify the run. Where a panel has both, sparse
attention is solid and full attention dashed. Panels without values are left out.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).

Example: scripts/plot_run.py runs/tiny --output loss.png
"""
import argparse
import sys

import plotting

PANELS = [  # title, y axis, {key: whose curve it is}, logarithmic
    ("Training loss", "cross entropy (nats per token)", {"ce_loss": ""}, False),
    ("Validation loss", "cross entropy (nats per token)",
     {"eval_loss": "", "eval_loss_sparse": "sparse", "eval_loss_full": "full"}, False),
    ("Validation loss by text", "bits per byte",
     {"eval_bits_per_byte": "", "eval_bits_per_byte_sparse": "sparse", "eval_bits_per_byte_full": "full"}, False),
    ("Task accuracy", "accuracy (0 to 1)", {"task_acc": "", "task_acc_sparse": "sparse", "task_acc_full": "full"}, False),
    ("Task accuracy by log-likelihood per character", "accuracy (0 to 1)",
     {"task_acc_norm": "", "task_acc_norm_sparse": "sparse", "task_acc_norm_full": "full"}, False),
    ("Perplexity of the target", "perplexity",
     {"task_perplexity": "", "task_perplexity_sparse": "sparse", "task_perplexity_full": "full"}, True),
    ("Perplexity per word", "perplexity",
     {"task_word_perplexity": "", "task_word_perplexity_sparse": "sparse", "task_word_perplexity_full": "full"}, True),
    ("Epochs of each source", "epochs read", {"sources/*/epoch": ""}, False),
    ("Alignment loss", "SmoothL1 (per element)", {"alignment_loss": ""}, True),
    ("Gradient norm", "L2 norm before clipping", {"grad_norm": ""}, True),
    ("Learning rate", "learning rate", {"learning_rate": ""}, False),
    ("Throughput", "tokens per second", {"tokens_per_second": ""}, False),
    ("Memory of rank 0's process on the host", "GB", {"host_memory_gb": ""}, False),
    ("Attention inside the selected blocks", "probability (0 to 1)", {"selected_mass": ""}, False),
    ("Attention entropy", "entropy (nats)", {"entropy": ""}, False),
]


def named_keys(runs, keys):
    """[(key, set, attention)]: the keys that occur in the runs. An evaluation set's name follows its key, as in
    eval_loss/web; a * stands for the names of sources."""
    found = {key: None for lines in runs.values() for line in lines for key in line}
    named = []
    for key, attention in keys.items():
        begin, star, end = key.partition("*")
        for name in found:
            if name == key or not star and name.startswith(key + "/"):
                named.append((name, name[len(key) + 1:], attention))
            elif star and name.startswith(begin) and name.endswith(end):
                named.append((name, name[len(begin):-len(end)], attention))
    return named


def series(lines, key, log):
    """(steps, values) of a key; a log axis shows positive values only. None for a key that is zero all the time."""
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if not any(value for _, value in points):
        return None
    return tuple(zip(*[(step, value) for step, value in points if value > 0 or not log]))


def curves_of(runs, keys, log):
    """[(label, style index, attention, steps, values)] of the curves that have values."""
    curves = []
    named = named_keys(runs, keys)
    sets = list(dict.fromkeys(name for _, name, _ in named))
    for run_index, (run, lines) in enumerate(runs.items()):
        for key, name, attention in named:
            points = series(lines, key, log)
            if not points:
                continue
            parts = [run, name, attention] if len(runs) > 1 else [name, attention and f"{attention} attention"]
            # One run: a color per curve, or per set where there are several. Several runs: a color per run and set.
            index = run_index * len(sets) + sets.index(name) if len(runs) > 1 or len(sets) > 1 else len(curves)
            curves.append((", ".join(filter(None, parts)) or run, index, attention, *points))
    return curves


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--output", default="runs.png", metavar="FILE", help="default: %(default)s")
    args = parser.parse_args()
    pyplot = plotting.load_pyplot()
    runs = {label: plotting.read_metrics(run) for label, run in plotting.distinct_runs(args.runs).items()}

    panels = [(title, unit, curves_of(runs, keys, log), log) for title, unit, keys, log in PANELS]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        sys.exit("plot_run.py: no steps logged yet")
    figure, axes = plotting.panel_axes(pyplot, len(panels), columns=2, width=4.6, height=3.2)
    for axis, (title, unit, curves, log) in zip(axes, panels):
        lines = [axis.plot(steps, values, label=label,
                           **plotting.curve_style(index, attention == "full", len(steps)))[0]
                 for label, index, attention, steps, values in curves]
        axis.set_title(title)
        axis.set_xlabel("optimizer step")
        plotting.integers_x(axis)
        axis.set_ylabel(unit)
        if log:
            plotting.log_scale_y(axis)
        if len(runs) > 1 or len(curves) > 1:
            plotting.legend_below(axis, lines)
    plotting.save(figure, args.output)


if __name__ == "__main__":
    main()
