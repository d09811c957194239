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
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

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


def attention_product(args):
    """FLOPs of one product of causal attention."""
    return args.rows * args.query_heads * args.tokens * (args.tokens + 1) * args.head_dim


def attention(args, run):
    """Milliseconds of the forward and of the backward pass; run(q, k, v) takes [rows, tokens, heads, head size]."""
    make = lambda heads: torch.randn(args.rows, args.tokens, heads, args.head_dim, device="cuda", dtype=torch.bfloat16,
                                     requires_grad=True)
    sets = [(make(args.query_heads), make(args.key_value_heads), make(args.key_value_heads)) for _ in range(SETS)]
    with torch.no_grad():
        forward = median_ms([lambda x=x: run(*x) for x in sets])
    outs = [run(*x) for x in sets]
    grads = [torch.randn_like(o) for o in outs]
    calls = [lambda i=i: torch.autograd.grad(outs[i], sets[i], grads[i], retain_graph=True) for i in range(SETS)]
    return forward, median_ms(calls)


def pytorch_attention(backend):
    def run(q, k, v):
        with sdpa_kernel(backend):
            heads_first = (x.transpose(1, 2) for x in (q, k, v))
            return scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    return run


def flash_attention_4(deterministic):
    """None where the package flash-attn-4 is not installed."""
    try:
        from flash_attn.cute import flash_attn_func
    except ImportError:
        return None

    def run(q, k, v):
        out = flash_attn_func(q, k, v, causal=True, deterministic=deterministic)
        return out[0] if isinstance(out, tuple) else out
    return run


def of_head_size_128(args):
    """The same width in heads of 128, as ssa_bench's causal_attention_128."""
    heads = {name: max(1, getattr(args, name) * args.head_dim // 128) for name in ("query_heads", "key_value_heads")}
    return argparse.Namespace(**{**vars(args), "head_dim": 128, **heads})


def time_attention(args, run, name):
    try:
        forward, backward = attention(args, run)
    except RuntimeError as error:
        print(f"{name}: not run: {str(error).splitlines()[0]}")
        return
    line(f"{name} forward", forward, 2 * attention_product(args))
    line(f"{name} backward", backward, 5 * attention_product(args))


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args = args
        hidden, q_width, kv_width = args.hidden_size, args.query_heads * args.head_dim, args.key_value_heads * args.head_dim
        self.widths = (q_width, kv_width, kv_width, args.query_heads)
        self.input_norm, self.post_norm = nn.RMSNorm(hidden, eps=1e-5), nn.RMSNorm(hidden, eps=1e-5)
        self.qkvg = nn.Linear(hidden, sum(self.widths), bias=False)
        self.out = nn.Linear(q_width, hidden, bias=False)
        self.gate, self.up = (nn.Linear(hidden, args.intermediate_size, bias=False) for _ in range(2))
        self.down = nn.Linear(args.intermediate_size, hidden, bias=False)

    def forward(self, x, cos, sin):
        rows, tokens, _ = x.shape
        q, k, v, gate = self.qkvg(self.input_norm(x)).split(self.widths, -1)
        heads = lambda t: t.view(rows, tokens, -1, self.args.head_dim).transpose(1, 2)
        rotate = lambda t: t * cos + torch.cat((-t.chunk(2, -1)[1], t.chunk(2, -1)[0]), -1) * sin
        a = scaled_dot_product_attention(rotate(heads(q)), rotate(heads(k)), heads(v), is_causal=True, enable_gqa=True)
        a = a.transpose(1, 2) * gate.sigmoid().unsqueeze(-1)
        x = x + self.out(a.flatten(2))
        y = self.post_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.embedding = nn.Embedding(args.vocab_size, args.hidden_size)
        self.blocks = nn.ModuleList(Block(args) for _ in range(args.layers))
        self.norm = nn.RMSNorm(args.hidden_size, eps=1e-5)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, cos, sin):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)


def training(args, chunks=4, steps=7):
    """Milliseconds of a step, and GiB at the peak."""
    torch._dynamo.reset()  # otherwise a second shape is compiled for any length
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = Model(args).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    angles = torch.arange(args.tokens).outer(500000.0 ** (-torch.arange(0, args.head_dim, 2) / args.head_dim))
    angles = torch.cat((angles, angles), -1).cuda()
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    ids = torch.randint(args.vocab_size, (args.rows, args.tokens + 1), device="cuda")
    compiled = torch.compile(model, dynamic=False)
    chunk_loss = torch.compile(lambda hidden, weight, labels: F.cross_entropy((hidden @ weight.T).float(), labels))

    def step():
        hidden = compiled(ids[:, :-1], cos, sin).flatten(0, 1)
        labels = ids[:, 1:].flatten()
        leaf = hidden.detach().requires_grad_()
        for h, y in zip(leaf.chunk(chunks), labels.chunk(chunks)):
            (chunk_loss(h, model.embedding.weight, y) / chunks).backward()
        hidden.backward(leaf.grad)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for _ in range(3 + steps):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            step()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
    return statistics.median(times[3:]), torch.cuda.max_memory_allocated() / 2**30


def linear_layers(args):
    """{name: (inputs, outputs)} of a layer, with the names of ssa_bench's lines."""
    q_width = args.query_heads * args.head_dim
    qkvg = q_width + 2 * args.key_value_heads * args.head_dim + 3 * args.query_heads
    return {"qkvg": (args.hidden_size, qkvg), "o": (q_width, args.hidden_size),
            "gate and up": (args.hidden_size, 2 * args.intermediate_size),
            "down": (args.intermediate_size, args.hidden_size)}


def round_rows(x):
    """x [rows, columns] in e4m3, and the scale of every row [rows, 1]."""
    scale = x.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def round_both(x):
    """x and its transpose."""
    return *round_rows(x), *round_rows(x.t().contiguous())


def scaled_product(a, scale_a, b, scale_b, fast):
    """a [M, K] @ b [N, K]^T in bf16."""
    return torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), out_dtype=torch.bfloat16, use_fast_accum=fast)


def fp8_products(x, w, d_y, fast):
    """Calls of the three products of y = x @ w^T. x, w and d_y as round_both returns them."""
    (x8, x_scale, xt, xt_scale), (w8, w_scale, wt, wt_scale), (d8, d_scale, dt, dt_scale) = x, w, d_y
    return (lambda: scaled_product(x8, x_scale, w8, w_scale, fast),
            lambda: scaled_product(d8, d_scale, wt, wt_scale, fast),
            lambda: scaled_product(dt, dt_scale, xt, xt_scale, fast))


def time_linear_layer(tokens, inputs, outputs, both, device="cuda"):
    """Milliseconds of the three products in bf16 and in FP8 with and without fast accumulation, and of the rounding of x
    and d_y, and of w. `both`: round_both, compiled."""
    make = lambda rows, columns: torch.randn(rows, columns, device=device, dtype=torch.bfloat16)
    bf16, fast, exact, activations, weights = ([] for _ in range(5))
    for _ in range(SETS):
        x, w, d_y = make(tokens, inputs), make(outputs, inputs), make(tokens, outputs)
        bf16.append((lambda x=x, w=w: x @ w.t(), lambda d_y=d_y, w=w: d_y @ w, lambda d_y=d_y, x=x: d_y.t() @ x))
        rounded = both(x), both(w), both(d_y)
        fast.append(fp8_products(*rounded, True))
        exact.append(fp8_products(*rounded, False))
        activations.append(lambda x=x, d_y=d_y: (both(x), both(d_y)))
        weights.append(lambda w=w: both(w))
    products = [sum(median_ms(calls) for calls in zip(*sets)) for sets in (bf16, fast, exact)]
    return *products, median_ms(activations), median_ms(weights)


def fp8_table(args, measure):
    """A row per linear layer, and their sum over all layers; measure(tokens, inputs, outputs) as time_linear_layer."""
    tokens, sums = args.rows * args.tokens, None
    print("\nThe three products of a linear layer, ms; FP8: torch._scaled_mm, a scale per row, bf16 output\n")
    print("| layer | bf16 | FP8, fast accumulation | FP8 | rounding x, d_y and their transposes | rounding w and w^T |")
    print("|---|---|---|---|---|---|", flush=True)
    row = lambda name, values: print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |", flush=True)
    for name, (inputs, outputs) in linear_layers(args).items():
        if name.replace(" ", "-") not in args.linear_layers:
            continue
        try:
            times = measure(tokens, inputs, outputs)
        except RuntimeError as error:
            print(f"FP8, {name}: not run: {str(error).splitlines()[0]}", file=sys.stderr)
            return
        row(name, times)
        sums = [s + t for s, t in zip(sums, times)] if sums else list(times)
        gc.collect()
        torch.cuda.empty_cache()
    of = "all" if len(args.linear_layers) == len(linear_layers(args)) else "these"
    row(f"{of}, {args.layers} layers", [args.layers * s for s in sums])


def product_rate(cube=8192):
    """FLOP/s of the product that ssa_bench uses as the ceiling."""
    a, b = (torch.randn(cube, cube, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2e3 * cube**3 / median_ms([lambda: a @ b.T])


def model_flops_per_token(args):
    """As include/ssa/train/flops.h counts FLOPs."""
    q_width = args.query_heads * args.head_dim
    qkvg_width = q_width + 2 * args.key_value_heads * args.head_dim + 3 * args.query_heads
    block = args.hidden_size * (qkvg_width + q_width + 3 * args.intermediate_size)
    matrices = args.layers * block + args.vocab_size * args.hidden_size
    return 6 * matrices + 3 * 4 * args.tokens / 2 * q_width * args.layers


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
