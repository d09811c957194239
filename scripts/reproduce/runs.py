"""Training and evaluation of the runs of a study, one run per GPU at a time, continued at what is missing."""
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

from plan import LENGTHS, StudyError, read_json, write_json
from prepare import dataset, document_lengths, last_line

STOPPED = 75  # the exit code of a run that saved a checkpoint after a signal
STATUS_SECONDS = 30


def study_config(study):
    """The ssa_train config that all runs share; each run adds its settings and its seed."""
    fixed = study.fixed
    config = json.loads(json.dumps(fixed["config"]))
    data = dataset(study.data("train"))
    end = data["eos_token_id"]
    config["model"].update(vocab_size=data["vocab_size"], bos_token_id=end, eos_token_id=end)
    config.setdefault("data", {}).update(
        path=str(study.data("train").resolve()),
        eval_path=str(study.data("validation").resolve()) if fixed["evaluations"] else None)
    steps, evaluations_in_training = fixed["steps"], fixed["evaluations"]
    config["train"].update(
        max_steps=steps, attention_stats_steps=max(1, steps // 20),
        eval_steps=max(1, steps // evaluations_in_training) if evaluations_in_training else 0)
    return config


def evaluations(study):
    """[(name, options of ssa_eval)] of a run."""
    train = study.fixed["config"]["train"]
    length, own = train["max_length"], study.fixed["config"]["model"]["block_counts"]
    counts = ",".join(str(n) for n in study.fixed["block_counts"] if n != own)
    found = [("own", ["--max-length", length, "--loss-by-position", "--attention-stats"])]
    if counts:
        found.append(("budgets", ["--max-length", length, "--mode", "sparse", "--block-counts", counts]))
    longest = max(document_lengths(study.data("validation")), default=0)
    factors = [n for n in LENGTHS if n * length <= longest]
    for n in factors if len(factors) > 1 else []:
        options = ["--max-length", n * length, "--loss-by-position", "--min-document-tokens", factors[-1] * length]
        found.append((f"length-{n}", options))
        if n > 1:
            found.append((f"length-{n}-scaled", [*options, "--rope-scaling", n, "--original-positions", length]))
    return found


class Runner:
    """Takes runs from a list, one at a time per place; a place is a GPU, or None for the CPU."""

    def __init__(self, study, binaries, places, device):
        self.study, self.binaries, self.places, self.device = study, binaries, places, device
        self.waiting, self.active, self.failed = study.names(), {}, []
        self.stopping, self.lock = False, threading.Lock()
        self.threads = max(1, len(os.sched_getaffinity(0)) // len(places))
        self.config = study.directory / "config.json"
        write_json(self.config, study_config(study))
        self.evaluations = evaluations(study)

    def run(self):
        """Returns when every run is complete; StudyError when one failed or a signal came."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        workers = [threading.Thread(target=self.work, args=(place,)) for place in self.places]
        for worker in workers:
            worker.start()
        shown = time.monotonic()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.1)
            if time.monotonic() - shown >= STATUS_SECONDS:
                shown = time.monotonic()
                self.show_status()
        if self.failed:
            raise StudyError(f"{len(self.failed)} failures; the first: {self.failed[0]}")
        if self.stopping:
            raise StudyError("stopped by a signal; the same command continues", STOPPED)

    def stop(self, *_):
        """A signal: the runs save a checkpoint and end. A second one ends them at once."""
        number = signal.SIGKILL if self.stopping else signal.SIGTERM
        self.stopping = True
        for process in list(self.active.values()):
            process.send_signal(number)

    def work(self, place):
        while True:
            with self.lock:
                if self.stopping or not self.waiting:
                    return
                name, seed = self.waiting.pop(0)
            if self.attempt(self.train, name, seed, place):
                for evaluation, options in self.evaluations:
                    self.attempt(self.evaluate, name, seed, place, evaluation, options)

    def attempt(self, work, *arguments):
        """Whether it succeeded. A failure does not end the other work."""
        try:
            work(*arguments)
            return True
        except StudyError as error:
            if not self.stopping:
                self.failed.append(str(error))
                print(error, flush=True)
            return False

    def call(self, what, place, log, *command):
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        if place is not None:
            environment["CUDA_VISIBLE_DEVICES"] = place
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            with self.lock:
                if self.stopping:
                    raise StudyError("stopped")
                process = self.active[what] = subprocess.Popen(
                    [str(part) for part in command], stdout=output, stderr=output, env=environment,
                    start_new_session=True)  # Ctrl-C on a terminal reaches it once, through stop()
        code = process.wait()
        del self.active[what]
        if code != 0:
            how = f"failed with exit code {code}" if code > 0 else f"was ended by signal {-code}"
            raise StudyError(f"{what} {how}: {last_line(log)} ({log})")

    def problem_of(self, name):
        """What ssa_train says against the config keys of a run that has not begun; nothing if it takes them."""
        if any(self.study.run_directory(name, seed).exists() for seed in self.study.runs[name]["seeds"]):
            return None
        command = [self.binaries / "ssa_train", "--config", self.config, "--device", self.device, "--dry-run"]
        command += [part for each in self.study.runs[name]["settings"] for part in ("--set", each)]
        tried = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        lines = tried.stderr.strip().splitlines() or ["ssa_train failed"]
        return lines[-1].removeprefix("error: ") if tried.returncode else None

    def train(self, name, seed, place):
        done, directory = self.study.results(name, seed) / "trained.json", self.study.run_directory(name, seed)
        if done.exists():
            return
        what, start = f"training {name}, seed {seed}", time.monotonic()
        print(what + (f" on GPU {place}" if place is not None else ""), flush=True)
        settings = [f"output_dir={directory}", f"train.seed={seed}", *self.study.runs[name]["settings"]]
        self.call(what, place, Path(f"{directory}.log"), self.binaries / "ssa_train", "--config", self.config,
                  "--device", self.device, *[part for each in settings for part in ("--set", each)])
        seconds = time.monotonic() - start
        speeds = [line["tokens_per_second"] for line in metrics(directory) if line.get("tokens_per_second")]
        write_json(done, {"seconds": seconds, "tokens_per_second": statistics.median(speeds) if speeds else None})
        print(f"trained {name}, seed {seed} in {seconds:.0f} s", flush=True)

    def evaluate(self, name, seed, place, evaluation, options):
        output = self.study.results(name, seed) / f"{evaluation}.json"
        if output.exists():  # ssa_eval writes it whole
            return
        what = f"evaluating {name}, seed {seed}: {evaluation}"
        print(what, flush=True)
        self.call(what, place, output.with_suffix(".log"), self.binaries / "ssa_eval", "--model",
                  self.study.run_directory(name, seed), "--data", self.study.data("validation"), "--device",
                  self.device, *options, "--output", output)

    def show_status(self):
        for what in sorted(self.active):
            if not what.startswith("training "):
                continue
            name, seed = what.removeprefix("training ").split(", seed ")
            line = (metrics(self.study.run_directory(name, seed)) or [{}])[-1]
            if "step" in line:
                loss = f", loss {line['ce_loss']:.3f}" if line.get("ce_loss") is not None else ""
                print(f"{name}, seed {seed}: step {line['step']} of {self.study.fixed['steps']}{loss}", flush=True)


def metrics(directory):
    """The complete lines of a run's metrics.jsonl."""
    try:
        return [json.loads(line) for line in open(directory / "metrics.jsonl") if line.endswith("\n")]
    except (OSError, ValueError):
        return []


def trained(study, name, seed):
    file = study.results(name, seed) / "trained.json"
    return read_json(file) if file.exists() else None
