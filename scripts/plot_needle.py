#!/usr/bin/env python3
"""Draws needle-in-a-haystack results as heat maps in one PNG: right answers by length of text and depth of the number.

Usage: scripts/plot_needle.py RESULTS.json... [--output FILE]
RESULTS.json is what ssa_eval --needle --output wrote; each of its settings gets a panel.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).
"""
import argparse
import json
import os
import sys


def read_panels(results):
    """(title, needle results) of each setting of a file."""
    try:
        with open(results) as file:
            documents = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"plot_needle.py: {results}: {error}")
    panels = []
    for document in documents if isinstance(documents, list) else [documents]:
        if not isinstance(document, dict) or "needle" not in document:
            sys.exit(f"plot_needle.py: {results}: no needle results, expected the output of ssa_eval --needle")
        model = document["config"]["model_args"]
        mode = model["mode"]
        if mode == "sparse":
            mode += f" {model['block_counts']}x{model['block_size']}"
        path = os.path.normpath(model["pretrained"]).split(os.sep)
        name = path[-3] if len(path) > 2 and path[-2] == "checkpoints" else path[-1]  # of a checkpoint, its run
        panels.append((f"{name} ({model['method']}), {mode}", document["needle"]))
    return panels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RESULTS.json")
    parser.add_argument("--output", default="needle.png", metavar="FILE")
    args = parser.parse_args()
    panels = [panel for path in args.results for panel in read_panels(path)]

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width = max(3.5, 1.5 + 0.6 * max(len(needle["lengths"]) for _, needle in panels))
    height = max(2.5, 1.2 + 0.35 * max(len(needle["depths"]) for _, needle in panels))
    columns = min(len(panels), 3)
    rows = (len(panels) + columns - 1) // columns
    figure, axes = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat[len(panels):]:
        axis.remove()
    for axis, (title, needle) in zip(axes.flat, panels):
        percent = [[100 * share for share in line] for line in needle["accuracy"]]
        image = axis.imshow(percent, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
        for y, line in enumerate(percent):
            for x, value in enumerate(line):
                axis.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=7)
        axis.set_xticks(range(len(needle["lengths"])), [str(n) for n in needle["lengths"]], fontsize=7)
        axis.set_yticks(range(len(needle["depths"])), [f"{d} %" for d in needle["depths"]], fontsize=7)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("tokens of the text", fontsize=8)
        axis.set_ylabel("depth of the number", fontsize=8)
        figure.colorbar(image, ax=axis, label=f"right of {needle['samples']} (%)")
    figure.tight_layout()
    figure.savefig(args.output, dpi=120)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
