"""(IA)^3 as PEFT stores it: ia3_l, (1, I) on a feed-forward module's input, (O, 1) on an output.

PEFT scales the whole output of a module, its bias too; ours scales x W. So a module with a bias is
refused.
"""

import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.ia3 import IA3
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.errors import UserError
from lfl_jax.io.peft.fields import CHOICE, names_module
from lfl_jax.io.peft.modules import Modules, adaptable, key_of
from lfl_jax.io.peft.stacks import (
    Adapted,
    Exported,
    Read,
    Shapes,
    layer_at,
    layer_tree,
    short_names,
    zeros,
)

READ = CHOICE - {"bias"} | {"exclude_modules", "feedforward_modules"}
IGNORED = {"init_ia3_weights"}
BIAS_OF_ADAPTED = "none"  # PEFT's IA3 trains no biases


def default_targets(params: Params) -> list[str]:
    """PEFT 0.21's for llama and mistral, or for qwen2 and qwen3.

    Of those, qwen2 has biases on q, k and v alone, and qwen3 norms of q and k.
    """
    layers = params["layers"]
    is_qwen = "qk_norm" in layers or ("qkv_bias" in layers and "o_bias" not in layers)
    return ["q_proj" if is_qwen else "k_proj", "v_proj", "down_proj"]


def check(adapted: Adapted) -> None:
    """UserError for a scaled bias, and for a stack that scales inputs and outputs."""
    scales_input, file = _scales_input(adapted), adapted.fields.file
    for name in adapted.names:
        if adapted.modules[name].bias and not scales_input[name]:
            raise UserError(f"{file}: {_scaled_bias(name)}")
    # A stacked weight has one layer for all, whose vector has either I or O entries.
    for path, rows in adapted.rows().items():
        if len({scales_input[name] for name in rows.values()}) > 1:
            raise UserError(
                f"{file}: feedforward_modules has {path.split('/')[1]} in some layers and not in"
                " others; one side for all layers is expected"
            )


def shapes(adapted: Adapted) -> Shapes:
    """The tensors that the config names."""
    scales_input, expected = _scales_input(adapted), {}
    for name in adapted.names:
        fan_out, fan_in = adapted.modules[name].shape
        expected[key_of(name, "ia3_l")] = (1, fan_in) if scales_input[name] else (fan_out, 1)
    return expected


def build(adapted: Adapted, read: Read, params: Params) -> AdapterTree:
    """The adapter: ones and gain 0 in the layers that have none."""
    scales_input, rows = _scales_input(adapted), adapted.rows()

    def stack(path: str) -> IA3 | None:
        if path not in rows:
            return None
        part, weight = path.split("/")
        layers, fan_in, fan_out = params["layers"][part][weight].shape
        at_input = scales_input[next(iter(rows[path].values()))]
        vectors, gain = 1 + zeros(layers, fan_in if at_input else fan_out), zeros(layers, 1)
        for i, name in rows[path].items():
            vectors[i], gain[i] = read(key_of(name, "ia3_l")).ravel(), 1
        side = "inputs" if at_input else "outputs"
        absent = {"inputs": None, "outputs": None, "gain": jnp.asarray(gain)}
        return IA3(**absent | {side: jnp.asarray(vectors)})

    return layer_tree(stack)


def describe(adapter: AdapterTree) -> str:
    """The adapter in a word, for a line about what was loaded."""
    return "(IA)^3"


def export(adapter: AdapterTree, modules: Modules) -> Exported:
    """The folder's content; UserError for a module with a bias."""
    tensors: dict[str, np.ndarray] = {}
    at_input: dict[str, bool] = {}
    for name in adaptable(modules):
        layer = layer_at(adapter, modules[name])
        if layer is None or float(layer.gain[0]) == 0:
            continue
        at_input[name] = layer.inputs is not None
        if modules[name].bias and not at_input[name]:
            raise UserError(_scaled_bias(name))
        # PEFT has no gain: y = x W l with l = 1 + gain (l' - 1).
        vector = np.asarray(layer.inputs if at_input[name] else layer.outputs)
        vector = 1 + np.asarray(layer.gain) * (vector - 1)
        tensors[key_of(name, "ia3_l")] = vector[None] if at_input[name] else vector[:, None]
    # By the names that target_modules uses: PEFT wants a subset of those.
    config_names = short_names(list(at_input), modules)
    config = {
        "peft_type": "IA3",
        "feedforward_modules": sorted({config_names[name] for name in at_input if at_input[name]}),
        "init_ia3_weights": True,
    }
    return Exported(config, tensors, list(at_input))


def _scales_input(adapted: Adapted) -> dict[str, bool]:
    """{module: True where its input is scaled}; PEFT compares ends of names, dots or not."""
    fields = adapted.fields
    feedforward = fields.names_or_regex("feedforward_modules")
    if fields.raw.get("feedforward_modules") is None:
        feedforward = ["down_proj"]
    if isinstance(feedforward, list):
        return {name: name.endswith(tuple(feedforward)) for name in adapted.names}
    return {name: names_module(feedforward, name) for name in adapted.names}


def _scaled_bias(name: str) -> str:
    return (
        f"(IA)^3 at {name}, which has a bias: PEFT scales the bias too and lfl_jax does not; use"
        " modules without a bias, or export its weight change as a LoRA (adapters.truncate)"
    )
