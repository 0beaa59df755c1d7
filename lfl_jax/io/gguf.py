"""Weights of Llama-family models from GGUF files, tensor by tensor onto the mesh (`io.loading`)."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import DType, Params
from lfl_jax.io import loading
from lfl_jax.io.gguf_config import ROPE_FACTORS, architecture
from lfl_jax.io.gguf_file import Tensors
from lfl_jax.io.gguf_names import NAMES
from lfl_jax.io.loading import Finish, Layout
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

LAYOUT = Layout(NAMES, "blk.{}.", "the metadata", not_loaded=frozenset({ROPE_FACTORS}))

# llama.cpp rotates rows 2i and 2i + 1 of a head of a "llama" (Mistral's are that, too), and its
# converter reorders these weights for it. Parameter -> the field with its number of heads.
INTERLEAVED_HEADS = {
    "layers/attn/q": "n_heads",
    "layers/attn/k": "n_kv_heads",
    "layers/qkv_bias/q": "n_heads",
    "layers/qkv_bias/k": "n_kv_heads",
}


def load(
    tensors: Tensors,
    cfg: ModelConfig,
    rules: Rules,
    dtype: DType,
    finish: Finish = lambda path, leaf, parameter: parameter,
) -> Params:
    """The parameters in this dtype, on the mesh, q and k in rotate-half order.

    finish: see `loading.Finish`. Raises UserError naming the tensor that is missing, has another
    shape, or has no place in the model.
    """

    def reorder_rows(path: str, tensor: np.ndarray) -> np.ndarray:
        if path not in INTERLEAVED_HEADS:
            return tensor
        return unpermute(tensor, getattr(cfg, INTERLEAVED_HEADS[path]))

    interleaved = architecture(tensors.metadata) == "llama"
    layout = dataclasses.replace(LAYOUT, reorder_rows=reorder_rows) if interleaved else LAYOUT
    return loading.load(Path(tensors.path), tensors, layout, llama.specs(cfg, dtype), rules, finish)


def unpermute(weight: Float[np.ndarray, "O ..."], n_heads: int) -> Float[np.ndarray, "O ..."]:
    """The rows of q or k, or their biases, from llama.cpp's interleaved to rotate-half order."""
    pairs = weight.reshape(n_heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
