"""What the plot_*.py scripts and log_to.py share: names of runs, metrics files, and plots for print."""
import json
import math
import os
import sys

PROGRAM = os.path.basename(sys.argv[0])
# Okabe and Ito's palette, distinguishable for color-blind readers, without its yellow, which is too light for lines.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
MARKERS_PER_CURVE = 10


def load_pyplot():
    """matplotlib.pyplot, drawing to files. Called before any other work, because it exits when matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        sys.exit(f"{PROGRAM}: matplotlib is missing for {sys.executable}; install it with: {sys.executable} -m pip "
                 "install matplotlib, or for /usr/bin/python3: apt-get install python3-matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8, "axes.grid": True,
                            "grid.alpha": 0.3, "savefig.dpi": 160, "savefig.facecolor": "white",
                            "savefig.transparent": False})  # a page in dark mode shows a white picture
    return pyplot


def metrics_file(run):
    return os.path.join(run, "metrics.jsonl") if os.path.isdir(run) else run


def flat(line):
    """A line of metrics.jsonl with the values of nested objects under keys such as sources/web/rows."""
    values = {}
    for key, value in line.items():
        if isinstance(value, dict):
            values.update({f"{key}/{inner}": each for inner, each in flat(value).items()})
        else:
            values[key] = value
    return values


def read_metrics(run):
    """The lines of a run's metrics.jsonl, flat; `run` is its output_dir or the file itself."""
    path, lines = metrics_file(run), []
    try:
        with open(path) as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                except ValueError:
                    if not text.endswith("\n"):  # it is being written
                        break
                    line = None
                if not isinstance(line, dict) or "step" not in line:
                    sys.exit(f"{PROGRAM}: {path}:{number}: expected an object with a step")
                lines.append(flat(line))
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{PROGRAM}: {path}: {error}")
    return lines


def distinct_runs(runs):
    """{label: run}. The label is the shortest end of the run's path that no other run's path has."""
    paths = {}
    for run in runs:
        path = os.path.realpath(run)
        path = os.path.dirname(path) if os.path.basename(path) == "metrics.jsonl" else path
        paths.setdefault(tuple(path.strip(os.sep).split(os.sep)), run)

    def label(parts):
        for count in range(1, len(parts)):
            if sum(other[-count:] == parts[-count:] for other in paths) == 1:
                return os.sep.join(parts[-count:])
        return os.sep.join(parts)

    return {label(parts): run for parts, run in paths.items()}


def curve_style(index, dashed=False, points=0):
    """Color and marker of the index-th curve. Dashed curves have hollow markers. Curves with many points get markers at
    some of them, at different ones for different curves."""
    color = COLORS[index % len(COLORS)]
    every = max(1, points // MARKERS_PER_CURVE)
    offset = int((0.37 * index + 0.5 * dashed) % 1 * every)
    return {"color": color, "linestyle": (0, (4, 2)) if dashed else "-", "linewidth": 1.2 if every == 1 else 0.8,
            "marker": MARKERS[index % len(MARKERS)], "markersize": 6 if dashed else 4,
            "markerfacecolor": "none" if dashed else color, "markevery": (offset, every)}


def legend_below(axis, curves, columns=2):
    """A legend under the axis, where it hides no curve."""
    axis.legend(handles=curves, loc="upper center", bbox_to_anchor=(0.5, -0.19), ncol=min(columns, len(curves)),
                frameon=False)


def integers_x(axis):
    """An x axis whose labels are whole numbers, also when it shows few of them."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def log_scale_y(axis):
    """A logarithmic y axis with several labels, whatever its range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    decades = math.log10(high / low)
    if decades < 0.7:
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def panel_axes(pyplot, count, columns, width, height):
    """A figure and `count` axes in at most `columns` columns; width and height of one in inches."""
    columns = min(count, columns)
    rows = (count + columns - 1) // columns
    figure, axes = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def save(figure, output):
    figure.tight_layout()
    if not os.path.splitext(output)[1]:  # savefig() would write to another file
        sys.exit(f"{PROGRAM}: {output}: expected a file name with an ending, such as {output}.png")
    try:
        os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
        figure.savefig(output)
    except (OSError, ValueError) as error:
        sys.exit(f"{PROGRAM}: {output}: {error}")
    print(f"wrote {output}")


def read_evaluations(argument, key, what, option):
    """[(label, whether full attention, the JSON under `key`)] of [NAME=]FILE, an output of ssa_eval with `option`. `what`
    says in an error what is missing."""
    name, _, path = argument.rpartition("=")
    name = name or os.path.splitext(os.path.basename(path))[0]
    try:
        with open(path) as file:
            documents = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"{PROGRAM}: {path}: {error}")
    documents = documents if isinstance(documents, list) else [documents]
    found = []
    for document in documents or [None]:
        if not isinstance(document, dict) or key not in document or not isinstance(document.get("config"), dict):
            sys.exit(f"{PROGRAM}: {path}: no {what}, expected the output of ssa_eval {option}")
        model = document["config"]["model_args"]
        mode = model["mode"]
        if mode == "sparse":
            mode += f" {model['block_counts']}x{model['block_size']}"
        found.append((f"{name}, {mode}", model["mode"] == "full", document[key]))
    return found
