"""Writing a PEFT folder, for what PEFT can represent."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.adapters.ia3 import IA3
from lfl_jax.adapters.vera import VeRA
from lfl_jax.core import files
from lfl_jax.core.types import AdapterTree, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.peft import ia3, lora, vera
from lfl_jax.io.peft.modules import (
    CONFIG,
    SINGLE,
    STEM,
    Leaf,
    Modules,
    find_modules,
    get_path,
    key_of,
)
from lfl_jax.io.peft.stacks import short_names

# The kind of all layers -> the file that writes it. Everything else is a LoRA, a DoRA, or refused
# by `lora_export`.
WRITERS: dict[type, ModuleType] = {IA3: ia3, VeRA: vera}


@dataclasses.dataclass(frozen=True)
class _Trained:
    """Parameters that trained as a whole: tensors by key, modules to save, and the field `bias`."""

    tensors: dict[str, np.ndarray]
    modules: list[str]
    bias: str


def save(
    folder: Path,
    adapter: AdapterTree,
    params: Params,
    *,
    base_name: str,
    fingerprint: str | None = None,
    dtype: str = "float32",
    replaced: Mapping[str, Weight] | None = None,
) -> None:
    """Write a folder that PEFT and `load` read as the same function.

    replaced: parameters that differ from the base's, by path ("head", "layers/attn_norm"). A layer
    whose scales differ by rank has them folded into B. Raises UserError for what PEFT cannot hold.
    """
    if dtype not in tensor_file.DTYPES.values():
        raise UserError(
            f"dtype={dtype!r}; expected one of {', '.join(tensor_file.DTYPES.values())}"
        )
    # One kind in all layers has a writer of its own; everything else is tried as LoRA.
    modules, kinds = find_modules(params), {type(layer) for layer in layers_of(adapter)}
    writer = WRITERS.get(next(iter(kinds)), lora) if len(kinds) == 1 else lora
    exported = writer.export(adapter, modules) if kinds else None
    if exported is None or not exported.names:
        raise UserError(f"{folder}: the adapter has no layers to save")
    trained = _trained(dict(replaced or {}), exported.names, modules, params)
    if trained.bias != "none" and "bias" not in writer.READ:
        raise UserError(
            f"{folder}: PEFT's {exported.config['peft_type']} holds no biases, and {trained.bias}"
            " of them trained"
        )
    config = _config(exported.names, trained.modules, modules, base_name) | exported.config
    # (IA)^3's config has no such field.
    config |= {"bias": trained.bias} if "bias" in writer.READ else {}

    tensors = exported.tensors | trained.tensors
    _write(folder, tensors, config, dtype, fingerprint)


def _write(
    folder: Path,
    tensors: dict[str, np.ndarray],
    config: dict[str, Any],
    dtype: str,
    fingerprint: str | None,
) -> None:
    """The config goes first and comes last: a folder that is not whole does not load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    metadata = {} if fingerprint is None else {tensor_file.FINGERPRINT: fingerprint}
    # A generator, so that one tensor at a time is cast.
    cast = ((key, _cast(key, tensor, dtype)) for key, tensor in tensors.items())
    tensor_file.save(folder, cast, STEM, sys.maxsize, metadata)
    files.write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _trained(
    replaced: dict[str, Weight], adapted: list[str], modules: Modules, params: Params
) -> _Trained:
    """Replaced parameters as PEFT holds them.

    Over a tied base, PEFT ties a saved embedding only to a saved head. A module that is saved whole
    brings its bias; other biases are written all, which PEFT calls bias='all'.
    """
    if "embed" in replaced and "head" not in params:
        replaced = {"head": replaced["embed"]} | replaced
    biases = {module.bias for module in modules.values()} - {None}
    unknown = set(replaced) - {module.path for module in modules.values()} - biases
    if unknown:
        raise UserError(
            f"replaced={unknown.pop()!r} is no parameter; there are: {', '.join(SINGLE)},"
            " layers/attn_norm, ..."
        )
    saved = [name for name, module in modules.items() if module.path in replaced]
    _check_saved(saved, adapted, replaced, modules)
    leaves: dict[str, Leaf] = {}
    for name in saved:
        leaves |= {key_of(name, end): leaf for end, leaf in modules[name].leaves().items()}

    other_biases = set(replaced) & biases - {modules[name].bias for name in saved}
    if other_biases:
        if any(modules[name].bias for name in saved):
            raise UserError(
                "replaced: biases, and a whole module with a bias: PEFT has no form for both"
                " together"
            )
        leaves |= _bias_leaves(adapted, modules)
    tensors = {key: _tensor(leaf, replaced, params) for key, leaf in leaves.items()}
    return _Trained(tensors, saved, "all" if other_biases else "none")


def _bias_leaves(adapted: list[str], modules: Modules) -> dict[str, Leaf]:
    """{key: bias} of the whole model; those of adapted modules lie under their base_layer."""
    leaves: dict[str, Leaf] = {}
    for name, module in modules.items():
        if module.bias:
            end = "base_layer.bias" if name in adapted else "bias"
            leaves[key_of(name, end)] = module.leaves()["bias"]
    return leaves


def _tensor(leaf: Leaf, replaced: Mapping[str, Weight], params: Params) -> np.ndarray:
    """In PyTorch's order: matrices of layers are transposed, the embedding and head are not."""
    x = replaced[leaf.path] if leaf.path in replaced else get_path(params, leaf.path)
    return np.asarray(x) if leaf.layer is None else np.asarray(x[leaf.layer]).T


def _check_saved(
    saved: list[str], adapted: list[str], replaced: Mapping[str, Weight], modules: Modules
) -> None:
    """UserError for a weight of another shape, and for one that also has an adapter."""
    for name in saved:
        module = modules[name]
        stacked = replaced[module.path].shape
        # In PyTorch's order: (out, in) for a layer of our (L, in, out).
        shape = tuple(stacked if module.layer is None else stacked[1:][::-1])
        if shape != module.shape or name in adapted:
            problem = "also has an adapter" if name in adapted else f"has shape {shape} (out, in)"
            raise UserError(
                f"replaced: {name} {problem}; expected a weight {module.shape} without an adapter"
            )


def _cast(key: str, x: Shaped[np.ndarray, "..."], dtype: str) -> Shaped[np.ndarray, "..."]:
    # NumPy would warn of the overflow; the check below names the tensor.
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float32).astype(jnp.dtype(dtype))
    if not np.isfinite(x.astype(np.float32)).all():
        raise UserError(f"{key} holds NaN or infinity, or numbers too large for {dtype}")
    return x


def _config(
    adapted: list[str], saved: list[str], modules: Modules, base_name: str
) -> dict[str, Any]:
    """The fields that all kinds have."""
    # "norm" alone would also be the end of q_norm and of the layers' norms.
    ends = {name if name == "model.norm" else name.split(".")[-1] for name in saved}
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "target_modules": sorted(set(short_names(adapted, modules).values())),
        "modules_to_save": sorted(ends) or None,
        "fan_in_fan_out": False,
    }
