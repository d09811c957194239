#!/usr/bin/env python3
"""Draws quality against the budget of sparse attention for several models, from ssa_eval's JSON files.

Usage: scripts/plot_eval.py [NAME=]FILE... [--metrics LIST] [--output FILE] [--table]
A panel for each task and metric; the budget is the number of tokens a query may attend, block_counts x block_size. Full
attention is a dashed line. NAME stands in the legend (default: the file's name). Standard errors, where there are some,
are drawn as bars. --table also prints the numbers as a Markdown table.
Needs matplotlib (Debian, Ubuntu: python3-matplotlib).

Example: build/bin/ssa_eval --model runs/ssa --data data/tiny/eval --block-counts 1,2,4,8 --output ssa.json
         build/bin/ssa_eval --model runs/moba --data data/tiny/eval --block-counts 1,2,4,8 --output moba.json
         scripts/plot_eval.py ssa.json moba.json --output budgets.png
"""
import argparse
import json
import os
import sys

DEFAULT_METRICS = ["loss", "word_perplexity", "acc_norm", "acc", "perplexity", "score"]  # of a task the first it has


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
        sys.exit(f"plot_eval.py: {path}: not a file of ssa_eval --output ({error!r})")


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
    parser.add_argument("--metrics", help="with commas between them (default: the first that a task has of "
                        f"{', '.join(DEFAULT_METRICS)})")
    parser.add_argument("--output", default="budgets.png", metavar="FILE")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    models = [read_results(file) for file in args.files]
    panels = panels_of(models, args.metrics.split(",") if args.metrics else None)
    if not panels:
        sys.exit(f"plot_eval.py: no metric to draw{' among ' + args.metrics if args.metrics else ''}")
    if args.table:
        print("\n\n".join(markdown(models, task, metric) for task, metric in panels))

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(panels), 3)
    rows = (len(panels) + columns - 1) // columns
    figure, axes = pyplot.subplots(rows, columns, figsize=(5.2 * columns, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(panels):]:
        axis.remove()
    for axis, (task, metric) in zip(axes.flat, panels):
        budgets = set()
        for index, (name, results) in enumerate(models):
            sparse, full = points_of(results, task, metric)
            if sparse:
                x, y, error = zip(*sparse)
                budgets.update(x)
                axis.errorbar(x, y, yerr=error if any(error) else None, label=name, color=f"C{index}", marker="o",
                              markersize=4, linewidth=1.2, capsize=2)
            if full is not None:
                axis.axhline(full, color=f"C{index}", linestyle="--", linewidth=1,
                             label=f"{name}, full attention" if not sparse else None)
        if budgets:
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted(budgets), [str(b) for b in sorted(budgets)])
            axis.minorticks_off()
        axis.set_xlabel("tokens a query attends (dashed: full attention)", fontsize=8)
        axis.set_ylabel(metric, fontsize=8)
        axis.set_title(os.path.basename(os.path.normpath(task)), fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(args.output, dpi=110)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
