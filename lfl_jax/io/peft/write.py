"""Writing a PEFT folder, for what PEFT can represent."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, members
from lfl_jax.adapters.truncate import low_rank_factors
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.peft.places import CONFIG, SINGLE, STEM, Place, adaptable, find_places, get_path, key_of


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
    places = find_places(params)
    modules = {name: x for name in adaptable(places) if (x := _export(adapter, name, places[name])) is not None}
    if not modules:
        raise UserError(f"{folder}: the adapter has no layers to save")
    if len({x.m is None for x in modules.values()}) > 1:
        raise UserError(_no_counterpart("LoRA beside DoRA in one adapter"))
    own = _own_parameters(replaced or {}, modules, places, params)
    config = _config(modules, list(own), places, base_name)
    tensors = ((key, _cast(key, x, dtype)) for key, x in _tensors(modules, own))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    metadata = {} if fingerprint is None else {tensor_file.FINGERPRINT: fingerprint}
    tensor_file.save(folder, tensors, STEM, sys.maxsize, metadata)
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    partial.rename(folder / CONFIG)


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


def _export(adapter: dict, name: str, place: Place) -> _Module | None:
    """One module, None where nothing is adapted; UserError for what PEFT has no form for."""
    stacked = get_path(adapter, place.path) or None
    layer = jax.tree.map(lambda x: x[place.layer], stacked)
    layer = layer and layer.with_shared(adapter.get("shared"))
    if isinstance(layer, DoRA) and not layer.per_input:
        gain = float(layer.gain[0])
        if gain not in (0, 1):
            raise UserError(_no_counterpart(f"DoRA scaled by {gain:g} (at {name})"))
        return _module(*low_rank_factors(LoRA(layer.a, layer.b, layer.scale)), np.asarray(layer.m)) if gain else None
    factors = low_rank_factors(layer) if layer else None
    if layer and factors is None:
        kinds = sorted({type(member).__name__ for member in members(layer)})
        what = f"a Mix of {' and '.join(kinds)}" if isinstance(layer, Mix) else kinds[0]
        if any(member.on_output for member in members(layer)):
            raise UserError(f"peft cannot represent {what} (at {name}); save it as a file, NAME.safetensors")
        raise UserError(_no_counterpart(f"{what} (at {name})"))
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


def _own_parameters(replaced: dict, modules: dict, places: dict[str, Place], params: dict) -> dict[str, np.ndarray]:
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
        yield key_of(name, "lora_A.weight"), module.a.T
        yield key_of(name, "lora_B.weight"), module.b.T
        if module.m is not None:
            yield key_of(name, "lora_magnitude_vector"), module.m
    yield from ((key_of(name), x) for name, x in own.items())


def _cast(key: str, x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float32).astype(jnp.dtype(dtype))
    if not np.isfinite(x.astype(np.float32)).all():
        raise UserError(f"{key} holds NaN or infinity, or numbers too large for {dtype}")
    return x


def _config(modules: dict[str, _Module], own: list[str], places: dict[str, Place], base_name: str) -> dict:
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
