"""What a run's adapter is before the first step: fresh, that of an earlier run or file, or fresh
over a frozen first.

`config.adapter.path` is trained further, so the config has to describe what is there.
`config.adapter.over` may be of
any form: the run directory keeps a copy of it, from which the tree of both is made again.
"""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lfl_jax import adapters, assets
from lfl_jax import state as states
from lfl_jax.adapters import second_adapter
from lfl_jax.adapters.adapter_tree import constant_mask, layers_of, named_layers
from lfl_jax.adapters.build import KINDS, require_bound
from lfl_jax.adapters.mix import members
from lfl_jax.config import AdapterConfig, Config, locations
from lfl_jax.core import hosts, spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file
from lfl_jax.model import LoadedModel, Model
from lfl_jax.models import llama
from lfl_jax.run_setup import adapter_formats, base_model, earlier_run, run_length
from lfl_jax.state import State


@dataclasses.dataclass(frozen=True)
class Start:
    """An adapter before the first step.

    own: the part of it that trains. frozen: patterns of leaves that do not. params: those that came
    with it and train
    on, by path. provenance: what results record about it; None for a fresh one.
    """

    adapter: dict
    own: dict = dataclasses.field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    provenance: dict[str, str] | None = None

    def begin(self, state: State) -> State:
        """The state of step 0 with the parameters that came with the adapter; until then it is the
        base's."""
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
        "path": _has_begun(config, folder),
        "over": (folder / earlier_run.FIRST_ADAPTER).exists(),
    }
    for field, is_here in copied.items():
        path = getattr(config.adapter, field)
        is_name = path.startswith(locations.SHARED) or path.partition("@")[0] in assets.manifest()
        if path and not is_here and not is_name and not Path(path).exists():
            formats = ", ".join(adapter_formats.ADAPTER_FORMATS)
            raise UserError(f"config.adapter.{field}={path}: there is nothing; expected {formats}")


def make(config: Config, base: LoadedModel, rules: Rules, folder: Path) -> Start:
    """The start that the config names, on the mesh. `folder`: of the run, which may have begun
    already.

    Raises UserError for an adapter of another base, and for one that the config contradicts.
    """
    if config.adapter.over:
        return _over(config, base, rules, folder)
    if config.adapter.path and not hosts.agree(_has_begun(config, folder)):
        return _further(config, base, rules)
    fresh = _fresh(config, base, rules)
    return Start(fresh, own=fresh)


def _has_begun(config: Config, folder: Path) -> bool:
    """Whether a checkpoint holds all there is to know about the start."""
    return run_length.last_checkpoint(folder) > 0 or bool(config.train.branch_from)


def _fresh(config: Config, base: LoadedModel, rules: Rules) -> dict:
    """A fresh adapter; an empty tree without adapters. LoftQ reads the base's files a second
    time."""
    if not config.adapter.kinds:
        return {}
    specs = adapters.specs(llama.specs(base.cfg), config.adapter)
    shardings = spec.shardings(specs, rules)
    fresh = _initial(specs, shardings, config.seed.init)
    bound = adapters.bind(fresh, base.model.params, base_model.originals(config, rules))
    return states.put(bound, shardings)


def _initial(specs: dict, shardings: dict, seed: int) -> dict:
    return jax.jit(lambda key: spec.init(specs, key), out_shardings=shardings)(jax.random.key(seed))


def _further(config: Config, base: LoadedModel, rules: Rules) -> Start:
    path = config.adapter.path
    params, loaded = _load(path, base, config)
    specs = adapters.specs(llama.specs(base.cfg), config.adapter) if config.adapter.kinds else {}
    _require_described(path, loaded, specs, config)
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
                f" {_named(brought)}; export it"
                " merged (python -m lfl_jax.export --to=hf) and train over that,"
                " config.model.path=EXPORTED"
            )
        require_bound(f"config.adapter.over={path}", first, base.model.params)
        whole = jax.tree.map(hosts.to_numpy, first)
        if hosts.is_first():
            adapter_file.save(copy, whole, fingerprint=base.origin.fingerprint)
        hosts.agree(None)  # written before another process reads it
    return adapter_file.load(
        copy, base.model.params, fingerprint=base.origin.fingerprint, code=config.adapter.code
    )


def _load(path: str, base: LoadedModel, config: Config) -> tuple[dict, dict]:
    """(params, adapter) at this path; what may run for a kind of one's own is what this run's
    config allows."""
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
    """UserError for parameters that came with an adapter and would not train: no checkpoint would
    hold them."""
    if new := [path for path in brought if path not in tree.paths(base)]:
        raise UserError(
            f"config.adapter.path={source} has its own {_named(new)}, which the base has not (its"
            " head is its"
            " embedding); export it merged (python -m lfl_jax.export --to=hf), then"
            " config.model.path=EXPORTED"
        )
    mask = states.trainable_mask(
        Model(params=base, adapter={}), [p for p in config.trainable if p[:6] == "params"]
    )
    trains = dict(tree.items(mask.params))
    if frozen := [path for path in brought if not trains[path]]:
        also = ",".join(
            f"'{pattern}'"
            for pattern in (*config.trainable, *(f"params/{path}" for path in frozen[:3]))
        )
        raise UserError(
            f"config.adapter.path={source} has its own {_named(frozen)}, which config.trainable"
            " leaves frozen; train on"
            f' with --config.trainable="({also})"'
        )


def _named(paths: Collection[str]) -> str:
    names = ", ".join(list(paths)[:3])
    return f"{names} ({len(paths)} in all)" if len(paths) > 3 else names or "nothing"


def _require_described(path: str, adapter: dict, specs: dict, config: Config) -> None:
    """UserError unless the config describes this adapter: a config says what trains."""
    differing = _differences(adapter, specs)
    if not differing:
        return
    if not layers_of(adapter):
        raise UserError(
            f"config.adapter.path={path} is a model whose parameters trained, without an adapter;"
            " train it further"
            " with :full, or export it merged (python -m lfl_jax.export --to=hf) and set"
            " config.model.path=EXPORTED"
        )
    root = config.adapter.scaling == "alpha/sqrt(rank)"
    holds, asked = (
        _form(adapter, root),
        _form(jax.tree.map(_value, specs, is_leaf=spec.is_spec), root),
    )
    flags = holds.flags(asked)
    advice = f"set {' '.join(flags)}" if flags else f"they differ at {_named(differing)}"
    raise UserError(
        f"config.adapter.path={path} holds {holds}; the config asks for {asked}: {advice}"
    )


def _differences(adapter: dict, specs: dict) -> list[str]:
    """Paths of leaves of another shape, of factors of another value, and of leaves on one side
    only."""
    ours, theirs = dict(tree.items(specs, spec.is_spec)), dict(tree.items(adapter))
    never_trains = dict(tree.items(constant_mask(specs)))
    differing = [
        path
        for path in ours | theirs
        if not _agree(theirs.get(path), ours.get(path), never_trains.get(path, False))
    ]
    if not differing and jax.tree.structure(adapter) != jax.tree.structure(specs):
        # kinds with leaves of one name
        return [path for path, layer in named_layers(adapter) if layer is not None]
    return differing


def _agree(x: ArrayLike | None, s: ArraySpec | None, never_trains: bool) -> bool:
    """Whether an array is one of this spec: a constant that the spec states has its value."""
    if x is None or s is None or x.shape != s.shape:
        return False
    # alpha, ranks and targets decide these constants; others are read off the base
    stated = never_trains and isinstance(s.init, spec.Constant)
    return not stated or bool(np.allclose(x, s.init.value))


def _value(s: ArraySpec) -> np.ndarray:
    """A factor's initial value; of other leaves only the shape matters."""
    return (
        np.asarray(s.init(jax.random.key(0), s.shape, s.dtype))
        if len(s.shape) == 2
        else np.zeros(s.shape, s.dtype)
    )


@dataclasses.dataclass(frozen=True)
class _Form:
    """An adapter in a config's words; rank and alpha are None where they differ by weight, or a
    kind has none."""

    kind: str
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]

    def __str__(self) -> str:
        size = "" if self.rank is None else f" of rank {self.rank}"
        size += "" if self.alpha is None else f", alpha {self.alpha:g},"
        return f"{self.kind}{size} at {', '.join(self.targets)}" if self.targets else "no adapter"

    def flags(self, other: "_Form") -> list[str]:
        """What to say on the command line to get this in place of the other."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        changed = {
            name: x
            for name, x in mine.items()
            if x != theirs[name] and x is not None and self.targets
        }
        return [f"--config.adapter.{name}={_written(x)}" for name, x in changed.items()]


def _written(value: str | int | float | tuple[str, ...]) -> str:
    """A value as a shell takes it."""
    return (
        f'"{value}"'
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _form(adapter: dict, root: bool) -> _Form:
    """root: whether alpha is divided by the root of the rank."""
    names = {kind: name for name, kind in KINDS.items()}
    layers = named_layers(adapter) if adapter else []
    kinds = [
        "+".join(names.get(type(m), type(m).__name__) for m in members(layer))
        for _, layer in layers
    ]
    scales = [
        np.asarray(m.scale) for _, layer in layers for m in members(layer) if hasattr(m, "scale")
    ]
    sizes = {
        (int(np.count_nonzero(row)), float(row.max(initial=0))) for scale in scales for row in scale
    }
    rank, scale = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    alpha = None if rank is None else scale * (math.sqrt(rank) if root else rank)
    modules = {path.split("/")[-1] for path, _ in layers}
    targets = tuple(name for name in AdapterConfig().targets if name in modules)
    return _Form("+".join(dict.fromkeys(kinds)), rank, alpha, targets)
