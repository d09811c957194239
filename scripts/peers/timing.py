"""Medians of calls on a GPU, and the lines that show them."""
import time

import torch

REPETITIONS, SETS = 20, 3
WARM_UP_SECONDS = 0.1  # as ssa_bench: the clock needs that long to settle under the power limit


def median_ms(calls):
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
