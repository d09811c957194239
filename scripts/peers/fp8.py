"""The products of the linear layers in FP8."""
import gc
import sys

import torch

from peers.timing import SETS, median_ms


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
