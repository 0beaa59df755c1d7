"""Does the config describe the adapter that it starts from? If not: how they differ, as flags."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator

import jax
import numpy as np
from jax.typing import ArrayLike

from lfl_jax.adapters.adapter_tree import constant_mask, layers_of, named_layers
from lfl_jax.adapters.build import KINDS
from lfl_jax.adapters.mix import AdapterLayer, members
from lfl_jax.config import AdapterConfig, Config
from lfl_jax.core import spec, tree
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import AdapterTree
from lfl_jax.errors import UserError


def require_described(path: str, adapter: AdapterTree, specs: AdapterTree, config: Config) -> None:
    """UserError unless the config describes this adapter: a config says what trains."""
    differing = _differences(adapter, specs)
    if not differing:
        return
    if not layers_of(adapter):
        raise UserError(
            f"config.adapter.path={path} is a model whose parameters trained, without an adapter;"
            " train it further with :full, or export it merged (python -m lfl_jax.export --to=hf)"
            " and set config.model.path=EXPORTED"
        )
    root = config.adapter.scaling == "alpha/sqrt(rank)"
    # A spec's constants hold its ranks and scales, so it has a form like an adapter's.
    described = jax.tree.map(_value, specs, is_leaf=spec.is_spec)
    loaded, asked_for = _form(adapter, root), _form(described, root)
    flags = loaded.flags(asked_for)
    advice = f"set {' '.join(flags)}" if flags else f"they differ at {listed(differing)}"
    raise UserError(
        f"config.adapter.path={path} holds {loaded}; the config asks for {asked_for}: {advice}"
    )


def _differences(adapter: AdapterTree, specs: AdapterTree) -> list[str]:
    """Paths of leaves that differ in shape, in a factor's value, or are in one tree only."""
    ours, theirs = dict(tree.items(specs, spec.is_spec)), dict(tree.items(adapter))
    never_trains = dict(tree.items(constant_mask(specs)))
    differing = [
        path
        for path in ours | theirs
        if not _agree(theirs.get(path), ours.get(path), never_trains.get(path, False))
    ]
    if not differing and jax.tree.structure(adapter) != jax.tree.structure(specs):
        # Kinds whose leaves have the same names and shapes: all of the adapter differs.
        return [path for path, layer in named_layers(adapter) if layer is not None]
    return differing


def _agree(x: ArrayLike | None, s: ArraySpec | None, never_trains: bool) -> bool:
    """Whether an array is one of this spec: a constant that the spec states has its value."""
    if x is None or s is None or x.shape != s.shape:
        return False
    # alpha, ranks and targets decide these constants; others are read from the base.
    stated = never_trains and isinstance(s.init, spec.Constant)
    return not stated or bool(np.allclose(x, s.init.value))


def _value(s: ArraySpec) -> np.ndarray:
    """A factor's initial value; of other leaves only the shape matters."""
    # Scales and gains are (L, R) and (L, 1). A and B have three axes, and drawing them costs.
    if len(s.shape) != 2:
        return np.zeros(s.shape, s.dtype)
    return np.asarray(s.init(jax.random.key(0), s.shape, s.dtype))


@dataclasses.dataclass(frozen=True)
class _Form:
    """An adapter in a config's words.

    rank and alpha are None where they differ by weight, or a kind has none.
    """

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
    if isinstance(value, tuple):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def _form(adapter: AdapterTree, root: bool) -> _Form:
    """The adapter in a config's words; root: alpha is divided by the root of the rank."""
    layers = named_layers(adapter) if adapter else []
    kinds = dict.fromkeys(_kind_name(layer) for _, layer in layers)
    # A pair of flags can only say one rank and one alpha.
    sizes = set(itertools.chain.from_iterable(_sizes(layer) for _, layer in layers))
    rank, scale = sizes.pop() if len(sizes) == 1 else (None, None)
    alpha = None if rank is None else scale * (math.sqrt(rank) if root else rank)
    # In the order of the config's default, whatever the tree's.
    modules = {path.split("/")[-1] for path, _ in layers}
    targets = tuple(name for name in AdapterConfig().targets if name in modules)
    return _Form("+".join(kinds), rank, alpha, targets)


def _kind_name(layer: AdapterLayer) -> str:
    """The layer's kind as config.adapter.kind names it."""
    names = {kind: name for name, kind in KINDS.items()}
    return "+".join(names.get(type(m), type(m).__name__) for m in members(layer))


def _sizes(layer: AdapterLayer) -> Iterator[tuple[int, float]]:
    """(rank in use, scale) of every layer of a stack, for each member that has ranks."""
    for member in members(layer):
        if hasattr(member, "scale"):
            for row in np.asarray(member.scale):
                yield int(np.count_nonzero(row)), float(row.max(initial=0))


def listed(paths: Collection[str]) -> str:
    """The first three paths, and how many there are; "nothing" for none."""
    names = ", ".join(list(paths)[:3])
    return f"{names} ({len(paths)} in all)" if len(paths) > 3 else names or "nothing"
