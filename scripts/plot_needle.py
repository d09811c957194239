#!/usr/bin/env python3
"""Draws needle-in-a-haystack results as heat maps in one image: right answers by text length and needle depth.

Usage: scripts/plot_needle.py [NAME=]RESULTS.json... [--output FILE]
RESULTS.json is written by ssa_eval --needle --output; each of its settings gets a panel. NAME is the model's name in the
titles (default: the file's name).
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).
"""
import argparse

import plotting


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="[NAME=]RESULTS.json")
    parser.add_argument("--output", default="needle.png", metavar="FILE", help="default: %(default)s")
    args = parser.parse_args()
    pyplot = plotting.load_pyplot()
    panels = [(label, needle) for argument in args.results
              for label, _, needle in plotting.read_evaluations(argument, "needle", "needle results", "--needle")]

    width = max(3.5, 1.8 + 0.6 * max(len(needle["lengths"]) for _, needle in panels))
    height = max(2.8, 1.4 + 0.35 * max(len(needle["depths"]) for _, needle in panels))
    figure, axes = plotting.panel_axes(pyplot, len(panels), columns=3, width=width, height=height)
    for axis, (title, needle) in zip(axes, panels):
        percent = [[100 * share for share in line] for line in needle["accuracy"]]
        image = axis.imshow(percent, vmin=0, vmax=100, cmap="Blues", aspect="auto")
        for y, line in enumerate(percent):
            for x, value in enumerate(line):
                axis.text(x, y, f"{value:.0f}", ha="center", va="center", color="white" if value > 60 else "black")
        axis.grid(False)
        axis.set_xticks(range(len(needle["lengths"])), [str(n) for n in needle["lengths"]])
        axis.set_yticks(range(len(needle["depths"])), [str(d) for d in needle["depths"]])
        axis.set_title(title)
        axis.set_xlabel("text length (tokens)")
        axis.set_ylabel("needle depth (% of the text)")
        figure.colorbar(image, ax=axis, label=f"right answers of {needle['samples']} (%)")
    plotting.save(figure, args.output)


if __name__ == "__main__":
    main()
