"""Models: parameters with their adapter, and a loaded model with its shape and tokenizer."""

import dataclasses
from typing import Any

from flax import struct

from lfl_jax.core.pytree import Node
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.tokenizers import Tokenizer


# Fields in alphabetical order, as a dict has its keys: fingerprints and the sums of global norms
# go through the leaves in this order.
@struct.dataclass(kw_only=True)
class Model(Node):
    """Parameters and the adapter that is applied to them; {} is no adapter.

    The halves that `tree.split` returns, specs and shardings are of this class, too.
    """

    adapter: AdapterTree
    params: Params


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights of a model came from.

    quantised: formats that rounded the weights ("Q4_1" in their file, "nf4" in memory), or None.
    fingerprint: of the parameters, `tree.fingerprint`.
    """

    source: str
    quantised: str | None
    fingerprint: str

    def provenance(self) -> dict[str, Any]:
        """The record of a result about its base."""
        return {
            "source": self.source,
            "dequantised_from": self.quantised,
            "fingerprint": self.fingerprint,
        }


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model in memory, its shape, its tokenizer and its origin."""

    model: Model
    cfg: ModelConfig
    tokenizer: Tokenizer
    origin: Origin
