#!/usr/bin/env python3
"""Writes the metrics of training runs as TensorBoard event files.

Usage: scripts/metrics_to_tensorboard.py RUN... [--output DIR]
Every number of RUN/metrics.jsonl becomes a scalar of the same name, in DIR/NAME OF THE RUN; the times are those of this
conversion. What an earlier conversion wrote there is replaced.
Needs tensorboard or tensorboardX (pip install tensorboard).

Example: scripts/metrics_to_tensorboard.py runs/tiny --output tensorboard && tensorboard --logdir tensorboard
"""
import argparse
import json
import os
import sys
import time


class TensorBoardWriter:
    """The one call this script needs, of whichever package is there."""

    def __init__(self, directory):
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                sys.exit("metrics_to_tensorboard.py: neither tensorboard nor tensorboardX is installed")
            self.writer = SummaryWriter(directory)
            self.add = self.writer.add_scalar
            return
        self.writer = EventFileWriter(directory)
        self.add = lambda tag, value, step: self.writer.add_event(
            Event(step=step, wall_time=time.time(),
                  summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))

    def close(self):
        self.writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's output_dir, or a metrics.jsonl itself")
    parser.add_argument("--output", default="tensorboard", metavar="DIR")
    args = parser.parse_args()
    for run in args.runs:
        path = os.path.join(run, "metrics.jsonl") if os.path.isdir(run) else run
        directory = os.path.join(args.output, os.path.basename(os.path.dirname(os.path.abspath(path))))
        try:
            with open(path) as file:
                lines = [json.loads(line) for line in file if line.strip()]
        except (OSError, json.JSONDecodeError) as error:
            sys.exit(f"metrics_to_tensorboard.py: {path}: {error}")
        if os.path.isdir(directory):
            for name in os.listdir(directory):
                if name.startswith("events.out.tfevents"):
                    os.remove(os.path.join(directory, name))
        writer = TensorBoardWriter(directory)
        scalars = 0
        for line in lines:
            for key, value in line.items():
                if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                    writer.add(key, float(value), int(line["step"]))
                    scalars += 1
        writer.close()
        print(f"{path}: {scalars} values of {len(lines)} steps written to {directory}")


if __name__ == "__main__":
    main()
