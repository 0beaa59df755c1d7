"""Reading an adapter from wherever it is: a PEFT folder, a run directory, an adapter file, or a
name to fetch."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lfl_jax import assets
from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core import tree
from lfl_jax.core.types import Params
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, peft
from lfl_jax.model import Model
from lfl_jax.run_setup import earlier_run


def _from_peft(path: Path, params: Params, code: Code = own_code.NOTHING) -> Model:
    fingerprint = tree.fingerprint(params)
    found = peft.load(path, params, fingerprint=fingerprint)
    print(f"{path}: {found.summary()}")  # noqa: T201 (what was found belongs before the user at once)
    return _remembering(Model(params=found.params, adapter=found.adapter), params, fingerprint)


def _from_file(path: Path, params: Params, code: Code) -> Model:
    fingerprint = tree.fingerprint(params)
    adapter = adapter_file.load(path, params, fingerprint=fingerprint, code=code)
    return Model(params=params, adapter=adapter)


def _from_run(path: Path, params: Params, code: Code) -> Model:
    return _remembering(earlier_run.load_onto(path, params, code=code), params, None)


def _remembering(model: Model, base: Params, fingerprint: str | None) -> Model:
    """The model, its adapter with the paths of the parameters that came with it.

    Saving such an adapter without them would lose them.
    """
    brought = tuple(tree.changed(model.params, base))
    if not model.adapter or not brought:
        return model
    before = fingerprint or tree.fingerprint(base)
    others = tree.fingerprint(without(model.params, brought))
    replaced = replaced_parameters.Replaced(brought, before, others)
    return model.replace(adapter=model.adapter | {replaced_parameters.KEY: replaced})


def without(params: dict, paths: Sequence[str]) -> dict:
    """{path: leaf} of all parameters but these."""
    return {path: leaf for path, leaf in tree.items(params) if path not in paths}


# format -> (whether a path is of it, how it is read)
ADAPTER_FORMATS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Params, Code], Model]]] = {
    "a PEFT folder": (lambda path: (path / "adapter_config.json").is_file(), _from_peft),
    "a run directory": (lambda path: (path / "checkpoints").is_dir(), _from_run),
    "an adapter file (.safetensors)": (lambda path: path.suffix == ".safetensors", _from_file),
}


def load(path_or_name: str | os.PathLike, params: Params, code: Code) -> Model:
    """The model of `lfl_jax.load_adapter`; code: which files with adapter kinds may run."""
    place, name = Path(path_or_name), str(path_or_name)
    if not place.exists() and name.partition("@")[0] in assets.manifest():
        return _published(name, params)
    place = assets.local(place)
    for matches, read in ADAPTER_FORMATS.values():
        if matches(place):
            return read(place, params, code)
    raise UserError(f"{place}: no adapter here; expected {', '.join(ADAPTER_FORMATS)}")


def _published(name: str, params: Params) -> Model:
    folder, rank = assets.path(name), assets.item(name).rank
    model = _from_peft(folder, params)
    found = {layer.scale.shape[-1] for layer in layers_of(model.adapter)}
    if rank is not None and found != {rank}:
        raise UserError(
            f"{name}: its adapter has rank {', '.join(map(str, sorted(found)))}, its name says"
            f" {rank}: mislabelled"
            f" where it was published? To use it as it is, name its folder: {folder}"
        )
    return model
