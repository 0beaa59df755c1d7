"""(IA)^3 as PEFT stores it: ia3_l (1, I) on a feed-forward module's input, ia3_l (O, 1) on any
other's output.

PEFT scales the whole output of a module, its bias too; ours scales x W. So a module with a bias is
refused.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.ia3 import IA3
from lfl_jax.errors import UserError
from lfl_jax.io.peft.fields import CHOICE, Fields, names_module
from lfl_jax.io.peft.places import Place, key_of
from lfl_jax.io.peft.stacks import Read, layer_at, layer_tree, rows_of, short_names

READ = CHOICE - {"bias"} | {"exclude_modules", "feedforward_modules"}
IGNORED = {"init_ia3_weights"}
BIAS_OF_ADAPTED = "none"  # PEFT's IA3 trains no biases


def default_targets(params: dict) -> list[str]:
    """PEFT 0.21's for llama and mistral; for qwen2 (biases on q, k and v alone) and qwen3 (norms of
    q and k)."""
    layers = params["layers"]
    qwen = "qk_norm" in layers or ("qkv_bias" in layers and "o_bias" not in layers)
    return ["q_proj" if qwen else "k_proj", "v_proj", "down_proj"]


def check(fields: Fields, places: dict[str, Place], names: list[str]) -> None:
    """UserError for what PEFT computes differently from us, and for a stack of both sides."""
    sides = _sides(fields, names)
    for name in names:
        if places[name].bias and not sides[name]:
            raise UserError(f"{fields.file}: {_scaled_bias(name)}")
    for path, rows in rows_of(names, places).items():
        if len({sides[name] for name in rows.values()}) > 1:
            raise UserError(
                f"{fields.file}: feedforward_modules has {path.split('/')[1]} in some layers and"
                " not in others; one"
                " side for all layers is expected"
            )


def shapes(
    fields: Fields, places: dict[str, Place], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """{key: shape in PyTorch's order} of the tensors that the config asks for."""
    sides = _sides(fields, names)
    return {
        key_of(name, "ia3_l"): (1, places[name].shape[1])
        if sides[name]
        else (places[name].shape[0], 1)
        for name in names
    }


def build(
    fields: Fields, read: Read, names: list[str], places: dict[str, Place], params: dict
) -> dict:
    """The adapter: ones and gain 0 in the layers that have none."""
    sides, rows = _sides(fields, names), rows_of(names, places)

    def stack(path: str) -> Any:
        if path not in rows:
            return None
        part, module = path.split("/")
        layers, fan_in, fan_out = params["layers"][part][module].shape
        at_input = sides[next(iter(rows[path].values()))]
        vector, gain = (
            np.ones((layers, fan_in if at_input else fan_out), np.float32),
            np.zeros((layers, 1), np.float32),
        )
        for i, name in rows[path].items():
            vector[i], gain[i] = read(key_of(name, "ia3_l")).ravel(), 1
        value = jnp.asarray(vector)
        return IA3(
            inputs=value if at_input else None,
            outputs=None if at_input else value,
            gain=jnp.asarray(gain),
        )

    return layer_tree(stack)


def describe(adapter: dict) -> str:
    """What it is, for a line about what was loaded."""
    return "(IA)^3"


def export(
    adapter: dict, places: dict[str, Place], names: list[str]
) -> tuple[dict, dict[str, dict], list[str]]:
    """(config fields, {module: {leaf: tensor}}, the adapted modules). UserError for a module with a
    bias."""
    tensors, inputs = {}, []
    for name in names:
        layer = layer_at(adapter, places[name])
        if layer is None or float(layer.gain[0]) == 0:
            continue
        if places[name].bias and layer.inputs is None:
            raise UserError(_scaled_bias(name))
        vector = 1 + np.asarray(layer.gain) * (
            np.asarray(layer.outputs if layer.inputs is None else layer.inputs) - 1
        )
        tensors[name] = {"ia3_l": vector[:, None] if layer.inputs is None else vector[None]}
        if layer.inputs is not None:
            inputs.append(name)
    # as in target_modules: PEFT wants a subset of those
    called = short_names(list(tensors), places)
    config = {
        "peft_type": "IA3",
        "feedforward_modules": sorted({called[name] for name in inputs}),
        "init_ia3_weights": True,
    }
    return config, tensors, list(tensors)


def _sides(fields: Fields, names: list[str]) -> dict[str, bool]:
    """Whether each module's input is scaled. PEFT compares ends of paths here, dots or not."""
    wanted = fields.names_or_regex("feedforward_modules")
    wanted = ["down_proj"] if fields.raw.get("feedforward_modules") is None else wanted
    if isinstance(wanted, list):
        return {name: name.endswith(tuple(wanted)) for name in names}
    return {name: names_module(wanted, name) for name in names}


def _scaled_bias(name: str) -> str:
    return (
        f"(IA)^3 at {name}, which has a bias: PEFT scales the bias too and lfl_jax does not; use"
        " modules without a"
        " bias, or export its weight change as a LoRA (adapters.truncate)"
    )
