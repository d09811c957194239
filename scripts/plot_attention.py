#!/usr/bin/env python3
"""Draws attention statistics by layer, from the output of ssa_eval --attention-stats.

Usage: scripts/plot_attention.py [NAME=]FILE... [--output FILE]
A panel for each of: probability inside the selected blocks, entropy, probability on the first tokens, distance of the
sparse output from the full output. One curve per file and setting. NAME is the model's name in the legend (default: the
file's name). Where the next layer gets sparse attention the curve is solid, where it gets full attention dashed.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).

Example: build/bin/ssa_eval --model runs/tiny --data data/tiny/eval --attention-stats --output tiny.json
         scripts/plot_attention.py tiny.json --output attention.png
"""
import argparse

import plotting

PANELS = [  # key, title, y axis
    ("selected_mass", "Attention inside the selected blocks", "probability (0 to 1)"),
    ("entropy", "Entropy of full attention", "entropy (nats)"),
    ("sink", "Attention on the first {sink_tokens} tokens", "probability (0 to 1)"),
    ("divergence", "Distance of the sparse from the full output", "relative L2 distance"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="[NAME=]FILE")
    parser.add_argument("--output", default="attention.png", metavar="FILE", help="default: %(default)s")
    args = parser.parse_args()
    pyplot = plotting.load_pyplot()
    models = [plotting.read_evaluations(file, "attention", "attention statistics", "--attention-stats")
              for file in args.files]
    figure, axes = plotting.panel_axes(pyplot, len(PANELS), columns=2, width=4.8, height=4.2)
    for axis, (key, title, unit) in zip(axes, PANELS):
        lines = []
        for index, curves in enumerate(models):
            for label, full, statistics in curves:
                layers = statistics["layers"]
                lines.append(axis.plot([layer["layer"] for layer in layers], [layer[key] for layer in layers],
                                       label=label, **plotting.curve_style(index, full))[0])
        axis.set_title(title.format(sink_tokens=models[0][0][2]["sink_tokens"]))
        axis.set_xlabel("layer (0 is next to the embedding)")
        axis.set_ylabel(unit)
        plotting.integers_x(axis)
        plotting.legend_below(axis, lines)
    plotting.save(figure, args.output)


if __name__ == "__main__":
    main()
