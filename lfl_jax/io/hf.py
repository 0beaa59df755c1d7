"""Hugging Face checkpoints of Llama-like models, in and out: config.json and safetensors.

Loading goes tensor by tensor onto the mesh (`io.loading`).
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lfl_jax.core import files, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import DType, Params
from lfl_jax.errors import UserError
from lfl_jax.io import loading, tensor_file
from lfl_jax.io.hf_config import config_fields, model_config, read_fields
from lfl_jax.io.hf_names import NAMES
from lfl_jax.io.loading import Finish, Layout
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.quant import require_dense

# Fields of config.json that generation reads from a file of its own.
GENERATION_FIELDS = ("bos_token_id", "eos_token_id")
# Our field of config.json: the format that the weights were dequantised from.
DEQUANTISED_FROM = "lfl_dequantised_from"
# Buffers that checkpoints hold, in any dtype, although they are computed: rotary tables, masks,
# positions.
BUFFERS = re.compile(r"(.*\.)?(rotary_emb\..*|position_ids|masked_bias|causal_mask|attention_mask)")
# Files of a tied model may hold the embedding a second time, as the head.
LAYOUT = Layout(NAMES, "model.layers.{}.", "config.json", frozenset({NAMES["head"]}))


def read_config(folder: Path, fields: dict[str, Any] | None = None) -> ModelConfig:
    """The dimensions in config.json; UserError for a missing, malformed or non-Llama config.

    A model whose files hold a head of its own is not tied, whatever its config says: transformers
    uses that head, too. fields: what `read_fields` returned, if it was called.
    """
    cfg = model_config(folder / "config.json", read_fields(folder) if fields is None else fields)
    return dataclasses.replace(cfg, tied=False) if cfg.tied and _has_own_head(folder) else cfg


def _has_own_head(folder: Path) -> bool:
    """True if the weights hold an output projection that is not a copy of the embedding."""
    try:
        tensors = tensor_file.open_folder(folder, ignore=BUFFERS)
    except UserError:
        return False  # `load` reports what is wrong with the weights
    head, embed = NAMES["head"], NAMES["embed"]
    return head in tensors and embed in tensors and not tensors.equal(head, embed)


def load(
    folder: Path,
    cfg: ModelConfig,
    rules: Rules,
    dtype: DType,
    finish: Finish = lambda path, leaf, parameter: parameter,
) -> Params:
    """The parameters in this dtype, on the mesh: matrices (in, out), layers stacked.

    finish: see `loading.Finish`. Raises UserError naming the tensor that is missing, has another
    shape, or has no place in the model, before anything is read.
    """
    tensors = tensor_file.open_folder(folder, ignore=BUFFERS)
    return loading.load(folder, tensors, LAYOUT, llama.specs(cfg, dtype), rules, finish)


def save(
    folder: Path,
    params: Params,
    cfg: ModelConfig,
    *,
    dtype: str = "bfloat16",
    shard_bytes: int = 5_000_000_000,
    extra: dict[str, Any] | None = None,
) -> list[str]:
    """Write config.json and safetensors that transformers loads; the names of the weight files.

    dtype: float32, bfloat16 or float16. extra: more fields for config.json. Of these, bos_token_id
    and eos_token_id are what generation starts with and stops at; they also go into
    generation_config.json, which transformers' generate and vLLM read. UserError for quantised
    weights.
    """
    require_dense("save", params)
    # An adapter's own head unties a tied model.
    cfg = dataclasses.replace(cfg, tied="head" not in params)
    names = tensor_file.save(folder, _tensors(params, jnp.dtype(dtype)), shard_bytes=shard_bytes)

    fields = config_fields(cfg) | {"torch_dtype": dtype, "dtype": dtype} | (extra or {})
    files.write_json(folder / "config.json", fields)
    tokens = {name: fields[name] for name in GENERATION_FIELDS if fields.get(name) is not None}
    if tokens:
        files.write_json(folder / "generation_config.json", tokens)
    return names


def _tensors(params: Params, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) in the files' order and orientation, one tensor in host memory at a time."""
    for path, leaf in tree.items(params):
        for i, name in enumerate(LAYOUT.tensor_names(path, leaf.shape[0])):
            tensor = leaf[i].T if path.startswith("layers/") else leaf
            yield name, np.asarray(tensor.astype(dtype))
