"""The laws of adapters: docs/adapters.md states them in a table, which is read here and held to,
for every kind.

The table's second column says how a law holds, the third for which kinds it holds in another way.
"exact" is to the last bit, "rounding" is `helpers.same_up_to_rounding`, "no" is a difference that
rounding does not explain, and a text in quotes is part of the refusal's message.
"""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, moved, quantised, same_up_to_rounding

from lfl_jax import adapters
from lfl_jax.adapters import KINDS, Mix, combine, peft_combine
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, peft
from lfl_jax.models import llama

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
MIX = "lora+dora"
ALL = (*KINDS, MIX)
# factors on outputs, and on inputs; others are alike at every weight
TARGETS = {"ia3": ("o", "down")}
# in all of this like mora, pissa
SIMILAR = [kind for kind in KINDS if kind.startswith("mora_") or kind == "olora"]
TOKENS = jnp.arange(22).reshape(2, 11) % 96


@dataclasses.dataclass(frozen=True)
class Case:
    """Adapters of one kind over the parameters it belongs to: fresh, trained (a, b), and a place
    for files."""

    params: dict
    fresh: dict
    a: dict
    b: dict
    folder: Path
    hidden: object  # hidden(params, adapter, routing=None), compiled once for each structure

    @property
    def gates(self):
        """(0 on all members, 1 on those of the first of two adapters, 1 on all)."""
        count = adapters.member_count(self.a)
        return tuple(
            jnp.array([[first] * count + [second] * count], float)
            for first, second in ((0, 0), (1, 0), (1, 1))
        )


def dw(adapter, params):
    return adapters.deltas(adapter, params)["layers"]


def merged(adapter, params):
    """The weights that an adapter is merged into."""
    layers = adapters.merge(adapter, params)["layers"]
    return [
        layers[part][name]
        for part, at in adapter["layers"].items()
        for name, x in at.items()
        if x is not None
    ]


def through_file(x):
    adapter_file.save(x.folder / "a.safetensors", x.a)
    return adapter_file.load(x.folder / "a.safetensors", x.params)


def through_peft(x):
    peft.save(x.folder / "peft", x.a, x.params, base_name="small")
    return dw(peft.load(x.folder / "peft", x.params).adapter, x.params)


def weighted(a, b, params):
    return jax.tree.map(lambda x, y: 0.5 * x - 2 * y, dw(a, params), dw(b, params))


def added(a, b, params):
    return jax.tree.map(jnp.add, dw(a, params), dw(b, params))


# Each law gives one side, and a function with its arguments for the other side.
LAWS = {
    "a fresh adapter = the base": lambda x: (x.hidden(x.params, None), x.hidden, x.params, x.fresh),
    "`scale(a, 1)` = a": lambda x: (adapters.scale(x.a, 1.0), lambda a: a, x.a),
    "`scale(a, 0)` = the base": lambda x: (x.hidden(x.params, adapters.scale(x.a, 0.0)), x.hidden, x.params, None),
    "routing 0 = the base": lambda x: (
        x.hidden(x.params, adapters.add(x.a, x.b), x.gates[0]), x.hidden, x.params, None,
    ),
    "routing 1 on a and 0 on b, of `add(a, b)` = a without routing": lambda x: (
        x.hidden(x.params, adapters.add(x.a, x.b), x.gates[1]), x.hidden, x.params, x.a,
    ),
    "dW of `scale(a, t)` = t dW": lambda x: (
        dw(adapters.scale(x.a, -1.7), x.params), lambda a: jax.tree.map(lambda y: -1.7 * y, dw(a, x.params)), x.a,
    ),
    "`scale(scale(a, s), t)` = `scale(a, s t)`": lambda x: (
        adapters.scale(adapters.scale(x.a, 0.3), -1.7), lambda a: adapters.scale(a, 0.3 * -1.7), x.a,
    ),
    "`negate(negate(a))` = a": lambda x: (adapters.negate(adapters.negate(x.a)), lambda a: a, x.a),
    "`add(a, negate(a))` = the base": lambda x: (
        x.hidden(x.params, None),
        lambda params, a: x.hidden(params, adapters.add(a, adapters.negate(a)), x.gates[2]), x.params, x.a,
    ),
    "dW of `add(a, b)` = the sum": lambda x: (dw(adapters.add(x.a, x.b), x.params), added, x.a, x.b, x.params),
    "`add(a, b)` = `add(b, a)`": lambda x: (
        x.hidden(x.params, adapters.add(x.b, x.a), x.gates[2]),
        lambda params, a, b: x.hidden(params, adapters.add(a, b), x.gates[2]), x.params, x.a, x.b,
    ),
    "`add(add(a, b), c)` = `add(a, add(b, c))`": lambda x: (
        adapters.add(adapters.add(x.a, x.b), x.fresh), lambda a, b: adapters.add(a, adapters.add(b, x.fresh)), x.a, x.b,
    ),
    "`select(stack(a, b), i)` = a, b": lambda x: (
        [adapters.select(adapters.stack(x.a, x.b), i) for i in range(2)], lambda a, b: [a, b], x.a, x.b,
    ),
    "dW of `interpolate(a, b, t)` at t = 0, 1 = that of a, b": lambda x: (
        [dw(adapters.interpolate(x.a, x.b, t), x.params) for t in (0, 1)],
        lambda a, b: [dw(a, x.params), dw(b, x.params)], x.a, x.b,
    ),
    "dW of `fuse(add(a, b))` = that of `add(a, b)`": lambda x: (
        dw(adapters.fuse(adapters.add(x.a, x.b)), x.params), lambda a, b: dw(adapters.add(a, b), x.params), x.a, x.b,
    ),
    "the merged model = the model with its adapter": lambda x: (
        x.hidden(adapters.merge(x.a, x.params), None), x.hidden, x.params, x.a,
    ),
    "`merge(add(a, b), params)` = `merge(b, merge(a, params))`": lambda x: (
        merged(adapters.add(x.a, x.b), x.params),
        lambda a, b, params: merged(b, adapters.merge(a, params)), x.a, x.b, x.params,
    ),
    "dW of `truncate(a, params, all ranks)` = that of a": lambda x: (
        dw(adapters.truncate(x.a, x.params, 32)[0], x.params), dw, x.a, x.params,
    ),
    "dW of `magnitude_prune([a, b], params, w, 1.0)` = the weighted sum": lambda x: (
        dw(combine.magnitude_prune([x.a, x.b], x.params, [0.5, -2.0], 1.0), x.params), weighted, x.a, x.b, x.params,
    ),
    "dW of `peft_combine.peft_cat([a, b], w)` = the weighted sum": lambda x: (
        dw(peft_combine.peft_cat([x.a, x.b], [0.5, -2.0]), x.params), weighted, x.a, x.b, x.params,
    ),
    "the adapter file, saved and loaded = a": lambda x: (through_file(x), lambda a: a, x.a),
    "dW of the PEFT folder, saved and loaded = that of a": lambda x: (through_peft(x), dw, x.a, x.params),
}  # fmt: skip


def table():
    """{law: {kind: outcome}} of the page; a kind with a star stands for all that begin so."""
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (.*?) ?\|$", PAGE.read_text("utf-8").split("\n## Laws\n")[1], re.M
    )
    found = {}
    for law, usual, exceptions in rows[1:]:
        found[law] = dict.fromkeys(ALL, usual)
        for names, outcome in (each.split(": ", 1) for each in exceptions.split("; ") if each):
            for name in names.split(", "):
                kinds = [
                    kind
                    for kind in ALL
                    if re.fullmatch(name.replace("+", r"\+").replace("*", ".*"), kind)
                ]
                assert kinds, f"{law}: {name} is no kind"
                found[law] |= dict.fromkeys(kinds, outcome)
    return found


STATED = table()


@pytest.fixture(scope="module")
def case_of(small, small_params, tmp_path_factory):
    """The case of a kind, made once."""
    run = jax.jit(
        lambda params, adapter, routing: llama.forward(
            params, adapter, TOKENS, small, routing=routing
        )[0]
    )

    @functools.cache
    def case(kind, **options):
        params = quantised(small, small_params) if "loftq" in kind else small_params
        targets = TARGETS.get(kind, ("down",))
        fresh = adapter_for(small, small_params, kind, targets=targets, trained=False, **options)
        a, b = moved(fresh, 1), moved(fresh, 2)
        hidden = lambda params, adapter, routing=None: run(params, adapter, routing)  # noqa: E731
        return Case(params, fresh, a, b, tmp_path_factory.mktemp("case"), hidden)

    return case


def test_the_page_states_these_laws():
    assert list(STATED) == list(LAWS)
    assert all(
        re.match(r'exact$|rounding$|no, .|".+"$', x)
        for outcomes in STATED.values()
        for x in outcomes.values()
    )


def every_kind():
    return [pytest.param(kind, marks=pytest.mark.slow if kind in SIMILAR else ()) for kind in ALL]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", every_kind())
def test_laws(kind, law, case_of):
    holds(law, case_of(kind), STATED[law][kind])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_laws_with_the_other_factor_at_zero(kind, law, case_of):
    case = case_of(kind, init="a_zero")
    down = case.fresh["layers"]["mlp"]["down"]
    assert (
        (down.a == 0).all()
        and (down.b != 0).all()
        and (case.a["layers"]["mlp"]["down"].a != 0).all()
    )
    holds(law, case, STATED[law][kind])


def holds(law, case, outcome):
    """Assert that a law has this outcome, in the table's words."""
    if outcome.startswith('"'):
        with pytest.raises(UserError, match=re.escape(outcome[1:-1])):
            _, function, *args = LAWS[law](case)
            function(*args)
        return
    got, other, *args = LAWS[law](case)
    # what trains is not shared between a and b
    is_one = "shared" in case.a and jax.tree.all(
        jax.tree.map(lambda x, y: x is y, case.a["shared"], case.b["shared"])
    )
    shared = {"shared": case.a["shared"]} if is_one else {}

    def function(*args):
        """Of arguments whose last bits moved: what a and b share is one."""
        args = jax.tree.map(jnp.asarray, args)
        return other(*(x | shared if isinstance(x, dict) and "shared" in x else x for x in args))

    want = function(*args)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    if outcome == "exact":
        for x, y in pairs:
            np.testing.assert_array_equal(x, y)
    elif outcome == "rounding":
        same_up_to_rounding(got, want, function, *args)
    else:
        assert max(float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)) for x, y in pairs) > 1e-3


@pytest.mark.parametrize("kind", every_kind())
def test_the_trained_adapters_of_the_laws_change_the_model(kind, case_of):
    case = case_of(kind)
    base = case.hidden(case.params, None)
    for one, other in ((case.hidden(case.params, case.a), base),
                       (case.hidden(case.params, case.a), case.hidden(case.params, case.b))):  # fmt: skip
        assert jnp.abs(one - other).max() > 0.1


# on hidden values up to 4: a full-rank change of 0.1 at every weight makes rounding grow
BOUND = 3e-5
KINDS_OF_SCANS = (
    "lora",
    "dora",
    "vera",
    "ia3",
    "mora",
    "full_delta",
    "subspace",
    MIX,
    "pissa",
    "olora",
    "lora+bottleneck",
)


def run(params, adapter, cfg, **options):
    return llama.forward(params, adapter, TOKENS, cfg, **options)[0]


def test_one_hot_routing_is_separate_runs_to_the_last_bit(small, small_params):
    first, second = (
        adapter_for(small, small_params, "lora"),
        adapter_for(small, small_params, "dora", seed=5),
    )
    mixed = adapters.add(first, second)
    routed = run(small_params, mixed, small, routing=jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    assert jnp.array_equal(
        routed[0], run(small_params, mixed, small, routing=jnp.array([[1.0, 0.0]] * 2))[0]
    )
    np.testing.assert_allclose(routed[0], run(small_params, first, small)[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(routed[1], run(small_params, second, small)[1], rtol=0, atol=2e-5)


def test_routing_per_token_is_routing_of_its_segment(small, small_params):
    mixed = adapters.add(
        adapter_for(small, small_params), adapter_for(small, small_params, "dora", seed=5)
    )
    segments = jnp.array([[1] * 5 + [2] * 6] * 2)
    routing = jax.nn.one_hot(segments - 1, 2)
    positions = jnp.array([[*range(5), *range(6)]] * 2)
    packed = run(
        small_params, mixed, small, routing=routing, segment_ids=segments, positions=positions
    )
    alone = llama.forward(
        small_params, mixed, TOKENS[:, 5:], small, routing=jnp.array([[0.0, 1.0]] * 2)
    )[0]
    np.testing.assert_allclose(packed[:, 5:], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS_OF_SCANS)
def test_scanned_unstacked_and_recomputed_layers_agree(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind)
    loop = small_params | {"layers": tree.unstack(small_params["layers"], 3)}
    unstacked = run(loop, adapter | {"layers": tree.unstack(adapter["layers"], 3)}, small)
    scanned = run(small_params, adapter, small)
    np.testing.assert_allclose(unstacked, scanned, rtol=0, atol=BOUND)
    for remat in ("selective", "full"):
        again = run(small_params, adapter, dataclasses.replace(small, remat=remat))
        np.testing.assert_allclose(again, scanned, rtol=0, atol=BOUND)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora+dora"])
def test_padded_ranks_and_unadapted_layers_stay_untouched(kind, small, small_params):
    pattern = ((r"layers/1/.*", 2), (r"layers/2/attn/q", 3))
    adapter = adapter_for(
        small, small_params, kind, rank=4, rank_pattern=pattern, targets=("q", "layers/0/mlp/up")
    )
    ones = jnp.ones(TOKENS.shape)

    def loss(adapter):
        return jnp.sum(run(small_params, adapter, small) * ones[..., None])

    grads = jax.grad(loss)(adapter)["layers"]
    members = lambda layer: layer.layers if isinstance(layer, Mix) else (layer,)  # noqa: E731
    for q, up in zip(members(grads["attn"]["q"]), members(grads["mlp"]["up"]), strict=True):
        assert (q.a[1, :, 2:] == 0).all() and (q.b[1, 2:] == 0).all() and (q.b[2, 3:] == 0).all()
        assert (q.b[1, :2] != 0).any() and (q.b[2, 2] != 0).any()
        assert (up.a[1:] == 0).all() and (up.b[1:] == 0).all() and (up.b[0] != 0).any()
    assert grads["attn"]["k"] is None


def test_sizes_count_used_and_stored(small, small_params):
    adapter = adapter_for(
        small, small_params, "lora", rank=4, rank_pattern=((r"layers/1/.*", 2),), targets=("q",)
    )
    assert adapters.sizes(adapter) == ((4 + 2 + 4) * (32 + 32), 3 * 4 * (32 + 32))
    dora = adapter_for(small, small_params, "dora", rank=4, targets=("layers/0/attn/q",))
    assert adapters.sizes(dora) == (4 * 64 + 32, 3 * (4 * 64 + 32))


@pytest.mark.parametrize("kind", ["ia3", "mora", "full_delta", "bottleneck"])
def test_unadapted_layers_of_a_stack_stay_untouched(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind, targets=("layers/1/attn/o",))

    def loss(adapter):
        return jnp.sum(run(small_params, adapter, small) ** 2)

    grads = jax.grad(loss)(adapter)["layers"]["attn"]["o"]
    for name, grad in tree.items(grads):
        if name != "gain":
            assert (grad[jnp.array([0, 2])] == 0).all() and (grad[1] != 0).any(), name
