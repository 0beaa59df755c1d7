"""Shapes of known models.

Names are those of `python -m lfl_jax.fetch --list`. What is not said here is ModelConfig's default.
"""

from lfl_jax.models.config import ModelConfig


def lab(width: int, layers: int) -> ModelConfig:
    """A Llama for the lab's 458 words: heads of 32, an MLP of three widths, tied embeddings."""
    heads = width // 32
    return ModelConfig(
        vocab_size=458,
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=32,
        d_ff=3 * width,
        tied=True,
        max_seq_len=256,
    )


# 0.30, 0.91, 2.96 and 9.76 million parameters; their bases are trained here, not fetched
LAB: dict[str, ModelConfig] = {
    "lab-0.3m": lab(64, 5),
    "lab-1m": lab(128, 4),
    "lab-3m": lab(192, 6),
    "lab-10m": lab(384, 5),
}

PRESETS: dict[str, ModelConfig] = {
    **LAB,
    # for tests and first steps: its vocabulary is bytes and special tokens
    "tiny": ModelConfig(
        vocab_size=320,
        d_model=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        d_ff=128,
        tied=True,
        max_seq_len=512,
    ),
    # arXiv 2502.02737
    "smollm2-135m": ModelConfig(
        vocab_size=49152,
        d_model=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        d_ff=1536,
        rope_theta=100000.0,
        tied=True,
        max_seq_len=8192,
    ),
    # arXiv 2401.02385
    "tinyllama-1b": ModelConfig(
        vocab_size=32000,
        d_model=2048,
        n_layers=22,
        n_heads=32,
        n_kv_heads=4,
        head_dim=64,
        d_ff=5632,
        max_seq_len=2048,
    ),
    # arXiv 2307.09288: only 70B has grouped queries
    "llama2-7b": ModelConfig(
        vocab_size=32000,
        d_model=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=32,
        head_dim=128,
        d_ff=11008,
    ),
    "llama2-13b": ModelConfig(
        vocab_size=32000,
        d_model=5120,
        n_layers=40,
        n_heads=40,
        n_kv_heads=40,
        head_dim=128,
        d_ff=13824,
    ),
    "llama2-70b": ModelConfig(
        vocab_size=32000,
        d_model=8192,
        n_layers=80,
        n_heads=64,
        n_kv_heads=8,
        head_dim=128,
        d_ff=28672,
    ),
}
