"""LoRA and DoRA written as PEFT stores them; other kinds where they have low-rank factors."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Float

from lfl_jax.adapters.dora import DoRA
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import Mix, members
from lfl_jax.adapters.truncate import low_rank_factors
from lfl_jax.core.types import AdapterTree
from lfl_jax.errors import UserError
from lfl_jax.io.peft.modules import Module, Modules, adaptable, key_of
from lfl_jax.io.peft.stacks import Exported, layer_at


@dataclasses.dataclass(frozen=True)
class _Factors:
    """A module's change as PEFT stores it: W' = W + scale A B, or DoRA's with a magnitude m.

    a (I, R) and b (R, O) are still in our order.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float
    m: np.ndarray | None

    def alpha(self) -> int | float:
        """The shortest alpha with alpha / rank equal to the scale in float32."""
        rank = self.a.shape[1]
        # A product such as 1.9999999 is written as 2: PEFT's division gives the same float32.
        exact = self.scale * rank
        short = (round(exact), round(exact, 6))
        return next((x for x in short if np.float32(x / rank) == np.float32(self.scale)), exact)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """In PyTorch's order, by key."""
        tensors = {
            key_of(name, "lora_A.weight"): self.a.T,
            key_of(name, "lora_B.weight"): self.b.T,
        }
        if self.m is not None:
            tensors[key_of(name, "lora_magnitude_vector")] = self.m
        return tensors


def export(adapter: AdapterTree, modules: Modules) -> Exported:
    """The folder's content; UserError for what PEFT has no form for."""
    factors: dict[str, _Factors] = {}
    tensors: dict[str, np.ndarray] = {}
    for name in adaptable(modules):
        of_module = _factors(adapter, name, modules[name])
        if of_module is not None:
            factors[name] = of_module
            tensors |= of_module.tensors(name)
    if len({x.m is None for x in factors.values()}) > 1:
        raise UserError(_no_counterpart("LoRA beside DoRA in one adapter"))
    return Exported(_config(factors), tensors, list(factors))


def _no_counterpart(what: str) -> str:
    return (
        f"peft cannot represent {what}; write its weight change as a LoRA of rank k with"
        " lfl_jax.adapters.truncate(adapter, params, k), which also gives its error"
    )


def _factors(adapter: AdapterTree, name: str, module: Module) -> _Factors | None:
    """One module's, None where nothing is adapted; UserError for what PEFT has no form for."""
    layer = layer_at(adapter, module)
    if layer is None:
        return None
    if isinstance(layer, DoRA) and not layer.per_input:
        return _dora_factors(layer, name)
    factors = low_rank_factors(layer)
    if factors is not None:
        return _one_scale(*factors, None) if factors[2].size else None

    kinds = sorted({type(member).__name__ for member in members(layer)})
    what = f"a Mix of {' and '.join(kinds)}" if isinstance(layer, Mix) else kinds[0]
    if any(member.on_output for member in members(layer)):
        raise UserError(
            f"peft cannot represent {what} (at {name}); save it as a file, NAME.safetensors"
        )
    raise UserError(_no_counterpart(f"{what} (at {name})"))


def _dora_factors(layer: DoRA, name: str) -> _Factors | None:
    # PEFT has no gain: 1 is a DoRA as trained, 0 a layer that is not adapted.
    gain = float(layer.gain[0])
    if gain not in (0, 1):
        raise UserError(_no_counterpart(f"DoRA scaled by {gain:g} (at {name})"))
    if not gain:
        return None
    factors = low_rank_factors(LoRA(layer.a, layer.b, layer.scale))
    return _one_scale(*factors, np.asarray(layer.m))


def _one_scale(
    a: Float[np.ndarray, "I R"],
    b: Float[np.ndarray, "R O"],
    scale: Float[np.ndarray, " R"],
    m: Float[np.ndarray, " O"] | None,
) -> _Factors:
    """One scale per module: scales that differ by rank are multiplied into B."""
    if not scale.size:  # PEFT knows no rank 0, but a DoRA without it still rescales its weight
        return _Factors(np.zeros((len(a), 1), a.dtype), np.zeros((1, b.shape[1]), b.dtype), 1.0, m)
    if not np.isfinite(scale).all():
        raise UserError("the adapter's scale is not finite; nothing is written")
    if (scale == scale[0]).all():
        return _Factors(a, b, float(scale[0]), m)
    return _Factors(a, b * scale[:, None], 1.0, m)


def _config(factors: dict[str, _Factors]) -> dict[str, Any]:
    if not factors:
        return {}
    rank, rank_pattern = _default({name: x.a.shape[1] for name, x in factors.items()})
    alpha, alpha_pattern = _default({name: x.alpha() for name, x in factors.items()})
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "use_dora": any(x.m is not None for x in factors.values()),
        # Whatever we trained with: the scale of rsLoRA is part of alpha already.
        "use_rslora": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
    }


def _default(by_module: dict[str, int | float]) -> tuple[int | float, dict[str, int | float]]:
    """(the value that most modules have, {module: value} of the others)."""
    default = Counter(by_module.values()).most_common(1)[0][0]
    return default, {name: value for name, value in by_module.items() if value != default}
