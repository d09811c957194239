#!/usr/bin/env python3
"""Tests of scripts/reproduce. Usage: reproduce_test.py CASE [BIN], CASE one of the functions named test_CASE below.

BIN is the directory of the programs, for the case that runs them.
"""
import array
import functools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scripts_test
from scripts_test import SCRIPTS, run

RUN = SCRIPTS / "reproduce/run.sh"
sys.path.insert(0, str(SCRIPTS / "reproduce"))


def refused(*arguments):
    """The one line of a refusal."""
    out = run("bash", RUN, *arguments, code=2)
    assert out.startswith("run.sh: ") and out.count("\n") == 1, out
    return out


def write_dataset(directory, lengths):
    """The index of documents of these lengths, as prepare.py reads it, and dataset.json."""
    directory.mkdir(parents=True)
    (directory / "shard-00000.idx").write_bytes(
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, len(lengths), len(lengths) + 1) +
        array.array("i", lengths).tobytes())
    (directory / "dataset.json").write_text(json.dumps({
        "vocab_size": 257, "eos_token_id": 256, "tokenizer": {"name": "bytes"},
        "shards": [{"documents": len(lengths), "tokens": sum(lengths)}]}))


def test_arguments(directory):
    """Wrong arguments are refused in one line, before anything is installed or written."""
    out = directory / "out"
    refused()
    assert "invalid choice: 'second'" in refused("second")
    assert "--methods dense: expected ssa, moba, nsa, full or nsa-WINDOW" in refused("minute", "--methods", "dense")
    assert "--seeds 1;2: expected numbers" in refused("minute", "--seeds", "1;2")
    assert "--tokens 1x: expected a number" in refused("minute", "--tokens", "1x")
    assert "--jobs 0: expected at least 1" in refused("minute", "--jobs", "0")
    assert "no such file or directory" in refused("minute", "--corpus", directory / "none")
    assert "--data and --corpus: expected one of them" in refused("minute", "--data", "d", "--corpus", directory)
    assert "there is no train/dataset.json" in refused("minute", "--data", directory, "--out", out)
    assert "expected NAME=METHOD" in refused("minute", "--variant", "a=ssa,train.seed")
    for value in ('["a"', '["a"]]', '[{"a": 1]}', '"a', r'"a\"'):
        assert "is not closed, expected NAME=METHOD" in refused("minute", "--variant", f"a=ssa,train.fp8_exclude={value}"), value
    assert "several windows" in refused("minute", "--variant", "a=nsa")
    config = directory / "config.json"
    assert f"{config}: No such file" in run("bash", RUN, "minute", "--config", config, "--out", out, code=1)
    config.write_text('{"model": 1}')
    assert "found no objects model and train" in refused("minute", "--config", config)
    tiny = json.loads((SCRIPTS.parent / "configs/tiny.json").read_text())
    for value, shown in ([[1, 2], "[1, 2]"], ["16", "16"], [True, "true"], [0, "0"], [None, "null"]):
        tiny["model"]["block_counts"] = value
        config.write_text(json.dumps(tiny))
        message = f"{config}: model.block_counts: found {shown}, expected a positive integer"
        assert message in run("bash", RUN, "minute", "--config", config, "--out", out, code=2)
    tiny["model"]["block_counts"], tiny["train"]["global_batch_size_schedule"] = 4, [[0, 8], [2, 16]]
    config.write_text(json.dumps(tiny))
    assert "train.global_batch_size_schedule: found one" in refused("minute", "--config", config)
    assert "is the name of a method" in refused("minute", "--variant", "moba=ssa")
    assert "no GPU here" in run("bash", RUN, "hour", "--out", out, code=2, CUDA_VISIBLE_DEVICES="")
    assert "there are 1 GPUs" in run("bash", RUN, "hour", "--gpus", "2", "--out", out, code=2, CUDA_VISIBLE_DEVICES="0")
    assert not out.exists()
    taken = directory / "taken"  # a directory of something else
    taken.mkdir()
    (taken / "config.json").write_text("{}")
    refusal = refused("minute", "--out", taken, "--bin", directory)
    assert "not empty (config.json) and holds no study; expected a new directory" in refusal, refusal
    for content in ("[]", '{"runs": []}', '{"fixed": 3}'):
        (taken / "study.json").write_text(content)
        assert "study.json: damaged" in refused("minute", "--out", taken, "--bin", directory), content
    assert sorted(file.name for file in taken.iterdir()) == ["config.json", "study.json"]


def test_plan(directory):
    """A study takes more runs, refuses other arguments, and says which evaluations its held-out data has."""
    from plan import SIZES, Study, StudyError, read_json, settings_of_method, settings_of_variant
    from reproduce import fixed_of, parse
    from runs import evaluations, study_config

    for split in ("train", "eval"):
        write_dataset(directory / "data" / split, [300, 600])
    size = SIZES["minute"]
    args = parse(["minute", "--data", str(directory / "data"), "--tokens", "5k"])
    fixed = fixed_of(args, size, "cpu")
    assert (fixed["steps"], fixed["tokens"]) == (3, 6144), fixed
    own = read_json(SCRIPTS.parent / "configs/tiny.json")
    own["train"].update(max_length=128, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    own["train"].pop("global_batch_size", None)
    (directory / "own.json").write_text(json.dumps(own))
    accumulated = fixed_of(parse(["minute", "--data", "x", "--tokens", "5k", "--config", str(directory / "own.json")]), size, "cpu")
    assert (accumulated["steps"], accumulated["tokens"]) == (5, 5120), accumulated
    study = Study(directory / "out")
    nsa = settings_of_method("nsa", size)
    assert nsa == {f"nsa-{w}": ["attention.method=nsa", f"model.window_size={w}"] for w in (32, 128)}, nsa
    study.extend(fixed, nsa, [1, 2], "first")
    study = Study(directory / "out")
    study.extend(fixed, settings_of_variant("low=ssa,attention.alignment_weight=1", size), [2, 3], "second")
    assert study.names() == [("nsa-32", 1), ("nsa-128", 1), ("nsa-32", 2), ("nsa-128", 2), ("low", 2), ("low", 3)]
    for change, runs, message in (({"tokens": 4096}, {}, "made with tokens 6144, found 4096; expected the same"),
                                  ({}, {"low": ["attention.method=moba"]}, "low was made with attention.method=ssa")):
        try:
            Study(directory / "out").extend({**fixed, **change}, runs, [1], "third")
            assert False
        except StudyError as error:
            assert message in str(error) and error.code == 2, error
    for value in ('["qkvg_proj","lm_head"]', '[{"path": "a,b", "weight": 1}, {"path": "c]"}]', r'"a \", b"'):
        assert settings_of_variant(f"x=ssa,train.fp8=linear,key={value},train.seed=1", size) == {
            "x": ["attention.method=ssa", "train.fp8=linear", f"key={value}", "train.seed=1"]}, value
    assert Study(directory / "out").commands == ["first", "second"]
    config = study_config(study)
    assert config["model"]["vocab_size"] == 257 and config["train"]["max_steps"] == 3, config
    assert config["data"]["eval_path"] is None and config["data"]["path"] == str(directory / "data/train")
    # Documents of two times the training's length, but not of four times.
    assert [name for name, _ in evaluations(study)] == ["own", "budgets", "length-1", "length-2", "length-2-scaled"]
    assert all(options[options.index("--min-document-tokens") + 1] == 512 for name, options in evaluations(study)[2:])
    budgets = dict(evaluations(study))["budgets"]
    assert budgets[-1] == "1,2,8,16", budgets  # 4 is the model's own


def make_results(study, name, seed, losses, full=True):
    """What the evaluations of a run write, with losses {evaluation: sparse loss}; full attention has 0.5 less."""
    def document(mode, loss, **budget):
        layer = {"selected_mass": loss / 10, "entropy": loss / 2, "sink": 0.125, "divergence": 0.25}
        return {"results": {"data/eval": {"loss,none": loss, "loss_stderr,none": "N/A"}},
                "n-samples": {"data/eval": {"original": 9, "effective": 7}},
                "loss_by_position": [{"from": 1, "to": 1, "tokens": 9, "loss": loss + 1},
                                     {"from": 2, "to": 3, "tokens": 0, "loss": None}],
                "attention": {"rows": 3, "tokens": 256, "sink_tokens": 4, "mean": layer,
                              "layers": [{"layer": n, **layer, "heads": [layer]} for n in range(4)]},
                "config": {"model_args": {"pretrained": "x", "method": name, "mode": mode, **budget}}}

    from plan import write_json
    for evaluation, loss in losses.items():
        counts = (1, 2, 8, 16) if evaluation == "budgets" else (4,)
        found = [document("sparse", loss + 1 / n - 1 / 4, block_counts=n, block_size=16) for n in counts]
        found += [document("full", loss - 0.5)] if full and evaluation != "budgets" else []
        write_json(study.results(name, seed) / f"{evaluation}.json", found if len(found) > 1 else found[0])
    write_json(study.results(name, seed) / "trained.json", {"seconds": 61, "tokens_per_second": 1234.5})
    directory = study.run_directory(name, seed)
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text('{"step": 1, "ce_loss": 5.5}\n{"step": 2, "ce_loss": 4.5}\n')


def test_page(directory):
    """The tables have means and deviations over the seeds of complete runs, with pictures where there is matplotlib."""
    import page
    from plan import SIZES, Study
    from reproduce import fixed_of, parse

    for split in ("train", "validation"):
        write_dataset(directory / "data" / split, [300, 600])
    fixed = fixed_of(parse(["minute", "--data", str(directory / "data")]), SIZES["minute"], "cpu")
    study = Study(directory / "out")
    study.extend(fixed, {"ssa": ["attention.method=ssa"], "nsa-32": ["attention.method=nsa"]}, [1, 2], "run.sh minute")
    page.write(study)
    text = (directory / "out/report.md").read_text()
    assert "ssa seed 1, nsa-32 seed 1, ssa seed 2, nsa-32 seed 2" in text and "## Held-out" not in text, text
    names = ("own", "budgets", "length-1", "length-2", "length-2-scaled")
    for seed, shift in ((1, 0), (2, 0.25)):
        make_results(study, "ssa", seed, {name: 2 + shift for name in names})
    make_results(study, "nsa-32", 1, {name: 3 for name in names}, full=False)
    make_results(study, "nsa-32", 2, {name: 9 for name in names[1:]}, full=False)  # not complete
    page.write(study)
    text = (directory / "out/report.md").read_text()
    for line in ("Not complete, and not in the tables: nsa-32 seed 2.",
                 "| ssa | 2 | 2.125 ± 0.177 | 8.438 ± 1.484 | 1.625 ± 0.177 | 5.118 ± 0.900 |",
                 "| nsa-32 | 1 | 3.000 | 20.086 |  |  |",
                 "Under sparse attention, lowest loss first: ssa, nsa-32.",
                 "Under full attention, lowest loss first: ssa.",
                 "| nsa-32 | 3.750 | 3.250 | 3.000 | 2.875 | 2.812 |  |",
                 "| nsa-32 | sparse | 0.300 | 1.500 | 0.125 | 0.250 |",
                 "| 1 | 9 | 3.125 ± 0.177 | 4.000 |", "| 2-3 | 0 |  |  |",
                 "| run | 256 tokens | 512 tokens | 512 tokens, scaled |",
                 "Held-out documents of at least 512 tokens", "| ssa | 2 | 61 | 1,234 |", "run.sh minute"):
        assert line in text, f"{line!r} is not in\n{text}"
    if page.python_with_matplotlib() is None:
        assert "Pictures are left out" in text, text
        return
    pictures = ("budgets", "attention", "positions", "length-2", "length-2-scaled", "training")
    for name in pictures:
        assert f"](figures/{name}.png)" in text, name
        assert (directory / f"out/figures/{name}.png").stat().st_size > 1000, name
    (study.results("ssa", 2) / "length-2.json").unlink()
    page.write(study)
    text = (directory / "out/report.md").read_text()
    assert "not in the tables: ssa seed 2 length-2, nsa-32 seed 2." in text, text
    assert "| ssa | 2.125 ± 0.177 | 2.000 | 2.125 ± 0.177 |" in text, text
    drawn = json.loads((directory / "out/figures/data/budgets-ssa.json").read_text())
    assert [next(iter(each["results"].values()))["loss,none"] for each in drawn][:2] == [2.125, 1.625], drawn
    assert abs(next(iter(drawn[0]["results"].values()))["loss_stderr,none"] - 0.125) < 1e-12, drawn[0]


FAKE_TRAIN = r'''#!PYTHON
import os, sys, time
settings = dict(each.split("=", 1) for option, each in zip(sys.argv, sys.argv[1:]) if option == "--set")
device, place = sys.argv[sys.argv.index("--device") + 1], os.environ.get("CUDA_VISIBLE_DEVICES")
active = f"DIRECTORY/active-{place}"
os.close(os.open(active, os.O_CREAT | os.O_EXCL))  # one run at a time on a GPU
with open("DIRECTORY/calls", "a") as file:
    file.write(f"{device} {place} {settings['attention.method']} {settings['train.seed']}\n")
os.makedirs(settings["output_dir"])
with open(settings["output_dir"] + "/metrics.jsonl", "w") as file:
    file.write('{"step": 1, "ce_loss": 5.5}\n')
time.sleep(0.05)
os.unlink(active)
'''
FAKE_EVAL = r'''#!PYTHON
import json, os, sys
option = lambda name: sys.argv[sys.argv.index(name) + 1]
if os.environ.get("FAIL", "nothing") in option("--output"):
    sys.exit("out of memory")
layer = {"selected_mass": 0.5, "entropy": 2, "sink": 0.125, "divergence": 0.25}
document = lambda mode, **budget: {
    "results": {"data": {"loss,none": 3.5}}, "n-samples": {"data": {"effective": 7}},
    "loss_by_position": [{"from": 1, "to": 1, "tokens": 9, "loss": 4}],
    "attention": {"rows": 3, "tokens": 4096, "sink_tokens": 4, "mean": layer,
                  "layers": [{"layer": n, **layer} for n in range(12)]},
    "config": {"model_args": {"mode": mode, **budget}}}
counts = [int(n) for n in option("--block-counts").split(",")] if "--block-counts" in sys.argv else [16]
documents = [document("sparse", block_counts=n, block_size=16) for n in counts] + [document("full")]
with open(option("--output"), "w") as file:
    json.dump(documents, file)
'''


def make_programs(directory, **programs):
    """directory/bin with these Python programs."""
    (directory / "bin").mkdir()
    for name, text in programs.items():
        file = directory / "bin" / name
        file.write_text(text.replace("PYTHON", sys.executable).replace("DIRECTORY", str(directory)))
        file.chmod(0o755)
    return directory / "bin"


def test_gpus(directory):
    """hour on data and programs that are there: each GPU has one run at a time, and every run is made once. An evaluation
    that fails does not end the others, and is made by the next call."""
    data, out = directory / "data", directory / "out"
    programs = make_programs(directory, ssa_train=FAKE_TRAIN, ssa_eval=FAKE_EVAL)
    write_dataset(data / "train", [5000] * 3)
    write_dataset(data / "validation", [5000])
    command = ["bash", RUN, "hour", "--data", data, "--bin", programs, "--methods", "ssa,full,moba,nsa", "--gpus", "4",
               "--tokens", "1M", "--out", out, "--seeds", "7,8"]
    environment = {"CUDA_VISIBLE_DEVICES": "0,3,5,6,7", "PYTHON": "none"}
    text = run(*command, code=1, FAIL="budgets", **environment)
    assert "10 runs of 8 steps, 4 at a time" in text, text
    assert "run.sh: 10 failures; the first: evaluating " in text and ": budgets failed with exit code 1: out of memory" in text
    page = (out / "report.md").read_text()
    assert "not in the tables: ssa seed 7 budgets, full seed 7 budgets" in page and "| moba | 2 | 3.500 ± 0.000 |" in page
    calls = [line.split() for line in (directory / "calls").read_text().splitlines()]
    assert {call[0] for call in calls} == {"cuda"} and {call[1] for call in calls} == {"0", "3", "5", "6"}, calls
    assert sorted(call[2] + call[3] for call in calls) == sorted(
        method + seed for method in ("ssa", "full", "moba", "nsa", "nsa") for seed in "78"), calls
    page = (out / "report.md").read_text()
    assert "no held-out document has 8192 tokens" in page and "Pictures are left out" in page, page
    run(*command, **environment)
    assert "Not complete" not in (out / "report.md").read_text()
    assert len((directory / "calls").read_text().splitlines()) == 10


def test_stop(directory):
    """A signal reaches the runs, which save; the call ends with exit code 75. Two calls at once are refused."""
    wait = "#!PYTHON\nimport os, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(75))\n" \
           "os.mkfifo('DIRECTORY/at-work')\nsignal.pause()\n"
    programs = make_programs(directory, ssa_train=wait, ssa_eval=wait)
    for split in ("train", "eval"):
        write_dataset(directory / "data" / split, [500])
    command = ["bash", str(RUN), "minute", "--data", str(directory / "data"), "--bin", str(programs), "--out",
               str(directory / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (directory / "at-work").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    assert "another run.sh is at work on it" in run(*command, code=2)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=100)[0]
    assert process.returncode == 75 and "run.sh: stopped by a signal; the same command continues" in text, text
    assert "failed" not in text and text.count("training ") == 2, text  # the heading, and the one that was at work


def test_corpus(directory):
    """A corpus that cannot be fetched is one line."""
    programs = make_programs(directory, ssa_train="", ssa_eval="", ssa_tokenize="",
                             **{"apt-get": "#!/bin/sh\necho 'E: no network' >&2\nexit 100\n"})
    out = run("bash", RUN, "minute", "--bin", programs, "--out", directory / "out", code=1,
              PATH=f"{programs}:{os.environ['PATH']}")
    last = out.splitlines()[-1]
    assert last.startswith("run.sh: fetching the Perl manuals failed with exit code 1: perl_manuals.sh: apt-get could not "
                           "download perl-doc; name text files of your own instead"), out
    assert not (directory / "out/corpus").exists()


def test_end_to_end(directory, binaries):
    """From text to the page; a run that is killed fails the call, and the next call resumes it from its checkpoint."""
    random.seed(1)
    words = [str(n) for n in range(50)]
    corpus = directory / "corpus.jsonl"  # its documents are longer than 1024 bytes, four times the training's length
    corpus.write_text("".join(json.dumps({"text": " ".join(random.choices(words, k=400))}) + "\n" for _ in range(40)))
    out = directory / "out"
    command = ["bash", RUN, "minute", "--out", out, "--bin", binaries, "--corpus", corpus, "--tokens", "8192",
               "--methods", "ssa,nsa-32"]
    run = functools.partial(scripts_test.run, timeout=280)
    refusal = run(*command, "--variant", "typo=ssa,attention.weight=1", code=2).splitlines()[-1]
    assert refusal.startswith("run.sh: --variant typo: ") and "attention.weight: unknown key" in refusal, refusal
    assert not (out / "runs").exists() and "typo" not in (out / "study.json").read_text()
    text = run(*command, code=1, SSA_FAULT="kill@step:3")
    assert "2 failures; the first: training ssa, seed 42 was ended by signal 9" in text, text
    assert "ssa seed 42, nsa-32 seed 42" in (out / "report.md").read_text()
    assert "made with tokens 8192, found 10240; expected the same" in run(*command, "--tokens", "9k", code=2)
    run(*command, PYTHON="none")
    for name in ("ssa", "nsa-32"):
        log = (out / "runs" / f"{name}-seed42" / "train.log").read_text()
        assert "resum" in log.lower(), log
        steps = [json.loads(line)["step"] for line in open(out / "runs" / f"{name}-seed42" / "metrics.jsonl")]
        assert steps == [1, 2, 3, 4], steps
    results = sorted(out.glob("results/*/*.json"))
    assert len(results) == 2 * (1 + 7), results
    page = (out / "report.md").read_text()
    assert "Not complete" not in page and "| 1024 tokens, scaled |" in page, page
    times = {file: file.stat().st_mtime_ns for file in results}
    missing = out / "results/ssa-seed42/budgets.json"
    missing.unlink()
    text = run(*command)
    assert text.count("evaluating ") == 2 and "training ssa" not in text, text  # the heading, and the missing one
    assert all(file.stat().st_mtime_ns == time for file, time in times.items() if file != missing)
    tables = lambda text: [line for line in text.splitlines() if line.startswith("| ")]
    assert tables((out / "report.md").read_text()) == tables(page)


def main():
    case = globals()[f"test_{sys.argv[1]}"]
    with tempfile.TemporaryDirectory() as directory:
        case(Path(directory), *sys.argv[2:])


if __name__ == "__main__":
    main()
