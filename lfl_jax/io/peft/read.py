"""Reading a PEFT folder: exactly what its config names, or a refusal."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.build import bind, is_layer, layers_of
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.truncate import norm
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft.fields import Fields, adapted_modules, saved_modules, show
from lfl_jax.io.peft.places import CONFIG, EMBEDDINGS, STEM, Place, find_places, get_path, key_of, put_path
from lfl_jax.quant import require_dense


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An adapter, the parameters it goes with (`replaced`: paths of those the folder brought), and its size."""

    adapter: dict
    params: dict
    modules: int
    delta_norm: float
    replaced: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: how many modules, which, of what rank, and the size of the change."""
        stacks = {path.split("/")[1]: get_path(self.adapter, f"layers/{path}") for path in MODULES}
        layers = {name: x for name, x in stacks.items() if x is not None}
        ranks = {int(r) for x in layers.values() for r in np.sum(np.asarray(x.scale) != 0, axis=1) if r}
        rank = f"{max(ranks)}" if len(ranks) == 1 else f"{min(ranks, default=0)} to {max(ranks, default=0)}"
        total = len(MODULES) * len(self.params["layers"]["attn_norm"])
        also = f", with its own {', '.join(self.replaced)}" if self.replaced else ""
        return (
            f"{self.modules} of {total} modules ({', '.join(layers)}), rank {rank},"
            f" ||dW||_F = {self.delta_norm:.3g}{also}"
        )


def load(folder: Path, params: dict, *, fingerprint: str | None = None) -> Loaded:
    """The adapter in this folder, float32, for these parameters; and these, with the folder's own modules in place.

    fingerprint: of the base, compared with the folder's if that has one. Raises UserError for whatever is missing,
    superfluous, misshapen, not finite, without effect, or not supported.
    """
    fields, places, tensors = Fields(folder), find_places(params), _Named(folder)
    tensor_file.check_base(folder, tensors.opened, fingerprint)
    modules, saved, dora = adapted_modules(fields, places), saved_modules(fields, places), fields.flag("use_dora")
    both = sorted(set(modules) & set(saved))
    if both:
        raise UserError(f"{fields.file}: {both[0]} is in target_modules and in modules_to_save; expected one of them")
    required = _shapes(modules, dora, places) | {key_of(name): places[name].shape for name in saved}
    optional = {key_of(name): places[name].shape for name in EMBEDDINGS}  # PEFT's save_embedding_layers
    _check_names(tensors, required, required | optional, len(params["layers"]["attn_norm"]))
    with np.errstate(all="ignore"):
        adapter = _build(tensors, modules, places, params, dora)
        size = norm(adapter, params)
    _check_size(tensors.file, size, adapter)
    brought = [name for name in places if name in (*saved, *EMBEDDINGS) and key_of(name) in tensors.keys]
    untie = "model.embed_tokens" in saved and not fields.flag("ensure_weight_tying")
    replaced = _replace(tensors, brought, places, params, untie)
    return Loaded(adapter, replaced, len(modules), size, _changed(replaced, params))


class _Named:
    """The folder's tensors by PEFT's names; lora_magnitude_vector is also written with a trailing ".weight"."""

    def __init__(self, folder: Path):
        """Read the headers. UserError for a file that is not there, not whole, or a pickle."""
        self.opened = tensor_file.open_folder(folder, STEM)
        self.file = next(iter(self.opened.files.values()), folder / f"{STEM}.safetensors")
        self.keys = {re.sub(r"(\.lora_magnitude_vector)\.weight$", r"\1", key): key for key in self.opened}
        if len(self.keys) != len(self.opened):
            raise UserError(f"{self.file}: a lora_magnitude_vector is there with and without '.weight'; keep one")

    def read(self, key: str) -> np.ndarray:
        """A tensor in float32; UserError if it is not finite."""
        with np.errstate(all="ignore"):
            x = self.opened[self.keys[key]].astype(np.float32)
        if not np.isfinite(x).all():
            raise UserError(f"{self.file}: {self.keys[key]} holds NaN or infinity: training had diverged")
        return x


def _shapes(modules: dict[str, tuple[int, float]], dora: bool, places: dict[str, Place]) -> dict[str, tuple]:
    found = {}
    for name, (rank, _) in modules.items():
        fan_out, fan_in = places[name].shape
        found |= {key_of(name, "lora_A.weight"): (rank, fan_in), key_of(name, "lora_B.weight"): (fan_out, rank)}
        found |= {key_of(name, "lora_magnitude_vector"): (fan_out,)} if dora else {}
    return found


def _check_names(tensors: _Named, required: dict, known: dict, layers: int) -> None:
    """UserError unless the file holds what is required, nothing that is not known, in the right shapes."""
    foreign, missing = [k for k in tensors.keys if k not in known], [k for k in required if k not in tensors.keys]
    numbers = {k: re.search(r"\.layers\.(\d{1,9})\.", k) for k in foreign}
    beyond = [k for k, match in numbers.items() if match and int(match[1]) >= layers]
    if beyond:
        raise UserError(f"{tensors.file}: made for more than the {layers} layers of this model: {_some(beyond)}")
    if foreign:
        raise UserError(f"{tensors.file}: tensors of no module that {CONFIG} names: {_some(foreign)}")
    if missing:
        raise UserError(f"{tensors.file}: {CONFIG} names modules whose tensors are not there: {_some(missing)}")
    for key, written in tensors.keys.items():
        found = tensors.opened.shapes[written]
        if found != known[key]:
            raise UserError(f"{tensors.file}: {written} has shape {show(found)}; expected {known[key]}")


def _some(keys: list[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > 4 else ""
    return ", ".join(show(key)[1:-1] for key in keys[:4]) + more


def _build(tensors: _Named, modules: dict, places: dict[str, Place], params: dict, dora: bool) -> dict:
    built: dict = {"layers": {"attn": {}, "mlp": {}}}
    for path in MODULES:
        rows = {places[n].layer: (n, *module) for n, module in modules.items() if places[n].path == f"layers/{path}"}
        layer = _stack(tensors, rows, get_path(params["layers"], path).shape, dora) if rows else None
        built["layers"][path.split("/")[0]][path.split("/")[1]] = layer

    def keep_m(read: Any, bound: Any) -> Any:
        return bound.replace(m=jnp.where(read.gain > 0, read.m, bound.m)) if isinstance(read, DoRA) else bound

    return jax.tree.map(keep_m, built, bind(built, params), is_leaf=is_layer)


def _stack(tensors: _Named, rows: dict, shape: tuple[int, int, int], dora: bool) -> Any:
    """One stacked weight's layer, ranks padded to the largest; DoRA's m and w2 are left for `bind`."""
    (layers, fan_in, fan_out), width = shape, max(rank for _, rank, _ in rows.values())
    a, b = np.zeros((layers, fan_in, width), np.float32), np.zeros((layers, width, fan_out), np.float32)
    scale, m, gain = (np.zeros((layers, n), np.float32) for n in (width, fan_out, 1))
    for i, (name, rank, factor) in rows.items():
        a[i, :, :rank] = tensors.read(key_of(name, "lora_A.weight")).T
        b[i, :rank] = tensors.read(key_of(name, "lora_B.weight")).T
        scale[i, :rank], gain[i] = factor, 1
        if dora:
            m[i] = tensors.read(key_of(name, "lora_magnitude_vector"))
    lora = LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))
    return DoRA(lora.a, lora.b, lora.scale, jnp.asarray(m), jnp.asarray(gain), None) if dora else lora


def _check_size(file: Path, size: float, adapter: dict) -> None:
    """UserError for a change that is not finite, or none: with B = 0, a DoRA's is the rounding of its norms."""
    if not size < float(np.finfo(np.float32).max):
        raise UserError(f"{file}: the weight change is not finite: training had diverged")
    layers = layers_of(adapter)
    rounding = 0.0
    if not any(jnp.any(layer.b) for layer in layers):
        rounding = 1e-5 * math.sqrt(sum(float(jnp.sum(x.w2 * x.gain)) for x in layers if isinstance(x, DoRA)))
    if size <= rounding:
        raise UserError(f"{file}: the adapter changes nothing (||dW||_F = {size:.2g}): it was saved before training")


def _replace(tensors: _Named, names: list[str], places: dict[str, Place], params: dict, untie: bool) -> dict:
    """Parameters with the folder's copies in place, in the type of what they replace; equal ones stay.

    untie: over a tied base, an embedding that was trained as a copy leaves the head as it was. So it is in PEFT.
    """
    result = params
    for name in names:  # in the order of `places`: the embedding before the head
        place, x = places[name], tensors.read(key_of(name))
        old = get_path(result, "embed" if name == "lm_head" and "head" not in params else place.path)
        require_dense(f"{tensors.file}: modules_to_save", old)
        new = jnp.asarray(x, old.dtype) if place.layer is None else jnp.asarray(old).at[place.layer].set(x.T)
        if not np.array_equal(new, old):
            new = jax.device_put(new, old.sharding) if isinstance(old, jax.Array) else new
            result = put_path(result, place.path, new)
    if untie and "head" not in params and "lm_head" not in names:
        result = result | {"head": params["embed"]}
    return result


def _changed(new: dict, old: dict) -> tuple[str, ...]:
    """Paths of the leaves that were put in; a head that is the tied embedding as it was does not count."""
    return tuple(path for path, leaf in tree.changed(new, old).items() if leaf is not old["embed"])
