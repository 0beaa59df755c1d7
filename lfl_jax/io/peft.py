"""Adapter folders of Hugging Face PEFT in and out: LoRA, rank-stabilised LoRA and DoRA, and nothing approximately.

A folder is adapter_config.json and adapter_model.safetensors. Whatever would make the result differ from what PEFT
computes is refused by name.
"""

import dataclasses
import json
import math
import re
import reprlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.build import bind, is_layer
from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, members
from lfl_jax.adapters.truncate import low_rank_factors, norm
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.hf_names import MODULES

CONFIG, STEM, PREFIX = "adapter_config.json", "adapter_model", "base_model.model."
FINGERPRINT = "lfl_base_fingerprint"  # in the metadata of the tensor file
NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
SINGLE = {"embed": "model.embed_tokens", "head": "lm_head", "final_norm": "model.norm"}
EMBEDDINGS = ("model.embed_tokens", "lm_head")
PLAIN_INITS = ("true", "false", "gaussian", "eva", "orthogonal", "mica")  # the base stays as it was
CONVERTIBLE_INITS = ("pissa", "olora", "corda", "lora_ga")
READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "ensure_weight_tying",
    "init_lora_weights",
}  # fmt: skip
# Provenance, what only training used, and details of fields that are refused when they are in use.
IGNORED = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config",
}  # fmt: skip
ADVICE = {
    "bias": "an adapter's biases are not; train with bias='none'",
    "lora_bias": "an adapter's biases are not; train with lora_bias=false",
    "fan_in_fan_out": "that is for models with transposed weights; for a Llama it is false",
    "megatron_config": "save the adapter from a model that Megatron does not split",
    "alora_invocation_tokens": "the adapter acts after certain tokens only; train a plain LoRA",
    "target_parameters": "these models have no such parameters; name modules in target_modules",
    "trainable_token_indices": "save the whole embedding with modules_to_save=['embed_tokens']",
    "layer_replication": "the adapter belongs to a model with repeated layers; train on the model itself",
}
_SHORT = reprlib.Repr()  # what a file says can be of any length
_SHORT.maxstring = _SHORT.maxother = 120
_show = _SHORT.repr


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
        stacks = {path.split("/")[1]: _get(self.adapter, f"layers/{path}") for path in MODULES}
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
    fields, places, tensors = _Fields(folder), _places(params), _Named(folder)
    made_for = tensors.opened.metadata.get(FINGERPRINT)
    if None not in (fingerprint, made_for) and fingerprint != made_for:
        raise UserError(f"{folder}: made for another base (fingerprint {_show(made_for)}; this one is {fingerprint!r})")
    modules, saved, dora = _modules(fields, places), _saved(fields, places), fields.flag("use_dora")
    both = sorted(set(modules) & set(saved))
    if both:
        raise UserError(f"{fields.file}: {both[0]} is in target_modules and in modules_to_save; expected one of them")
    required = _shapes(modules, dora, places) | {_key(name): places[name].shape for name in saved}
    optional = {_key(name): places[name].shape for name in EMBEDDINGS}  # PEFT's save_embedding_layers
    _check_names(tensors, required, required | optional, len(params["layers"]["attn_norm"]))
    with np.errstate(all="ignore"):
        adapter = _build(tensors, modules, places, params, dora)
        size = norm(adapter, params)
    _check_size(tensors.file, size, adapter)
    brought = [name for name in places if name in (*saved, *EMBEDDINGS) and _key(name) in tensors.keys]
    untie = "model.embed_tokens" in saved and not fields.flag("ensure_weight_tying")
    replaced = _replace(tensors, brought, places, params, untie)
    return Loaded(adapter, replaced, len(modules), size, _changed(replaced, params))


def save(
    folder: Path,
    adapter: dict,
    params: dict,
    *,
    base_name: str,
    fingerprint: str | None = None,
    dtype: str = "float32",
    replaced: dict | None = None,
) -> None:
    """Write a folder that PEFT and `load` read as the same function.

    replaced: parameters that differ from the base's, by path ("head", "layers/attn_norm"). A layer whose scales differ
    by rank has them folded into B. The config appears last: a folder that is not whole does not load. Raises UserError
    for what PEFT cannot hold.
    """
    if dtype not in tensor_file.DTYPES.values():
        raise UserError(f"dtype={dtype!r}; expected one of {', '.join(tensor_file.DTYPES.values())}")
    places = _places(params)
    modules = {name: x for name in _adaptable(places) if (x := _export(adapter, name, places[name])) is not None}
    if not modules:
        raise UserError(f"{folder}: the adapter has no layers to save")
    if len({x.m is None for x in modules.values()}) > 1:
        raise UserError(_no_counterpart("LoRA beside DoRA in one adapter"))
    own = _own_parameters(replaced or {}, modules, places, params)
    config = _config(modules, list(own), places, base_name)
    tensors = ((key, _cast(key, x, dtype)) for key, x in _tensors(modules, own))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    metadata = {} if fingerprint is None else {FINGERPRINT: fingerprint}
    tensor_file.save(folder, tensors, STEM, sys.maxsize, metadata)
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    partial.rename(folder / CONFIG)


# The model's modules


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a module's weight is among our parameters, and its shape in PyTorch's order."""

    path: str
    layer: int | None
    shape: tuple[int, ...]


def _places(params: dict) -> dict[str, _Place]:
    """Every module with a weight, by Hugging Face's name; a tied head has the embedding's shape."""
    stacks, found = params["layers"], {}
    for layer in range(len(stacks["attn_norm"])):
        for path, module in (MODULES | NORMS).items():
            shape = _get(stacks, path).shape[1:][::-1]
            found[f"model.layers.{layer}.{module}"] = _Place(f"layers/{path}", layer, shape)
    single = {"head": params["embed"]} | params
    return found | {module: _Place(path, None, single[path].shape) for path, module in SINGLE.items()}


def _adaptable(places: dict[str, _Place]) -> list[str]:
    return [name for name, place in places.items() if place.path.removeprefix("layers/") in MODULES]


def _key(name: str, leaf: str = "weight") -> str:
    return f"{PREFIX}{name}.{leaf}"


def _get(branch: Any, path: str) -> Any:
    for part in path.split("/"):
        branch = branch.get(part, {})
    return branch


def _put(branch: dict, path: str, leaf: Any) -> dict:
    """A tree with this leaf at this path; what lies beside the path is shared."""
    name, _, rest = path.partition("/")
    return branch | {name: _put(branch[name], rest, leaf) if rest else leaf}


# What adapter_config.json says


class _Fields:
    """The fields of adapter_config.json, each checked when it is asked for; null counts as absent."""

    def __init__(self, folder: Path):
        """Read the file. UserError for no file, no JSON object, and fields that have no meaning here."""
        self.file = folder / CONFIG
        if not self.file.is_file():
            raise UserError(f"{self.file}: no such file; expected a folder that PEFT's save_pretrained wrote")
        try:
            with open(self.file, "rb") as opened:
                self.raw = json.loads(opened.read(1 << 24))
        except (OSError, ValueError, RecursionError):
            self.raw = None
        if not isinstance(self.raw, dict):
            raise UserError(f"{self.file}: not a JSON object of at most 16 MiB; save the adapter again")
        self._refuse()

    def _refuse(self) -> None:
        kind = self.raw.get("peft_type")
        if kind != "LORA":
            raise UserError(f"{self.file}: peft_type={_show(kind)}; only LORA (with rsLoRA and DoRA) is read")
        for field, value in self.raw.items():
            if field not in READ | IGNORED and value and (field, value) != ("bias", "none"):
                why = ADVICE.get(field, "it has no counterpart here; train without it")
                raise UserError(f"{self.file}: {_show(field)[1:-1]}={_show(value)} is not supported: {why}")
        names = "true, false or the name of an initialisation"
        start = str(self.get("init_lora_weights", True, lambda x: isinstance(x, bool | str), names)).lower()
        if start.startswith(CONVERTIBLE_INITS):
            raise UserError(
                f"{self.file}: init_lora_weights={_show(start)} changed the base that the adapter belongs to; PEFT's"
                " save_pretrained(path_initial_model_for_weight_conversion=...) writes a plain LoRA"
            )
        if start not in PLAIN_INITS:
            raise UserError(
                f"{self.file}: init_lora_weights={_show(start)} is not known to keep the base (loftq replaces it),"
                f" and PEFT cannot convert it; expected one of {', '.join(PLAIN_INITS)}"
            )

    def get(self, field: str, default: Any, legal: Callable[[Any], bool], expected: str) -> Any:
        """The field's value, or the default; UserError says what was expected."""
        value = self.raw.get(field)
        if value is not None and not legal(value):
            raise UserError(f"{self.file}: {field}={_show(value)}; expected {expected}")
        return default if value is None else value

    def flag(self, field: str) -> bool:
        """A boolean, false by default."""
        return self.get(field, False, lambda x: isinstance(x, bool), "true or false")

    def names(self, field: str) -> list[str]:
        """A list of strings, empty by default."""
        return self.get(field, [], _is_names, "a list of strings")

    def names_or_regex(self, field: str) -> Any:
        """A list of strings, or a compiled regex where there is one string."""
        value = self.get(field, [], lambda x: isinstance(x, str) or _is_names(x), "a list of strings or one regex")
        return self.regex(field, value) if isinstance(value, str) and value else value

    def regex(self, field: str, pattern: str, around: str = "{}") -> re.Pattern:
        """A compiled regex."""
        try:
            with warnings.catch_warnings(action="ignore"):
                return re.compile(around.format(pattern))
        except (re.error, OverflowError, RecursionError, MemoryError) as error:
            raise UserError(f"{self.file}: {field}: {_show(pattern)} is not a regex ({error})") from None

    def pattern(self, field: str, legal: Callable[[Any], bool], expected: str) -> list[tuple[re.Pattern, Any]]:
        """rank_pattern or alpha_pattern: each key matches the end of a module's path, from a dot on."""
        found = self.get(field, {}, lambda x: isinstance(x, dict) and all(map(legal, x.values())), expected)
        return [(self.regex(field, key, r"(.*\.)?({})$"), value) for key, value in found.items()]


def _is_names(x: Any) -> bool:
    return isinstance(x, list) and all(isinstance(name, str) for name in x)


def _is_rank(x: Any) -> bool:
    return type(x) is int and 0 < x < 1 << 31


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < 1e30


def _is_layers(x: Any) -> bool:
    return all(type(i) is int and i >= 0 for i in (x if isinstance(x, list) else [x]))


def _modules(fields: _Fields, places: dict[str, _Place]) -> dict[str, tuple[int, float]]:
    """(rank, scale) of the modules that the config names."""
    chosen = _chooser(fields, len({place.layer for place in places.values()} - {None}))
    ranks = fields.pattern("rank_pattern", _is_rank, "an object of regex to positive integer")
    alphas = fields.pattern("alpha_pattern", _is_number, "an object of regex to number")
    r = fields.get("r", 8, _is_rank, "a positive integer")
    alpha = fields.get("lora_alpha", 8, _is_number, "a number")
    root = fields.flag("use_rslora")
    for name in filter(chosen, EMBEDDINGS):
        last = name.split(".")[-1]
        raise UserError(f"{fields.file}: LoRA on {last} is not supported; train it whole: modules_to_save=[{last!r}]")
    found = {}
    for name in filter(chosen, _adaptable(places)):
        rank = _first(ranks, name, r)
        found[name] = rank, _first(alphas, name, alpha) / (math.sqrt(rank) if root else rank)
    if not found:
        there = ", ".join(module.split(".")[-1] for module in MODULES.values())
        targets = _show(fields.raw.get("target_modules"))
        raise UserError(f"{fields.file}: target_modules={targets} names no module of this model; there are: {there}")
    return found


def _first(patterns: list[tuple[re.Pattern, Any]], name: str, default: Any) -> Any:
    return next((value for pattern, value in patterns if pattern.match(name)), default)


def _chooser(fields: _Fields, layers: int) -> Callable[[str], bool]:
    """Whether the config puts an adapter at a module: what is excluded or saved whole is not adapted."""
    targets, excluded = fields.names_or_regex("target_modules"), fields.names_or_regex("exclude_modules")
    saved = [fields.regex("modules_to_save", m, r"(^|.*\.){}($|\..*)") for m in fields.names("modules_to_save")]
    inside = _layer_filter(fields, isinstance(targets, re.Pattern), layers)
    if isinstance(targets, re.Pattern) and targets.pattern.lower() == "all-linear":
        targets = list(MODULES.values())

    def matches(wanted: Any, name: str) -> bool:
        if isinstance(wanted, re.Pattern):
            return wanted.fullmatch(name) is not None
        return any(name == each or name.endswith(f".{each}") for each in wanted)

    def chosen(name: str) -> bool:
        out = matches(excluded, name) or any(pattern.match(name) for pattern in saved)
        return not out and matches(targets, name) and inside(name)

    return chosen


def _layer_filter(fields: _Fields, regex: bool, layers: int) -> Callable[[str], bool]:
    """layers_to_transform: the numbers that may follow layers_pattern in a module's path."""
    wanted = fields.get("layers_to_transform", [], _is_layers, "a layer's number or a list of them")
    wanted = wanted if isinstance(wanted, list) else [wanted]
    before = fields.get("layers_pattern", [], lambda x: isinstance(x, str) or _is_names(x), "names of module lists")
    if (wanted and regex) or (before and not wanted):
        raise UserError(
            f"{fields.file}: layers_to_transform needs target_modules to be a list, and layers_pattern needs"
            " layers_to_transform (PEFT refuses the rest, too); write the layers into the regex"
        )
    if any(layer >= layers for layer in wanted):
        raise UserError(f"{fields.file}: layers_to_transform has {_show(max(wanted))}; the model has {layers} layers")
    names = [before] if isinstance(before, str) else before
    patterns = [fields.regex("layers_pattern", p, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.") for p in names if p]
    patterns = patterns or [re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")]

    def inside(name: str) -> bool:
        match = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return not wanted or (match is not None and int(match["idx"]) in wanted)

    return inside


def _saved(fields: _Fields, places: dict[str, _Place]) -> list[str]:
    """Modules that modules_to_save names, or is around; PEFT compares the ends of paths, not whole names."""
    ends = tuple(fields.names("modules_to_save"))

    def around(name: str) -> list[str]:
        parts = name.split(".")
        return [".".join(parts[: i + 1]) for i in range(len(parts))]

    return [name for name in places if any(module.endswith(ends) for module in around(name))]


# What adapter_model.safetensors holds


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


def _shapes(modules: dict[str, tuple[int, float]], dora: bool, places: dict[str, _Place]) -> dict[str, tuple]:
    found = {}
    for name, (rank, _) in modules.items():
        fan_out, fan_in = places[name].shape
        found |= {_key(name, "lora_A.weight"): (rank, fan_in), _key(name, "lora_B.weight"): (fan_out, rank)}
        found |= {_key(name, "lora_magnitude_vector"): (fan_out,)} if dora else {}
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
            raise UserError(f"{tensors.file}: {written} has shape {_show(found)}; expected {known[key]}")


def _some(keys: list[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > 4 else ""
    return ", ".join(_show(key)[1:-1] for key in keys[:4]) + more


def _build(tensors: _Named, modules: dict, places: dict[str, _Place], params: dict, dora: bool) -> dict:
    built: dict = {"layers": {"attn": {}, "mlp": {}}}
    for path in MODULES:
        rows = {places[n].layer: (n, *module) for n, module in modules.items() if places[n].path == f"layers/{path}"}
        layer = _stack(tensors, rows, _get(params["layers"], path).shape, dora) if rows else None
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
        a[i, :, :rank] = tensors.read(_key(name, "lora_A.weight")).T
        b[i, :rank] = tensors.read(_key(name, "lora_B.weight")).T
        scale[i, :rank], gain[i] = factor, 1
        if dora:
            m[i] = tensors.read(_key(name, "lora_magnitude_vector"))
    lora = LoRA(jnp.asarray(a), jnp.asarray(b), jnp.asarray(scale))
    return DoRA(lora.a, lora.b, lora.scale, jnp.asarray(m), jnp.asarray(gain), None) if dora else lora


def _check_size(file: Path, size: float, adapter: dict) -> None:
    """UserError for a change that is not finite, or none: with B = 0, a DoRA's is the rounding of its norms."""
    if not size < float(np.finfo(np.float32).max):
        raise UserError(f"{file}: the weight change is not finite: training had diverged")
    layers = [layer for layer in jax.tree.leaves(adapter, is_leaf=is_layer) if layer is not None]
    rounding = 0.0
    if not any(jnp.any(layer.b) for layer in layers):
        rounding = 1e-5 * math.sqrt(sum(float(jnp.sum(x.w2 * x.gain)) for x in layers if isinstance(x, DoRA)))
    if size <= rounding:
        raise UserError(f"{file}: the adapter changes nothing (||dW||_F = {size:.2g}): it was saved before training")


def _replace(tensors: _Named, names: list[str], places: dict[str, _Place], params: dict, untie: bool) -> dict:
    """Parameters with the folder's copies in place, in the type of what they replace; equal ones stay.

    untie: over a tied base, an embedding that was trained as a copy leaves the head as it was. So it is in PEFT.
    """
    result = params
    for name in names:  # in the order of `places`: the embedding before the head
        place, x = places[name], tensors.read(_key(name))
        old = _get(result, "embed" if name == "lm_head" and "head" not in params else place.path)
        new = jnp.asarray(x, old.dtype) if place.layer is None else jnp.asarray(old).at[place.layer].set(x.T)
        if not np.array_equal(new, old):
            new = jax.device_put(new, old.sharding) if isinstance(old, jax.Array) else new
            result = _put(result, place.path, new)
    if untie and "head" not in params and "lm_head" not in names:
        result = result | {"head": params["embed"]}
    return result


def _changed(new: dict, old: dict) -> tuple[str, ...]:
    """Paths of the leaves that were put in; a head that is the tied embedding as it was does not count."""
    before = dict(zip(tree.paths(old), jax.tree.leaves(old), strict=True))
    pairs = zip(tree.paths(new), jax.tree.leaves(new), strict=True)
    return tuple(path for path, leaf in pairs if leaf is not before.get(path, old["embed"]))


# Writing


@dataclasses.dataclass(frozen=True)
class _Module:
    """A module as PEFT stores it, weights still (in, out): W' = W + scale A B, or DoRA's with a magnitude m."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    m: np.ndarray | None


def _no_counterpart(what: str) -> str:
    return (
        f"peft cannot represent {what}; write its weight change as a LoRA of rank k with"
        " lfl_jax.adapters.truncate(adapter, params, k), which also gives its error"
    )


def _export(adapter: dict, name: str, place: _Place) -> _Module | None:
    """One module, None where nothing is adapted; UserError for what PEFT has no form for."""
    stacked = _get(adapter, place.path) or None
    layer = jax.tree.map(lambda x: x[place.layer], stacked)
    if isinstance(layer, DoRA):
        gain = float(layer.gain[0])
        if gain not in (0, 1):
            raise UserError(_no_counterpart(f"DoRA scaled by {gain:g} (at {name})"))
        return _module(*low_rank_factors(LoRA(layer.a, layer.b, layer.scale)), np.asarray(layer.m)) if gain else None
    kinds = sorted({type(member).__name__ for member in members(layer)})
    if kinds not in ([], ["LoRA"]):
        what = f"a Mix of {' and '.join(kinds)}" if isinstance(layer, Mix) else kinds[0]
        raise UserError(_no_counterpart(f"{what} (at {name})"))
    factors = low_rank_factors(layer) if kinds else None
    return _module(*factors, None) if factors and factors[2].size else None


def _module(a: np.ndarray, b: np.ndarray, scale: np.ndarray, m: np.ndarray | None) -> _Module:
    """One scale per module: scales that differ by rank go into B. Rank 0 (a DoRA's) is written as a rank of zeros."""
    if not scale.size:
        return _Module(np.zeros((len(a), 1), a.dtype), np.zeros((1, b.shape[1]), b.dtype), 1.0, m)
    if not np.isfinite(scale).all():
        raise UserError("the adapter's scale is not finite; nothing is written")
    if (scale == scale[0]).all():
        return _Module(a, b, float(scale[0]), m)
    return _Module(a, b * scale[:, None], 1.0, m)


def _alpha(module: _Module) -> int | float:
    """The shortest alpha with alpha / rank equal to the scale in float32."""
    rank = module.a.shape[1]
    exact = module.scale * rank
    short = (round(exact), round(exact, 6))
    return next((x for x in short if np.float32(x / rank) == np.float32(module.scale)), exact)


def _own_parameters(replaced: dict, modules: dict, places: dict[str, _Place], params: dict) -> dict[str, np.ndarray]:
    """{module: weight in PyTorch's order}. Over a tied base, PEFT ties a saved embedding only to a saved head."""
    if "embed" in replaced and "head" not in params:
        replaced = {"head": replaced["embed"]} | replaced
    for path in set(replaced) - {place.path for place in places.values()}:
        raise UserError(f"replaced={path!r} is no parameter; there are: {', '.join(SINGLE)}, layers/attn_norm, ...")
    own = {n: (p, replaced[p.path]) for n, p in places.items() if p.path in replaced}
    own = {n: np.asarray(x) if p.layer is None else np.asarray(x[p.layer]).T for n, (p, x) in own.items()}
    for name, x in own.items():
        if x.shape != places[name].shape or name in modules:
            problem = "also has an adapter" if name in modules else f"has shape {x.shape} (out, in)"
            raise UserError(f"replaced: {name} {problem}; expected a weight {places[name].shape} without an adapter")
    return own


def _tensors(modules: dict[str, _Module], own: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for name, module in modules.items():
        yield _key(name, "lora_A.weight"), module.a.T
        yield _key(name, "lora_B.weight"), module.b.T
        if module.m is not None:
            yield _key(name, "lora_magnitude_vector"), module.m
    yield from ((_key(name), x) for name, x in own.items())


def _cast(key: str, x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float32).astype(jnp.dtype(dtype))
    if not np.isfinite(x.astype(np.float32)).all():
        raise UserError(f"{key} holds NaN or infinity, or numbers too large for {dtype}")
    return x


def _config(modules: dict[str, _Module], own: list[str], places: dict[str, _Place], base_name: str) -> dict:
    ranks, alphas = {n: x.a.shape[1] for n, x in modules.items()}, {n: _alpha(x) for n, x in modules.items()}
    (rank, _), (alpha, _) = (Counter(x.values()).most_common(1)[0] for x in (ranks, alphas))
    layers = max(place.layer for place in places.values() if place.layer is not None) + 1
    adapted = Counter(places[name].path for name in modules)
    short = {n: n.split(".")[-1] for n in modules if adapted[places[n].path] == layers}
    saved = {n: n.split(".")[-1] for n in own} | ({"model.norm": "model.norm"} if "model.norm" in own else {})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "target_modules": sorted({short.get(n, n) for n in modules}),
        "modules_to_save": sorted(set(saved.values())) or None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: x for n, x in alphas.items() if x != alpha},
        "use_dora": any(x.m is not None for x in modules.values()),
        "use_rslora": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
    }
