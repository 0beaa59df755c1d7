"""VeRA as PEFT stores it: vera_lambda_d (R,), vera_lambda_b (O,), and once vera_A and vera_B.

A is (R, I) and B (O, R) of the largest adapted module in each direction; others use slices.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from lfl_jax.adapters.vera import VeRA
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.io.peft.fields import CHOICE, Fields
from lfl_jax.io.peft.modules import Modules, adaptable, key_of
from lfl_jax.io.peft.stacks import Adapted, Exported, Read, Shapes, layer_at, layer_tree, zeros

READ = CHOICE | {
    "r",
    "projection_prng_key",
    "save_projection",
    "layers_to_transform",
    "layers_pattern",
}
IGNORED = {"vera_dropout", "d_initial", "init_weights"}
BIAS_OF_ADAPTED = "vera_only"
A, B = "base_model.vera_A", "base_model.vera_B"


def default_targets(params: Params) -> list[str]:
    """PEFT 0.21's for llama, mistral, qwen2 and qwen3."""
    return ["q_proj", "v_proj"]


def check(adapted: Adapted) -> None:
    """Nothing beyond what each field's own check refuses."""


def shapes(adapted: Adapted) -> Shapes:
    """The tensors that the config names."""
    rank, expected = _rank(adapted.fields), {}
    for name in adapted.names:
        expected[key_of(name, "vera_lambda_d")] = (rank,)
        expected[key_of(name, "vera_lambda_b")] = adapted.modules[name].shape[:1]
    if _has_projections(adapted.fields):
        fan_out, fan_in = _largest(adapted.modules, adapted.names)
        # Once for the folder: all modules share them.
        expected |= {A: (rank, fan_in), B: (fan_out, rank)}
    return expected


def build(adapted: Adapted, read: Read, params: Params) -> AdapterTree:
    """The adapter, with A and B from the folder, or drawn as PEFT draws them if it has none."""
    rank, rows = _rank(adapted.fields), adapted.rows()

    def stack(path: str) -> VeRA | None:
        if path not in rows:
            return None
        part, weight = path.split("/")
        layers, fan_in, fan_out = params["layers"][part][weight].shape
        # gain stays 0 in layers that the folder does not adapt.
        lambda_d, lambda_b, gain = zeros(layers, rank), zeros(layers, fan_out), zeros(layers, 1)
        for i, name in rows[path].items():
            lambda_d[i] = read(key_of(name, "vera_lambda_d"))
            lambda_b[i] = read(key_of(name, "vera_lambda_b"))
            gain[i] = 1
        vectors = {"lambda_d": lambda_d, "lambda_b": lambda_b, "gain": gain}
        return VeRA(**jax.tree.map(jnp.asarray, vectors), fan_in=fan_in)

    # Without save_projection a folder has the seed only, and both sides draw A and B from it.
    if _has_projections(adapted.fields):
        a, b = read(A), read(B)
    else:
        a, b = projections(_seed(adapted.fields), rank, *_largest(adapted.modules, adapted.names))
    return layer_tree(stack) | {"shared": {"vera": {"a": jnp.asarray(a.T), "b": jnp.asarray(b.T)}}}


def projections(
    seed: int, rank: int, fan_out: int, fan_in: int
) -> tuple[Float32[np.ndarray, "R I"], Float32[np.ndarray, "O R"]]:
    """PEFT's A and B for a projection_prng_key, bit-exact.

    They are Kaiming uniform from torch.Generator("cpu").manual_seed(seed). PyTorch's generator is
    the Mersenne Twister of NumPy's RandomState, from the lower 32 bits of the seed. A uniform
    float32 is the lower 24 bits of a draw, scaled in float64.
    """
    twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def draw(rows: int, columns: int) -> Float32[np.ndarray, "rows columns"]:
        bits = twister.randint(0, 1 << 32, rows * columns, dtype=np.uint32) & np.uint32(0xFFFFFF)
        # Rounded to float32 at the points where PyTorch rounds: close would not be bit-exact.
        bound = float(np.float32(math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(columns))))
        return (bits * 2.0**-24 * (2 * bound) - bound).astype(np.float32).reshape(rows, columns)

    a = draw(rank, fan_in)
    return a, draw(fan_out, rank)


def describe(adapter: AdapterTree) -> str:
    """The rank, for a line about what was loaded."""
    return f"VeRA of rank {adapter['shared']['vera']['a'].shape[1]}"


def export(adapter: AdapterTree, modules: Modules) -> Exported:
    """The folder's content, with A and B."""
    names, tensors, shared = [], {}, adapter["shared"]["vera"]
    for name in adaptable(modules):
        layer = layer_at(adapter, modules[name])
        if layer is None or float(layer.gain[0]) == 0:
            continue
        names.append(name)
        # PEFT has no gain: it is linear in lambda_d.
        tensors[key_of(name, "vera_lambda_d")] = np.asarray(layer.gain) * np.asarray(layer.lambda_d)
        tensors[key_of(name, "vera_lambda_b")] = np.asarray(layer.lambda_b)
    if names:
        fan_out, fan_in = _largest(modules, names)
        tensors[A] = np.asarray(shared["a"])[:fan_in].T
        tensors[B] = np.asarray(shared["b"])[:, :fan_out].T
    config = {
        "peft_type": "VERA",
        "r": shared["a"].shape[1],
        "save_projection": True,
        "projection_prng_key": 0,
        "d_initial": 0.1,
        "vera_dropout": 0.0,
        "init_weights": True,
    }
    return Exported(config, tensors, names)


def _rank(fields: Fields) -> int:
    return fields.get("r", 256, lambda x: type(x) is int and 0 < x < 1 << 31, "a positive integer")


def _seed(fields: Fields) -> int:
    return fields.get(
        "projection_prng_key", 0, lambda x: type(x) is int and abs(x) < 1 << 63, "an integer"
    )


def _has_projections(fields: Fields) -> bool:
    return fields.get("save_projection", True, lambda x: isinstance(x, bool), "true or false")


def _largest(modules: Modules, names: list[str]) -> tuple[int, int]:
    """(O, I) of the largest adapted weight in each direction: the sizes of B and A."""
    fan_outs, fan_ins = zip(*(modules[name].shape for name in names), strict=True)
    return max(fan_outs), max(fan_ins)
