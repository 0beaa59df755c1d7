"""Any adapter, of any kinds and mixtures, as one safetensors file: leaves by path, the structure in
the header."""

import dataclasses
import json
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.build import KINDS, is_kind, is_layer
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.mix import Mix, StackedFactors, members
from lfl_jax.adapters.project import project
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core import tree
from lfl_jax.core.pytree import NODE_TYPE
from lfl_jax.errors import UserError
from lfl_jax.io.tensor_file import FINGERPRINT, Tensors, check_base, write

STRUCTURE = "lfl_adapter"  # in the header's metadata


def save(file: Path, adapter: dict, *, fingerprint: str | None = None) -> None:
    """Write the adapter; fingerprint: of the base it belongs to.

    A kind of one's own is written as FILE.py:CLASS, with the file's hash. UserError for one that is
    in no file.
    """
    layers, shared = {"layers": adapter["layers"]}, {"shared": adapter.get("shared", {})}
    tensors = {path: np.asarray(x) for path, x in tree.items(shared)}
    structure: dict[str, Any] = {"kinds": {}, "empty": [], "static": {}, "code": _code(layers)}
    for path, layer in tree.items(layers, is_layer):
        structure["kinds"][path] = None if layer is None else _kinds(path, layer)
        for i, member in enumerate(members(layer)):
            for field in _fields(member):
                name, leaf = f"{path}/{i}/{field.name}", getattr(member, field.name)
                if _static(field):
                    structure["static"][name] = leaf
                elif leaf is None:
                    structure["empty"].append(name)
                else:
                    tensors[name] = np.asarray(leaf)
    write(
        file,
        tensors,
        {STRUCTURE: json.dumps(structure)} | ({FINGERPRINT: fingerprint} if fingerprint else {}),
    )


def _fields(kind: Any) -> list[Field]:
    """Those of a kind's own: a file names the kind itself."""
    return [field for field in fields(kind) if field.name != NODE_TYPE]


def _static(field: Any) -> bool:
    return not field.metadata.get("pytree_node", True)


def _kinds(path: str, layer: Any) -> str | list[str]:
    """The name of a layer's kind, or a list of them for a Mix or StackedFactors, which is saved as a
    Mix."""
    names = {type(m): _name(path, type(m)) for m in members(layer)}
    return (
        [names[type(m)] for m in layer.layers]
        if isinstance(layer, Mix | StackedFactors)
        else names[type(layer)]
    )


def _name(path: str, kind: type) -> str:
    """A kind's name, or FILE.py:CLASS of one's own."""
    name = next(
        (name for name, known in KINDS.items() if known is kind), None
    ) or own_code.place_of(kind)
    if own_code.is_place(name) and own_code.split(name)[0] == own_code.PASSED:
        raise UserError(
            f"{path}: a {kind.__name__} cannot be saved, since it is in no file that could be run"
            " to load it: put the"
            f" class at the top level of a FILE.py. Kinds of the package are {', '.join(KINDS)}"
        )
    return name


def _code(layers: dict) -> dict[str, str]:
    """{FILE.py: SHA-256} of the files of kinds of one's own."""
    kinds = {type(m) for layer in jax.tree.leaves(layers, is_leaf=is_layer) for m in members(layer)}
    own = [own_code.place_of(kind) for kind in kinds - set(KINDS.values())]
    files = sorted({own_code.split(place)[0] for place in own} - {own_code.PASSED})
    return {file: own_code.digest(file) for file in files}


def load(
    file: Path, params: dict, *, fingerprint: str | None = None, code: Code = own_code.NOTHING
) -> dict:
    """The adapter in this file, for these parameters. UserError when it is not whole, or belongs to
    another base.

    fingerprint: of the base, compared with the file's if it has one. code: what may run of the
    files that it names for kinds of one's own, which is nothing unless somebody says so.
    """
    tensors = Tensors([file])
    try:
        structure = json.loads(tensors.metadata[STRUCTURE])
        kinds = dict(structure["kinds"])
        named = [
            name
            for names in kinds.values()
            for name in (names if isinstance(names, list) else [names])
        ]
        recorded = own_code.as_recorded(filter(_is_own, named), structure.get("code", {}))
        structure = {"empty": set(structure["empty"]), "static": dict(structure["static"])}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{file}: not an adapter that lfl_jax saved; a PEFT adapter is a folder"
        ) from None
    check_base(file, tensors, fingerprint)
    code = dataclasses.replace(code, recorded=recorded)
    known = KINDS | {name: _own(name, code) for name in filter(_is_own, named)}
    adapter = {"layers": {part: dict.fromkeys(params["layers"][part]) for part in ("attn", "mlp")}}
    places = tree.paths(adapter, is_layer)
    expected: set[str] = set()
    for path, names in kinds.items():
        if path not in places:
            raise UserError(
                f"{file}: {path} is no weight of this model; there are {', '.join(places)}"
            )
        _, part, name = path.split("/")
        adapter["layers"][part][name] = _layer(
            file, tensors, path, names, known, structure, expected
        )
    if shared := _shared(tensors):
        adapter["shared"] = shared
    _check(file, tensors, expected, adapter, params)
    return adapter


def _shared(tensors: Tensors) -> dict:
    """{kind: {leaf: array}} of what all layers share."""
    found: dict[str, dict[str, Any]] = {}
    for name in tensors:
        if name.startswith("shared/") and name.count("/") == 2:
            _, kind, leaf = name.split("/")
            found.setdefault(kind, {})[leaf] = jnp.asarray(tensors[name])
    return found


def _is_own(name: Any) -> bool:
    return isinstance(name, str) and own_code.is_place(name)


def _own(name: str, code: Code) -> type[Kind]:
    return own_code.find(code, "adapter.kind", name, is_kind)


def _layer(
    file: Path,
    tensors: Tensors,
    path: str,
    kinds: Any,
    known: dict,
    structure: dict,
    expected: set[str],
) -> Any:
    if kinds is None:
        return None
    names = kinds if isinstance(kinds, list) else [kinds]
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise UserError(f"{file}: {path} has kind {name!r}; kinds are {', '.join(KINDS)}")
    found = [
        _member(file, tensors, f"{path}/{i}", known[name], structure, expected)
        for i, name in enumerate(names)
    ]
    return Mix(tuple(found)) if isinstance(kinds, list) else found[0]


def _member(
    file: Path, tensors: Tensors, path: str, kind: type, structure: dict, expected: set[str]
) -> Any:
    values = {}
    for field in _fields(kind):
        key = f"{path}/{field.name}"
        if _static(field):
            values[field.name] = structure["static"].get(key)
            if type(values[field.name]) is not field.type:
                raise UserError(
                    f"{file}: {key} is {values[field.name]!r}; expected {field.type.__name__}"
                )
        elif key in structure["empty"]:
            values[field.name] = None
        elif key in tensors:
            expected.add(key)
            values[field.name] = jnp.asarray(tensors[key])
        else:
            raise UserError(f"{file}: tensor {key} is missing")
    return kind(**values)


def _check(file: Path, tensors: Tensors, expected: set[str], adapter: dict, params: dict) -> None:
    """UserError for tensors that no layer has, and for a layer that does not fit its weight."""
    shared = adapter.get("shared", {})
    expected = expected | {
        f"shared/{kind}/{leaf}" for kind, leaves in shared.items() for leaf in leaves
    }
    strange = [name for name in tensors if name not in expected]
    if strange:
        raise UserError(f"{file}: tensor {strange[0]} belongs to no layer of the file's structure")
    for part, layers in adapter["layers"].items():
        for name, layer in layers.items():
            w = params["layers"][part][name]
            if not all(_fits(member, shared, w) for member in members(layer)):
                raise UserError(
                    f"{file}: layers/{part}/{name} does not fit this model's weight {w.shape}"
                )


def _fits(member: Any, shared: dict, w: Any) -> bool:
    def change(member: Any, w: Any) -> Any:
        context = AdapterContext(shared=shared)
        return project(jnp.zeros((1, 1, w.shape[0])), (Site(w, member),), context)[0]

    try:
        return jax.eval_shape(jax.vmap(change), member, w).shape == (w.shape[0], 1, 1, w.shape[2])
    except (TypeError, ValueError, IndexError, KeyError):
        return False
