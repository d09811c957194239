#!/usr/bin/env python3
"""Draws the curves of one or several training runs in one PNG.

Usage: scripts/plot_run.py RUN... [--output FILE]
A RUN is a run's output_dir, or a metrics.jsonl itself. Panels without values are left out.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).
"""
import argparse
import json
import os
import sys

PANELS = [  # title, keys drawn in it, logarithmic
    ("training loss (nats per token)", ["ce_loss"], False),
    ("validation loss (nats per token)", ["eval_loss", "eval_loss_sparse", "eval_loss_full"], False),
    ("alignment loss", ["alignment_loss"], True),
    ("gradient norm", ["grad_norm"], True),
    ("learning rate", ["learning_rate"], False),
    ("tokens per second", ["tokens_per_second"], False),
    ("probability inside the selected blocks", ["selected_mass"], False),
    ("attention entropy (nats)", ["entropy"], False),
]
COLORS = [f"C{i}" for i in range(10)]  # one a run, the same in every panel
MARKED = {"eval_loss", "eval_loss_sparse", "eval_loss_full", "selected_mass", "entropy"}  # few points: drawn with dots


def read_metrics(run):
    path = os.path.join(run, "metrics.jsonl") if os.path.isdir(run) else run
    try:
        with open(path) as file:
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"plot_run.py: {path}: {error}")


def series(lines, key):
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [p[0] for p in points], [p[1] for p in points]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--output", default="runs.png", metavar="FILE")
    args = parser.parse_args()
    runs = {os.path.basename(os.path.normpath(run)): read_metrics(run) for run in args.runs}

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    has_values = lambda key: any(any(series(lines, key)[1]) for lines in runs.values())
    panels = [(title, [k for k in keys if has_values(k)], log) for title, keys, log in PANELS]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        sys.exit("plot_run.py: no steps logged yet")
    columns = 2 if len(panels) > 1 else 1
    rows = (len(panels) + columns - 1) // columns
    figure, axes = pyplot.subplots(rows, columns, figsize=(6.5 * columns, 3.4 * rows), squeeze=False)
    for axis in axes.flat[len(panels):]:
        axis.remove()
    for axis, (title, keys, log) in zip(axes.flat, panels):
        for color, (name, lines) in zip(COLORS * len(runs), runs.items()):
            for key, dashes in zip(keys, ("-", "--", ":")):
                steps, values = series(lines, key)
                if not steps:
                    continue
                label = name if len(keys) == 1 else (key if len(runs) == 1 else f"{name} {key}")
                axis.plot(steps, values, dashes, color=color if len(runs) > 1 else None, label=label, linewidth=1,
                          marker="o" if key in MARKED else None, markersize=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        if log:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        if len(keys) * len(runs) > 1:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(args.output, dpi=120)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
