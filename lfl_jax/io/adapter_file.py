"""Any adapter, of any kinds and mixtures, as one safetensors file: leaves by path, the structure in the header."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.build import KINDS, is_layer
from lfl_jax.adapters.mix import Mix
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io.tensor_file import FINGERPRINT, Tensors, check_base, write

STRUCTURE = "lfl_adapter"  # in the header's metadata


def save(file: Path, adapter: dict, *, fingerprint: str | None = None) -> None:
    """Write the adapter; fingerprint: of the base it belongs to. UserError for a kind that is in no registry."""
    kinds, empty, tensors = {}, [], {}
    paths = tree.paths(adapter, is_layer)
    for path, layer in zip(paths, jax.tree.leaves(adapter, is_leaf=is_layer), strict=True):
        kinds[path] = None if layer is None else _kinds(path, layer)
        for i, member in enumerate(_members(layer)):
            for field in fields(member):
                name, leaf = f"{path}/{i}/{field.name}", getattr(member, field.name)
                if leaf is None:
                    empty.append(name)
                else:
                    tensors[name] = np.asarray(leaf)
    metadata = {STRUCTURE: json.dumps({"kinds": kinds, "empty": empty})} | (
        {FINGERPRINT: fingerprint} if fingerprint else {}
    )
    write(file, tensors, metadata)


def _members(layer: Any) -> tuple[Any, ...]:
    return layer.layers if isinstance(layer, Mix) else () if layer is None else (layer,)


def _kinds(path: str, layer: Any) -> str | list[str]:
    """The name of a layer's kind, or a list of them for a Mix."""
    names = {kind: name for name, kind in KINDS.items()}
    for member in _members(layer):
        if type(member) not in names:
            raise UserError(f"{path}: a {type(member).__name__} cannot be saved; kinds are {', '.join(KINDS)}")
    return [names[type(m)] for m in layer.layers] if isinstance(layer, Mix) else names[type(layer)]


def load(file: Path, params: dict, *, fingerprint: str | None = None) -> dict:
    """The adapter in this file, for these parameters. UserError when it is not whole, or belongs to another base.

    fingerprint: of the base, compared with the file's if it has one.
    """
    tensors = Tensors([file])
    try:
        structure = json.loads(tensors.metadata[STRUCTURE])
        kinds, empty = dict(structure["kinds"]), set(structure["empty"])
    except (KeyError, ValueError, TypeError, RecursionError):
        raise UserError(f"{file}: not an adapter that lfl_jax saved; a PEFT adapter is a folder") from None
    check_base(file, tensors, fingerprint)
    adapter = {"layers": {part: dict.fromkeys(params["layers"][part]) for part in ("attn", "mlp")}}
    places = tree.paths(adapter, is_layer)
    expected: set[str] = set()
    for path, names in kinds.items():
        if path not in places:
            raise UserError(f"{file}: {path} is no weight of this model; there are {', '.join(places)}")
        _, part, name = path.split("/")
        adapter["layers"][part][name] = _layer(file, tensors, path, names, empty, expected)
    _check(file, tensors, expected, adapter, params)
    return adapter


def _layer(file: Path, tensors: Tensors, path: str, kinds: Any, empty: set[str], expected: set[str]) -> Any:
    if kinds is None:
        return None
    names = kinds if isinstance(kinds, list) else [kinds]
    for name in names:
        if not isinstance(name, str) or name not in KINDS:
            raise UserError(f"{file}: {path} has kind {name!r}; kinds are {', '.join(KINDS)}")
    members = []
    for i, name in enumerate(names):
        leaves = {field.name: f"{path}/{i}/{field.name}" for field in fields(KINDS[name])}
        nothing = {leaf: None for leaf, key in leaves.items() if key in empty}
        leaves = {leaf: key for leaf, key in leaves.items() if leaf not in nothing}
        missing = [key for key in leaves.values() if key not in tensors]
        if missing:
            raise UserError(f"{file}: tensor {missing[0]} is missing")
        expected.update(leaves.values())
        members.append(KINDS[name](**nothing, **{leaf: jnp.asarray(tensors[key]) for leaf, key in leaves.items()}))
    return Mix(tuple(members)) if isinstance(kinds, list) else members[0]


def _check(file: Path, tensors: Tensors, expected: set[str], adapter: dict, params: dict) -> None:
    """UserError for tensors that no layer has, and for a layer that does not fit its weight."""
    strange = [name for name in tensors if name not in expected]
    if strange:
        raise UserError(f"{file}: tensor {strange[0]} belongs to no layer of the file's structure")
    for part, layers in adapter["layers"].items():
        for name, layer in layers.items():
            w = params["layers"][part][name]
            if not all(_fits(member, w) for member in _members(layer)):
                raise UserError(f"{file}: layers/{part}/{name} does not fit this model's weight {w.shape}")


def _fits(member: Any, w: Any) -> bool:
    def change(member: Any, w: Any) -> Any:
        x, y = jnp.zeros((1, w.shape[0])), jnp.zeros((1, w.shape[1]))
        return member.change(x, y, w, None if member.factor() is None else x @ member.factor())

    try:
        return jax.eval_shape(jax.vmap(change), member, w).shape == (w.shape[0], 1, w.shape[2])
    except (TypeError, ValueError, IndexError):
        return False
