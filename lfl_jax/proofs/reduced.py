"""A run of a config at reduced size: its data, its model cut, its adapters, its optimizer.

Real weights are cut where they are there and small enough to be read whole; else they are random.
`notes` say what was done in place of what the config asks.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax import adapters, quant
from lfl_jax.config import Config
from lfl_jax.config.own_code import Own
from lfl_jax.core import spec
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.data.loader import training_batches
from lfl_jax.data.streams import MODEL_INPUTS
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError
from lfl_jax.io import hf, pretrained
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.proofs import reduced_config, shape
from lfl_jax.proofs.perturbed import enlarged, moved
from lfl_jax.run_setup import base_model
from lfl_jax.run_setup.shared import Shared
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizer import Tokenizer

# Parameters up to which a real model is read whole to be cut: 2 GB in float32.
LARGEST_READ = 500_000_000


@dataclasses.dataclass(frozen=True)
class ReducedRun:
    """A config as given and reduced, with the model and the data of the reduced one.

    folder: for files, removed at the end. workdir: where the real run would write. dense: the
    parameters in float32, before they are stored as the config says. has_tokenizer: that of the
    config is here. topology: a name such as v5e:4x4 of the machine that the real run is for; "" =
    this one. meshes: waits for `meshes.OnMesh` of several devices. shared: of the training runs.
    """

    full: Config
    config: Config
    folder: Path
    workdir: Path
    cfg: ModelConfig
    dense: Params
    tokenized: TokenizedSource
    has_tokenizer: bool = True
    notes: tuple[str, ...] = ()
    topology: str = ""
    meshes: Callable[[], Sequence[Any]] = list
    shared: Shared = dataclasses.field(default_factory=Shared)

    @functools.cached_property
    def rules(self) -> Rules:
        """One device."""
        return make_rules(devices=jax.devices()[:1])

    @functools.cached_property
    def exact(self) -> ModelConfig:
        """The shape as it is compared to rounding: in float32, without dropout."""
        return dataclasses.replace(
            self.cfg, compute_dtype="float32", adapter_dropout=0.0, attention_dropout=0.0
        )

    @functools.cached_property
    def params(self) -> Params:
        """The parameters as the config stores them; of bfloat16 the values, in float32.

        Rounding is measured by moving the last bits of float32.
        """
        storage = base_model.storage_dtype(self.config)
        if storage in quant.FORMATS:
            return pretrained.stored(self.dense, llama.specs(self.cfg), storage, self.rules)
        return jax.tree.map(lambda x: x.astype(storage).astype(jnp.float32), self.dense)

    @functools.cached_property
    def adapter_specs(self) -> AdapterTree:
        """Specs of the adapter; an empty tree without one."""
        if not self.config.adapter.kinds:
            return {}
        return adapters.specs(llama.specs(self.cfg), self.config.adapter)

    @functools.cached_property
    def fresh(self) -> AdapterTree:
        """The adapter of step 0; an empty tree without one."""
        if not self.adapter_specs:
            return {}
        key = jax.random.key(self.config.seed.init)
        return adapters.init(self.adapter_specs, self.params, key, self.dense)

    @functools.cached_property
    def trained(self) -> Model:
        """The model with an adapter that was moved away from its start."""
        adapter = moved(self.fresh, seed=1) if self.fresh else {}
        return Model(params=self.params, adapter=adapter)

    @functools.cached_property
    def batch(self) -> dict[str, np.ndarray]:
        """The first (B, T) batch of the run."""
        rows = self.config.train.batch
        batches = training_batches(self.tokenized, batch=rows, seed=self.config.seed.data)
        try:
            batch = next(batches)
        finally:
            batches.close()
        return {name: np.asarray(batch[name]) for name in MODEL_INPUTS}


def prepare(
    config: Config, folder: Path, workdir: Path | None = None, topology: str = ""
) -> ReducedRun:
    """The reduced run of a config; UserError for what is wrong with the config itself."""
    base_model.check(config)
    notes: list[str] = []
    tokenizer, has_own = _tokenizer(config, notes)
    whole = base_model.shape(config)
    vocabulary = whole.vocab_size if has_own else tokenizer.vocab_size
    cfg = base_model.numerics(shape.reduced(whole, vocabulary), config)
    real = _real_weights(config, cfg, has_own, notes)
    small = reduced_config.of(config, whole, cfg, has_own, notes)
    small = _with_model(small, config, cfg, real, tokenizer, folder)
    source = reduced_config.open_source(small, notes)
    small = dataclasses.replace(small, data=source.data)
    dense = enlarged(_random(cfg, config.seed.init)) if real is None else real
    tokenized = TokenizedSource(source.source, base_model.tokenizer(small), small.data)
    return ReducedRun(
        config,
        small,
        folder,
        workdir or Path.cwd(),
        base_model.numerics(cfg, small),
        dense,
        tokenized,
        has_own,
        tuple(notes),
        topology,
    )


def _tokenizer(config: Config, notes: list[str]) -> tuple[Tokenizer, bool]:
    """(the config's tokenizer, True), or bytes in its place and False."""
    try:
        return base_model.tokenizer(config), True
    except UserError as error:
        # What the person named is a mistake where it is not there; what is to be fetched is not.
        if config.model.path or config.model.tokenizer:
            raise
        notes.append(f"tokens are bytes, the tokenizer is not here ({_first_line(error)})")
        return tokenizers.byte_tokenizer(), False


def _real_weights(
    config: Config, cfg: ModelConfig, has_tokenizer: bool, notes: list[str]
) -> Params | None:
    """The real weights, cut; None where they are not there, too large, or random anyway."""
    if config.model.init == "random":
        return None
    count = spec.count(llama.specs(base_model.shape(config)))
    if count > LARGEST_READ or not has_tokenizer:
        why = "too large to be read for it" if has_tokenizer else "not here"
        notes.append(f"weights are random: the real ones are {why}")
        return None
    try:
        plain = dataclasses.replace(config.model, base_dtype="float32")
        one = make_rules(devices=jax.devices()[:1])
        loaded = base_model.load(dataclasses.replace(config, model=plain), one, trains=False)
    except UserError as error:
        notes.append(f"weights are random: the real ones are not here ({_first_line(error)})")
        return None
    notes.append("weights are the first rows and columns of the real ones")
    return shape.cut(loaded.model.params, cfg)


def _with_model(
    small: Config,
    config: Config,
    cfg: ModelConfig,
    real: Params | None,
    tokenizer: Tokenizer,
    folder: Path,
) -> Config:
    """The config over the cut weights, in a folder of their own, or over random ones."""
    model = small.model
    if real is None:
        # The tokenizer by its own name or path: random weights come without one.
        named = model.tokenizer or (model.path or model.name if tokenizer.files() else "")
        changed = dataclasses.replace(model, init="random", path="", tokenizer=named)
        return dataclasses.replace(small, model=changed).with_own(Own(model=cfg))
    base = folder / "base"
    base.mkdir()
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    hf.save(base, real, cfg, dtype="float32", extra=ends)
    for name, content in base_model.tokenizer(config).files().items():
        (base / name).write_bytes(content)
    changed = dataclasses.replace(model, path=str(base))
    return dataclasses.replace(small, model=changed)


def _random(cfg: ModelConfig, seed: int) -> Params:
    return jax.jit(functools.partial(spec.init, llama.specs(cfg)))(jax.random.key(seed))


def _first_line(error: UserError) -> str:
    return str(error).splitlines()[0]
