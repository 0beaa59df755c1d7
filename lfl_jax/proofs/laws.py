"""The laws of adapters, each as a computation of both sides, and how it holds for which kind.

docs/adapters.md states them in a table, which tests compare with this one. An outcome is "exact"
(to the last bit), "rounding" (`rounding.distance`), "no, WHY" (the sides differ by more than
rounding explains), or a text in quotes, which is part of a refusal's message.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfl_jax import adapters
from lfl_jax.adapters import combine, peft_combine
from lfl_jax.core.types import AdapterTree, Params, PyTree, Routing
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, peft
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.proofs import rounding
from lfl_jax.proofs.perturbed import moved

EXACT, ROUNDING = "exact", "rounding"
# What "no" differs by, at least: rounding does not explain a thousandth.
APART = 1e-3
# One side, and a function with its arguments for the other side.
Sides = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """Adapters of one kind over the parameters that it belongs to: fresh, and trained (a, b).

    folder: for files. hidden(params, adapter, routing=None): compiled once for each structure.
    """

    params: Params
    fresh: AdapterTree
    a: AdapterTree
    b: AdapterTree
    folder: Path
    hidden: Callable[..., Float[Array, "B T D"]]

    @classmethod
    def of(
        cls,
        params: Params,
        fresh: AdapterTree,
        folder: Path,
        tokens: Int[Array, "B T"],
        cfg: ModelConfig,
    ) -> "Case":
        """Of a fresh adapter, with two that were moved away from it; tokens: two rows."""

        @jax.jit
        def run(
            params: Params, adapter: AdapterTree | None, routing: Routing | None
        ) -> Float[Array, "B T D"]:
            return llama.forward(params, adapter, tokens, cfg, routing=routing)[0]

        def hidden(
            params: Params, adapter: AdapterTree | None, routing: Routing | None = None
        ) -> Float[Array, "B T D"]:
            return run(params, adapter, routing)

        return cls(params, fresh, moved(fresh, 1), moved(fresh, 2), folder, hidden)

    def gate(self, first: float, second: float) -> Float[Array, "B M"]:
        """Routing weights of `add(a, b)`: these on all members of a, and of b."""
        count = adapters.member_count(self.a)
        return jnp.array([[first] * count + [second] * count] * 2, float)


@dataclasses.dataclass(frozen=True)
class Law:
    """A law in words, how it holds, how to compute both sides, and kinds of another outcome.

    but: {name of a kind, where a star stands for any ending: outcome}.
    """

    name: str
    usual: str
    sides: Callable[[Case], Sides]
    but: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def stated(self, kind: str) -> str:
        """The outcome for a kind of adapter, or a mix such as lora+dora."""
        named = (x for pattern, x in self.but.items() if fnmatch.fnmatchcase(kind, pattern))
        return next(named, self.usual)


def dw(adapter: AdapterTree, params: Params) -> PyTree:
    """dW of every adapted weight."""
    return adapters.deltas(adapter, params)["layers"]


def merged(adapter: AdapterTree, params: Params) -> list[Array]:
    """The weights that an adapter is merged into."""
    layers = adapters.merge(adapter, params)["layers"]
    adapted = [(part, weights) for part, weights in adapter["layers"].items()]
    return [
        layers[part][name]
        for part, weights in adapted
        for name, x in weights.items()
        if x is not None
    ]


def _through_file(c: Case) -> AdapterTree:
    adapter_file.save(c.folder / "a.safetensors", c.a)
    return adapter_file.load(c.folder / "a.safetensors", c.params)


def _through_peft(c: Case) -> PyTree:
    peft.save(c.folder / "peft", c.a, c.params, base_name="small")
    return dw(peft.load(c.folder / "peft", c.params).adapter, c.params)


def _weighted(a: AdapterTree, b: AdapterTree, params: Params) -> PyTree:
    return jax.tree.map(lambda x, y: 0.5 * x - 2 * y, dw(a, params), dw(b, params))


def _added(a: AdapterTree, b: AdapterTree, params: Params) -> PyTree:
    return jax.tree.map(jnp.add, dw(a, params), dw(b, params))


def _both(a: AdapterTree, b: AdapterTree) -> list[AdapterTree]:
    return [a, b]


def _minus_itself(c: Case) -> Sides:
    def sum_with_negative(params: Params, a: AdapterTree) -> Float[Array, "B T D"]:
        return c.hidden(params, adapters.add(a, adapters.negate(a)), c.gate(1.0, 1.0))

    return c.hidden(c.params, None), sum_with_negative, c.params, c.a


def _commutes(c: Case) -> Sides:
    def sum_of(params: Params, a: AdapterTree, b: AdapterTree) -> Float[Array, "B T D"]:
        return c.hidden(params, adapters.add(a, b), c.gate(1.0, 1.0))

    return sum_of(c.params, c.b, c.a), sum_of, c.params, c.a, c.b


def _associates(c: Case) -> Sides:
    got = adapters.add(adapters.add(c.a, c.b), c.fresh)
    return got, lambda a, b: adapters.add(a, adapters.add(b, c.fresh)), c.a, c.b


def _interpolates(c: Case) -> Sides:
    ends = [dw(adapters.interpolate(c.a, c.b, t), c.params) for t in (0, 1)]
    return ends, lambda a, b: [dw(x, c.params) for x in (a, b)], c.a, c.b


def _scales(c: Case) -> Sides:
    def scaled(a: AdapterTree) -> PyTree:
        return jax.tree.map(lambda y: -1.7 * y, dw(a, c.params))

    return dw(adapters.scale(c.a, -1.7), c.params), scaled, c.a


def _scales_twice(c: Case) -> Sides:
    got = adapters.scale(adapters.scale(c.a, 0.3), -1.7)
    return got, lambda a: adapters.scale(a, 0.3 * -1.7), c.a


def _fuses(c: Case) -> Sides:
    got = dw(adapters.fuse(adapters.add(c.a, c.b)), c.params)
    return got, lambda a, b: dw(adapters.add(a, b), c.params), c.a, c.b


def _merges_in_turn(c: Case) -> Sides:
    def one_after_the_other(a: AdapterTree, b: AdapterTree, params: Params) -> list[Array]:
        return merged(b, adapters.merge(a, params))

    return merged(adapters.add(c.a, c.b), c.params), one_after_the_other, c.a, c.b, c.params


def _selects(c: Case) -> Sides:
    stack = adapters.stack(c.a, c.b)
    return [adapters.select(stack, i) for i in range(2)], _both, c.a, c.b


def _truncates(c: Case) -> Sides:
    shapes = [x.shape[1:] for x in jax.tree.leaves(dw(c.a, c.params))]
    all_ranks = max(min(shape) for shape in shapes)
    return dw(adapters.truncate(c.a, c.params, all_ranks)[0], c.params), dw, c.a, c.params


NO_CHANGE, SHARED = '"it has no weight change"', "\"the adapters' 'shared' arrays differ\""
NO_DW = {"bottleneck": NO_CHANGE}
ONE_Z = {"subspace": SHARED}
SECOND = {"bottleneck": "no, the second sees what the first made"}
NOT_LORA = ("pissa", "olora", "dora", "vera", "ia3", "bottleneck", "full_delta", "subspace")
NO_PEFT = ("full_delta", "subspace", "mora*", "lora+dora")
OTHER_WEIGHTS = '"was trained over other weights"'

LAWS = (
    Law(
        "a fresh adapter = the base",
        EXACT,
        lambda c: (c.hidden(c.params, None), c.hidden, c.params, c.fresh),
        {
            **dict.fromkeys(("pissa", "olora"), ROUNDING),
            "loftq": "no, it corrects its quantised base",
        },
    ),
    Law("`scale(a, 1)` = a", EXACT, lambda c: (adapters.scale(c.a, 1.0), lambda a: a, c.a)),
    Law(
        "`scale(a, 0)` = the base",
        EXACT,
        lambda c: (c.hidden(c.params, adapters.scale(c.a, 0.0)), c.hidden, c.params, None),
    ),
    Law(
        "routing 0 = the base",
        EXACT,
        lambda c: (
            c.hidden(c.params, adapters.add(c.a, c.b), c.gate(0.0, 0.0)),
            c.hidden,
            c.params,
            None,
        ),
        ONE_Z,
    ),
    Law(
        "routing 1 on a and 0 on b, of `add(a, b)` = a without routing",
        ROUNDING,
        lambda c: (
            c.hidden(c.params, adapters.add(c.a, c.b), c.gate(1.0, 0.0)),
            c.hidden,
            c.params,
            c.a,
        ),
        ONE_Z,
    ),
    Law("dW of `scale(a, t)` = t dW", ROUNDING, _scales, NO_DW),
    Law("`scale(scale(a, s), t)` = `scale(a, s t)`", ROUNDING, _scales_twice),
    Law(
        "`negate(negate(a))` = a",
        EXACT,
        lambda c: (adapters.negate(adapters.negate(c.a)), lambda a: a, c.a),
    ),
    Law("`add(a, negate(a))` = the base", ROUNDING, _minus_itself, SECOND),
    Law(
        "dW of `add(a, b)` = the sum",
        ROUNDING,
        lambda c: (dw(adapters.add(c.a, c.b), c.params), _added, c.a, c.b, c.params),
        NO_DW | ONE_Z,
    ),
    Law("`add(a, b)` = `add(b, a)`", ROUNDING, _commutes, SECOND | ONE_Z),
    Law("`add(add(a, b), c)` = `add(a, add(b, c))`", EXACT, _associates, ONE_Z),
    Law(
        "`select(stack(a, b), i)` = a, b",
        EXACT,
        _selects,
        {"lora+dora": '"is a mix of LoRA and DoRA"'} | ONE_Z,
    ),
    Law(
        "dW of `interpolate(a, b, t)` at t = 0, 1 = that of a, b",
        EXACT,
        _interpolates,
        NO_DW | ONE_Z,
    ),
    Law("dW of `fuse(add(a, b))` = that of `add(a, b)`", ROUNDING, _fuses, NO_DW | ONE_Z),
    Law(
        "the merged model = the model with its adapter",
        ROUNDING,
        lambda c: (c.hidden(adapters.merge(c.a, c.params), None), c.hidden, c.params, c.a),
        NO_DW,
    ),
    Law(
        "`merge(add(a, b), params)` = `merge(b, merge(a, params))`",
        ROUNDING,
        _merges_in_turn,
        {
            **dict.fromkeys(("dora", "lora+dora"), OTHER_WEIGHTS),
            "ia3": "no, its factors multiply",
            **NO_DW,
            **ONE_Z,
        },
    ),
    Law(
        "dW of `truncate(a, params, all ranks)` = that of a",
        ROUNDING,
        _truncates,
        NO_DW,
    ),
    Law(
        "dW of `magnitude_prune([a, b], params, w, 1.0)` = the weighted sum",
        ROUNDING,
        lambda c: (
            dw(combine.magnitude_prune([c.a, c.b], c.params, [0.5, -2.0], 1.0), c.params),
            _weighted,
            c.a,
            c.b,
            c.params,
        ),
        NO_DW,
    ),
    Law(
        "dW of `peft_combine.peft_cat([a, b], w)` = the weighted sum",
        ROUNDING,
        lambda c: (
            dw(peft_combine.peft_cat([c.a, c.b], [0.5, -2.0]), c.params),
            _weighted,
            c.a,
            c.b,
            c.params,
        ),
        dict.fromkeys((*NOT_LORA, "mora*", "lora+dora"), '"expected LoRA"'),
    ),
    Law(
        "the adapter file, saved and loaded = a",
        EXACT,
        lambda c: (_through_file(c), lambda a: a, c.a),
    ),
    Law(
        "dW of the PEFT folder, saved and loaded = that of a",
        ROUNDING,
        lambda c: (_through_peft(c), dw, c.a, c.params),
        {
            **dict.fromkeys(NO_PEFT, '"write its weight change as a LoRA"'),
            "bottleneck": '"save it as a file"',
        },
    ),
)


def violation(law: Law, case: Case, outcome: str) -> str:
    """How a law fails to have this outcome, in words; "" where it has it."""
    if outcome.startswith('"'):
        return _not_refused(law, case, outcome[1:-1])
    got, other, *args = law.sides(case)
    function = _with_shared(other, case)
    want = function(*args)
    if jax.tree.structure(got) != jax.tree.structure(want):
        return "the sides have other structures"
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    if outcome == EXACT:
        differing = sum(not np.array_equal(x, y) for x, y in pairs)
        return f"{differing} of {len(pairs)} arrays differ" if differing else ""
    if outcome == ROUNDING:
        distance = rounding.distance(got, want, function, *args)
        return "" if distance.is_rounding else str(distance)
    apart = max(float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)) for x, y in pairs)
    return "" if apart > APART else f"the sides differ by {apart:.2g} only"


def _not_refused(law: Law, case: Case, words: str) -> str:
    """ "" where both sides cannot be computed, and the refusal has these words."""
    try:
        _, function, *args = law.sides(case)
        function(*args)
    except UserError as error:
        return "" if words in str(error) else f"it is refused otherwise: {error}"
    return f"it is not refused with {words!r}"


def _with_shared(other: Callable[..., PyTree], case: Case) -> Callable[..., PyTree]:
    """The function, of arguments whose last bits moved: what a and b share stays one array."""
    leaves = [jax.tree.leaves(x.get("shared", {})) for x in (case.a, case.b)]
    # what trains is not shared between a and b
    is_one = "shared" in case.a and all(x is y for x, y in zip(*leaves, strict=True))
    shared = {"shared": case.a["shared"]} if is_one else {}

    def function(*args: PyTree) -> PyTree:
        args = jax.tree.map(jnp.asarray, args)
        return other(*(x | shared if isinstance(x, dict) and "shared" in x else x for x in args))

    return function
