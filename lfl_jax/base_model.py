"""The base model of a run: its parameters on the mesh, its shape, its tokenizer, and where it all came from."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax import adapters, assets
from lfl_jax import state as states
from lfl_jax.config import Config
from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.errors import UserError
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import PRESETS
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Base:
    """Parameters and what belongs to them. quantised: the format weights were dequantised from ("Q4_1"), or None."""

    params: Any
    cfg: ModelConfig
    tokenizer: Tokenizer
    source: str
    quantised: str | None
    fingerprint: str

    def provenance(self) -> dict[str, Any]:
        """What every result records about its base."""
        return {"source": self.source, "dequantised_from": self.quantised, "fingerprint": self.fingerprint}


def check(config: Config) -> None:
    """Raise UserError, before any loading, for unknown models and kinds, and for names or patterns without a match."""
    if config.model.name not in PRESETS:
        raise UserError(f"config.model.name={config.model.name!r} is unknown; there are: {', '.join(PRESETS)}")
    if config.model.path:
        return  # its shape is known when it is read
    params = llama.specs(PRESETS[config.model.name])
    adapter = adapters.specs(params, config.adapter) if config.adapter.kinds else {}
    states.trainable_mask({"params": params, "adapter": adapter}, config.trainable)


def load(config: Config, rules: Rules) -> Base:
    """The base that config.model names. What trains is held in float32, a frozen base in config.model.base_dtype.

    Raises UserError for weights that are not fetched (with the command), or damaged.
    """
    trains = any(pattern.startswith("params") for pattern in config.trainable)
    dtype = jnp.dtype("float32" if trains else config.model.base_dtype)
    loaded = (_random if config.model.init == "random" else _pretrained)(config, rules, dtype)
    params, cfg, tokenizer, source, quantised = loaded
    return Base(params, cfg, tokenizer, source, quantised, tree.fingerprint(params))


def _numerics(cfg: ModelConfig, config: Config) -> ModelConfig:
    model = config.model
    return dataclasses.replace(
        cfg,
        compute_dtype=model.compute_dtype,
        remat=model.remat,
        attention_dropout=model.attention_dropout,
        adapter_dropout=config.adapter.dropout,
    )


def _random(config: Config, rules: Rules, dtype: Any) -> tuple[Any, ...]:
    cfg = _numerics(PRESETS[config.model.name], config)
    specs = llama.specs(cfg, dtype)
    build = jax.jit(functools.partial(spec.init, specs), out_shardings=spec.shardings(specs, rules))
    params = build(jax.random.key(config.seed.init))
    return params, cfg, tokenizers.byte_tokenizer(), f"random weights, seed {config.seed.init}", None


def _pretrained(config: Config, rules: Rules, dtype: Any) -> tuple[Any, ...]:
    from lfl_jax.io import gguf

    path = weights_path(config)
    metadata, tensors = gguf.load(path)
    cfg = _numerics(ModelConfig(**gguf.model_fields(metadata)), config)
    shardings = spec.shardings(llama.specs(cfg), rules)
    params = gguf.to_params(metadata, tensors)
    params = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x, dtype), s), params, shardings)
    return params, cfg, tokenizers.from_gguf(path), str(path), gguf.quantization(metadata)


def _weights_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise UserError(f"{folder} has no single .gguf file; give one with --config.model.path=FILE.gguf")
    return found[0]


def weights_path(config: Config) -> Path:
    """The weights file a pretrained config reads; UserError when it is missing."""
    return Path(config.model.path) if config.model.path else _weights_file(assets.path(config.model.name))


def tokenizer(config: Config) -> Tokenizer:
    """The tokenizer of the base, without loading its weights."""
    if config.model.init == "random":
        return tokenizers.byte_tokenizer()
    return tokenizers.from_gguf(weights_path(config))
