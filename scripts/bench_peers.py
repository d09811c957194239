#!/usr/bin/env python3
"""Times PyTorch's attention at the shapes of ssa_bench, beside which its lines are read.

    python3 scripts/bench_peers.py --rows 4 --tokens 8192

Needs a GPU and PyTorch >= 2.5. Prints the median of 20 calls over inputs rotated past L2, timed with events.
"""
import argparse

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

REPETITIONS, WARM_UPS, SETS = 20, 3, 3


def median_ms(calls):
    for i in range(WARM_UPS):
        calls[i % len(calls)]()
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


def attention(args, backend, name):
    pairs = args.rows * args.query_heads * args.tokens * (args.tokens + 1) / 2
    product = 2 * pairs * args.head_dim

    def tensors():
        shape = lambda heads: (args.rows, heads, args.tokens, args.head_dim)
        q = torch.randn(shape(args.query_heads), device="cuda", dtype=torch.bfloat16, requires_grad=True)
        k, v = (torch.randn(shape(args.key_value_heads), device="cuda", dtype=torch.bfloat16, requires_grad=True)
                for _ in range(2))
        return q, k, v

    with sdpa_kernel(backend):
        sets = [tensors() for _ in range(SETS)]
        run = lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        with torch.no_grad():
            line(f"{name} forward", median_ms([lambda x=x: run(*x) for x in sets]), 2 * product)
        outs = [run(*x) for x in sets]
        grads = [torch.randn_like(o) for o in outs]
        calls = [lambda i=i: torch.autograd.grad(outs[i], sets[i], grads[i], retain_graph=True) for i in range(SETS)]
        line(f"{name} backward", median_ms(calls), 5 * product)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, value in dict(rows=4, tokens=8192, query_heads=32, key_value_heads=2, head_dim=64).items():
        parser.add_argument("--" + option.replace("_", "-"), type=int, default=value)
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; "
          f"{args.rows} rows of {args.tokens} tokens")
    for backend, name in ((SDPBackend.CUDNN_ATTENTION, "cuDNN causal attention"),
                          (SDPBackend.FLASH_ATTENTION, "FlashAttention-2 causal attention")):
        try:
            attention(args, backend, name)
        except RuntimeError as error:
            print(f"{name}: not run: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
