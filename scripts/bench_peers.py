#!/usr/bin/env python3
"""Times PyTorch at the shapes of ssa_bench, for comparison with its lines: attention, a compiled training step, and the
products of the linear layers in FP8.

    python3 scripts/bench_peers.py --rows 4 --tokens 8192 [--only attention|training|fp8] [--linear-layers qkvg,o]
    python3 scripts/bench_peers.py --lengths 2048,4096,8192,16384,32768 [--step-lengths 8192,32768] [--ours FILE]

Needs a GPU and PyTorch >= 2.5; also times the package flash-attn-4 if it is installed. Attention: the median of 20 calls over
inputs rotated past L2, timed with events. Training: a model of ssa-1b's shapes with full attention and its gate,
torch.compile, cuDNN attention, bf16 parameters and moments, fused AdamW, cross entropy in chunks, no recomputation:
the median of 7 steps on random tokens. FP8: torch._scaled_mm with a scale per row, and compiled passes that find the scales
and round, plain and transposed, as torchao's row-wise recipe does before its products; torchao itself is not used. The
passes are compiled once, for any shape; the products are calls of a library and are not compiled. --linear-layers takes some
of the layers qkvg, o, gate-and-up and down.

By length: Markdown tables like the ones of `ssa_bench --only lengths`, with rows x tokens tokens in sequences of each
length. --lengths times cuDNN's attention; --step-lengths the compiled step, which takes a minute to compile per length.
--ours takes the saved output of `ssa_bench --only lengths` from the same GPU and adds the ratio of the peer's times to it.
"""
import argparse
import gc
import sys

import torch
from torch.nn.attention import SDPBackend

from peers.attention import (attention, attention_product, flash_attention_4, of_head_size_128, pytorch_attention,
                             time_attention)
from peers.fp8 import fp8_table, linear_layers, round_both, time_linear_layer
from peers.step import model_flops_per_token, training
from peers.timing import product_rate


def of_length(args, tokens):
    return argparse.Namespace(**{**vars(args), "rows": args.rows * args.tokens // tokens, "tokens": tokens})


def read_ours(path):
    """{(name, tokens per sequence): ms} from the tables of `ssa_bench --only lengths`. The name of a step is its method."""
    ours, lengths = {}, []
    with open(path) as file:
        for text in file:
            cells = [cell.strip() for cell in text.split("|")[1:-1]]
            if not cells:
                continue
            if not cells[0] and all(cell.isdigit() for cell in cells[1:]):
                lengths = [int(cell) for cell in cells[1:]]
            elif cells[0].isdigit() and len(cells) > 2 and cells[1] in ("full", "ssa", "moba", "nsa"):
                ours[cells[1], int(cells[0])] = float(cells[2])
            elif cells[0].startswith("causal_attention_") and len(cells) == len(lengths) + 1:
                ours.update({(cells[0], tokens): float(cell.split()[0]) for tokens, cell in zip(lengths, cells[1:])})
    return ours


def attention_table(args, lengths, measure, ceiling, ours):
    """Rows for cuDNN's attention, and with `ours` its time over ours; measure(args) gives forward and backward ms."""
    times = []
    for tokens in lengths:
        try:
            times.append(measure(of_length(args, tokens)))
        except RuntimeError as error:
            print(f"cuDNN attention, {tokens} tokens per sequence: not run: {str(error).splitlines()[0]}", file=sys.stderr)
            times.append(None)
        gc.collect()
        torch.cuda.empty_cache()
    print(f"\n| {'':<50} |" + "".join(f" {tokens:>15} |" for tokens in lengths) + "\n|---|" + "---|" * len(lengths))
    for side, (direction, products) in enumerate((("forward", 2), ("backward", 5))):
        flops = [products * attention_product(of_length(args, tokens)) for tokens in lengths]
        cells = [f"{t[side]:7.3f} ({100 * f / t[side] * 1e3 / ceiling:3.0f} %)" if t else "" for t, f in zip(times, flops)]
        print(f"| {'PyTorch, cuDNN causal attention, ' + direction:<50} |" + "".join(f" {c:>15} |" for c in cells))
    for side, direction in enumerate(("forward", "backward") if ours else ()):
        mine = [ours.get((f"causal_attention_{direction}", tokens)) for tokens in lengths]
        cells = [f"{t[side] / m:.2f}" if t and m else "" for t, m in zip(times, mine)]
        print(f"| {f'its time / causal_attention_{direction}':<50} |" + "".join(f" {c:>15} |" for c in cells), flush=True)


def step_table(args, lengths, measure, ours):
    """A row for the compiled step of each length; measure(args) gives ms and GiB."""
    print("\n| tokens | method | ms | tokens/s | model TFLOP/s | its time / full's of ssa_bench |")
    print("|---|---|---|---|---|---|", flush=True)
    for tokens in lengths:
        shape = of_length(args, tokens)
        try:
            ms, _ = measure(shape)
        except RuntimeError as error:
            print(f"compiled step, {tokens} tokens per sequence: not run: {str(error).splitlines()[0]}", file=sys.stderr)
        else:
            speed = shape.rows * shape.tokens / ms * 1e3
            ratio = f"{ms / ours['full', tokens]:.2f}" if ("full", tokens) in ours else ""
            print(f"| {tokens:>6} | full, PyTorch compiled | {ms:6.1f} | {speed:8.0f} | "
                  f"{speed * model_flops_per_token(shape) * 1e-12:13.1f} | {ratio:>18} |", flush=True)
        gc.collect()
        torch.cuda.empty_cache()


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, value in dict(rows=4, tokens=8192, query_heads=32, key_value_heads=2, head_dim=64,
                               hidden_size=2048, intermediate_size=8192, layers=16, vocab_size=128256).items():
        parser.add_argument("--" + option.replace("_", "-"), type=int, default=value)
    parser.add_argument("--only", choices=("attention", "training", "fp8"))
    parser.add_argument("--linear-layers", metavar="NAME,NAME,...", default="")
    for option in ("--lengths", "--step-lengths"):
        parser.add_argument(option, metavar="T,T,...", default="")
    parser.add_argument("--ours", dest="ours_file", metavar="FILE")
    args = parser.parse_args(argv)

    for option in ("lengths", "step_lengths"):
        lengths = []
        for text in filter(None, getattr(args, option).split(",")):
            name = "--" + option.replace("_", "-")
            if not text.isdigit() or int(text) == 0:
                parser.error(f"{name}: '{text}' is not a number of tokens; expected a list such as 2048,4096")
            if args.rows * args.tokens % int(text):
                parser.error(f"{name}: {text} does not divide {args.rows * args.tokens}, the tokens of --rows x --tokens")
            lengths.append(int(text))
        setattr(args, option, lengths)
    known = [name.replace(" ", "-") for name in linear_layers(args)]
    if args.linear_layers and args.only != "fp8":
        parser.error("--linear-layers needs --only fp8")
    args.linear_layers = args.linear_layers.split(",") if args.linear_layers else known
    for name in args.linear_layers:
        if name not in known:
            parser.error(f"--linear-layers: '{name}' is not a layer; expected some of {','.join(known)}")
    by_length = args.lengths or args.step_lengths
    if args.only and by_length:
        parser.error("--only cannot be combined with --lengths or --step-lengths")
    if args.ours_file and not by_length:
        parser.error("--ours needs --lengths or --step-lengths")
    try:
        args.ours = read_ours(args.ours_file) if args.ours_file else {}
    except OSError as error:
        parser.error(f"--ours: {error}")
    if args.ours_file and not args.ours:
        parser.error(f"--ours: {args.ours_file} has no table of ssa_bench --only lengths")
    return args


def main():
    args = parse_arguments(sys.argv[1:])
    if not torch.cuda.is_available():
        sys.exit("bench_peers.py: PyTorch finds no GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; "
          f"{args.rows} sequences of {args.tokens} tokens")
    if args.lengths or args.step_lengths:
        if args.lengths:
            ceiling = product_rate()
            print(f"8192 cube {ceiling * 1e-12:.0f} TFLOP/s")
            cudnn = lambda shape: attention(shape, pytorch_attention(SDPBackend.CUDNN_ATTENTION))
            attention_table(args, args.lengths, cudnn, ceiling, args.ours)
        if args.step_lengths:
            step_table(args, args.step_lengths, training, args.ours)
        return
    if args.only == "fp8":
        both = torch.compile(round_both, dynamic=True)  # once, not for each of 12 shapes
        fp8_table(args, lambda tokens, inputs, outputs: time_linear_layer(tokens, inputs, outputs, both))
        return
    if args.only != "training":
        peers = {"cuDNN": pytorch_attention(SDPBackend.CUDNN_ATTENTION),
                 "FlashAttention-4": flash_attention_4(False),
                 "FlashAttention-4 deterministic": flash_attention_4(True)}
        for name, run in peers.items():
            if run is None:
                print(f"{name}: not run: the package flash-attn-4 is not installed", file=sys.stderr)
                continue
            time_attention(args, run, name)
            time_attention(of_head_size_128(args), run, f"{name} 128")
        time_attention(args, pytorch_attention(SDPBackend.FLASH_ATTENTION), "FlashAttention-2")
    if args.only != "attention":
        ms, gib = training(args)
        print(f"training step, full attention: {ms:.1f} ms, {args.rows * args.tokens / ms * 1e3:.0f} tokens/s, "
              f"{gib:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
