#!/usr/bin/env python3
"""Times PyTorch and other libraries at the shapes of ssa_bench, for comparison with its lines: attention, a compiled
training step, and the products of the linear layers in FP8. Usage:

    python3 scripts/bench_peers.py --rows 4 --tokens 8192 [--only NAME] [--linear-layers qkvg,o]
    python3 scripts/bench_peers.py --only training-flash-attention-4 --config configs/ssa-110m.json --rows 8
    python3 scripts/bench_peers.py --lengths 2048,4096,8192,16384,32768 [--step-lengths 8192,32768] [--ours FILE]

Needs a GPU and PyTorch >= 2.5. The packages flash-attn-4 and fla-core are optional: what needs a missing one is named in a
line on stderr, and the rest runs. Exit code: 1 if something that --only asks for did not run. The shapes are ssa-1b's;
--config takes the model's shapes and train.max_length from a file of configs/ instead, and other options replace these in
turn. Names for --only; without it, all of them but fp8:

  attention    dense causal attention: cuDNN, FlashAttention-4 as below, and FlashAttention-2. The median of 20 calls over
               inputs rotated past L2, timed with events.
  determinism  of these only FlashAttention-4, deterministic and not, and the ratio of the times: the price of determinism.
  nsa          fla-core's NSA: its attention to selected blocks, without the choice of the blocks, its compression and
               gates, at the random and the concentrated selections of ssa_bench, to the bit. Its backward computes the row
               sums of out * d_out as well.
  training     a model with full attention and its gate, torch.compile, cuDNN attention, bf16 parameters and moments, fused
               AdamW, cross entropy in chunks, no recomputation: the median of 7 steps on random tokens.
  training-flash-attention-4
               the same step with FlashAttention-4 as an op in the compiled model, deterministic and not, and the ratio.
  fp8          torch._scaled_mm with a scale per row, and compiled passes that find the scales and round, plain and
               transposed, as torchao's row-wise recipe does before its products; torchao itself is not used. The passes are
               compiled once, for any shape; the products are calls of a library and are not compiled. --linear-layers takes
               some of the layers qkvg, o, gate-and-up and down.

kernels/BENCHMARKS.md has the line of ssa_bench or ssa_train that each of them compares with.

By length: Markdown tables like the ones of `ssa_bench --only lengths`, with rows x tokens tokens in sequences of each
length. --lengths times cuDNN's attention; --step-lengths the compiled step, which takes a minute to compile per length.
--ours takes the saved output of `ssa_bench --only lengths` from the same GPU and adds the ratio of the peer's times to it.
"""
import argparse
import gc
import json
import sys

try:
    import torch
except ImportError as error:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.strip())
        sys.exit(0)
    sys.exit(f"bench_peers.py: PyTorch is missing for {sys.executable} ({error}); install it with: {sys.executable} -m pip "
             "install torch")
from torch.nn.attention import SDPBackend

from peers import step
from peers.attention import (attention, attention_product, of_head_size_128, pytorch_attention, time_attention,
                             time_flash_attention_4)
from peers.fp8 import fp8_table, linear_layers, round_both, time_linear_layer
from peers.nsa import time_nsa
from peers.timing import not_run_peers, product_rate


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
                  f"{speed * step.model_flops_per_token(shape) * 1e-12:13.1f} | {ratio:>18} |", flush=True)
        gc.collect()
        torch.cuda.empty_cache()


SSA_1B = dict(rows=4, tokens=8192, query_heads=32, key_value_heads=2, head_dim=64, hidden_size=2048, intermediate_size=8192,
              layers=16, vocab_size=128256, block_size=16, block_counts=16)
CONFIG_KEYS = dict(tokens="train.max_length", query_heads="model.num_attention_heads",
                   key_value_heads="model.num_key_value_heads", layers="model.num_hidden_layers",
                   **{key: f"model.{key}" for key in ("head_dim", "hidden_size", "intermediate_size", "vocab_size",
                                                      "block_size", "block_counts")})
NAMES = ("attention", "determinism", "nsa", "training", "training-flash-attention-4", "fp8")


def read_config(path):
    """{option: value} of a file of configs/. ValueError if a shape is missing or the step cannot have its model."""
    try:
        with open(path) as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    shapes = {}
    for option, key in CONFIG_KEYS.items():
        section, name = key.split(".")
        value = config.get(section, {}).get(name) if isinstance(config, dict) else None
        if type(value) is not int or value < 1:
            raise ValueError(f"{path}: {key} is {json.dumps(value)}; expected a positive integer")
        shapes[option] = value
    if config["model"].get("tie_word_embeddings") is not True:
        raise ValueError(f"{path}: model.tie_word_embeddings is not true; the step of PyTorch has tied embeddings only")
    return shapes


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, value in SSA_1B.items():
        parser.add_argument("--" + option.replace("_", "-"), type=int, default=value)
    parser.add_argument("--config", metavar="FILE", help="the shapes of a file of configs/")
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--linear-layers", metavar="NAME,NAME,...", default="")
    for option in ("--lengths", "--step-lengths"):
        parser.add_argument(option, metavar="T,T,...", default="")
    parser.add_argument("--ours", dest="ours_file", metavar="FILE")
    args = parser.parse_args(argv)
    if args.config:
        try:
            parser.set_defaults(**read_config(args.config))
        except ValueError as error:
            parser.error(f"--config: {error}")
        args = parser.parse_args(argv)
    for option in SSA_1B:
        if getattr(args, option) < 1:
            parser.error(f"--{option.replace('_', '-')}: {getattr(args, option)} is not a positive integer")
    if args.query_heads % args.key_value_heads:
        parser.error(f"--query-heads: {args.query_heads} is not a multiple of {args.key_value_heads} key/value heads")

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
          f"{args.rows} sequences of {args.tokens} tokens{', ' + args.config if args.config else ''}")
    if args.lengths or args.step_lengths:
        if args.lengths:
            ceiling = product_rate()
            print(f"8192 cube {ceiling * 1e-12:.0f} TFLOP/s")
            cudnn = lambda shape: attention(shape, pytorch_attention(SDPBackend.CUDNN_ATTENTION))
            attention_table(args, args.lengths, cudnn, ceiling, args.ours)
        if args.step_lengths:
            step_table(args, args.step_lengths, step.training, args.ours)
        return
    if args.only == "fp8":
        both = torch.compile(round_both, dynamic=True)  # once, not for each of 12 shapes
        fp8_table(args, lambda tokens, inputs, outputs: time_linear_layer(tokens, inputs, outputs, both))
        return
    wanted = lambda *names: args.only is None or args.only in names
    if wanted("attention"):
        cudnn, flash_2 = (pytorch_attention(b) for b in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION))
        time_attention(args, cudnn, "cuDNN")
        time_attention(of_head_size_128(args), cudnn, "cuDNN 128")
        time_attention(args, flash_2, "FlashAttention-2")
    if wanted("attention", "determinism"):
        time_flash_attention_4(args)
    if wanted("nsa"):
        time_nsa(args)
    if wanted("training"):
        step.time_step(args, "full attention", lambda: step.pytorch_attention)
    if wanted("training-flash-attention-4"):
        step.time_flash_attention_4(args)
    if args.only and not_run_peers:
        sys.exit(1)


if __name__ == "__main__":
    main()
