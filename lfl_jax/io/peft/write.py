"""Writing a PEFT folder, for what PEFT can represent."""

import json
import sys
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.vera import VeRA
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.peft import ia3, lora, vera
from lfl_jax.io.peft.places import (
    CONFIG,
    SINGLE,
    STEM,
    Place,
    adaptable,
    find_places,
    get_path,
    key_of,
)
from lfl_jax.io.peft.stacks import short_names

# The kind of all layers -> the file that writes it; everything else is a LoRA, a DoRA, or refused
# there by name.
WRITERS: dict[type, ModuleType] = {IA3: ia3, VeRA: vera}


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

    replaced: parameters that differ from the base's, by path ("head", "layers/attn_norm"). A layer
    whose scales differ by rank has them folded into B. The config appears last: a folder that is
    not whole does not load. Raises UserError for what PEFT cannot hold.
    """
    if dtype not in tensor_file.DTYPES.values():
        raise UserError(
            f"dtype={dtype!r}; expected one of {', '.join(tensor_file.DTYPES.values())}"
        )
    places, kinds = find_places(params), {type(layer) for layer in layers_of(adapter)}
    writer = WRITERS.get(kinds.pop(), lora) if len(kinds) == 1 else lora
    own, tensors, modules = {}, {}, []
    if layers_of(adapter):
        own, tensors, modules = writer.export(adapter, places, adaptable(places))
    if not modules:
        raise UserError(f"{folder}: the adapter has no layers to save")
    whole, saved, bias = _own_parameters(replaced or {}, modules, places, params)
    if bias != "none" and "bias" not in writer.READ:
        raise UserError(
            f"{folder}: PEFT's {own['peft_type']} holds no biases, and {bias} of them trained"
        )
    config = _config(modules, saved, places, base_name) | own
    config |= {"bias": bias} if "bias" in writer.READ else {}
    named = {
        key_of(name, leaf) if name else leaf: x
        for name, xs in tensors.items()
        for leaf, x in xs.items()
    }
    written = ((key, _cast(key, x, dtype)) for key, x in (named | whole).items())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    metadata = {} if fingerprint is None else {tensor_file.FINGERPRINT: fingerprint}
    tensor_file.save(folder, written, STEM, sys.maxsize, metadata)
    files.write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _own_parameters(
    replaced: dict, modules: list[str], places: dict[str, Place], params: dict
) -> tuple[dict[str, np.ndarray], list[str], str]:
    """({key: tensor in PyTorch's order}, the modules saved whole, the config's `bias`).

    Over a tied base, PEFT ties a saved embedding only to a saved head. A module that is saved whole
    brings its bias; other biases are written all, which PEFT calls bias='all'.
    """
    if "embed" in replaced and "head" not in params:
        replaced = {"head": replaced["embed"]} | replaced
    biases = {place.bias for place in places.values()} - {None}
    for path in set(replaced) - {place.path for place in places.values()} - biases:
        raise UserError(
            f"replaced={path!r} is no parameter; there are: {', '.join(SINGLE)}, layers/attn_norm,"
            " ..."
        )
    saved = [name for name, place in places.items() if place.path in replaced]
    _check_whole(saved, modules, replaced, places)
    ends = {name: places[name].leaves() for name in saved}
    bias = "all" if set(replaced) & biases - {places[name].bias for name in saved} else "none"
    if bias == "all":
        if any(places[name].bias for name in saved):
            raise UserError(
                "replaced: biases, and a whole module with a bias: PEFT has no form for both"
                " together"
            )
        ends |= {
            name: {_bias_key(name, modules): p.leaves()["bias"]}
            for name, p in places.items()
            if p.bias
        }
    found = {}
    for name, leaves in ends.items():
        for end, leaf in leaves.items():
            x = replaced[leaf.path] if leaf.path in replaced else get_path(params, leaf.path)
            found[key_of(name, end)] = (
                np.asarray(x) if leaf.layer is None else np.asarray(x[leaf.layer]).T
            )
    return found, saved, bias


def _bias_key(name: str, modules: list[str]) -> str:
    return "base_layer.bias" if name in modules else "bias"


def _check_whole(
    saved: list[str], modules: list[str], replaced: dict, places: dict[str, Place]
) -> None:
    """UserError for a weight of another shape, and for one that also has an adapter."""
    for name in saved:
        place = places[name]
        x = replaced[place.path]
        shape = tuple(x.shape if place.layer is None else x.shape[1:][::-1])
        if shape != place.shape or name in modules:
            problem = "also has an adapter" if name in modules else f"has shape {shape} (out, in)"
            raise UserError(
                f"replaced: {name} {problem}; expected a weight {place.shape} without an adapter"
            )


def _cast(key: str, x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float32).astype(jnp.dtype(dtype))
    if not np.isfinite(x.astype(np.float32)).all():
        raise UserError(f"{key} holds NaN or infinity, or numbers too large for {dtype}")
    return x


def _config(modules: list[str], saved: list[str], places: dict[str, Place], base_name: str) -> dict:
    """The fields that all kinds have."""
    whole = {n: n.split(".")[-1] for n in saved} | (
        {"model.norm": "model.norm"} if "model.norm" in saved else {}
    )
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "target_modules": sorted(set(short_names(modules, places).values())),
        "modules_to_save": sorted(set(whole.values())) or None,
        "fan_in_fan_out": False,
    }
