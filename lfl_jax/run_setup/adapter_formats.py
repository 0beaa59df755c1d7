"""Adapters in every format: a PEFT folder, a run directory, an adapter file, or a name to fetch."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp

from lfl_jax import assets
from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import as_adapter_and_params, as_params, layers_of
from lfl_jax.adapters.build import require_bound
from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core import tree
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, peft
from lfl_jax.model import Model
from lfl_jax.run_setup import earlier_run


def load(path_or_name: str | os.PathLike, params: Params, code: Code) -> Model:
    """The model of `lfl_jax.load_adapter`; code: which files with adapter kinds may run."""
    path, name = Path(path_or_name), str(path_or_name)
    # A path goes before an item of the manifest.
    if not path.exists() and name.partition("@")[0] in assets.manifest():
        return _published(name, params)
    path = assets.local(path)
    for matches, read in ADAPTER_FORMATS.values():
        if matches(path):
            return read(path, params, code)
    raise UserError(f"{path}: no adapter here; expected {', '.join(ADAPTER_FORMATS)}")


def _from_peft(path: Path, params: Params, code: Code = own_code.NOTHING) -> Model:
    fingerprint = tree.fingerprint(params)
    loaded = peft.load(path, params, fingerprint=fingerprint)
    # A summary before any training: which modules are adapted is never a guess.
    print(f"{path}: {loaded.summary()}")  # noqa: T201
    model = Model(params=loaded.params, adapter=loaded.adapter)
    return _with_replaced(model, params, fingerprint)


def _from_file(path: Path, params: Params, code: Code) -> Model:
    fingerprint = tree.fingerprint(params)
    adapter = adapter_file.load(path, params, fingerprint=fingerprint, code=code)
    return Model(params=params, adapter=adapter)


def _from_run(path: Path, params: Params, code: Code) -> Model:
    return _with_replaced(earlier_run.load_onto(path, params, code=code), params, None)


# format -> (whether a path is of it, how it is read)
ADAPTER_FORMATS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Params, Code], Model]]] = {
    "a PEFT folder": (lambda path: (path / "adapter_config.json").is_file(), _from_peft),
    "a run directory": (lambda path: (path / "checkpoints").is_dir(), _from_run),
    "an adapter file (.safetensors)": (lambda path: path.suffix == ".safetensors", _from_file),
}


def _published(name: str, params: Params) -> Model:
    """A fetched adapter. UserError unless its rank is the one that the manifest says."""
    model = _from_peft(assets.path(name), params)
    require_named_rank(name, model.adapter)
    return model


def require_named_rank(name: str, adapter: AdapterTree) -> None:
    """UserError for a published adapter of another rank than the manifest says.

    A mislabelled one would be evaluated under another rank's name. A path is not published.
    """
    if name.partition("@")[0] not in assets.manifest():
        return
    rank, ranks = assets.item(name).rank, {layer.scale.shape[-1] for layer in layers_of(adapter)}
    if rank is not None and ranks != {rank}:
        raise UserError(
            f"{name}: its adapter has rank {', '.join(map(str, sorted(ranks)))}, its name says"
            f" {rank}: mislabelled where it was published? To use it as it is, name its folder:"
            f" {assets.path(name)}"
        )


def _with_replaced(model: Model, base: Params, fingerprint: str | None) -> Model:
    """The model, its adapter with the paths of the parameters that came with it.

    Saving such an adapter without them would lose them. fingerprint: the base's, where it is known.
    """
    paths = tuple(tree.changed(model.params, base))
    if not model.adapter or not paths:
        return model
    # Of the other parameters: `save` can then tell a base from one that was trained.
    unchanged = tree.fingerprint(without(model.params, paths))
    replaced = replaced_parameters.Replaced(paths, fingerprint or tree.fingerprint(base), unchanged)
    return model.replace(adapter=model.adapter | {replaced_parameters.KEY: replaced})


def without(params: Params, paths: Sequence[str]) -> Params:
    """{path: leaf} of all parameters but these."""
    return {path: leaf for path, leaf in tree.items(params) if path not in paths}


def save(
    path: Path,
    model: Model,
    *,
    base: Params | None,
    base_name: str,
    dtype: str,
    replaced: Params,
) -> None:
    """Write the adapter of a model, as `lfl_jax.save_adapter` documents it."""
    adapter, params = as_adapter_and_params("save_adapter", model.adapter, model.params)
    require_bound("save_adapter", adapter, params)
    model = Model(params=params, adapter=adapter)
    base, fingerprint, replaced = _base_and_replaced(path, model, base, replaced)
    # PEFT is a folder with a config; our own format is a single file.
    if path.suffix != ".safetensors":
        names = {"base_name": base_name, "fingerprint": fingerprint, "dtype": dtype}
        peft.save(path, adapter, base, replaced=replaced, **names)
        return
    if replaced:
        raise UserError(
            f"{path}: an adapter file holds no parameters such as {next(iter(replaced))}; use a"
            " folder"
        )
    adapter_file.save(path, adapter, fingerprint=fingerprint)


def _base_and_replaced(
    path: Path, model: Model, base: Params | None, further: Params
) -> tuple[Params, str, Params]:
    """(base, its fingerprint, {path: parameter} to write with the adapter).

    Without a base given, the adapter's own record decides: `Replaced` has the fingerprints of the
    base, and of those parameters that are the base's.
    """
    params = model.params
    if base is not None:
        base = as_params("save_adapter: base", base)
        return base, tree.fingerprint(base), _differences(params, base) | further

    fingerprint, record = tree.fingerprint(params), model.adapter.get(replaced_parameters.KEY)
    if record is None:
        return params, fingerprint, further
    # These are the base's parameters, so the adapter's own would be lost.
    if fingerprint == record.base:
        missing = [name for name in record.paths if name not in further]
        if missing:
            raise UserError(
                f"{path}: the adapter was loaded with its own {', '.join(missing)}, which would be"
                " lost: these are the base's parameters; give those that load_adapter returned"
            )
        return params, fingerprint, further
    if record.others != tree.fingerprint(without(params, record.paths)):
        raise UserError(
            f"{path}: parameters besides the adapter's own {', '.join(record.paths)} differ from"
            " its base's; give base=, the base's parameters"
        )
    leaves = dict(tree.items(params))
    return params, record.base, {name: leaves[name] for name in record.paths} | further


def _differences(params: Params, base: Params) -> Params:
    """{path: parameter} of those that differ from the base's in value."""
    before = dict(tree.items(base))
    missing = sorted(set(before) - set(tree.paths(params)))
    if missing:
        raise UserError(
            f"save_adapter: base has {missing[0]} and params do not; are they of one model?"
        )
    if "head" not in base:
        # Its head is the tied embedding: one that was untied and did not train is no difference.
        before["head"] = params["embed"]
    changed = tree.changed(params, base).items()
    return {
        path: x for path, x in changed if path not in before or not jnp.array_equal(x, before[path])
    }
