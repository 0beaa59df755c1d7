"""VeRA as PEFT stores it: vera_lambda_d (R,), vera_lambda_b (O,), and vera_A (R, I), vera_B (O, R)
once for all."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfl_jax.adapters.vera import VeRA
from lfl_jax.io.peft.fields import CHOICE, Fields
from lfl_jax.io.peft.places import Place, key_of
from lfl_jax.io.peft.stacks import Read, layer_at, layer_tree, rows_of

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


def default_targets(params: dict) -> list[str]:
    """PEFT 0.21's for llama, mistral, qwen2 and qwen3."""
    return ["q_proj", "v_proj"]


def check(fields: Fields, places: dict[str, Place], names: list[str]) -> None:
    """Nothing beyond what each field's own check says."""


def shapes(
    fields: Fields, places: dict[str, Place], names: list[str]
) -> dict[str, tuple[int, ...]]:
    """{key: shape in PyTorch's order} of the tensors that the config asks for."""
    rank, found = _rank(fields), {}
    for name in names:
        found |= {
            key_of(name, "vera_lambda_d"): (rank,),
            key_of(name, "vera_lambda_b"): places[name].shape[:1],
        }
    if _saved(fields):
        fan_out, fan_in = _largest(places, names)
        found |= {A: (rank, fan_in), B: (fan_out, rank)}
    return found


def build(
    fields: Fields, read: Read, names: list[str], places: dict[str, Place], params: dict
) -> dict:
    """The adapter, with A and B from the folder or, where it leaves them out, drawn as PEFT draws
    them."""
    rank, rows = _rank(fields), rows_of(names, places)

    def stack(path: str) -> Any:
        if path not in rows:
            return None
        part, module = path.split("/")
        layers, fan_in, fan_out = params["layers"][part][module].shape
        d, b, gain = (np.zeros((layers, n), np.float32) for n in (rank, fan_out, 1))
        for i, name in rows[path].items():
            d[i], b[i], gain[i] = (
                read(key_of(name, "vera_lambda_d")),
                read(key_of(name, "vera_lambda_b")),
                1,
            )
        return VeRA(
            lambda_d=jnp.asarray(d), lambda_b=jnp.asarray(b), gain=jnp.asarray(gain), fan_in=fan_in
        )

    if _saved(fields):
        a, b = read(A), read(B)
    else:
        key = fields.get(
            "projection_prng_key", 0, lambda x: type(x) is int and abs(x) < 1 << 63, "an integer"
        )
        a, b = projections(key, rank, *_largest(places, names))
    return layer_tree(stack) | {"shared": {"vera": {"a": jnp.asarray(a.T), "b": jnp.asarray(b.T)}}}


def projections(
    key: int, rank: int, fan_out: int, fan_in: int
) -> tuple[Float[np.ndarray, "R I"], Float[np.ndarray, "O R"]]:
    """PEFT's A and B for a projection_prng_key: torch.Generator("cpu").manual_seed(key), Kaiming
    uniform, bit-exact.

    PyTorch's generator is the Mersenne Twister of NumPy's RandomState, from the lower 32 bits of
    the seed. A uniform float32 is the lower 24 bits of a draw, scaled in float64.
    """
    twister = np.random.RandomState(key & 0xFFFFFFFF)

    def draw(rows: int, columns: int) -> Float[np.ndarray, "O I"]:
        bits = twister.randint(0, 1 << 32, rows * columns, dtype=np.uint32) & np.uint32(0xFFFFFF)
        bound = float(np.float32(math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(columns))))
        return (bits * 2.0**-24 * (2 * bound) - bound).astype(np.float32).reshape(rows, columns)

    a = draw(rank, fan_in)
    return a, draw(fan_out, rank)


def describe(adapter: dict) -> str:
    """The rank, for a line about what was loaded."""
    return f"VeRA of rank {adapter['shared']['vera']['a'].shape[1]}"


def export(
    adapter: dict, places: dict[str, Place], names: list[str]
) -> tuple[dict, dict[str, dict], list[str]]:
    """(config fields, {module: {leaf: tensor}} with A and B under "", the adapted modules)."""
    tensors: dict[str, dict] = {}
    for name in names:
        layer = layer_at(adapter, places[name])
        if layer is not None and float(layer.gain[0]) != 0:
            scaled = np.asarray(layer.gain) * np.asarray(layer.lambda_d)
            tensors[name] = {"vera_lambda_d": scaled, "vera_lambda_b": np.asarray(layer.lambda_b)}
    adapted, shared = list(tensors), adapter["shared"]["vera"]
    if adapted:
        fan_out, fan_in = _largest(places, adapted)
        tensors[""] = {
            A: np.asarray(shared["a"])[:fan_in].T,
            B: np.asarray(shared["b"])[:, :fan_out].T,
        }
    config = {
        "peft_type": "VERA",
        "r": shared["a"].shape[1],
        "save_projection": True,
        "projection_prng_key": 0,
        "d_initial": 0.1,
        "vera_dropout": 0.0,
        "init_weights": True,
    }
    return config, tensors, adapted


def _rank(fields: Fields) -> int:
    return fields.get("r", 256, lambda x: type(x) is int and 0 < x < 1 << 31, "a positive integer")


def _saved(fields: Fields) -> bool:
    return fields.get("save_projection", True, lambda x: isinstance(x, bool), "true or false")


def _largest(places: dict[str, Place], names: list[str]) -> tuple[int, int]:
    """(O, I) of the largest adapted weight in each direction: the sizes of B and A."""
    sizes = zip(*(places[name].shape for name in names), strict=True)
    fan_out, fan_in = (max(column) for column in sizes)
    return fan_out, fan_in
