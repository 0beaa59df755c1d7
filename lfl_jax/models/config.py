"""What is static about a model: shapes, numerics, recomputation. Hashable, so it can be an argument
of jit."""

import dataclasses

from lfl_jax.models.rope import RopeScaling


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama-family decoder. Sizes in scalars; dropout rates are probabilities, used only where a
    key is given.

    qkv_bias: q, k and v add a bias (Qwen2); o_bias, mlp_bias: the output of attention, and all of
    the mlp, too (some
    Llamas). qk_norm: every head of q and k is RMS-normalised before rotation (Qwen3). window: a
    token sees itself and the window - 1 tokens before it (Mistral 0.1); None is all. rope_scaling:
    see `models.rope`.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    norm_eps: float = 1e-5
    tied: bool = False
    max_seq_len: int = 4096
    compute_dtype: str = "float32"
    remat: str = "none"
    attention_dropout: float = 0.0
    adapter_dropout: float = 0.0
