"""A training step of a model with full attention in PyTorch, compiled."""
import functools
import gc
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from peers.timing import import_peer, not_run


def attention_op(name, forward, backward):
    """Causal attention as a custom op, which torch.compile calls and does not trace; the op takes and returns
    [rows, heads, tokens, head size]. The functions take [rows, tokens, heads, head size]: forward(q, k, v) returns out and
    lse [rows, heads, tokens] in float32; backward(q, k, v, out, d_out, lse) returns d_q, d_k and d_v."""
    @torch.library.custom_op(f"peers::{name}", mutates_args=())
    def op(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x.contiguous() for x in forward(q, k, v))  # as register_fake says

    @torch.library.custom_op(f"peers::{name}_backward", mutates_args=())
    def op_backward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, d_out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(x.contiguous() for x in backward(q, k, v, out, d_out, lse))

    @op.register_fake
    def _(q, k, v):
        rows, tokens, heads, _ = q.shape
        return q.new_empty(q.shape), q.new_empty((rows, heads, tokens), dtype=torch.float32)

    @op_backward.register_fake
    def _(q, k, v, out, d_out, lse):
        return tuple(x.new_empty(x.shape) for x in (q, k, v))

    def gradients(ctx, d_out, _):
        *inputs, out, lse = ctx.saved_tensors
        return op_backward(*inputs, out, d_out.contiguous(), lse)

    op.register_autograd(gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output))
    return lambda q, k, v: op(*(x.transpose(1, 2).contiguous() for x in (q, k, v)))[0].transpose(1, 2)


@functools.cache  # an op is registered once
def flash_attention_4(deterministic):
    cute = import_peer("flash_attn.cute", "flash-attn-4")
    interface = import_peer("flash_attn.cute.interface", "flash-attn-4")

    def forward(q, k, v):
        with torch.no_grad():
            return cute.flash_attn_func(q, k, v, causal=True, return_lse=True)

    def backward(q, k, v, out, d_out, lse):  # the public function has no backward without its own autograd graph
        return interface._flash_attn_bwd(q, k, v, out, d_out, lse, causal=True, deterministic=deterministic)
    return attention_op(f"flash_attention_4{'_deterministic' * deterministic}", forward, backward)


def pytorch_attention(q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


class Block(nn.Module):
    """attend(q, k, v): causal attention of tensors [rows, heads, tokens, head size]."""

    def __init__(self, args, attend):
        super().__init__()
        self.args, self.attend = args, attend
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
        a = self.attend(rotate(heads(q)), rotate(heads(k)), heads(v))
        a = a.transpose(1, 2) * gate.sigmoid().unsqueeze(-1)
        x = x + self.out(a.flatten(2))
        y = self.post_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    def __init__(self, args, attend=pytorch_attention):
        super().__init__()
        self.embedding = nn.Embedding(args.vocab_size, args.hidden_size)
        self.blocks = nn.ModuleList(Block(args, attend) for _ in range(args.layers))
        self.norm = nn.RMSNorm(args.hidden_size, eps=1e-5)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, cos, sin):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)


def training(args, attend=pytorch_attention, chunks=4, steps=7):
    """Milliseconds of a step, and GiB at the peak. PyTorch's own attention is cuDNN's."""
    torch._dynamo.reset()  # otherwise a second shape is compiled for any length
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = Model(args, attend).to("cuda", torch.bfloat16)
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


def time_step(args, name, make_attend, measure=training):
    """Prints a step's line and returns its ms; None if it does not run. make_attend() imports the peer."""
    ms = None
    with not_run(f"training step, {name}"):
        ms, gib = measure(args, make_attend())
        print(f"training step, {name}: {ms:.1f} ms, {args.rows * args.tokens / ms * 1e3:.0f} tokens/s, {gib:.1f} GiB",
              flush=True)
    gc.collect()
    torch.cuda.empty_cache()
    return ms


def time_flash_attention_4(args, measure=training):
    """The step with FlashAttention-4, deterministic and not, and the price of determinism."""
    name = "full attention, FlashAttention-4"
    with not_run(f"training step, {name}"):
        import_peer("flash_attn.cute", "flash-attn-4")
        free = time_step(args, name, lambda: flash_attention_4(False), measure)
        deterministic = time_step(args, f"{name} deterministic", lambda: flash_attention_4(True), measure)
        if free and deterministic:
            print(f"training step, {name}, deterministic / not: {deterministic / free:.3f}", flush=True)
