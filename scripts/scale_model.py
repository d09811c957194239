#!/usr/bin/env python3
"""Predicts the tokens/s of a training run on many GPUs from measured parts. Every number that it prints is a prediction.

Usage: scale_model.py [options]; the defaults are ssa-1b with 4 sequences of 8192 tokens on an H200
(2026-11-27). --bandwidth and --latency are assumptions until they are measured (nccl-tests) on your machines.
docs/multi-gpu.md states the formula.
"""
import argparse


def update(n, stage, o):
    """Milliseconds of adamw on n GPUs. Offloaded moments are copied in both directions meanwhile."""
    share = 1 / n if stage > 0 else 1
    copies = 2 * o.moment_bytes * o.parameters / (o.host_bandwidth * 1e9 / 1e3) if o.host_bandwidth > 0 else 0
    return share * max(o.adamw_ms, copies)


def exposed_at_stage_3(n, o):
    """Milliseconds of a step in which n > 1 GPUs wait for weights and gradients; those of a layer are sent during another."""

    def send(buckets, count, width):
        return width * count * (n - 1) / n / (o.bandwidth * 1e9 / 1e3) + buckets * (n - 1) * o.latency / 1e3

    layers = o.buckets - 2
    layer = (o.parameters - o.embedding) / layers
    gather, reduce = send(1, layer, 2), send(1, layer, 4)
    forward, backward = o.pass_ms * o.forward_share / layers, o.pass_ms * (1 - o.forward_share) / layers
    # The backward pass still has the weights of the two layers in which the forward pass ended.
    per_pass = (layers - 1) * max(0, gather - forward)
    per_pass += (layers - 2) * max(0, gather + reduce - backward) + 2 * max(0, reduce - backward)
    # At the end of a step: the embedding's gradients. Before the next: the norms, the embedding and the first layer.
    return o.accumulation * per_pass + send(1, o.embedding, 4) + send(3, o.embedding + layer, 2)


def prediction(n, stage, o):
    """Milliseconds of a step on n GPUs."""
    part = (n - 1) / n
    bandwidth = o.bandwidth * 1e9 / 1e3  # bytes per ms
    ring = (n - 1) * o.latency / 1e3  # ms: the steps of a ring
    optimizer = update(n, stage, o) + o.norm_ms * (1 / n + (1 if n > 1 else 0))
    if n == 1:
        return o.accumulation * o.pass_ms + optimizer
    if stage == 3:
        return o.accumulation * o.pass_ms + optimizer + exposed_at_stage_3(n, o)
    twice = 2 if stage == 0 else 1  # all_reduce = reduce_scatter and all_gather
    reduce = twice * (4 * o.parameters * part / bandwidth + o.buckets * ring)
    reduce_last = twice * (4 * o.embedding * part / bandwidth + ring)
    gather = 2 * o.parameters * part / bandwidth + o.buckets * ring if stage > 0 else 0
    gather_first = 2 * o.embedding * part / bandwidth + 2 * ring if stage > 0 else 0
    forward = o.pass_ms * o.forward_share
    backward = o.pass_ms - forward
    exposed = max(0, reduce - reduce_last - backward) + reduce_last  # of the last micro-batch
    if stage == 2:  # of the others, which have the next forward pass as well
        exposed += (o.accumulation - 1) * max(0, reduce - o.pass_ms)
    exposed += gather_first + max(0, gather - gather_first - forward)
    return o.accumulation * o.pass_ms + optimizer + exposed


def above_zero(kind):
    def read(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    read.__name__ = f"{kind.__name__} above 0"  # what argparse's error calls it
    return read


def numbers_of_gpus(text):
    return [above_zero(int)(number) for number in text.split(",")]


numbers_of_gpus.__name__ = "list of numbers above 0"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = lambda name, kind, default, text: parser.add_argument(name, type=kind, default=default,
                                                                help=f"{text}; {default}")
    add("--pass-ms", above_zero(float), 553.9, "forward and backward pass of a micro-batch: a step without adamw and squared_norm")
    add("--adamw-ms", float, 8.7, "update of all parameters")
    add("--norm-ms", float, 1.2, "squared_norm of all gradients")
    add("--forward-share", float, 1 / 3, "the forward pass as a share of both")
    add("--tokens", above_zero(int), 32768, "tokens of a micro-batch on one GPU")
    add("--accumulation", above_zero(int), 1, "micro-batches per step")
    add("--parameters", above_zero(int), 1_213_794_304, "parameters")
    add("--embedding", int, 262_668_288, "parameters of the embedding, whose gradients are reduced last")
    add("--buckets", int, 18, "buckets: layers, embedding, norms, an untied LM head")
    add("--bandwidth", above_zero(float), 50, "GB/s that a GPU sends while it receives as much, within a collective")
    add("--latency", float, 5, "microseconds of a step of a ring")
    add("--host-bandwidth", float, 0, "GB/s of a GPU to the host's memory, and as many back at the same time, with "
        "train.offload_moments; 0 = without")
    add("--moment-bytes", int, 4, "bytes of a moment: 4 in f32, 2 in bf16")
    parser.add_argument("--gpus", type=numbers_of_gpus, default="1,2,4,8,64,512,4096", help="numbers of GPUs; 1,2,4,8,64,512,4096")
    o = parser.parse_args()
    stages = range(4)
    print("| GPUs |" + "".join(f" stage {stage} | of n x one GPU |" for stage in stages))
    print("|---" * 9 + "|")
    one = prediction(1, 0, o)
    for n in o.gpus:
        cells = []
        for stage in stages:
            ms = prediction(n, stage, o)
            cells += [f"{n * o.tokens * o.accumulation / ms * 1e3:,.0f}", f"{100 * one / ms:.1f} %"]
        print(f"| {n} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
