"""What a run trains and what stays frozen, as specs: shapes, dtypes and axes without an array."""

import dataclasses

import jax
import jax.numpy as jnp

from lfl_jax import adapters, quant
from lfl_jax import state as states
from lfl_jax.config import Config
from lfl_jax.core import spec, tree
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import PyTree
from lfl_jax.io import pretrained
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import base_model


def halves(config: Config, cfg: ModelConfig) -> tuple[Model, Model]:
    """Specs of what trains and of what stays frozen, as stored, of a model of this shape.

    Raises UserError for what is wrong with the adapter or with the patterns of what trains.
    """
    storage = base_model.storage_dtype(config)
    params = llama.specs(cfg, pretrained.dense_dtype(storage, cfg))
    adapter = adapters.specs(llama.specs(cfg), config.adapter) if config.adapter.kinds else {}
    # The mask is of arrays, and a spec is one leaf of it as its array will be.
    model = Model(params=params, adapter=adapter)
    mask = states.trainable_mask(model, config.trainable)
    trainable, frozen = tree.split(model, mask)
    return trainable, frozen.replace(params=_stored(frozen.params, storage))


def _stored(params: PyTree, storage: str) -> PyTree:
    """Specs of parameters as they are stored: linear weights may be quantised."""
    if storage not in quant.FORMATS:
        return params

    def leaf(path: tree.KeyPath, weight: ArraySpec) -> PyTree:
        is_quantised = pretrained.is_linear(tree.name(path))
        return quant.FORMATS[storage].specs(weight) if is_quantised else weight

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=spec.is_spec)


def in_float32(specs: PyTree) -> PyTree:
    """What trains is held in float32, as `state.create` does."""
    return spec.tree_map(lambda s: dataclasses.replace(s, dtype=jnp.float32), specs)
