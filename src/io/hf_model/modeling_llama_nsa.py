"""LLaMA with full attention, MoBA, NSA or SSA (Sparse Sparse Attention, arXiv 2511.20102), for transformers 4.54 and
newer, in plain PyTorch. The gates g_slc, g_cmp, g_swa are sigmoids of g_proj, one of each per query head.

  attention_method  inference_mode  output of a head
  ssa, moba, full   sparse          g_slc * attention over the keys of the selected blocks
  ssa, moba, full   full            g_slc * attention over all keys
  nsa               sparse          g_slc * selected + g_cmp * compressed + g_swa * sliding window

In training with config.alignment_weight above 0, ssa computes both outputs, passes one of them on (drawn once per
forward pass) and adds its alignment loss: the mean over layers of SmoothL1(full, stop(sparse)) + SmoothL1(stop(full),
sparse), each a mean over all elements.

Shapes: B sequences, T tokens of this call, U tokens including the cache, HQ query heads, HK key/value heads,
G = HQ / HK, D head size, N blocks of `block_size` tokens. A sequence starts at the first token that attention_mask does
not hide: positions and blocks are counted from there, and no token attends to the padding before it.

Packed sequences: where position_ids return to 0, another document begins. Every document then computes what it would
compute alone. For attention, keys are moved so that each document begins at a multiple of block_size; U counts places.
"""
import math
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_llama_nsa import LlamaNSAConfig

QUERIES_AT_A_TIME = 256  # bounds the memory of masks: B * HQ * 256 * U elements
# transformers 5.24 renamed past_key_values, in the arguments of forward and in its output.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
# generate() passes them: cache_position in older versions, where the length of the cache says the same; the tokenizers,
# which it needs for stop_strings, in newer ones.
IGNORED = {"cache_position", "tokenizer", "assistant_tokenizer"}


@dataclass
class LlamaNSAOutput(CausalLMOutputWithPast):
    """loss = ce_loss + alignment_weight * alignment_loss when both are computed, else the cross entropy."""

    ce_loss: Optional[torch.Tensor] = None
    alignment_loss: Optional[torch.Tensor] = None


def check_arguments(model, past_key_values, cache, output_attentions, unknown):
    """Returns the cache, whichever of its names it has."""
    for name in unknown.keys() - IGNORED:
        raise TypeError(f"{type(model).__name__}.forward() got an unexpected keyword argument {name!r}")
    if output_attentions or (output_attentions is None and model.config.output_attentions):
        raise ValueError("output_attentions is not supported: the attention weights are not stored")
    if past_key_values is not None and cache is not None:
        raise ValueError("both cache and past_key_values are given, expected one of them")
    return past_key_values if cache is None else cache


def option(given, config, *names):
    """The argument if it is given, else the first of these keys that this version's config has."""
    return given if given is not None else next((getattr(config, n) for n in names if hasattr(config, n)), None)


def check_config(c):
    for key, values in {"attention_method": ("ssa", "full", "moba", "nsa"), "inference_mode": ("sparse", "full"),
                        "selection": ("exact", "reference")}.items():
        if getattr(c, key) not in values:
            raise ValueError(f"config.{key} is {getattr(c, key)!r}, expected one of {', '.join(values)}")
    if c.attention_method == "nsa" and c.inference_mode == "full":
        raise ValueError(f"config.inference_mode is 'full', but method {c.attention_method} has no full attention; "
                         "expected 'sparse'")
    for key in ("block_size", "block_counts"):
        if getattr(c, key) < 1:
            raise ValueError(f"config.{key} is {getattr(c, key)}, expected at least 1")
    if c.alignment_weight < 0 or (c.alignment_weight > 0 and c.attention_method != "ssa"):
        raise ValueError(f"config.alignment_weight is {c.alignment_weight}, expected 0 with method "
                         f"{c.attention_method}, or a number above 0 with ssa")
    if c._attn_implementation not in ("sdpa", "eager", None):
        raise ValueError(f"attn_implementation is {c._attn_implementation!r}, expected sdpa or eager")


def rope_cos_sin(c, position_ids):
    """[B, T] -> cosine and sine [B, 1, T, D/2] of position x inverse frequency, computed in float64."""
    rope = c.rope_parameters or c.rope_scaling or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(f"config.rope_scaling has rope_type {kind!r}, expected llama3")
    real = torch.float32 if position_ids.device.type == "mps" else torch.float64  # mps has no float64
    exponent = torch.arange(0, c.head_dim, 2, dtype=real, device=position_ids.device) / c.head_dim
    inverse = rope.get("rope_theta", c.rope_theta) ** -exponent
    if kind == "llama3":  # long wavelengths grow by `factor`, short ones stay, the ones between are interpolated
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        wavelength = 2 * math.pi / inverse
        keep = ((rope["original_max_position_embeddings"] / wavelength - low) / (high - low)).clamp(0, 1)
        inverse = (1 - keep) * inverse / rope["factor"] + keep * inverse
    angle = position_ids[:, None, :, None].to(real) * inverse
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """x [B, H, T, D]; the pairs are (i, i + D/2)."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def attend(q, k, v, mask, eager):
    """q [B,HK,G,T,D], k and v [B,HK,U,D], mask [B or 1, HK or 1, T, U] -> [B,HK,G,T,D]; 0 for a query without keys."""
    some = mask.any(-1, keepdim=True)
    mask = (mask | ~some)[:, :, None]
    if eager:
        scores = torch.einsum("bhgtd,bhud->bhgtu", q, k).float() * q.shape[-1] ** -0.5
        out = torch.einsum("bhgtu,bhud->bhgtd", scores.masked_fill(~mask, -torch.inf).softmax(-1).to(v.dtype), v)
    else:
        mask = mask.expand(-1, -1, q.shape[2], -1, -1).flatten(2, 3)
        out = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=mask).view_as(q)
    return out * some[:, :, None]


def block_mean(x, block_size):
    """[B,HK,U,D] -> [B,HK,N,D]. The mean of an incomplete last block is never used."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % block_size))
    return x.unflatten(2, (-1, block_size)).float().mean(3).to(x.dtype)


def top_k_mask(importance, count):
    """A bool mask of the `count` highest values in the last dimension; ties to the lower index."""
    order = importance.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(importance, dtype=torch.bool).scatter_(-1, order, True)


@torch.no_grad()
def select_blocks(q, k_mean, position, begin, c):
    """The selected blocks per query, a bool mask [B,HK,T,N]: its own and the most important complete ones of its
    document, block_counts in total. Importance is the softmax of q . mean(k) over the complete blocks, summed over the
    G query heads."""
    first = begin[:, None, :, None] // c.block_size
    block = torch.arange(k_mean.shape[2], device=q.device) - first  # from here on counted from the document's first one
    position = (position - begin)[:, None, :, None]
    own = position // c.block_size
    complete = (0 <= block) & ((block + 1) * c.block_size <= position + 1)
    scores = torch.einsum("bhgtd,bhnd->bhgtn", q.float(), k_mean.float()) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~complete[:, :, None], -torch.inf).softmax(-1)
    importance = weights.nan_to_num(0.0).sum(2)  # NaN: no complete block yet
    importance = importance.masked_fill(block == own, torch.inf).masked_fill((block < 0) | (block > own), -torch.inf)
    if c.selection == "reference" and c.block_counts > c.block_size // 2:
        # The published kernel processes chunks of block_size blocks: it takes the best block_size / 2 of the chunk with
        # the query's own block, and as many of all earlier chunks.
        earlier = block < own // c.block_size * c.block_size
        halves = [top_k_mask(importance.masked_fill(~part, -torch.inf), c.block_size // 2) & part
                  for part in (earlier, ~earlier)]
        chosen = torch.where(own < c.block_size, top_k_mask(importance, c.block_counts), halves[0] | halves[1])
    else:
        chosen = top_k_mask(importance, c.block_counts)
    return chosen & (0 <= block) & (block <= own)


def find_documents(position_ids, seen):
    """A bool mask [B or 1,T] of the first tokens of documents after the first one, or None if there are none. seen:
    None, or bool [B,T], whether attention_mask shows the token."""
    step = position_ids[:, 1:] - position_ids[:, :-1]
    inside = torch.ones_like(step, dtype=torch.bool) if seen is None else seen[:, 1:] & seen[:, :-1]
    if ((step < 1) & (position_ids[:, 1:] != 0) & inside).any():
        raise ValueError("position_ids do not grow from one token to the next, expected 0 where a document begins")
    starts = F.pad((position_ids[:, 1:] == 0) & inside, (1, 0))
    return starts if starts.any() else None


def place_documents(starts, block_size):
    """The place of each token, and of its document's first token, [B or 1,T]: documents begin at multiples of
    block_size. starts: from find_documents."""
    token = torch.arange(starts.shape[1], device=starts.device)
    first = (token * starts).cummax(-1).values
    # Before each document, the places that complete the last block of the one before it.
    tokens = first - F.pad(first, (1, 0))[:, :-1]  # of the document before, at a first token
    shift = (starts * (-tokens % block_size)).cumsum(-1)
    return token + shift, first + shift


class LlamaNSARMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        r = x.float()
        return (r * torch.rsqrt(r.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight.float()).to(x.dtype)


class LlamaNSAAttention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        c = config
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.g_proj = nn.Linear(c.hidden_size, c.num_attention_heads * 3, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def full(self, q, k, v, gates, position, begin):
        """Gated attention of queries at `position` [B or 1, T] over all keys from `begin`, the first of their document,
        up to themselves: [B,HK,G,T,D]."""
        key = torch.arange(k.shape[2], device=q.device)
        causal = (begin[:, None, :, None] <= key) & (key <= position[:, None, :, None])
        return gates[..., 1, None] * attend(q, k, v, causal, self.config._attn_implementation == "eager")

    def sparse(self, q, k, v, gates, position, begin, k_mean, v_mean):
        """The gated sum of the sparse branches for the same queries."""
        c, eager = self.config, self.config._attn_implementation == "eager"
        g_cmp, g_slc, g_swa = gates.unbind(-1)
        position_of_key = torch.arange(k.shape[2], device=q.device)
        at, first = position[:, None, :, None], begin[:, None, :, None]
        causal = (first <= position_of_key) & (position_of_key <= at)
        chosen = select_blocks(q, k_mean, position, begin, c)
        chosen = chosen.repeat_interleave(c.block_size, dim=-1)[..., : k.shape[2]] & causal
        out = g_slc[..., None] * attend(q, k, v, chosen, eager)
        if c.attention_method == "nsa":
            last_of_block = (torch.arange(k_mean.shape[2], device=q.device) + 1) * c.block_size - 1
            complete = (first <= last_of_block) & (last_of_block <= at)
            out = out + g_cmp[..., None] * attend(q, k_mean, v_mean, complete, eager)
            if c.window_size > 0:
                window = causal & (position_of_key > at - c.window_size)
                out = out + g_swa[..., None] * attend(q, k, v, window, eager)
        return out

    def forward(self, x, cos, sin, position, begin, padding, cache, stream, weight):
        """position, begin: of each token and of its document's first one, [B or 1, T]. begin: None = 0; else the tokens
        are the keys. stream: full or sparse, the output passed on. weight: None, or of each token in the alignment
        loss, [B, T] with sum 1; then both outputs are computed. Returns the output, and the alignment loss or None."""
        c = self.config
        heads, groups = c.num_key_value_heads, c.num_attention_heads // c.num_key_value_heads
        q, k, v = (proj(x).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            total = cache.get_seq_length(self.layer_idx) + k.shape[2]
            k, v = cache.update(k, v, self.layer_idx)
            if k.shape[2] != total:
                raise ValueError(f"the cache returned {k.shape[2]} keys for {total} tokens, expected all of them")
        if padding is not None:  # key j of a sequence becomes the j-th token after its padding
            tokens = k.shape[2]
            index = (torch.arange(tokens, device=x.device) + padding).clamp(max=tokens - 1)
            index = index[:, None, :, None].expand_as(k)
            k, v = k.gather(2, index), v.gather(2, index)
        if begin is None:
            begin = torch.zeros_like(position)
        else:
            index = position[:, None, :, None].expand_as(k)
            places = [len(x), heads, int(position.max()) + 1, c.head_dim]
            k, v = k.new_zeros(places).scatter(2, index, k), v.new_zeros(places).scatter(2, index, v)
        q = q.unflatten(1, (heads, groups))
        gates = self.g_proj(x).sigmoid().unflatten(-1, (heads, groups, 3)).permute(0, 2, 3, 1, 4)  # [B,HK,G,T,3]
        means = (block_mean(k, c.block_size), block_mean(v, c.block_size))
        parts = list(zip(q.split(QUERIES_AT_A_TIME, 3), gates.split(QUERIES_AT_A_TIME, 3),
                         position.split(QUERIES_AT_A_TIME, 1), begin.split(QUERIES_AT_A_TIME, 1)))
        outputs = {}
        if stream == "full" or weight is not None:
            outputs["full"] = torch.cat([self.full(q, k, v, *part) for q, *part in parts], dim=3)
        if stream == "sparse" or weight is not None:
            outputs["sparse"] = torch.cat([self.sparse(q, k, v, *part, *means) for q, *part in parts], dim=3)
        alignment = None
        if weight is not None:
            full, sparse = outputs["full"].float(), outputs["sparse"].float()
            loss = (F.smooth_l1_loss(full, sparse.detach(), reduction="none") +
                    F.smooth_l1_loss(full.detach(), sparse, reduction="none"))
            alignment = (loss.mean((1, 2, 4)) * weight).sum()
        return self.o_proj(outputs[stream].permute(0, 3, 1, 2, 4).flatten(2)), alignment


class LlamaNSAMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaNSADecoderLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.input_layernorm = LlamaNSARMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaNSAAttention(config, layer_idx)
        self.post_attention_layernorm = LlamaNSARMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaNSAMLP(config)

    def forward(self, x, *attention_inputs):
        out, alignment = self.self_attn(self.input_layernorm(x), *attention_inputs)
        x = x + out
        return x + self.mlp(self.post_attention_layernorm(x)), alignment


class LlamaNSAPreTrainedModel(PreTrainedModel):
    config_class = LlamaNSAConfig
    base_model_prefix = "model"
    _no_split_modules = ["LlamaNSADecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True  # and eager
    _can_compile_fullgraph = False  # no static cache
    supports_gradient_checkpointing = True

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, LlamaNSARMSNorm):
            nn.init.ones_(module.weight)


class LlamaNSAModel(LlamaNSAPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaNSADecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = LlamaNSARMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.alignment_loss = None  # of the last forward pass, if it computed one
        self.post_init()

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                use_cache=None, output_attentions=None, output_hidden_states=None, return_dict=None, cache=None,
                **unknown):
        """Of attention_mask [B, U] the leading zeros of a sequence are its padding, zeros at its end change nothing,
        and others are refused. position_ids are RoPE's, and by default count from each sequence's first token. Where
        they return to 0, another document begins; no cache is made then."""
        c = self.config
        check_config(c)
        cache = given = check_arguments(self, past_key_values, cache, output_attentions, unknown)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        checkpointing = self.gradient_checkpointing and self.training
        use_cache = c.use_cache and not self.training if use_cache is None else use_cache and not checkpointing
        if isinstance(cache, StaticCache):
            raise ValueError("a static cache is not supported, expected a DynamicCache")
        if use_cache and cache is None:
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        total = past + x.shape[1]
        position, begin, padding, seen = torch.arange(past, total, device=x.device)[None], None, None, None
        if attention_mask is not None:
            if attention_mask.shape != (x.shape[0], total):
                raise ValueError(f"attention_mask is {list(attention_mask.shape)}, expected {[x.shape[0], total]}: a "
                                 "column per token, cached tokens first (a static cache is not supported)")
            seen = attention_mask != 0
            padding = (seen.cumsum(-1) == 0).sum(-1, keepdim=True)
            if (seen[:, 1:] & ~seen[:, :-1]).sum(-1).add(seen[:, 0]).max() > 1:
                raise ValueError("attention_mask hides tokens between others, expected padding on the left")
            position = (position - padding).clamp(min=0)
            padding = padding if padding.any() else None
        cos, sin = rope_cos_sin(c, position if position_ids is None else position_ids)
        starts = None
        if position_ids is not None and x.shape[1] > 1:
            starts = find_documents(position_ids, None if seen is None else seen[:, past:])
        if starts is not None:
            if padding is not None or given is not None:
                raise ValueError("position_ids return to 0: expected no padding on the left and no cache with several "
                                 "documents in a sequence")
            cache = None
            position, begin = place_documents(starts, c.block_size)

        stream, weight = c.inference_mode, None
        if self.training and c.alignment_weight > 0:
            stream = "full" if torch.rand(()).item() < c.full_stream_probability else "sparse"
            weight = torch.ones(x.shape[:2], device=x.device) if seen is None else seen[:, past:].float()
            weight = weight / weight.sum()
        keep = option(output_hidden_states, c, "output_hidden_states")
        hidden_states, alignments = [], []
        for layer in self.layers:
            hidden_states.append(x)
            inputs = (x, cos, sin, position, begin, padding, cache, stream, weight)
            x, alignment = (self._gradient_checkpointing_func(layer.__call__, *inputs) if checkpointing
                            else layer(*inputs))
            alignments.append(alignment)
        x = self.norm(x)
        self.alignment_loss = None if weight is None else torch.stack([a.to(x.device) for a in alignments]).mean()
        output = BaseModelOutputWithPast(last_hidden_state=x, hidden_states=(*hidden_states, x) if keep else None,
                                         **{CACHE: cache})
        return output if option(return_dict, c, "return_dict", "use_return_dict") is not False else output.to_tuple()


class LlamaNSAForCausalLM(LlamaNSAPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    accepts_loss_kwargs = False  # the Trainer averages over accumulated batches itself

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaNSAModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
                labels=None, use_cache=None, output_attentions=None, output_hidden_states=None, return_dict=None,
                logits_to_keep=0, cache=None, **unknown):
        """labels [B, T]: the token itself, or -100 to ignore it; shifted here. The loss is the mean cross entropy; in
        training with config.alignment_weight, plus that weight times the alignment loss."""
        cache = check_arguments(self, past_key_values, cache, output_attentions, unknown)
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, use_cache=use_cache,
                             output_attentions=output_attentions, output_hidden_states=output_hidden_states,
                             return_dict=True, **{CACHE: cache})
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = ce_loss = None
        if labels is not None:
            if logits.shape[1] != labels.shape[1]:
                raise ValueError(f"labels have {labels.shape[1]} tokens, logits {logits.shape[1]}; expected "
                                 "logits_to_keep 0 with labels")
            loss = ce_loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(),
                                             labels[:, 1:].flatten().to(logits.device))
        alignment = self.model.alignment_loss
        if loss is not None and alignment is not None:
            loss = ce_loss + self.config.alignment_weight * alignment
        output = LlamaNSAOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states,
                                ce_loss=None if alignment is None else ce_loss, alignment_loss=alignment,
                                **{CACHE: outputs[CACHE] if CACHE in outputs else None})
        if option(return_dict, self.config, "return_dict", "use_return_dict") is not False:
            return output
        return output.to_tuple()
