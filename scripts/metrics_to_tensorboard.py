#!/usr/bin/env python3
"""Writes the metrics of training runs as TensorBoard event files.

Usage: scripts/metrics_to_tensorboard.py RUN... [--output DIR]
Every number in RUN/metrics.jsonl becomes a scalar of the same name, in DIR/NAME. NAME is the shortest end of the run's
path that no other RUN has. Event times are the time of this conversion. Event files of an earlier one are replaced.
Needs tensorboard or tensorboardX (pip install tensorboard).

Example: scripts/metrics_to_tensorboard.py runs/tiny --output tensorboard && tensorboard --logdir tensorboard
"""
import argparse
import os
import sys
import time

import plotting


def load_writer():
    """A class with add(tag, value, step) and close(), from the package that is installed. Exits when neither is."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            sys.exit(f"metrics_to_tensorboard.py: tensorboard and tensorboardX are missing for {sys.executable}; "
                     f"install one: {sys.executable} -m pip install tensorboard")

        class Writer(SummaryWriter):
            add = SummaryWriter.add_scalar
    else:
        class Writer(EventFileWriter):
            def add(self, tag, value, step):
                self.add_event(Event(step=step, wall_time=time.time(),
                                     summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    return Writer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's output_dir, or a metrics.jsonl itself")
    parser.add_argument("--output", default="tensorboard", metavar="DIR")
    args = parser.parse_args()
    Writer = load_writer()
    runs = plotting.distinct_runs(args.runs)
    for name, lines in {name: plotting.read_metrics(run) for name, run in runs.items()}.items():
        directory = os.path.join(args.output, name)
        if os.path.isdir(directory):
            for file in os.listdir(directory):
                if file.startswith("events.out.tfevents"):
                    os.remove(os.path.join(directory, file))
        writer = Writer(directory)
        scalars = 0
        for line in lines:
            for key, value in line.items():
                if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                    writer.add(key, float(value), int(line["step"]))
                    scalars += 1
        writer.close()
        print(f"{plotting.metrics_file(runs[name])}: {scalars} values of {len(lines)} steps written to {directory}")


if __name__ == "__main__":
    main()
