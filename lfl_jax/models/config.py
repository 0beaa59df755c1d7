"""What is static about a model: shapes, numerics, recomputation. Hashable, so it can be an argument of jit."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama-family decoder. Sizes in scalars; dropout rates are probabilities, used only where a key is given."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = False
    max_seq_len: int = 4096
    compute_dtype: str = "float32"
    remat: str = "none"
    attention_dropout: float = 0.0
    adapter_dropout: float = 0.0
