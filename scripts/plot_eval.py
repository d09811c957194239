#!/usr/bin/env python3
"""Draws quality against the budget of sparse attention for several models, from ssa_eval's JSON files.

Usage: scripts/plot_eval.py [NAME=]FILE... [--metrics LIST] [--output FILE] [--table]
One panel per task and metric. The budget is the number of tokens that a query may attend to, block_counts x block_size.
Full attention is a dashed horizontal line. NAME is the model's name in the legend (default: the file's name). Standard
errors, where the file has them, are drawn as bars. --table also prints the numbers as a Markdown table.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).

Example: build/bin/ssa_eval --model runs/ssa --data data/tiny/eval --block-counts 1,2,4,8 --output ssa.json
         build/bin/ssa_eval --model runs/moba --data data/tiny/eval --block-counts 1,2,4,8 --output moba.json
         scripts/plot_eval.py ssa.json moba.json --output budgets.png
"""
import argparse
import json
import os
import sys

import plotting

DEFAULT_METRICS = ["loss", "word_perplexity", "acc_norm", "acc", "perplexity", "score"]  # the first that a task has
UNITS = {"loss": "loss (nats per token)", "acc": "accuracy (0 to 1)", "acc_norm": "length-normalized accuracy (0 to 1)",
         "word_perplexity": "perplexity per word", "byte_perplexity": "perplexity per byte",
         "token_perplexity": "perplexity per token", "perplexity": "perplexity of the target",
         "bits_per_byte": "bits per byte"}


def read_results(argument):
    """(name, [(settings, {task: {metric: (value, stderr)}})])"""
    name, _, path = argument.rpartition("=")
    name = name or os.path.splitext(os.path.basename(path))[0]
    try:
        with open(path) as file:
            documents = json.load(file)
        documents = documents if isinstance(documents, list) else [documents]
        found = []
        for document in documents:
            tasks = {}
            for task, values in document["results"].items():
                for key, value in values.items():
                    metric, _, _ = key.partition(",")
                    if "," not in key or not isinstance(value, (int, float)) or metric.endswith(("_stderr", "_std")):
                        continue
                    error = values.get(key.replace(",", "_stderr,", 1))
                    tasks.setdefault(task, {})[metric] = (value, error if isinstance(error, (int, float)) else None)
            found.append((document["config"]["model_args"], tasks))
        return name, found
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"plot_eval.py: {path}: {error}")
    except (KeyError, TypeError, AttributeError) as error:
        sys.exit(f"plot_eval.py: {path}: not written by ssa_eval --output ({error!r})")


def budget_of(settings):
    return None if settings["mode"] == "full" else settings["block_counts"] * settings["block_size"]


def panels_of(models, wanted):
    panels = []
    for _, results in models:
        for _, tasks in results:
            for task, metrics in tasks.items():
                chosen = [m for m in wanted or DEFAULT_METRICS if m in metrics]
                chosen = chosen if wanted else chosen[:1]
                panels += [(task, m) for m in chosen if (task, m) not in panels]
    return panels


def points_of(results, task, metric):
    """(sorted [(budget, value, stderr)] of sparse attention, value of full attention or None)"""
    sparse, full = [], None
    for settings, tasks in results:
        if metric not in tasks.get(task, {}):
            continue
        value, error = tasks[task][metric]
        if budget_of(settings) is None:
            full = value
        else:
            sparse.append((budget_of(settings), value, error or 0.0))
    return sorted(sparse), full


def markdown(models, task, metric):
    budgets = sorted({p[0] for _, results in models for p in points_of(results, task, metric)[0]})
    columns = [f"{os.path.basename(task)}, {metric}"] + [f"{b} tokens" for b in budgets] + ["full attention"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, results in models:
        sparse, full = points_of(results, task, metric)
        values = {b: f"{v:.4f}" for b, v, _ in sparse}
        cells = [name] + [values.get(b, "") for b in budgets] + ["" if full is None else f"{full:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="[NAME=]FILE")
    parser.add_argument("--metrics", help="comma-separated (default: the first that a task has of "
                        f"{', '.join(DEFAULT_METRICS)})")
    parser.add_argument("--output", default="budgets.png", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--table", action="store_true", help="print the numbers as a Markdown table too")
    args = parser.parse_args()
    pyplot = plotting.load_pyplot()
    models = [read_results(file) for file in args.files]
    panels = panels_of(models, args.metrics.split(",") if args.metrics else None)
    if not panels:
        sys.exit(f"plot_eval.py: no metric to draw{' among ' + args.metrics if args.metrics else ''}")
    if args.table:
        print("\n\n".join(markdown(models, task, metric) for task, metric in panels))

    figure, axes = plotting.panel_axes(pyplot, len(panels), columns=3, width=4.8, height=4.2)
    for axis, (task, metric) in zip(axes, panels):
        budgets, curves = set(), []
        for index, (name, results) in enumerate(models):
            sparse, full = points_of(results, task, metric)
            style = plotting.curve_style(index)
            if sparse:
                x, y, error = zip(*sparse)
                budgets.update(x)
                curves.append(axis.errorbar(x, y, yerr=error if any(error) else None, label=f"{name}, sparse",
                                            capsize=2, **style))
            if full is not None:
                # Each model has a dash length of its own, so that equal values remain distinguishable.
                curves.append(axis.axhline(full, color=style["color"], linestyle=(2 * index, (3 + 2 * index, 3)),
                                           linewidth=1.2, label=f"{name}, full attention"))
        if budgets:
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(budgets), [str(b) for b in sorted(budgets)])
            axis.minorticks_off()
            axis.set_xlabel("budget (tokens per query)")
        else:
            axis.set_xticks([])
        axis.set_ylabel(UNITS.get(metric, metric))
        axis.set_title(os.path.basename(os.path.normpath(task)))
        plotting.legend_below(axis, curves)
    plotting.save(figure, args.output)


if __name__ == "__main__":
    main()
