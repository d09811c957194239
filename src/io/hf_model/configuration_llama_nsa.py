"""Configuration of LLaMA with full attention, MoBA, NSA or SSA (Sparse Sparse Attention, arXiv 2511.20102)."""
from transformers import PretrainedConfig


class LlamaNSAConfig(PretrainedConfig):
    """The keys of a LLaMA config.json, with LlamaConfig's defaults, and the following. All can be changed on a loaded
    model (model.config.KEY):

    attention_method  the method the model was trained with; modeling_llama_nsa.py lists them
    inference_mode    sparse: each token attends to its selected blocks; full: to all tokens up to itself, where the
                      method has full attention
    block_size        tokens per block
    block_counts      blocks a token attends to, including its own
    window_size       tokens in the sliding window of methods that have one; 0 = no window branch
    selection         exact, or reference: the top-k of the kernel that trained the published checkpoints
    alignment_weight  0: the loss is the cross entropy. Above 0, method ssa in training mode: both outputs are computed,
                      and the alignment loss times this weight is added (10 in the paper)
    full_stream_probability  probability that such a forward pass passes the output of full attention on
    rope_scaling      null, or Llama 3's: rope_type llama3, factor, low_freq_factor, high_freq_factor,
                      original_max_position_embeddings
    """

    model_type = "llama-nsa"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # transformers 5.24 renamed the first
    rope_parameters = None  # transformers 5 stores rope_theta and rope_scaling here

    def __init__(self, vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                 num_attention_heads=32, num_key_value_heads=None, head_dim=None, max_position_embeddings=2048,
                 rms_norm_eps=1e-6, rope_theta=10000.0, rope_scaling=None, initializer_range=0.02, use_cache=True,
                 tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=None,
                 attention_method="ssa", inference_mode="sparse", block_size=16, block_counts=16, window_size=0,
                 selection="exact", alignment_weight=0.0, full_stream_probability=0.5, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.attention_method = attention_method
        self.inference_mode = inference_mode
        self.block_size = block_size
        self.block_counts = block_counts
        self.window_size = window_size
        self.selection = selection
        self.alignment_weight = alignment_weight
        self.full_stream_probability = full_stream_probability
        super().__init__(tie_word_embeddings=tie_word_embeddings, bos_token_id=bos_token_id, eos_token_id=eos_token_id,
                         pad_token_id=pad_token_id, rope_theta=rope_theta, rope_scaling=rope_scaling, **kwargs)
