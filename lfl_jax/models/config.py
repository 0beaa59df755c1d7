"""What is static about a model: shapes, numerics, recomputation. Hashable, so it can be an argument of jit."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Rotary frequencies stretched for longer contexts, as Llama 3.1 does (arXiv 2407.21783, §3.4.1 and its code).

    Wavelengths over original_length / low_frequency are multiplied by factor, those under original_length /
    high_frequency kept, those between interpolated.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    original_length: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama-family decoder. Sizes in scalars; dropout rates are probabilities, used only where a key is given.

    qkv_bias: q, k and v add a bias (Qwen2). qk_norm: every head of q and k is RMS-normalised before rotation (Qwen3).
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10000.0
    rope_scaling: Llama3Rope | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-5
    tied: bool = False
    max_seq_len: int = 4096
    compute_dtype: str = "float32"
    remat: str = "none"
    attention_dropout: float = 0.0
    adapter_dropout: float = 0.0
