#!/usr/bin/env python3
"""Times PyTorch at the shapes of ssa_bench, beside which its lines are read: attention, and a compiled training step.

    python3 scripts/bench_peers.py --rows 4 --tokens 8192 [--only attention|training]

Needs a GPU and PyTorch >= 2.5. Attention: the median of 20 calls over inputs rotated past L2, timed with events. Training:
a model of ssa-1b's shapes with full attention and its gate, torch.compile, cuDNN attention, bf16 parameters and moments,
fused AdamW, cross entropy in chunks, nothing computed again: the median of 7 steps on random tokens.
"""
import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import nn
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
    torch.manual_seed(0)
    model = Model(args).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    angles = torch.arange(args.tokens).outer(500000.0 ** (-torch.arange(0, args.head_dim, 2) / args.head_dim))
    angles = torch.cat((angles, angles), -1).cuda()
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    ids = torch.randint(args.vocab_size, (args.rows, args.tokens + 1), device="cuda")
    compiled = torch.compile(model)
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
    ms = statistics.median(times[3:])
    print(f"training step, full attention: {ms:.1f} ms, {args.rows * args.tokens / ms * 1e3:.0f} tokens/s, "
          f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, value in dict(rows=4, tokens=8192, query_heads=32, key_value_heads=2, head_dim=64,
                               hidden_size=2048, intermediate_size=8192, layers=16, vocab_size=128256).items():
        parser.add_argument("--" + option.replace("_", "-"), type=int, default=value)
    parser.add_argument("--only", choices=("attention", "training"))
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; "
          f"{args.rows} rows of {args.tokens} tokens")
    if args.only != "training":
        for backend, name in ((SDPBackend.CUDNN_ATTENTION, "cuDNN causal attention"),
                              (SDPBackend.FLASH_ATTENTION, "FlashAttention-2 causal attention")):
            try:
                attention(args, backend, name)
            except RuntimeError as error:
                print(f"{name}: not run: {str(error).splitlines()[0]}")
    if args.only != "attention":
        training(args)


if __name__ == "__main__":
    main()
