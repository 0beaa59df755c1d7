"""The base model of a run: parameters on the mesh, shape, tokenizer, and their origin."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax

from lfl_jax import adapters, assets, quant
from lfl_jax import state as states
from lfl_jax.config import Config, locations, own_code
from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Key, Params
from lfl_jax.data.formatting import with_end_token
from lfl_jax.errors import UserError
from lfl_jax.io import pretrained
from lfl_jax.io.pretrained import Pretrained
from lfl_jax.model import LoadedModel, Model, Origin
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import LAB, PRESETS
from lfl_jax.run_setup import lab_folder
from lfl_jax.run_setup.shared import Shared
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizers import Tokenizer

# names of config.model.tokenizer that need no file
OWN_TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {"lab-words": lab_folder.tokenizer}


def check(config: Config) -> None:
    """UserError, before any loading, for unknown models and kinds, and unmatched patterns."""
    # Specs only: every name and pattern is tried without an array.
    params = llama.specs(shape(config))
    adapter = adapters.specs(params, config.adapter) if config.adapter.kinds else {}
    states.trainable_mask(Model(params=params, adapter=adapter), config.trainable)


def shape(config: Config) -> ModelConfig:
    """The model's shape, from its files where a path is given, else by its name."""
    if config.model.path:
        return _files(config).cfg
    if own_code.is_place(config.model.name):
        return own_code.find(
            config.model.code, "model.name", config.model.name, lambda x: isinstance(x, ModelConfig)
        )
    if config.model.name not in PRESETS:
        raise UserError(
            f"config.model.name={config.model.name!r} is unknown; there are: {', '.join(PRESETS)};"
            " or give a folder or file with --config.model.path, or a shape of your own as"
            " FILE.py:NAME"
        )
    return PRESETS[config.model.name]


def load(
    config: Config, rules: Rules, shared: Shared | None = None, *, trains: bool = True
) -> LoadedModel:
    """The base that config.model names.

    What trains is stored in float32, a frozen base in config.model.base_dtype. shared: where
    another run may have loaded it; a run that trains parameters of the base takes it from there, as
    its first step donates them. trains: False for whoever only reads the base of such a run. Raises
    UserError for weights that are not fetched (with the command), or damaged.
    """
    shared, key = shared or Shared(), _weights_key(config, rules)
    # One, since a large base fills the memory.
    read = shared.part("base", key, functools.partial(_read, config, rules), most=1)
    if trains and _trains_parameters(config):
        shared.give_away("base", key)
    # What a run computes in is its own.
    cfg = numerics(read.cfg, config)
    return LoadedModel(read.model, cfg, tokenizer(config, shared), read.origin)


@dataclasses.dataclass(frozen=True)
class _Weights:
    """A base without what runs compute in."""

    model: Model
    cfg: ModelConfig
    origin: Origin


def _read(config: Config, rules: Rules) -> _Weights:
    stored = storage_dtype(config)
    if config.model.init == "random":
        cfg = numerics(shape(config), config)
        params = random_params(cfg, config.seed.init, rules, stored)
        # `rounded`: a format that the weights were in before, and whose error they still have.
        source, rounded = f"random weights, seed {config.seed.init}", None
    else:
        files = _files(config)
        cfg = numerics(files.cfg, config)
        params = files.load(cfg, rules, stored)
        source, rounded = assets.origin(config.model.path) or str(files.path), files.quantised
    formats = ", ".join(filter(None, (rounded, stored if stored in quant.FORMATS else None)))
    origin = Origin(source, formats or None, tree.fingerprint(params))
    return _Weights(Model(params=params, adapter={}), cfg, origin)


def _weights_key(config: Config, rules: Rules) -> tuple[object, ...]:
    """Everything that the arrays of a base depend on."""
    model = config.model
    # The lab's base is of a world.
    named = (model.name, model.path, model.init, repr(model.code), config.data.world)
    seed = config.seed.init if model.init == "random" else None
    return (*named, seed, storage_dtype(config), model.compute_dtype, rules)


def storage_dtype(config: Config) -> str:
    """What the base is stored in: float32 where it trains."""
    # The optimizer needs float32 masters; a frozen base is only read.
    return "float32" if _trains_parameters(config) else config.model.base_dtype


def _trains_parameters(config: Config) -> bool:
    return any(pattern.startswith("params") for pattern in config.trainable)


def untrained_params(config: Config, rules: Rules, frozen: Params) -> Params:
    """The base's parameters of a run that trains some: `frozen` with the others as they were.

    Those are read from the base's files once more, since training donates them to its first step.
    """
    return tree.combine(frozen, load(config, rules).model.params)


def originals(config: Config, rules: Rules) -> dict | None:
    """The parameters before they were quantised; None if no kind of adapter reads them."""
    if not any(kind.reads_original for kind in adapters.find_kinds(config.adapter)):
        return None
    # In the compute dtype: LoftQ approximates what training would otherwise compute with.
    model = dataclasses.replace(config.model, base_dtype=config.model.compute_dtype)
    return load(dataclasses.replace(config, model=model), rules).model.params


def numerics(cfg: ModelConfig, config: Config) -> ModelConfig:
    """The shape, computed as the config says."""
    model = config.model
    return dataclasses.replace(
        cfg,
        compute_dtype=model.compute_dtype,
        remat=model.remat,
        attention_dropout=model.attention_dropout,
        adapter_dropout=config.adapter.dropout,
    )


def random_params(cfg: ModelConfig, seed: int, rules: Rules, storage_dtype: str) -> dict:
    """Fresh parameters in a dtype, or with their linear weights in a format of quant.FORMATS."""
    specs, build = _builder(cfg, storage_dtype, rules)
    return pretrained.stored(build(jax.random.key(seed)), specs, storage_dtype, rules)


# Kept, so that the runs of one process that have one shape compile it once.
@functools.lru_cache(maxsize=4)
def _builder(
    cfg: ModelConfig, storage_dtype: str, rules: Rules
) -> tuple[dict, Callable[[Key], dict]]:
    """(specs, key -> random parameters in the dtype that they are drawn in)."""
    specs = llama.specs(cfg, pretrained.dense_dtype(storage_dtype, cfg))
    # Drawn on the devices, already sharded: no host has to have all of a large model.
    shardings = spec.shardings(specs, rules)
    return specs, jax.jit(functools.partial(spec.init, specs), out_shardings=shardings)


def _files(config: Config) -> Pretrained:
    """The weights' files.

    UserError with the fetch command, or the field that names them, when they are missing.
    """
    path = config.model.path
    if path and not path.startswith(locations.SHARED) and not Path(path).exists():
        raise UserError(
            f"{path}: no such model; name where it is now with --config.model.path=PATH"
        )
    # A shape from a file has no weights anywhere.
    if not path and own_code.is_place(config.model.name):
        raise UserError(
            f"config.model.name={config.model.name} is a shape without weights: set"
            " config.model.init=random, or name weights with config.model.path"
        )
    if not path and config.model.name in LAB:
        return pretrained.open_model(lab_folder.existing(config))
    return pretrained.open_model(Path(path) if path else assets.path(config.model.name))


def tokenizer(config: Config, shared: Shared | None = None) -> Tokenizer:
    """The tokenizer of the base, or the one that config.model.tokenizer names.

    Its EOS is config.data.end_token. No weights are loaded for it. shared: as of `load`.
    """
    read = functools.partial(_own_tokenizer, config)
    own = (shared or Shared()).part("tokenizer", tokenizer_key(config), read)
    return with_end_token(own, config.data.end_token)


def tokenizer_key(config: Config) -> tuple[object, ...]:
    """Everything that the tokenizer of a run depends on, but config.data."""
    model = config.model
    return (model.name, model.path, model.init, model.tokenizer, repr(model.code))


def _own_tokenizer(config: Config) -> Tokenizer:
    if config.model.tokenizer in OWN_TOKENIZERS:
        return OWN_TOKENIZERS[config.model.tokenizer]()
    if config.model.tokenizer:
        return pretrained.open_tokenizer(config.model.tokenizer, shape(config))
    return (
        # Random weights have read no text: bytes need no file, and every text has them.
        tokenizers.byte_tokenizer() if config.model.init == "random" else _files(config).tokenizer()
    )
