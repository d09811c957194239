#!/usr/bin/env python3
"""Tests of the scripts that need no build. Usage: scripts_test.py CASE, one of the functions named test_CASE below.

Exit code 77 (skipped) when a Python package of the case is missing.
"""
import argparse
import contextlib
import gzip
import importlib.util
import io
import json
import os
import shutil
import subprocess
import struct
import sys
import tempfile
import types
import unittest.mock
import zipfile
import zlib
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"
NO_HELP = {  # without a --help of their own
    "plotting.py",  # imported by others
    "make_unicode_tables.py",  # needs packages before it reads arguments
}


def run(*command, code=0, timeout=120, **environment):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                            env={**os.environ, **environment}, timeout=timeout)
    assert result.returncode == code, f"{command}: exit code {result.returncode}, expected {code}: {result.stderr}"
    return result.stdout + result.stderr


def need(package):
    if importlib.util.find_spec(package) is None:
        print(f"skipped: {sys.executable} has no {package}")
        sys.exit(77)


def make_runs(directory):
    """Two runs with equal directory names; only ssa's has an alignment loss and two kinds of attention."""
    for method, extra in (("ssa", {"eval_loss_sparse": 3.0, "eval_loss_full": 3.0}), ("moba", {"eval_loss": 3.1})):
        run_directory = directory / method / "tiny"
        run_directory.mkdir(parents=True)
        lines = [{"step": step, "ce_loss": 5 - step / 100, "alignment_loss": 1e-3 * step if method == "ssa" else 0.0,
                  "grad_norm": 1 + step / 1000, "learning_rate": 1e-3, "tokens_per_second": 1000,
                  **(extra if step % 50 == 0 else {})} for step in range(1, 201)]
        (run_directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [directory / "ssa/tiny", directory / "moba/tiny/metrics.jsonl"]


def fails(use, *parts):
    """Asserts that a function of a script exits with an error that has these parts."""
    try:
        use()
    except SystemExit as error:
        assert all(part in str(error) for part in parts), error
        return
    raise AssertionError(f"no error of {parts}")


def test_help(_):
    for script in sorted(SCRIPTS.iterdir()):
        if script.suffix not in (".py", ".sh") or script.name in NO_HELP:
            continue
        text = script.read_text()
        assert "argparse" in text or "--help" in text, f"{script.name} has no --help"
        command = [sys.executable] if script.suffix == ".py" else ["bash"]
        assert "sage:" in run(*command, script, "--help"), f"{script.name} --help states no usage"


def test_plots(directory):
    need("matplotlib")
    sys.path.insert(0, str(SCRIPTS))
    import plot_run
    import plotting

    figures = []
    plotting.save = lambda figure, output: figures.append(figure)
    sys.argv = ["plot_run.py", *map(str, make_runs(directory))]
    plot_run.main()
    figures[0].canvas.draw()
    axes = {axis.get_title(): axis for axis in figures[0].axes}
    legend = lambda title: [text.get_text() for text in axes[title].get_legend().get_texts()]
    assert legend("Training loss") == ["ssa/tiny", "moba/tiny"], legend("Training loss")
    assert legend("Alignment loss") == ["ssa/tiny"], legend("Alignment loss")
    assert legend("Validation loss") == ["ssa/tiny, sparse", "ssa/tiny, full", "moba/tiny"], legend("Validation loss")
    assert sys.modules["matplotlib"].rcParams["savefig.facecolor"] == "white"  # readable on a dark page
    styles = [(line.get_color(), line.get_linestyle(), line.get_markerfacecolor()) for line in
              axes["Validation loss"].get_lines()]
    assert len(set(styles)) == 3, styles
    for title in ("Alignment loss", "Gradient norm"):
        low, high = axes[title].get_ylim()
        labels = [t for t in axes[title].get_yticks() if low <= t <= high]
        assert len(labels) >= 2, f"{title}: labels {labels} in {low} to {high}"
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in axes.values())


def test_plot_in_a_new_directory(directory):
    sys.path.insert(0, str(SCRIPTS))
    import plotting

    figure = types.SimpleNamespace(tight_layout=lambda: None, savefig=lambda output: Path(output).write_text("drawn"))
    plotting.save(figure, str(directory / "pictures/new/curves.png"))
    assert (directory / "pictures/new/curves.png").read_text() == "drawn"


def test_plot_refusals(directory):
    """Files that are damaged, and an output that matplotlib would write to another file, are errors in one line."""
    sys.path.insert(0, str(SCRIPTS))
    import plotting

    metrics = directory / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')  # the second line is being written
    assert plotting.read_metrics(str(directory)) == [{"step": 1, "loss": 2.0}]

    for line in ("[1]", "x", '{"loss": 1}'):
        metrics.write_text('{"step": 1}\n' + line + "\n")
        fails(lambda: plotting.read_metrics(str(directory)), "metrics.jsonl:2: expected an object with a step")
    results = directory / "results.json"
    for content in ("[]", '{"needle": 1}', "[1]"):
        results.write_text(content)
        fails(lambda: plotting.read_evaluations(str(results), "needle", "needle results", "--needle"), "no needle results")
    fails(lambda: plotting.save(unittest.mock.Mock(), str(directory / "out")), "out: expected a file name", "out.png")
    assert not list(directory.glob("out*"))


def test_plot_of_a_mix(directory):
    need("matplotlib")
    sys.path.insert(0, str(SCRIPTS))
    import plot_run
    import plotting

    step = lambda n: {"step": n, "ce_loss": 5 - n, "loss": 5 - n,
                      "sources": {"web": {"rows": n, "tokens": 9 * n, "epoch": 0.1 * n},
                                  "code": {"rows": n, "tokens": 9 * n, "epoch": 0.2 * n}},
                      "eval_loss_sparse/a": 4 - n, "eval_loss_full/a": 3.9 - n, "eval_loss_sparse/b": 3 - n,
                      "eval_loss_full/b": 2.9 - n, "eval_bits_per_byte_sparse/a": 1.5 - 0.1 * n,
                      "task_acc_sparse/piqa": 0.25 * n, "task_acc_full/piqa": 0.5, "task_acc_norm_full/piqa": 0.1}
    file = directory / "metrics.jsonl"
    file.write_text("".join(json.dumps(step(n)) + "\n" for n in (1, 2)))
    figures = []
    plotting.save = lambda figure, output: figures.append(figure)
    sys.argv = ["plot_run.py", str(file)]
    plot_run.main()
    axes = {axis.get_title(): axis for axis in figures[0].axes}
    curves = lambda title: {line.get_label(): list(line.get_ydata()) for line in axes[title].get_lines()}
    steps = axes["Training loss"].get_xticks()
    assert all(step == int(step) for step in steps), steps  # two steps, and none between them
    assert curves("Epochs of each source") == {"web": [0.1, 0.2], "code": [0.2, 0.4]}, curves("Epochs of each source")
    assert list(curves("Validation loss")) == ["a, sparse attention", "b, sparse attention", "a, full attention",
                                               "b, full attention"], curves("Validation loss")
    assert curves("Validation loss by text") == {"a, sparse attention": [1.4, 1.3]}, curves("Validation loss by text")
    assert curves("Task accuracy") == {"piqa, sparse attention": [0.25, 0.5], "piqa, full attention": [0.5, 0.5]}
    assert list(curves("Task accuracy by log-likelihood per character")) == ["piqa, full attention"]
    colors = {line.get_label(): line.get_color() for line in axes["Validation loss"].get_lines()}
    assert colors["a, sparse attention"] == colors["a, full attention"] != colors["b, full attention"], colors


def test_eval_plots(directory):
    need("matplotlib")
    document = lambda mode, loss, **budget: {
        "results": {"data/eval": {"loss,none": loss, "loss_stderr,none": "N/A"}},
        "needle": {"lengths": [64, 128], "depths": [0, 100], "samples": 2, "accuracy": [[0, 0.5], [1, 1]]},
        "config": {"model_args": {"pretrained": "runs/x", "method": "ssa", "mode": mode, **budget}}}
    results = directory / "ssa.json"
    results.write_text(json.dumps([document("sparse", 3.0, block_counts=2, block_size=16),
                                   document("sparse", 2.9, block_counts=4, block_size=16), document("full", 2.9)]))
    out = run(sys.executable, SCRIPTS / "plot_eval.py", f"mine={results}", "--table", "--output", directory / "b.png")
    assert "| mine | 3.0000 | 2.9000 | 2.9000 |" in out, out
    run(sys.executable, SCRIPTS / "plot_needle.py", results, "--output", directory / "n.png")
    assert all((directory / name).stat().st_size > 1000 for name in ("b.png", "n.png"))
    sys.path.insert(0, str(SCRIPTS))
    import plot_needle
    import plotting
    figures = []
    with unittest.mock.patch.object(plotting, "save", lambda figure, output: figures.append(figure)), \
            unittest.mock.patch.object(sys, "argv", ["plot_needle.py", str(results), f"mine={results}"]):
        plot_needle.main()
    titles = [axis.get_title() for axis in figures[0].axes if axis.get_title()]
    modes = ("sparse 2x16", "sparse 4x16", "full")
    assert titles == [f"{name}, {mode}" for name in ("ssa", "mine") for mode in modes], titles
    results.write_text(json.dumps({"results": {}}))
    out = run(sys.executable, SCRIPTS / "plot_needle.py", results, code=1)
    assert out == f"plot_needle.py: {results}: no needle results, expected the output of ssa_eval --needle\n", out


def test_position_plots(directory):
    need("matplotlib")
    document = lambda mode, *losses, **budget: {
        "loss_by_position": [{"from": 2 ** k, "to": 2 ** (k + 1) - 1, "tokens": 5, "loss": loss}
                             for k, loss in enumerate(losses)],
        "config": {"model_args": {"pretrained": "runs/x", "method": "ssa", "mode": mode, **budget}}}
    before, after = directory / "before.json", directory / "after.json"
    before.write_text(json.dumps([document("sparse", 3.0, 2.5, 2.25, block_counts=2, block_size=16),
                                  document("full", 3.0, 2.5, 2.0)]))
    after.write_text(json.dumps(document("full", 2.75, None)))
    out = run(sys.executable, SCRIPTS / "plot_positions.py", f"short={before}", after, "--table", "--output",
              directory / "p.png")
    lines = out.splitlines()
    assert lines[0] == "| tokens before | short, sparse 2x16 | short, full | after, full |", out
    assert lines[2] == "| 1 | 3.0000 | 3.0000 | 2.7500 |" and lines[4] == "| 4-7 | 2.2500 | 2.0000 |  |", out
    assert (directory / "p.png").stat().st_size > 1000
    late = run(sys.executable, SCRIPTS / "plot_positions.py", before, "--from", "8", "--output", directory / "late.png", code=1)
    assert "--from 8: no file has a range" in late and not (directory / "late.png").exists(), late
    run(sys.executable, SCRIPTS / "plot_positions.py", before, "--from", "2", "--output", directory / "late.png")
    assert (directory / "late.png").stat().st_size > 1000
    sys.path.insert(0, str(SCRIPTS))
    import plot_positions
    styles = plot_positions.styles_of([plot_positions.read_curves(str(file)) for file in (before, after, before)])
    colors = [style["color"] for style in styles]  # of each file, sparse and full
    assert colors[0] == colors[1] and colors[3] == colors[4] and len(set(colors)) == 3, colors
    before.write_text(json.dumps({"results": {}}))
    assert "no losses by position" in run(sys.executable, SCRIPTS / "plot_positions.py", before, code=1)


def test_attention_plots(directory):
    """A panel per statistic with units; sparse and full attention of a model have one color, models different ones."""
    need("matplotlib")
    sys.path.insert(0, str(SCRIPTS))
    import plot_attention
    import plotting

    def document(mode, shift):
        layers = [{"layer": n, "selected_mass": 0.5 + shift, "entropy": 1 + shift, "sink": shift, "divergence": n}
                  for n in range(3)]
        return {"attention": {"sink_tokens": 4, "layers": layers},
                "config": {"model_args": {"mode": mode, "block_counts": 4, "block_size": 16}}}

    for name, modes in (("ssa", ("sparse", "full")), ("nsa", ("sparse",))):
        (directory / f"{name}.json").write_text(json.dumps([document(mode, 0.25 * k) for k, mode in enumerate(modes)]))
    figures = []
    plotting.save = lambda figure, output: figures.append(figure)
    sys.argv = ["plot_attention.py", *(str(directory / f"{name}.json") for name in ("ssa", "nsa"))]
    plot_attention.main()
    axes = {axis.get_title(): axis for axis in figures[0].axes}
    assert list(axes) == ["Attention inside the selected blocks", "Entropy of full attention",
                          "Attention on the first 4 tokens", "Distance of the sparse from the full output"], list(axes)
    lines = axes["Entropy of full attention"].get_lines()
    assert [line.get_label() for line in lines] == ["ssa, sparse 4x16", "ssa, full", "nsa, sparse 4x16"], lines
    assert [list(line.get_ydata()) for line in lines] == [[1] * 3, [1.25] * 3, [1] * 3]
    colors = [line.get_color() for line in lines]
    assert colors[0] == colors[1] != colors[2] and lines[1].is_dashed() and not lines[0].is_dashed(), colors
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in axes.values())
    (directory / "none.json").write_text("{}")
    assert "no attention statistics" in run(sys.executable, SCRIPTS / "plot_attention.py", directory / "none.json", code=1)


def test_missing_package(directory):
    """A missing package is one line that says what to install, before the script reads its inputs."""
    (directory / "matplotlib.py").write_text("raise ImportError")
    for script in ("plot_run.py", "plot_eval.py", "plot_needle.py", "plot_positions.py", "plot_attention.py"):
        out = run(sys.executable, SCRIPTS / script, "no-such-file", code=1, PYTHONPATH=str(directory))
        assert out.count("\n") == 1 and "matplotlib" in out and "install" in out, out
    for package in ("tensorboard", "wandb", "trackio"):
        if importlib.util.find_spec(package) is None:
            out = run(sys.executable, SCRIPTS / "log_to.py", package, "no-such-file", code=1)
            assert out.count("\n") == 1 and f"{package} is missing" in out and "install" in out, out


class Recorder:
    """Stands for a service of log_to.py; remembers what was sent to it, also by an earlier one of this run."""
    sent, keeps_steps, where = [], True, "here"

    def __init__(self, args, name, run):
        pass

    def send(self, step, values):
        self.sent.append((step, values))

    def flush(self):
        pass

    def close(self):
        pass


def test_log_to(directory):
    """Lines are sent once: as they are written, after a restart, and after the run resumed from an earlier step."""
    sys.path.insert(0, str(SCRIPTS))
    import log_to

    metrics = directory / "metrics.jsonl"
    log_to.TARGETS["recorder"] = Recorder
    args = argparse.Namespace(target="recorder")
    sender = log_to.Sender(args, "x", str(directory))
    assert sender.poll() == 0  # the run has not begun
    line = lambda step, **more: json.dumps({"step": step, "loss": 9.5 - step, "stream": "full", **more}) + "\n"
    metrics.write_text(line(1, mass_by_layer=[0.5, 0.25], sources={"web": {"epoch": 2}}, grad_norm=None) + line(2)[:9])
    assert sender.poll() == 1 and sender.poll() == 0
    assert Recorder.sent == [(1, {"loss": 8.5, "mass_by_layer/0": 0.5, "mass_by_layer/1": 0.25,
                                  "sources/web/epoch": 2.0})], Recorder.sent
    with open(metrics, "a") as file:
        file.write(line(2)[9:] + line(3))
    assert sender.poll() == 2
    sender = log_to.Sender(args, "x", str(directory))  # a restart
    assert sender.poll() == 0

    def replace(text):
        (directory / "new").write_text(text)
        (directory / "new").replace(metrics)

    replace(line(1) + line(2))  # the run resumes after step 2
    assert sender.poll() == 0
    with open(metrics, "a") as file:
        file.write(line(3) + line(4))
    assert sender.poll() == 1
    replace(line(1) + line(2) + line(3) + line(4, eval_loss=3))  # the evaluation that a signal had ended
    assert sender.poll() == 1 and Recorder.sent[-1] == (4, {"loss": 5.5, "eval_loss": 3.0})
    assert [step for step, _ in Recorder.sent] == [1, 2, 3, 4, 4]
    with open(metrics, "a") as file:
        file.write("[5]\n")
    try:
        sender.poll()
        assert False
    except SystemExit as error:
        assert f"{metrics}:5: expected an object with a step" in str(error)

    for step in ("1.5", "1e999", "null", "true"):
        metrics.write_text(f'{{"step": {step}, "loss": 1}}\n')
        fails(log_to.Sender(args, "x", str(directory)).poll, "metrics.jsonl:1: expected")
    metrics.write_text(line(1))
    state = directory / ".log_to-recorder.json"
    for content in ("", '{"a": 1}', '["x", 1]', "[1]"):
        state.write_text(content)
        fails(log_to.Sender(args, "x", str(directory)).poll, str(state), "damaged", "remove it")
    (directory / "config.json").write_text("{")
    fails(lambda: log_to.config_of(str(directory)), "config.json: damaged", "the config of the run")
    for wrong in ("0", "-1", "nan", "soon"):
        failed = subprocess.run([sys.executable, SCRIPTS / "log_to.py", "wandb", "x", "--every", wrong],
                                capture_output=True, text=True)
        assert failed.returncode == 2 and "--every" in failed.stderr, failed.stderr
    fails(lambda: log_to.TensorBoard(argparse.Namespace(output=str(metrics)), "x", "x"), "--output", "a directory")


def test_tensorboard(directory):
    need("tensorboard")
    out = run(sys.executable, SCRIPTS / "log_to.py", "tensorboard", *make_runs(directory), "--output",
              directory / "tb")
    assert out.count("200 steps sent") == 2, out
    for run_name in ("ssa/tiny", "moba/tiny"):
        assert len(list((directory / "tb" / run_name).glob("events.out.tfevents*"))) == 1, run_name


def test_download_tasks(directory):
    script = SCRIPTS / "download_tasks.sh"
    target, source = directory / "tasks", directory / "downloads"
    assert "no such task, expected one of: arc_easy" in run("bash", script, target, "arc_hard", code=2)
    assert "no such option" in run("bash", script, target, "--form", "x", code=2)
    assert "Usage" in run("bash", script, code=2)
    assert "no such directory" in run("bash", script, target, "--from", source, code=2)
    choices = {"text": ["é", "b"], "label": ["A", "B"]}
    for path, rows in {
            "arc_easy/ARC-Easy/test": [{"id": "1", "question": "q", "choices": choices, "answerKey": "A"}] * 2,
            "arc_easy/ARC-Easy/train": [{"id": "2", "question": "r", "choices": choices, "answerKey": "B"}],
            "arc_easy/ARC-Challenge/test": [{"question": "another configuration"}],
            "piqa/plain_text/validation": [{"goal": "g", "sol1": "a", "label": 0}],
            "wikitext/wikitext-2-raw-v1/test": [{"page": " = A = \n text "}, {"page": " = B = \n more "}]}.items():
        (source / path).mkdir(parents=True)
        (source / path / "0000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("bash", script, target, "arc_easy", "wikitext", "--from", source, PYTHON=sys.executable)
    assert sorted(path.name for path in target.iterdir()) == ["arc_easy.jsonl", "arc_easy_train.jsonl", "wikitext.txt"]
    rows = [json.loads(line) for line in (target / "arc_easy.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"question": "q", "choices": choices, "answerKey": "A"}] * 2, rows
    assert (target / "wikitext.txt").read_text() == " = A = \n text \n = B = \n more "
    client = directory / "bin/hf"
    client.parent.mkdir()
    client.write_text("#!/bin/sh\necho 'no network' >&2\nexit 1\n")
    client.chmod(0o755)
    path = f"{client.parent}:{os.environ['PATH']}"
    out = run("bash", SCRIPTS / "download_smollm.sh", directory / "smollm", code=1, PATH=path)
    assert "EleutherAI/SmolLM2-135M-100B was not downloaded, expected huggingface.co to be reachable" in out, out
    out = run("bash", script, target, "piqa", "--from", source, code=1, PYTHON=sys.executable)
    assert "row 1 has no sol2, expected goal, sol1, sol2, label" in out, out
    assert "no .parquet file of Rowan/hellaswag" in run("bash", script, target, "hellaswag", "--from", source, code=2)
    assert "longbench/data.zip: no such file" in run("bash", script, target, "longbench", "--from", source, code=2)
    (source / "longbench").mkdir()
    with zipfile.ZipFile(source / "longbench/data.zip", "w") as archive:
        for name in ("hotpotqa", "lcc_e", "vcsum"):
            archive.writestr(f"data/{name}.jsonl", '{"input": "é"}\n{"input": "\u2028"}\n')
    out = run("bash", script, target, "longbench", "--from", source, PYTHON=sys.executable)
    assert "longbench_hotpotqa.jsonl: 2 documents" in out and "vcsum" not in out, out
    assert (target / "longbench_lcc_e.jsonl").read_bytes() == '{"input": "é"}\n{"input": "\u2028"}\n'.encode()
    if importlib.util.find_spec("pyarrow") is None:
        return
    import pyarrow
    from pyarrow import parquet

    file = source / "arc_easy/ARC-Easy/test/0000.jsonl"
    parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in file.read_text().splitlines()]),
                        file.with_suffix(".parquet"))
    file.unlink()
    run("bash", script, target, "arc_easy", "--from", source, PYTHON=sys.executable)
    assert [json.loads(line) for line in (target / "arc_easy.jsonl").read_text(encoding="utf-8").splitlines()] == rows


def test_make_ruler(directory):
    script, target = SCRIPTS / "make_ruler.py", directory / "tasks"
    arguments = [sys.executable, script, target, "--tokenizer", "model"]
    assert "ruler_vx: no such task, expected one of niah_single_1" in run(*arguments, "ruler_vx", code=2)
    assert "--lengths 4k, expected numbers" in run(*arguments, "--lengths", "4k", code=2)
    (directory / "numpy.py").write_text("class random:\n    seed = print\n")
    (directory / "lm_eval.py").write_text("raise ImportError('no lm_eval')\n")
    out = run(*arguments, code=1, PYTHONPATH=str(directory))
    assert "no lm_eval; expected pip install" in out and not target.exists(), out
    (directory / "lm_eval.py").unlink()
    (directory / "lm_eval").mkdir()
    (directory / "lm_eval/__init__.py").touch()
    (directory / "lm_eval/tasks.py").write_text('''
class Documents(list):
    def to_json(self, file, force_ascii):
        open(file, "w").write(f"{self[0]}\\n")

class Task:
    pass

class TaskManager:
    def __init__(self, metadata):
        self.metadata = metadata

    def load(self, names):
        task = Task()
        task.eval_docs = Documents([self.metadata])
        return {"tasks": {names[0]: task}}
''')
    out = run(*arguments, "--lengths", "4096,8192", "niah_single_2", "ruler_vt", PYTHONPATH=str(directory))
    assert "niah_single_2.jsonl: 1 documents" in out, out
    assert sorted(path.name for path in target.iterdir()) == ["niah_single_2.jsonl", "ruler_vt.jsonl"]
    assert (target / "ruler_vt.jsonl").read_text() == "{'tokenizer': 'model', 'max_seq_lengths': [4096, 8192]}\n"


def make_package(directory, name, files):
    """A .deb with these files, {path: text}."""
    root = directory / f"{name}-root"
    files = {"DEBIAN/control": f"Package: {name}\nVersion: 1.5\nArchitecture: all\nMaintainer: a <a@b.c>\n"
                               "Description: test\n", **files}
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    directory.mkdir(exist_ok=True)
    run("dpkg-deb", "-b", root, directory / f"{name}_1.5_all.deb")
    shutil.rmtree(root)


def test_debian_corpus(directory):
    if not shutil.which("dpkg-deb"):
        print("skipped: there is no dpkg-deb")
        sys.exit(77)
    prose = "This is a paragraph of the {} that has most of the common words of English, and it is long enough to be " \
            "kept as a part of a document, if it is not one that was in another of the files."
    page = f"<html><head><title>no</title></head><body><nav>menu</nav><h1>Title &amp; more</h1>" \
           f"<p>{prose.format('<b>page</b>')}</p><p>{prose.format('license')}</p><pre>int  a;\n  &lt;b&gt;</pre></body>"
    manual = '.TH x 1\n.\\" comment\n.SH NAME\nx \\- a \\fBtool\\fR\n.PP\n' + prose.format("manual") + "\n.BR x (1)\n" \
             f".PP\n{prose.format('license')}\n.nf\nkeep  this\n.fi\n{prose.format('end')}\n"
    make_package(directory / "packages/books", "book", {
        "usr/share/doc/book/a.html": page, "usr/share/doc/book/de/a.html": page.replace("page", "Seite"),
        "usr/share/doc/book/changelog.txt": prose * 9, "usr/share/doc/book/short.txt": "short",
        "usr/share/doc/book/numbers.txt": "1 2 3\n" * 900,
        "usr/share/doc/book/copyright": "Format: x\nLicense: GPL-2+\n\nLicense: MIT\n"})
    entries = ["first " + prose.format("entry"), "second " + prose.format("entry")]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    number = lambda n: digits[n // 64] + digits[n % 64]
    index = f"a\t{number(0)}\t{number(len(entries[0]))}\nb\t{number(len(entries[0]))}\t{number(len(entries[1]))}\n"
    make_package(directory / "packages/manuals", "tools", {
        "usr/share/man/man1/x.1.gz": gzip.compress(manual.encode()), "usr/share/man/fr/man1/x.1": manual + "French",
        "usr/share/dictd/d.dict.dz": gzip.compress("".join(entries).encode()), "usr/share/dictd/d.index": index})
    out = run(sys.executable, SCRIPTS / "debian_text.py", directory / "packages", directory / "out")
    assert "books: 1 documents" in out and "manuals: 2 documents" in out, out
    read = lambda name: [json.loads(line) for line in (directory / "out" / name).read_text().splitlines()]
    assert read("books.jsonl") == [{"text": "\n\n".join([
        "Title & more", prose.format("page"), prose.format("license"), "int  a;\n  <b>"]), "package": "book",
        "file": "/usr/share/doc/book/a.html"}], read("books.jsonl")
    dictionary, page = read("manuals.jsonl")
    assert dictionary["text"] == "\n\n".join(entries), dictionary
    assert page["text"] == "\n\n".join(["NAME", "x - a tool", prose.format("manual") + " x(1)", "keep  this",
                                        prose.format("end")]), page
    table = [line.split("\t") for line in (directory / "out/licenses.tsv").read_text().splitlines()]
    assert table[1][:3] == ["books", "book", "1.5"] and table[1][4] == "GPL-2+; MIT", table
    assert table[2][4] == "not in the package", table
    assert (directory / "out/copyright/book").read_text().startswith("Format: x")
    script = SCRIPTS / "debian_corpus.sh"
    assert "no source novels, expected books" in run("bash", script, directory / "new", "--sources", "novels", code=2)
    for names, message in [("", "--sources: expected names"), ("books,books", "books is given twice"),
                           (",books", "no source , expected")]:
        assert message in run("bash", script, directory / "new", "--sources", names, code=2), names
    assert not (directory / "new").exists()
    assert "books.jsonl: exists already" in run("bash", script, directory / "out", "--sources", "books", code=1)


def test_fault_campaign(directory):
    """Wrong arguments are refused before any job runs."""
    script = SCRIPTS / "fault_campaign.sh"
    for arguments, message in [(["--ranks", "2 3"], "--ranks: found 3, expected 1, 2 or 4"),
                               (["--faults", "0"], "found 0, expected an integer of at least 1"),
                               (["--faults"], "--faults needs a value"), (["--fault", "9"], "unknown argument --fault")]:
        assert message in run("bash", script, *arguments, code=2), arguments


def test_many_ranks(directory):
    script = SCRIPTS / "many_ranks.sh"
    for arguments, message in [(["--ranks", "0"], "--ranks: found 0, expected an integer from 1 to 9999"),
                               (["--stage", "4"], "--stage: found 4, expected 0, 1, 2 or 3"),
                               (["--rank", "9"], "unknown argument --rank"), (["--stage"], "--stage needs a value")]:
        assert message in run("bash", script, *arguments, code=2), arguments
    for stage in "0123":  # the program is looked for after the arguments
        assert "bin/ssa_train: no such program" in run("bash", script, "--stage", stage, "--build", directory, code=1)


def test_scale_model(_):
    """The table in the docs is the script's; one GPU has no communication, and more bandwidth is never slower."""
    script = SCRIPTS / "scale_model.py"
    for wrong in (["--gpus", "8,x"], ["--gpus", "0"], ["--bandwidth", "0"], ["--tokens", "-1"]):
        out = run(sys.executable, script, *wrong, code=2)
        assert f"argument {wrong[0]}: invalid" in out and "Traceback" not in out, out
    table = run(sys.executable, script)
    assert table in (SCRIPTS.parent / "docs/multi-gpu.md").read_text(), table
    number = lambda out, column: int(out.splitlines()[-1].split("|")[column].replace(",", ""))
    assert number(run(sys.executable, script, "--gpus", "1"), 2) == round(32768 / 0.5638), "one GPU"
    for stage in (0, 1, 2, 3):
        slow, fast = (number(run(sys.executable, script, "--gpus", "64", "--bandwidth", b), 2 + 2 * stage) for b in (25, 100))
        assert slow < fast < 64 * 32768 / 0.5539, (stage, slow, fast)
    # At stage 2 every micro-batch is reduced, and at stage 3 its weights are gathered twice.
    few = run(sys.executable, script, "--gpus", "8", "--bandwidth", "5", "--accumulation", "8")
    assert number(few, 8) < number(few, 6) < number(few, 4), few
    # Where a layer's transfer is hidden, stage 3 waits for the first layer's weights only: 2 W (n-1)/n / B, W = 59.4e6.
    at_2, at_3 = (32768 * 4 / number(run(sys.executable, script, "--gpus", "4", "--latency", "0"), c) for c in (6, 8))
    assert abs((at_3 - at_2) - 2 * 59.4e6 * 3 / 4 / 50e9) < 1e-5, (at_2, at_3)
    # Offloaded moments take 8 P / B of one GPU; on slow links in f32 twice as long as in bf16.
    seconds = [32768 / number(run(sys.executable, script, "--gpus", "1", *more), 2) for more in (
        [], ["--host-bandwidth", "10"], ["--host-bandwidth", "10", "--moment-bytes", "2"])]
    assert abs(seconds[1] - seconds[0] - (8 * 1.2138 / 10 - 0.0087)) < 1e-3, seconds
    assert abs(seconds[2] - seconds[0] - (4 * 1.2138 / 10 - 0.0087)) < 1e-3, seconds


def test_bench_peers_fp8(_):
    """The FP8 products of PyTorch against the definition, and their table; nothing is timed."""
    need("torch")
    import torch
    sys.path.insert(0, str(SCRIPTS))
    import bench_peers
    from peers import fp8
    torch.manual_seed(0)
    x, w, d_y = (torch.randn(*shape, dtype=torch.bfloat16) for shape in ((64, 48), (32, 48), (64, 32)))
    operands = [fp8.round_both(t) for t in (x, w, d_y)]
    for tensor, (rounded, scale, transposed, scale_t) in zip((x, w, d_y), operands):
        for got, want in ((rounded.float() * scale, tensor), (transposed.float() * scale_t, tensor.t())):
            assert 0.01 < (got - want.float()).norm() / want.float().norm() < 0.04
    x, w, d_y = (t.float() for t in (x, w, d_y))
    for product, want in zip(fp8.fp8_products(*operands, False), (x @ w.t(), d_y @ w, d_y.t() @ x)):
        assert (product().float() - want).norm() / want.norm() < 0.06

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        args = bench_peers.parse_arguments(["--only", "fp8", "--layers", "2"])
        fp8.fp8_table(args, lambda tokens, inputs, outputs: (tokens, inputs, outputs, 1, 2))
    rows = [line for line in out.getvalue().splitlines() if line.startswith("|")][2:]
    assert rows[0] == "| qkvg | 32768.000 | 2048.000 | 2400.000 | 1.000 | 2.000 |", rows
    assert rows[4] == "| all, 2 layers | 262144.000 | 28672.000 | 45760.000 | 8.000 | 16.000 |", rows

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        args = bench_peers.parse_arguments(["--only", "fp8", "--layers", "2", "--linear-layers", "gate-and-up,o"])
        fp8.fp8_table(args, lambda tokens, inputs, outputs: (inputs, outputs))
    rows = [line for line in out.getvalue().splitlines() if line.startswith("|")][2:]
    assert rows == ["| o | 2048.000 | 2048.000 |", "| gate and up | 2048.000 | 16384.000 |",
                    "| these, 2 layers | 8192.000 | 36864.000 |"], rows
    for arguments, message in ((["--only", "fp8", "--linear-layers", "up"], "'up' is not a layer; expected some of qkvg,"),
                               (["--linear-layers", "o"], "--linear-layers needs --only fp8")):
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):
            bench_peers.parse_arguments(arguments)
        assert message in error.getvalue(), error.getvalue()


def bench_peers_error(arguments):
    import bench_peers
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):
        bench_peers.parse_arguments(arguments)
    return error.getvalue()


def test_bench_peers_arguments(directory):
    need("torch")
    sys.path.insert(0, str(SCRIPTS))
    import bench_peers
    args = bench_peers.parse_arguments([])
    assert (args.rows, args.tokens, args.query_heads, args.block_size, args.only) == (4, 8192, 32, 16, None), args
    config = SCRIPTS.parent / "configs/ssa-110m.json"
    args = bench_peers.parse_arguments(["--layers", "2", "--config", str(config), "--rows", "8"])
    assert (args.rows, args.tokens, args.query_heads, args.key_value_heads) == (8, 4096, 12, 1), args
    assert (args.hidden_size, args.intermediate_size, args.layers, args.vocab_size) == (768, 2048, 2, 50257), args
    for name in bench_peers.NAMES:
        assert bench_peers.parse_arguments(["--only", name]).only == name
        assert f"  {name}" in bench_peers.__doc__, name

    values = json.loads(config.read_text())
    files = {"list": [], "head": {**values, "model": {**values["model"], "head_dim": "64"}},
             "length": {**values, "train": {}}, "untied": {**values, "model": {**values["model"], "tie_word_embeddings": False}}}
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    (directory / "text").write_text("{")
    for arguments, message in ((["--only", "dense"], "invalid choice: 'dense'"),
                               (["--rows", "0"], "--rows: 0 is not a positive integer"),
                               (["--query-heads", "31"], "--query-heads: 31 is not a multiple of 2 key/value heads"),
                               (["--config", directory / "none"], "No such file"),
                               (["--config", directory / "text"], f"--config: {directory}/text: Expecting property name"),
                               (["--config", directory / "list"], "train.max_length is null; expected a positive integer"),
                               (["--config", directory / "length"], "train.max_length is null; expected a positive integer"),
                               (["--config", directory / "head"], 'model.head_dim is "64"; expected a positive integer'),
                               (["--config", directory / "untied"], "model.tie_word_embeddings is not true")):
        error = bench_peers_error([str(a) for a in arguments])
        assert message in error, error
        assert error.count("bench_peers.py: error:") + error.count("scripts_test.py: error:") == 1, error


def test_bench_peers_selection(_):
    """The selections are those of ssa_bench; the check sums are of the lists that make_selection of
    tests/bench/attention_bench.h returns for these shapes."""
    need("torch")
    sys.path.insert(0, str(SCRIPTS))
    from peers import nsa
    args = argparse.Namespace(rows=2, tokens=600, query_heads=32, key_value_heads=2, head_dim=64, block_size=16, block_counts=8)
    for kind, check_sum in (("random", 0x34451AC4), ("concentrated", 0xFFC0289D)):
        indices = nsa.make_selection(args, kind)
        assert indices.shape == (2, 600, 2, 8)
        values = struct.pack(f"<{indices.numel()}i", *indices.flatten().tolist())
        assert zlib.crc32(values) == check_sum, kind
        assert nsa.selected_pairs(args, indices) == 260400, kind


def test_bench_peers_missing(_):
    """A peer whose package is missing, or that fails, is named in one line; the others are timed. Nothing runs on a GPU."""
    need("torch")
    sys.path.insert(0, str(SCRIPTS))
    import bench_peers
    from peers import attention, nsa, step

    def printed(call):
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            call()
        return out.getvalue().splitlines(), error.getvalue().splitlines()

    args = bench_peers.parse_arguments([])
    missing = {name: None for name in ("flash_attn.cute", "fla.ops.nsa.parallel")}  # None: an import fails
    with unittest.mock.patch.dict(sys.modules, missing):
        for call, peer, package in ((attention.time_flash_attention_4, "FlashAttention-4", "flash-attn-4"),
                                    (nsa.time_nsa, "fla-core NSA", "fla-core"),
                                    (step.time_flash_attention_4, "training step, full attention, FlashAttention-4",
                                     "flash-attn-4")):
            out, error = printed(lambda: call(args))
            assert not out and len(error) == 1, (out, error)
            assert error[0].startswith(f"{peer}: not run: it needs the Python package {package} ("), error
    out, error = printed(lambda: nsa.time_nsa(bench_peers.parse_arguments(["--query-heads", "24"])))
    assert not out and error == ["fla-core NSA: not run: fla-core takes 16, 32, 64 ... query heads per key/value head; "
                                 "these shapes have 12"], error

    cute = types.ModuleType("flash_attn.cute")
    calls = []
    cute.flash_attn_func = lambda q, k, v, causal, deterministic: calls.append(deterministic) or (q, None)

    def times(shape, run):
        assert run(1, 2, 3) == 1  # out, without lse
        if shape.head_dim == 128 and calls[-1]:
            raise AssertionError("no such kernel\nmore")
        return (3, 8) if calls[-1] else (2, 5)

    interface = types.ModuleType("flash_attn.cute.interface")
    fakes = {"flash_attn": types.ModuleType("flash_attn"), "flash_attn.cute": cute, "flash_attn.cute.interface": interface}
    with unittest.mock.patch.dict(sys.modules, fakes), unittest.mock.patch.object(attention, "attention", times):
        out, error = printed(lambda: attention.time_flash_attention_4(args))
        rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in out]
        assert rows == [["FlashAttention-4 forward", "2.0000"], ["FlashAttention-4 backward", "5.0000"],
                        ["FlashAttention-4 deterministic forward", "3.0000"],
                        ["FlashAttention-4 deterministic backward", "8.0000"],
                        ["deterministic / not forward", "1.500"], ["deterministic / not backward", "1.600"],
                        ["FlashAttention-4 128 forward", "2.0000"], ["FlashAttention-4 128 backward", "5.0000"]], rows
        assert error == ["FlashAttention-4 deterministic 128: not run: AssertionError: no such kernel"], error
        attends = []
        measure = lambda args, attend: attends.append(attend) or ((100, 2) if len(attends) == 1 else (110, 2))
        out, error = printed(lambda: step.time_flash_attention_4(args, measure))
        assert not error and attends[0] is not attends[1], (error, attends)
        assert out == ["training step, full attention, FlashAttention-4: 100.0 ms, 327680 tokens/s, 2.0 GiB",
                       "training step, full attention, FlashAttention-4 deterministic: 110.0 ms, 297891 tokens/s, 2.0 GiB",
                       "training step, full attention, FlashAttention-4, deterministic / not: 1.100"], out


def test_bench_peers_exit_code(directory):
    """What --only asks for must run, or the exit code is 1; without --only the packages are optional. One line per missing
    package, and the others run. PyTorch is replaced by objects that accept every call: nothing is computed."""
    sys.path.insert(0, str(SCRIPTS))
    fakes = {name: unittest.mock.MagicMock() for name in ("torch", "torch.nn", "torch.nn.attention", "torch.nn.functional")}
    fakes["torch"].__version__, fakes["torch.nn"].Module = "2.5", object
    missing = {"flash_attn.cute": None, "fla.ops.nsa.parallel": None}  # None: an import fails
    with unittest.mock.patch.dict(sys.modules, {**fakes, **missing}):
        import bench_peers
        from peers import attention, step, timing

        def result(*arguments):
            timing.not_run_peers.clear()
            out, error = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), \
                    unittest.mock.patch.object(attention, "attention", lambda args, run: (2, 5)), \
                    unittest.mock.patch.object(step.time_step, "__defaults__", (lambda args, attend: (100, 2),)), \
                    unittest.mock.patch.object(sys, "argv", ["bench_peers.py", *arguments]):
                try:
                    bench_peers.main()
                    code = 0
                except SystemExit as end:
                    code = end.code
            return code, out.getvalue().splitlines()[1:], error.getvalue().splitlines()

        for name, lines in (("attention", 6), ("determinism", 0), ("nsa", 0), ("training-flash-attention-4", 0)):
            code, out, error = result("--only", name)
            assert code == 1 and len(out) == lines and len(error) == 1, (name, code, out, error)
            assert f"needs the Python package {'fla-core' if name == 'nsa' else 'flash-attn-4'}" in error[0], error
        code, out, error = result("--only", "training")
        assert code == 0 and len(out) == 1 and not error, (code, out, error)
        code, out, error = result()
        assert code == 0 and len(out) == 7 and len(error) == 3, (code, out, error)
    (directory / "torch.py").write_text("raise ImportError('no torch here')")
    out = run(sys.executable, SCRIPTS / "bench_peers.py", code=1, PYTHONPATH=str(directory))
    assert out.count("\n") == 1 and "PyTorch is missing" in out and "no torch here" in out, out


def test_bench_peers_step(_):
    """A model whose attention is a custom op, with FlashAttention-4's arguments, has the outputs and the gradients of the
    model with PyTorch's attention, compiled as one graph; in float64, so that rounding is below 1e-10."""
    need("torch")
    sys.path.insert(0, str(SCRIPTS))
    import torch
    import bench_peers
    from peers import step
    names = ("--rows 2 --tokens 8 --query-heads 4 --key-value-heads 2 --head-dim 4 --hidden-size 16 --intermediate-size 24 "
             "--layers 2 --vocab-size 32").split()
    args = bench_peers.parse_arguments(names)

    def probabilities(q, k):  # query head h has key/value head h // 2
        scores = torch.einsum("bthd,bshd->bhts", q, k.repeat_interleave(2, 2)) / 2
        return scores.masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf")).softmax(-1)

    def forward(q, k, v):
        assert q.is_contiguous() and v.is_contiguous() and q.shape == (2, 8, 4, 4) and k.shape == (2, 8, 2, 4)
        return torch.einsum("bhts,bshd->bthd", probabilities(q, k), v.repeat_interleave(2, 2)), torch.zeros(2, 4, 8)

    def backward(q, k, v, out, d_out, lse):
        assert d_out.is_contiguous() and lse.shape == (2, 4, 8)
        p, of_group = probabilities(q, k), lambda x: x.unflatten(2, (2, 2)).sum(3)
        d_p = torch.einsum("bthd,bshd->bhts", d_out, v.repeat_interleave(2, 2))
        d_s = p * (d_p - (out * d_out).sum(-1).transpose(1, 2).unsqueeze(-1)) / 2
        return (torch.einsum("bhts,bshd->bthd", d_s, k.repeat_interleave(2, 2)),
                of_group(torch.einsum("bhts,bthd->bshd", d_s, q)), of_group(torch.einsum("bhts,bthd->bshd", p, d_out)))

    results = []
    for attend in (step.pytorch_attention, step.attention_op("test", forward, backward)):
        torch.manual_seed(0)
        model = step.Model(args, attend).double()
        ids, angles = torch.arange(16).view(2, 8), torch.rand(8, 4, dtype=torch.float64)
        compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="aot_eager")
        out = compiled(ids, angles.cos(), angles.sin())
        (out * torch.rand_like(out)).sum().backward()
        results.append([out.detach(), *(p.grad for p in model.parameters())])
    for got, want in zip(results[1], results[0]):
        assert (got - want).norm() < 1e-10 * want.norm(), (got, want)


def test_slurm(directory):
    """The batch file requeues the job on exit code 75, and on no other; srun and scontrol record their arguments."""
    script = SCRIPTS / "slurm/ssa_train.sbatch"
    for name, line in (("srun", "exit $CODE"), ("scontrol", "exit 0")):
        tool = directory / name
        tool.write_text(f'#!/bin/sh\necho {name} "$@" >> {directory}/calls\n{line}\n')
        tool.chmod(0o755)
    environment = {"PATH": f"{directory}:{os.environ['PATH']}", "SSA_TRAIN": "/opt/ssa_train", "SLURM_JOB_ID": "17"}
    srun = "srun --mpi=pmix --kill-on-bad-exit=1 /opt/ssa_train --config a.json --set train.seed=1"
    for code, end, calls in ((0, 0, [srun]), (75, 0, [srun, "scontrol requeue 17"]), (1, 1, [srun]), (137, 137, [srun])):
        (directory / "calls").unlink(missing_ok=True)
        run("bash", script, "a.json", "--set", "train.seed=1", code=end, CODE=str(code), **environment)
        assert (directory / "calls").read_text().splitlines() == calls, (code, (directory / "calls").read_text())
    assert "Usage: sbatch" in run("bash", script, "--help")
    assert "Usage: sbatch" in run("bash", script, code=2)
    text = script.read_text()
    assert all(f"#SBATCH --{option}\n" in text for option in ("signal=USR1@600", "requeue", "open-mode=append"))


def main():
    case = globals()[f"test_{sys.argv[1]}"]
    with tempfile.TemporaryDirectory() as directory:
        case(Path(directory))


if __name__ == "__main__":
    main()
