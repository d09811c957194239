"""Medians of calls on a GPU, the lines that show them, and the line of a peer that does not run."""
import contextlib
import importlib
import sys
import time

import torch

not_run_peers = []  # the names of the peers that did not run

REPETITIONS, SETS = 20, 3
WARM_UP_SECONDS = 0.1  # as ssa_bench: the clock needs that long to settle under the power limit


def import_peer(module, package):
    """A module of a package that may be missing; the ImportError names the package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"it needs the Python package {package} ({error})") from error


@contextlib.contextmanager
def not_run(name):
    """Says in one line that a peer does not run, and why. Peers and their compilers raise any exception."""
    try:
        yield
    except Exception as error:
        not_run_peers.append(name)
        kind = "" if isinstance(error, (ImportError, ValueError)) else f"{type(error).__name__}: "
        print(f"{name}: not run: {kind}{(str(error).splitlines() or [''])[0]}", file=sys.stderr, flush=True)


def median_ms(calls):
    calls[0]()  # may compile
    torch.cuda.synchronize()
    begin = time.monotonic()
    while time.monotonic() - begin < WARM_UP_SECONDS:
        for i in range(4):
            calls[i % len(calls)]()
        torch.cuda.synchronize()
    events = []
    for i in range(REPETITIONS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        calls[i % len(calls)]()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return sorted(b.elapsed_time(e) for b, e in events)[REPETITIONS // 2]


def line(name, ms, flops):
    print(f"| {name:<44} | {ms:9.4f} | {flops / ms * 1e-9:7.1f} TFLOP/s |", flush=True)


def product_rate(cube=8192):
    """FLOP/s of the product that ssa_bench uses as the ceiling."""
    a, b = (torch.randn(cube, cube, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2e3 * cube**3 / median_ms([lambda: a @ b.T])
