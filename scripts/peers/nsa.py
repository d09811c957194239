"""Selected attention of NSA (Native Sparse Attention) in fla-core, at the selections of ssa_bench."""
import torch

from peers.attention import attention
from peers.timing import import_peer, line, not_run

GROUP_TOKENS, NEWEST, DRAWS = 32, 4, 400  # as in tests/bench/attention_bench.h
LOW = 0xFFFFFFFF


def random_uniform(seed, step, index):
    """random_uniform of include/ssa/base/random.h for RandomPurpose::test and a tensor `step`: Philox-4x32-10."""
    c2, c3 = (step << 8 | 5) & LOW, (step << 8 | 5) >> 32 & LOW
    c0, c1 = torch.full_like(step, index & LOW), torch.full_like(step, index >> 32)
    k0, k1 = seed & LOW, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # modulo 2^64, as in unsigned arithmetic
        c0, c1, c2, c3 = p1 >> 32 & LOW ^ c1 ^ k0, p1 & LOW, p0 >> 32 & LOW ^ c3 ^ k1, p0 & LOW
        k0, k1 = k0 + 0x9E3779B9 & LOW, k1 + 0xBB67AE85 & LOW
    return (c1 << 21 | c0 >> 11).double() * 2.0**-53


def make_selection(args, kind, device="cpu"):
    """[rows, tokens, key/value heads, block_counts] int32, the values of make_selection in tests/bench/attention_bench.h:
    ascending, including the token's own block, then -1. `kind`: "random" or "concentrated"."""
    heads, slots = args.key_value_heads, args.block_counts
    i = torch.arange(args.rows * args.tokens * heads, device=device)
    row, t, head = i // heads // args.tokens, i // heads % args.tokens, i % heads
    own = t // args.block_size
    limit = (own + 1).clamp(max=slots)
    chosen = torch.full((len(i), slots), -1, device=device)
    chosen[:, 0] = own
    count = torch.ones_like(i)

    def take(lists, block):
        new = (block >= 0) & (count[lists] < limit[lists]) & (chosen[lists] != block[:, None]).all(1)
        lists, block = lists[new], block[new]
        chosen[lists, count[lists]] = block
        count[lists] += 1

    concentrated = kind == "concentrated"
    if concentrated:
        take(i, torch.zeros_like(i))
        for distance in range(1, NEWEST):
            take(i, own - distance)
    key = (row * args.tokens + t // GROUP_TOKENS * GROUP_TOKENS) * 64 + head if concentrated else i
    for draw in range(DRAWS):
        lists = i[count < limit]
        u = random_uniform(3, key[lists], draw)
        if concentrated:  # one in eight draws is for this token only
            own_u = random_uniform(4, lists, draw)
            u = torch.where(own_u < 0.125, own_u * 8, u)
        take(lists, (u * own[lists]).long())
    chosen = chosen.masked_fill(chosen < 0, args.tokens).sort(1).values
    return chosen.masked_fill(chosen == args.tokens, -1).int().view(args.rows, args.tokens, heads, slots)


def selected_pairs(args, indices):
    """(query, key) pairs of the selection, over all sequences and key/value heads."""
    keys = torch.arange(1, args.tokens + 1, device=indices.device)[:, None, None] - indices.long() * args.block_size
    return keys.clamp(max=args.block_size).masked_fill(indices < 0, 0).sum().item()


def selected_attention(args):
    """run(indices) gives run(q, k, v); the op alone, without compression, choice of blocks and gates."""
    group = args.query_heads // args.key_value_heads
    if group < 16 or group & group - 1:
        raise ValueError(f"fla-core takes 16, 32, 64 ... query heads per key/value head; these shapes have {group}")
    op = import_peer("fla.ops.nsa.parallel", "fla-core").ParallelNSAFunction
    return lambda indices: lambda q, k, v: op.apply(q, k, v, indices, args.block_counts, args.block_size,
                                                    args.head_dim**-0.5, None)


def time_nsa(args, device="cuda"):
    """A line per selection and direction; FLOPs as ssa_bench counts those of sparse_attention."""
    with not_run("fla-core NSA"):
        run = selected_attention(args)
        for kind in ("random", "concentrated"):
            with not_run(f"fla-core NSA {kind}"):
                indices = make_selection(args, kind, device)
                product = 2 * selected_pairs(args, indices) * args.query_heads // args.key_value_heads * args.head_dim
                forward, backward = attention(args, run(indices))
                line(f"fla-core NSA {kind} forward", forward, 2 * product)
                line(f"fla-core NSA {kind} backward", backward, 5 * product)
