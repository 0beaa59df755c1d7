"""What is static about a model: shapes, numerics, recomputation."""

import dataclasses

from lfl_jax.models.rope import RopeScaling


# Frozen and hashable, so that it can be a static argument of jit.
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama-family decoder. Sizes count scalars, heads or layers; rates are probabilities."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int  # fewer than n_heads: grouped-query attention
    head_dim: int
    d_ff: int  # width of the mlp

    # rotary positions
    rope_theta: float = 10000.0  # the base of the wavelengths
    rope_scaling: RopeScaling | None = None  # for longer contexts, see `models.rope`

    # what relatives of Llama add
    qkv_bias: bool = False  # q, k and v add a bias (Qwen2)
    o_bias: bool = False  # attention's output adds one, too (some Llamas)
    mlp_bias: bool = False  # and all weights of the mlp
    qk_norm: bool = False  # every head of q and k is RMS-normalised before rotation (Qwen3)
    window: int | None = None  # a token attends to itself and window - 1 before it (Mistral 0.1)

    norm_eps: float = 1e-5
    tied: bool = False  # the head is the embedding
    max_seq_len: int = 4096  # tokens

    # numerics and memory of a step
    compute_dtype: str = "float32"
    remat: str = "none"  # or "selective", "full": see `llama.REMAT`

    # used only where a key is given, that is in training
    attention_dropout: float = 0.0
    adapter_dropout: float = 0.0

    @property
    def drops(self) -> bool:
        """Whether a training step needs random numbers."""
        return bool(self.adapter_dropout or self.attention_dropout)
