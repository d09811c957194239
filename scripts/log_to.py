#!/usr/bin/env python3
"""Sends the metrics of training runs to TensorBoard, Weights & Biases or Trackio, while they run or afterwards.

Usage: scripts/log_to.py tensorboard|wandb|trackio RUN... [--follow] [--output DIR] [--project NAME]
Every number in RUN/metrics.jsonl becomes a value of the same name; of lists and objects with several numbers, each has
its place in the name, as in selected_mass_by_layer/0 and sources/web/epoch. The name of a run is the shortest end of its
path that no other RUN has. --follow waits for new steps until Ctrl-C. A run that resumes, and this program started
again, continue the same curves. For wandb and trackio the last step that was sent is kept in RUN/.log_to-wandb.json or
RUN/.log_to-trackio.json, and not sent again. Event files for TensorBoard are rewritten at each start. Needs the package
tensorboard, wandb or trackio (pip install ...).

Example: scripts/log_to.py tensorboard runs/tiny --follow --output tensorboard & tensorboard --logdir tensorboard
"""
import argparse
import hashlib
import importlib.util
import json
import os
import sys
import time

import plotting


class TensorBoard:
    """Event files in OUTPUT/NAME."""
    keeps_steps = False

    def __init__(self, args, name, run):
        directory = os.path.join(args.output, name)
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            sys.exit(f"{plotting.PROGRAM}: --output {args.output}: {error.strerror}, expected a directory")
        for file in os.listdir(directory):
            if file.startswith("events.out.tfevents"):
                os.remove(os.path.join(directory, file))
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(directory)
        self.where = directory

    def send(self, step, values):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])
        self.writer.add_event(Event(step=step, wall_time=time.time(), summary=summary))

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


class Wandb:
    """One run per training run, the same each time: its id is made of the run's path."""
    keeps_steps = True

    def __init__(self, args, name, run):
        import wandb

        identity = hashlib.sha256(os.path.realpath(run).encode()).hexdigest()[:16]
        self.run = wandb.init(project=args.project, name=name, id=identity, resume="allow", config=config_of(run),
                              reinit="create_new")
        self.where = f"wandb, project {args.project}, run {name}"

    def send(self, step, values):
        self.run.log(values, step=step)

    def flush(self):
        pass

    def close(self):
        self.run.finish()


class Trackio:
    """One run of Trackio per training run; it keeps one run open at a time."""
    keeps_steps = True

    def __init__(self, args, name, run):
        import trackio

        self.trackio = trackio
        trackio.init(project=args.project, name=name, resume="allow", config=config_of(run))
        self.where = f"trackio, project {args.project}, run {name}"

    def send(self, step, values):
        self.trackio.log(values, step=step)

    def flush(self):
        pass

    def close(self):
        self.trackio.finish()


TARGETS = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def config_of(run):
    """The run's config.json; empty if it is not there."""
    file = os.path.join(os.path.dirname(plotting.metrics_file(run)), "config.json")
    if not os.path.exists(file):
        return {}
    return read_json(file, "the config of the run", lambda content: isinstance(content, dict))


def read_json(file, expected, good):
    """The content of a JSON file, of which good() holds."""
    try:
        with open(file) as stream:
            content = json.load(stream)
    except ValueError:
        content = None
    if not good(content):
        sys.exit(f"{plotting.PROGRAM}: {file}: damaged, expected {expected}")
    return content


def seconds(text):
    """A time to wait."""
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError
    return value


def is_state(content):
    """Whether this is what a Sender keeps: the last step, and how many values it had."""
    return isinstance(content, list) and len(content) == 2 and all(type(each) is int for each in content)


def numbers_of(line):
    """{name: number} of a line of metrics.jsonl, without its step."""
    values = {}
    for key, value in plotting.flat(line).items():
        items = {f"{key}/{i}": each for i, each in enumerate(value)} if isinstance(value, list) else {key: value}
        values.update({name: float(each) for name, each in items.items()
                       if name != "step" and isinstance(each, (int, float)) and not isinstance(each, bool)})
    return values


class Follower:
    """The complete lines of a metrics.jsonl as it grows. A run that resumes replaces the file: it is read again."""

    def __init__(self, run):
        self.path = plotting.metrics_file(run)
        self.file, self.identity, self.number = None, None, 0

    def replaced(self):
        """Whether the file is another one than before; opens it then."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False  # it is being replaced, or the run has not begun
        if self.identity == (status.st_dev, status.st_ino) and self.file.tell() <= status.st_size:
            return False
        if self.file:
            self.file.close()
        self.file, self.identity, self.number = open(self.path, "rb"), (status.st_dev, status.st_ino), 0
        return True

    def lines(self):
        while self.file:
            begin = self.file.tell()
            text = self.file.readline()
            if not text.endswith(b"\n"):  # the end, or a line that is being written
                self.file.seek(begin)
                return
            self.number += 1
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                sys.exit(f"{plotting.PROGRAM}: {self.path}:{self.number}: expected an object with a step")
            yield line


class Sender:
    """Sends a run's new lines to the target."""

    def __init__(self, args, name, run):
        self.args, self.name, self.run = args, name, run
        self.follower, self.target = Follower(run), None
        directory = os.path.dirname(self.follower.path) or "."
        self.state = os.path.join(directory, f".log_to-{args.target}.json")
        self.last, self.sent_values = -1, 0  # step, and how many values it had

    def poll(self):
        """Returns the number of lines sent."""
        cls = TARGETS[self.args.target]
        if self.follower.replaced():
            if self.target and not cls.keeps_steps:
                self.target.close()
                self.target = None
            if not cls.keeps_steps:
                self.last = -1
            elif os.path.exists(self.state):
                self.last, self.sent_values = read_json(
                    self.state, "[step, number of values]; remove it to send every step again", is_state)
        sent = 0
        for line in self.follower.lines():
            step, values = line["step"], numbers_of(line)
            # The line of the last step may have got an evaluation since.
            if step < self.last or step == self.last and len(values) == self.sent_values:
                continue
            self.target = self.target or cls(self.args, self.name, self.run)
            self.target.send(step, values)
            self.last, self.sent_values = step, len(values)
            sent += 1
        if sent:
            self.target.flush()
            if cls.keeps_steps:
                with open(self.state + ".tmp", "w") as file:
                    json.dump([self.last, self.sent_values], file)
                os.replace(self.state + ".tmp", self.state)
        return sent

    def close(self):
        if self.target:
            self.target.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS, help="where the metrics go")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's output_dir, or a metrics.jsonl itself")
    parser.add_argument("--follow", action="store_true", help="wait for new steps until Ctrl-C")
    parser.add_argument("--every", type=seconds, default=10, metavar="SECONDS", help="with --follow: seconds between two looks at the files (default: %(default)s)")
    parser.add_argument("--output", default="tensorboard", metavar="DIR", help="directory of the event files for TensorBoard (default: %(default)s)")
    parser.add_argument("--project", default="ssa-train", metavar="NAME", help="project of wandb and trackio (default: %(default)s)")
    args = parser.parse_args()
    if importlib.util.find_spec(args.target) is None:
        sys.exit(f"{plotting.PROGRAM}: {args.target} is missing for {sys.executable}; install it with: "
                 f"{sys.executable} -m pip install {args.target}")
    if args.target == "trackio" and len(args.runs) > 1:
        parser.error("trackio: expected one RUN; start this program once for each")
    senders = [Sender(args, name, run) for name, run in plotting.distinct_runs(args.runs).items()]
    for sender in senders:
        if not args.follow and not os.path.exists(sender.follower.path):
            sys.exit(f"{plotting.PROGRAM}: {sender.follower.path}: no such file")
    try:
        while True:
            for sender in senders:
                sent = sender.poll()
                if sent or not args.follow:
                    where = sender.target.where if sender.target else "nothing new"
                    print(f"{sender.follower.path}: {sent} steps sent, up to step {sender.last}: {where}", flush=True)
            if not args.follow:
                break
            time.sleep(args.every)
    except KeyboardInterrupt:
        pass
    finally:
        for sender in senders:
            sender.close()


if __name__ == "__main__":
    main()
