"""Dense causal attention: cuDNN and FlashAttention-2 through PyTorch, and FlashAttention-4."""
import argparse

import torch
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from peers.timing import SETS, import_peer, line, median_ms, not_run


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
    cute = import_peer("flash_attn.cute", "flash-attn-4")

    def run(q, k, v):
        out = cute.flash_attn_func(q, k, v, causal=True, deterministic=deterministic)
        return out[0] if isinstance(out, tuple) else out
    return run


def of_head_size_128(args):
    """The same width in heads of 128, as ssa_bench's causal_attention_128."""
    heads = {name: max(1, getattr(args, name) * args.head_dim // 128) for name in ("query_heads", "key_value_heads")}
    return argparse.Namespace(**{**vars(args), "head_dim": 128, **heads})


def time_attention(args, run, name):
    """Prints a peer's lines and returns ms forward and backward; None if it does not run."""
    with not_run(name):
        forward, backward = attention(args, run)
        line(f"{name} forward", forward, 2 * attention_product(args))
        line(f"{name} backward", backward, 5 * attention_product(args))
        return forward, backward


def time_flash_attention_4(args):
    """FlashAttention-4's lines, and the price of determinism: the ratio of its times with it and without."""
    with not_run("FlashAttention-4"):
        free, deterministic = flash_attention_4(False), flash_attention_4(True)
        for shape, heads in ((args, ""), (of_head_size_128(args), " 128")):
            times = (time_attention(shape, free, f"FlashAttention-4{heads}"),
                     time_attention(shape, deterministic, f"FlashAttention-4 deterministic{heads}"))
            if None in times:
                continue
            for direction, without, with_it in zip(("forward", "backward"), *times):
                name = f"deterministic / not{heads} {direction}"
                print(f"| {name:<44} | {with_it / without:9.3f} | {'times':>15} |", flush=True)
