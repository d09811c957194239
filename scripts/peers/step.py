"""A training step of a model with full attention in PyTorch, compiled."""
import statistics

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


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


def model_flops_per_token(args):
    """As include/ssa/train/flops.h counts FLOPs."""
    q_width = args.query_heads * args.head_dim
    qkvg_width = q_width + 2 * args.key_value_heads * args.head_dim + 3 * args.query_heads
    block = args.hidden_size * (qkvg_width + q_width + 3 * args.intermediate_size)
    matrices = args.layers * block + args.vocab_size * args.hidden_size
    return 6 * matrices + 3 * 4 * args.tokens / 2 * q_width * args.layers
