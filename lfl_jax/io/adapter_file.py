"""Any adapter, of any kinds and mixtures, as one safetensors file.

Leaves are tensors by path; the structure (kinds, static fields, absent leaves) is in the header.
"""

import dataclasses
import json
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from lfl_jax.adapters.build import KINDS, is_kind, is_layer
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.mix import AdapterLayer, Mix, StackedFactors, members
from lfl_jax.adapters.project import project
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core import tree
from lfl_jax.core.pytree import NODE_TYPE
from lfl_jax.core.types import AdapterTree, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.io.tensor_file import DTYPES, FINGERPRINT, Tensors, check_base, write

# An adapter may also hold keys of random numbers, as a random subspace does.
LEGAL = DTYPES | {"U32": "uint32"}
STRUCTURE = "lfl_adapter"  # in the header's metadata


def save(file: Path, adapter: AdapterTree, *, fingerprint: str | None = None) -> None:
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
            _add_member(f"{path}/{i}", member, tensors, structure)
    metadata = {STRUCTURE: json.dumps(structure)}
    write(file, tensors, metadata | ({FINGERPRINT: fingerprint} if fingerprint else {}))


def _add_member(
    path: str, member: Kind, tensors: dict[str, np.ndarray], structure: dict[str, Any]
) -> None:
    """Add an adapter's arrays to `tensors`, its other fields to `structure`."""
    for field in _fields(member):
        name, leaf = f"{path}/{field.name}", getattr(member, field.name)
        if _is_static(field):
            structure["static"][name] = leaf
        elif leaf is None:
            # Safetensors has no None: without this list, a lost tensor would look like one.
            structure["empty"].append(name)
        else:
            tensors[name] = np.asarray(leaf)


def _fields(kind: Kind | type[Kind]) -> list[Field]:
    """The leaves and static fields of a kind; which kind it is, the file says by name."""
    return [field for field in fields(kind) if field.name != NODE_TYPE]


def _is_static(field: Field) -> bool:
    return not field.metadata.get("pytree_node", True)


def _kinds(path: str, layer: AdapterLayer) -> str | list[str]:
    """The name of a layer's kind; a list for a Mix, as which StackedFactors are saved, too."""
    names = {type(member): _name(path, type(member)) for member in members(layer)}
    if isinstance(layer, Mix | StackedFactors):
        return [names[type(member)] for member in layer.layers]
    return names[type(layer)]


def _name(path: str, kind: type[Kind]) -> str:
    """A kind's name, or FILE.py:CLASS of one's own."""
    for name, known in KINDS.items():
        if known is kind:
            return name
    name = own_code.place_of(kind)
    if own_code.is_place(name) and own_code.split(name)[0] == own_code.PASSED:
        raise UserError(
            f"{path}: a {kind.__name__} cannot be saved, since it is in no file that could be run"
            " to load it: put the"
            f" class at the top level of a FILE.py. Kinds of the package are {', '.join(KINDS)}"
        )
    return name


def _code(layers: AdapterTree) -> dict[str, str]:
    """{FILE.py: SHA-256} of the files of kinds of one's own."""
    kinds = {type(m) for layer in jax.tree.leaves(layers, is_leaf=is_layer) for m in members(layer)}
    own = [own_code.place_of(kind) for kind in kinds - set(KINDS.values())]
    files = sorted({own_code.split(name)[0] for name in own} - {own_code.PASSED})
    return {file: own_code.digest(file) for file in files}


def load(
    file: Path, params: Params, *, fingerprint: str | None = None, code: Code = own_code.NOTHING
) -> AdapterTree:
    """The adapter in this file, for these parameters.

    fingerprint: of the base, compared with the file's if it has one. code: what may run of the
    files that it names for kinds of one's own, which is nothing unless somebody says so. UserError
    for a file that is not whole, or belongs to another base.
    """
    content = _Content(file)
    check_base(file, content.tensors, fingerprint)
    content.find_kinds(code)
    adapter: AdapterTree = {
        "layers": {part: dict.fromkeys(params["layers"][part]) for part in ("attn", "mlp")}
    }
    weights = tree.paths(adapter, is_layer)
    for path, names in content.kinds.items():
        if path not in weights:
            raise UserError(
                f"{file}: {path} is no weight of this model; there are {', '.join(weights)}"
            )
        _, part, weight = path.split("/")
        adapter["layers"][part][weight] = content.layer(path, names)
    if shared := content.shared():
        adapter["shared"] = shared
    content.require_all_used()
    _check_shapes(file, adapter, params)
    return adapter


class _Content:
    """One file: its tensors and its structure, of which nothing is trusted."""

    def __init__(self, file: Path):
        self.file, self.tensors = file, Tensors([file], legal=LEGAL)
        self.used: set[str] = set()  # tensors that some layer has
        try:
            structure = json.loads(self.tensors.metadata[STRUCTURE])
            self.kinds = dict(structure["kinds"])
            self.empty, self.static = set(structure["empty"]), dict(structure["static"])
            self.own_names = list(filter(_is_own, self._names()))
            self.recorded = own_code.as_recorded(self.own_names, structure.get("code", {}))
        # All that a damaged header raises on its way through JSON and these look-ups.
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{file}: not an adapter that lfl_jax saved; a PEFT adapter is a folder"
            ) from None
        self.known: dict[str, type[Kind]] = {}

    def _names(self) -> list[object]:
        """The names of all kinds, whatever the file has in their place."""
        names: list[object] = []
        for of_layer in self.kinds.values():
            names += of_layer if isinstance(of_layer, list) else [of_layer]
        return names

    def find_kinds(self, code: Code) -> None:
        """Load one's own kinds, as far as `code` allows what the file names."""
        # With the hashes in the file: code that has changed since is not run.
        code = dataclasses.replace(code, recorded=self.recorded)
        own = {name: own_code.find(code, "adapter.kind", name, is_kind) for name in self.own_names}
        self.known = KINDS | own

    def layer(self, path: str, kinds: object) -> Kind | Mix | None:
        """The layer at a weight; kinds: None, a name, or a list of them for a Mix."""
        if kinds is None:
            return None
        names = kinds if isinstance(kinds, list) else [kinds]
        for name in names:
            if not isinstance(name, str) or name not in self.known:
                raise UserError(
                    f"{self.file}: {path} has kind {name!r}; kinds are {', '.join(KINDS)}"
                )
        layers = [self._member(f"{path}/{i}", self.known[name]) for i, name in enumerate(names)]
        return Mix(tuple(layers)) if isinstance(kinds, list) else layers[0]

    def _finite(self, key: str) -> Shaped[Array, "..."]:
        """A tensor; UserError for one that is damaged, which would make every output NaN."""
        tensor = jnp.asarray(self.tensors[key])
        if jnp.issubdtype(tensor.dtype, jnp.floating) and not jnp.isfinite(tensor).all():
            raise UserError(f"{self.file}: tensor {key} has values that are not finite")
        return tensor

    def _member(self, path: str, kind: type[Kind]) -> Kind:
        values = {}
        for field in _fields(kind):
            key = f"{path}/{field.name}"
            if _is_static(field):
                values[field.name] = self.static.get(key)
                # Exactly its type: JSON's true is an int to isinstance.
                if type(values[field.name]) is not field.type:
                    raise UserError(
                        f"{self.file}: {key} is {values[field.name]!r}; expected"
                        f" {field.type.__name__}"
                    )
            elif key in self.empty:
                values[field.name] = None
            elif key in self.tensors:
                self.used.add(key)
                values[field.name] = self._finite(key)
            else:
                raise UserError(f"{self.file}: tensor {key} is missing")
        return kind(**values)

    def shared(self) -> dict[str, dict[str, jax.Array]]:
        """{kind: {leaf: array}} of what all layers share."""
        by_kind: dict[str, dict[str, jax.Array]] = {}
        for name in self.tensors:
            # Names of another depth are left for `require_all_used` to refuse.
            if name.startswith("shared/") and name.count("/") == 2:
                _, kind, leaf = name.split("/")
                by_kind.setdefault(kind, {})[leaf] = jnp.asarray(self.tensors[name])
                self.used.add(name)
        return by_kind

    def require_all_used(self) -> None:
        """UserError for a tensor that no layer has."""
        for name in self.tensors:
            if name not in self.used:
                raise UserError(
                    f"{self.file}: tensor {name} belongs to no layer of the file's structure"
                )


def _is_own(name: object) -> bool:
    return isinstance(name, str) and own_code.is_place(name)


def _check_shapes(file: Path, adapter: AdapterTree, params: Params) -> None:
    """UserError for a layer that does not fit its weight."""
    for part, layers in adapter["layers"].items():
        for name, layer in layers.items():
            w = params["layers"][part][name]
            if not all(_fits(member, adapter.get("shared", {}), w) for member in members(layer)):
                raise UserError(
                    f"{file}: layers/{part}/{name} does not fit this model's weight {w.shape}"
                )


def _fits(member: Kind, shared: dict[str, dict[str, jax.Array]], w: Weight) -> bool:
    """Whatever its kind, a layer fits if it can be applied to its weight in shapes alone."""

    def output(member: Kind, w: Weight) -> jax.Array:
        context = AdapterContext(shared=shared)
        return project(jnp.zeros((1, 1, w.shape[0])), (Site(w, member),), context)[0]

    try:
        # In shapes alone: nothing is computed, whatever sizes the file claims.
        return jax.eval_shape(jax.vmap(output), member, w).shape == (w.shape[0], 1, 1, w.shape[2])
    except (TypeError, ValueError, IndexError, KeyError):
        return False
