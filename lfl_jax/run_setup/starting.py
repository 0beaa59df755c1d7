"""The adapter of a run before its first step: fresh, loaded, or fresh over a frozen first.

`config.adapter.path` is trained further, so the config has to describe what is there.
`config.adapter.over` may be of any form: the run directory keeps a copy of it, from which the tree
of both is made again.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lfl_jax import adapters, assets
from lfl_jax import state as states
from lfl_jax.adapters import second_adapter
from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.adapters.build import require_bound
from lfl_jax.config import AdapterConfig, Config, locations
from lfl_jax.core import hosts, spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Key
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, workdir
from lfl_jax.model import LoadedModel, Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import adapter_formats, base_model, earlier_run, run_length
from lfl_jax.run_setup.described import listed, require_described
from lfl_jax.state import State


@dataclasses.dataclass(frozen=True)
class Start:
    """An adapter before the first step.

    own: the part of it that trains. frozen: patterns of leaves that do not. params: those that came
    with it and train on, by path. provenance: what results record about it; None for a fresh one.
    """

    adapter: dict
    own: dict = dataclasses.field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    provenance: dict[str, str] | None = None

    def begin(self, state: State) -> State:
        """The state of step 0, with the parameters that came with the adapter.

        Until then they are the base's.
        """
        if not self.params:
            return state
        own = state.trainable.params
        values = [
            x
            if path not in self.params
            else jax.device_put(jnp.array(self.params[path], x.dtype), x.sharding)
            for path, x in tree.items(own)
        ]
        params = jax.tree.unflatten(jax.tree.structure(own), values)
        return state.replace(trainable=state.trainable.replace(params=params))


def check(config: Config, folder: Path) -> None:
    """UserError, before anything is loaded, when the adapter to start from is not there."""
    copied = {
        # A run that began has its own copy of what it started from: the original may be gone.
        "path": _has_begun(config, folder),
        "over": (folder / earlier_run.FIRST_ADAPTER).exists(),
    }
    for field, is_here in copied.items():
        path = getattr(config.adapter, field)
        is_name = path.startswith(locations.SHARED) or path.partition("@")[0] in assets.manifest()
        if path and not is_here and not is_name and not Path(path).exists():
            formats = ", ".join(adapter_formats.ADAPTER_FORMATS)
            raise UserError(f"config.adapter.{field}={path}: there is nothing; expected {formats}")
        if path and not is_here and config.adapter.start_config:
            _require_run(Path(path), field, config.adapter.start_config)


def _require_run(start: Path, field: str, config_hash: str) -> None:
    """UserError unless this is the directory of the run of this config, trained to its end."""
    said = f"config.adapter.{field}={start}"
    if not (start / workdir.CONFIG_FILE).exists():
        raise UserError(f"{said} is no run directory, which config.adapter.start_config asks for")
    earlier = earlier_run.read_config(start)
    if earlier.hash() != config_hash:
        raise UserError(
            f"{said} holds the run of config {earlier.hash()}; config.adapter.start_config is"
            f" {config_hash}"
        )
    done, steps = run_length.last_checkpoint(start), earlier.train.steps
    if done < (steps or 1):
        raise UserError(f"{said} has trained {done} of {steps or 'its'} steps; let it end first")


def make(config: Config, base: LoadedModel, rules: Rules, folder: Path) -> Start:
    """The start that the config names, on the mesh.

    folder: of the run, which may have begun already. Raises UserError for an adapter of another
    base, and for one that the config contradicts.
    """
    if config.adapter.over:
        return _over(config, base, rules, folder)
    # Later starts restore a checkpoint, whose adapter needs no more than its shapes.
    if config.adapter.path and not hosts.agree(_has_begun(config, folder)):
        return _further(config, base, rules)
    fresh = _fresh(config, base, rules)
    return Start(fresh, own=fresh)


def _has_begun(config: Config, folder: Path) -> bool:
    """Whether a checkpoint holds all there is to know about the start."""
    return run_length.last_checkpoint(folder) > 0 or bool(config.train.branch_from)


def _fresh(config: Config, base: LoadedModel, rules: Rules) -> dict:
    """A fresh adapter; an empty tree without adapters.

    LoftQ reads the base's files a second time.
    """
    if not config.adapter.kinds:
        return {}
    # Where a run starts is nothing that its own adapter's program depends on.
    alike = dataclasses.replace(config.adapter, path="", over="", start_config="")
    initialise, shardings = _initialiser(base.cfg, alike, rules)
    fresh = initialise(jax.random.key(config.seed.init))
    bound = adapters.bind(fresh, base.model.params, base_model.originals(config, rules))
    return states.put(bound, shardings)


# Kept, so that the runs of one process that have one shape compile it once.
@functools.lru_cache(maxsize=8)
def _initialiser(
    cfg: ModelConfig, adapter: AdapterConfig, rules: Rules
) -> tuple[Callable[[Key], dict], dict]:
    """(key -> fresh adapter, its shardings)."""
    specs = adapters.specs(llama.specs(cfg), adapter)
    shardings = spec.shardings(specs, rules)
    return jax.jit(functools.partial(spec.init, specs), out_shardings=shardings), shardings


def _further(config: Config, base: LoadedModel, rules: Rules) -> Start:
    path = config.adapter.path
    params, loaded = _load(path, base, config)
    specs = adapters.specs(llama.specs(base.cfg), config.adapter) if config.adapter.kinds else {}
    require_described(path, loaded, specs, config)
    brought = tree.changed(params, base.model.params)
    _require_trained(path, brought, base.model.params, config)
    adapter = states.put(
        jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), loaded, specs),
        spec.shardings(specs, rules),
    )
    if adapter:
        require_bound(f"config.adapter.path={path}", adapter, base.model.params)
    about = _about(path, "trained further", {"adapter": loaded, "params": brought})
    return Start(adapter, own=adapter, params=brought, provenance=about)


def _over(config: Config, base: LoadedModel, rules: Rules, folder: Path) -> Start:
    first = _first(config, base, folder)
    own = _fresh(config, base, rules)
    specs = second_adapter.specs_with_first(
        first, adapters.specs(llama.specs(base.cfg), config.adapter)
    )
    # The frozen one first: columns of routing weights, and so records, stay as they were.
    both = states.put(adapters.add(first, own), spec.shardings(specs, rules))
    about = _about(config.adapter.over, "frozen, under the one that trains", {"adapter": first})
    return Start(
        both, own=own, frozen=second_adapter.frozen_patterns(first, both), provenance=about
    )


def _first(config: Config, base: LoadedModel, folder: Path) -> dict:
    """The frozen adapter, from the run's own copy, which is made by its first start."""
    path, copy = config.adapter.over, folder / earlier_run.FIRST_ADAPTER
    if not hosts.agree(copy.exists()):
        earlier = (
            Path(config.train.branch_from) / earlier_run.FIRST_ADAPTER
            if config.train.branch_from
            else None
        )
        params, first = _load(str(earlier or path), base, config)
        brought = tree.changed(params, base.model.params)
        if brought or not layers_of(first):
            raise UserError(
                f"config.adapter.over={path} is not an adapter alone: it has its own"
                f" {listed(brought)}; export it merged (python -m lfl_jax.export --to=hf) and train"
                " over that, config.model.path=EXPORTED"
            )
        require_bound(f"config.adapter.over={path}", first, base.model.params)
        # Every process takes part in bringing the values together; one writes them.
        whole = jax.tree.map(hosts.to_numpy, first)
        if hosts.is_first():
            adapter_file.save(copy, whole, fingerprint=base.origin.fingerprint)
        hosts.agree(None)  # written before another process reads it
    return adapter_file.load(
        copy, base.model.params, fingerprint=base.origin.fingerprint, code=config.adapter.code
    )


def _load(path: str, base: LoadedModel, config: Config) -> tuple[dict, dict]:
    """(params, adapter) at this path.

    A kind of one's own may run if this run's config allows it, whatever the path records.
    """
    # Hashes of this run's record are not those of the files that the other run used.
    code = dataclasses.replace(config.adapter.code, recorded=())
    model = adapter_formats.load(path, base.model.params, code)
    adapter = {name: part for name, part in model.adapter.items() if name in ("layers", "shared")}
    return model.params, adapter


def _about(path: str, use: str, values: dict) -> dict[str, str]:
    return {
        "adapter": assets.origin(path) or path,
        "use": use,
        "fingerprint": tree.fingerprint(values),
    }


def _require_trained(source: str, brought: dict[str, Any], base: dict, config: Config) -> None:
    """UserError for parameters that came with an adapter and would not train.

    No checkpoint would have them.
    """
    # An untied head: training has no leaf to put it into.
    if new := [path for path in brought if path not in tree.paths(base)]:
        raise UserError(
            f"config.adapter.path={source} has its own {listed(new)}, which the base has not (its"
            " head is its embedding); export it merged (python -m lfl_jax.export --to=hf), then"
            " config.model.path=EXPORTED"
        )
    patterns = [pattern for pattern in config.trainable if pattern.startswith("params")]
    mask = states.trainable_mask(Model(params=base, adapter={}), patterns)
    trains = dict(tree.items(mask.params))
    if frozen := [path for path in brought if not trains[path]]:
        # The flag that trains them, too, as a shell takes it; three of them show the form.
        patterns = [*config.trainable, *(f"params/{path}" for path in frozen[:3])]
        also = ",".join(map("'{}'".format, patterns))
        raise UserError(
            f"config.adapter.path={source} has its own {listed(frozen)}, which config.trainable"
            " leaves frozen; train on"
            f' with --config.trainable="({also})"'
        )
