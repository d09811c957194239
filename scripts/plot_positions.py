#!/usr/bin/env python3
"""Draws the loss against the number of tokens before a token, from the output of ssa_eval --loss-by-position.

Usage: scripts/plot_positions.py [NAME=]FILE... [--from TOKENS] [--output FILE] [--table]
One curve per file and setting, in the file's color; a second budget of sparse attention in a file has another color. NAME
is the model's name in the legend (default: the file's name). Sparse attention is solid and full attention dashed. --table
also prints the numbers as a Markdown table.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).

Example: build/bin/ssa_eval --model runs/short --data data/long/eval --max-length 1024 --loss-by-position --output a.json
         build/bin/ssa_eval --model runs/long --data data/long/eval --max-length 1024 --loss-by-position --output b.json
         scripts/plot_positions.py before=a.json after=b.json --output positions.png
"""
import argparse
import sys

import plotting


def read_curves(argument):
    """[(label, whether full attention, [bucket])]"""
    return [(label, full, [bucket for bucket in buckets if bucket["loss"] is not None]) for label, full, buckets in
            plotting.read_evaluations(argument, "loss_by_position", "losses by position", "--loss-by-position")]


def styles_of(files):
    """A style per curve of [curves of a file]: full attention has the color of the file's first sparse curve."""
    styles, colors = [], 0
    for curves in files:
        sparse = sum(not full for _, full, _ in curves)
        places = iter(range(colors, colors + sparse))
        styles += [plotting.curve_style(colors if full else next(places), full) for _, full, _ in curves]
        colors += max(1, sparse)
    return styles


def range_text(bucket):
    return str(bucket["from"]) if bucket["from"] == bucket["to"] else f"{bucket['from']}-{bucket['to']}"


def markdown(curves):
    ranges = {bucket["from"]: range_text(bucket) for _, _, buckets in curves for bucket in buckets}
    names = ["tokens before"] + [label for label, _, _ in curves]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for begin, text in sorted(ranges.items()):
        losses = [{bucket["from"]: f"{bucket['loss']:.4f}" for bucket in buckets} for _, _, buckets in curves]
        lines.append("| " + " | ".join([text] + [each.get(begin, "") for each in losses]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="[NAME=]FILE")
    parser.add_argument("--from", dest="first", type=int, default=1, metavar="TOKENS",
                        help="draw only ranges of at least this many tokens (default: %(default)s)")
    parser.add_argument("--output", default="positions.png", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--table", action="store_true", help="print the numbers as a Markdown table too")
    args = parser.parse_args()
    pyplot = plotting.load_pyplot()
    files = [read_curves(file) for file in args.files]
    curves = [curve for file in files for curve in file]
    if args.table:
        print(markdown(curves))

    figure, axes = plotting.panel_axes(pyplot, 1, columns=1, width=6.4, height=5.2)
    axis, lines, ticks = axes[0], [], {}
    if not any(bucket["from"] >= args.first for _, _, buckets in curves for bucket in buckets):
        sys.exit(f"{plotting.PROGRAM}: --from {args.first}: no file has a range that begins there or later")
    for (label, _, buckets), style in zip(curves, styles_of(files)):
        buckets = [bucket for bucket in buckets if bucket["from"] >= args.first]
        ticks.update({bucket["from"]: range_text(bucket) for bucket in buckets})
        lines.append(axis.plot([bucket["from"] for bucket in buckets], [bucket["loss"] for bucket in buckets],
                               label=label, **style)[0])
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ticks), [ticks[begin] for begin in sorted(ticks)], rotation=45, ha="right")
    axis.minorticks_off()
    axis.set_title("Loss by position")
    axis.set_xlabel("tokens of the document before the token")
    axis.set_ylabel("cross entropy (nats per token)")
    axis.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.36), ncol=2, frameon=False)
    plotting.save(figure, args.output)


if __name__ == "__main__":
    main()
