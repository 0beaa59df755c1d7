"""The algebra of adapters: its laws on trained-looking adapters of unequal ranks and targets, and
what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from hypothesis import given, settings
from hypothesis import strategies as st

from lfl_jax import adapters
from lfl_jax.adapters import IA3, DoRA, LoRA, Mix, compose
from lfl_jax.adapters.build import is_layer
from lfl_jax.errors import UserError
from lfl_jax.models import llama

TOKENS = jnp.arange(22).reshape(2, 11) % 96
CASES = {
    "lora": {"kind": "lora", "rank": 4, "targets": ("q", "v", "down"), "seed": 1},
    "uneven": {"kind": "lora", "rank": 2, "targets": ("layers/[02]/attn/q", "up"), "seed": 2,
               "rank_pattern": ((".*/2/.*", 5),)},
    "dora": {"kind": "dora", "rank": 3, "targets": ("q", "up", "layers/1/mlp/down"), "seed": 3},
}  # fmt: skip
MIXED = {"lora+dora": {"kind": "lora+dora", "rank": 2, "targets": ("v", "up"), "seed": 4}}


@pytest.fixture(scope="module")
def made(small, small_params):
    return {
        name: adapter_for(small, small_params, **options)
        for name, options in (CASES | MIXED).items()
    }


@pytest.fixture(scope="module")
def three(made):
    return tuple(made[name] for name in CASES)


def leaves(adapter):
    return jax.tree.leaves(adapter, is_leaf=is_layer)


def dense(adapter, params):
    """dW of every weight, zeros where nothing is adapted."""
    found = adapters.deltas(adapter, params)["layers"]
    names = [(part, name) for part in ("attn", "mlp") for name in params["layers"][part]]
    return {
        n: np.zeros(params["layers"][p][n].shape) if (x := found[p][n]) is None else np.asarray(x)
        for p, n in names
    }


def assert_close(x, y, bound):
    assert x.keys() == y.keys()
    difference = max(float(np.abs(x[name] - y[name]).max()) for name in x)
    print(f"max difference {difference:.1e}, bound {bound}")
    assert difference <= bound


def assert_same(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    jax.tree.map(np.testing.assert_array_equal, x, y)


@pytest.fixture(scope="module")
def run(small, small_params):
    """Hidden states of the small model with an adapter."""
    forward = jax.jit(
        lambda adapter, routing: llama.forward(
            small_params, adapter, TOKENS, small, routing=routing
        )[0]
    )
    return lambda adapter, routing=None: np.asarray(forward(adapter, routing))


@pytest.mark.parametrize("a", CASES | MIXED)
@pytest.mark.parametrize("b", ["uneven", "lora+dora"])
def test_interpolation_ends_exactly_at_both(a, b, made, small_params):
    at = {
        t: dense(adapters.compose.interpolate(made[a], made[b], t), small_params)
        for t in (0.0, 0.25, 1.0)
    }
    first, second = dense(made[a], small_params), dense(made[b], small_params)
    assert_close(at[0.0], first, 0)
    assert_close(at[1.0], second, 0)
    assert_close(at[0.25], {name: 0.75 * first[name] + 0.25 * second[name] for name in first}, 1e-5)


def test_interpolation_has_a_derivative(made, small_params):
    def length(t):
        found = adapters.deltas(compose.interpolate(made["lora"], made["dora"], t), small_params)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(found))

    slope, step = float(jax.grad(length)(0.3)), 1e-2
    assert slope == pytest.approx(
        float(length(0.3 + step) - length(0.3 - step)) / (2 * step), rel=1e-3
    )


def test_a_stack_gives_its_members_back_to_the_bit(three):
    stacked = compose.stack(*three)
    for index, adapter in enumerate(three):
        assert_same(compose.select(stacked, index), adapter)


def test_a_stack_keeps_columns_in_order_everywhere(three):
    layers = compose.stack(*three)["layers"]
    kinds = {
        name: [type(m) for m in x.layers]
        for part in layers.values()
        for name, x in part.items()
        if x is not None
    }
    assert kinds == {
        "q": [LoRA, LoRA, DoRA],
        "v": [LoRA] * 3,
        "down": [LoRA, LoRA, DoRA],
        "up": [LoRA, LoRA, DoRA],
    }
    assert [m.a.shape[-1] for m in layers["attn"]["q"].layers] == [4, 5, 3]
    assert [m.a.shape[-1] for m in layers["attn"]["v"].layers] == [4, 0, 0]
    assert [m.a.shape[-1] for m in layers["mlp"]["up"].layers] == [0, 5, 3]


def test_a_stack_routes_each_example_to_one_adapter(three, run):
    stacked = compose.stack(*three)
    alone = [run(adapter) for adapter in (*three, None)]
    for ids in ([0, 1], [2, -1], [1, 1]):
        routed = run(stacked, compose.route(jnp.array(ids), 3))
        for row, index in enumerate(ids):
            difference = float(np.abs(routed[row] - alone[index][row]).max())
            print(f"member {index}: max difference {difference:.1e}, bound 2e-5")
            assert difference < 2e-5
            others = [
                np.abs(routed[row] - x[row]).max() for i, x in enumerate(alone) if i != index % 4
            ]
            assert min(others) > 0.05
    np.testing.assert_array_equal(run(stacked, compose.route(jnp.array([-1, -1]), 3)), alone[-1])


def test_a_stack_is_the_weighted_sum(three, small_params):
    weights = [0.5, -2.0, 0.0]
    each = [dense(adapter, small_params) for adapter in three]
    expected = {
        name: sum(w * x[name] for w, x in zip(weights, each, strict=True)) for name in each[0]
    }
    assert_close(dense(compose.stack(*three, weights=weights), small_params), expected, 1e-5)
    assert_close(
        dense(compose.stack(*three), small_params), dense(adapters.add(*three), small_params), 1e-5
    )
    assert_same(
        compose.select(compose.stack(*three, weights=weights), 1), adapters.scale(three[1], -2.0)
    )


def test_weights_of_a_stack_have_a_gradient(three, small, small_params):
    """LoraHub searches these weights; a gradient finds them faster."""

    @jax.jit
    def loss(weights):
        hidden = llama.forward(small_params, compose.stack(*three, weights=weights), TOKENS, small)[
            0
        ]
        return jnp.vdot(hidden, direction)

    direction = jax.random.normal(jax.random.key(6), (2, 11, 32))
    weights, step = jnp.array([0.6, 0.9, -0.4]), 3e-3
    gradient = jax.grad(loss)(weights)
    for m in range(3):
        change = step * jax.nn.one_hot(m, 3)
        finite = float(loss(weights + change) - loss(weights - change)) / (2 * step)
        print(f"weight {m}: gradient {gradient[m]:.5f}, finite differences {finite:.5f}")
        assert gradient[m] == pytest.approx(finite, rel=2e-2)
    assert jnp.abs(gradient).min() > 1


def test_routes():
    np.testing.assert_array_equal(compose.route(jnp.array([1, -1]), 2), [[0, 1], [0, 0]])
    routing = compose.route(np.array([[0, 2, -1], [1, 1, 0]]), 3)
    assert routing.shape == (2, 3, 3) and routing.dtype == jnp.float32
    np.testing.assert_array_equal(routing[0], [[1, 0, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(
        jax.jit(compose.route, static_argnums=1)(jnp.array([1, 2, -1]), 2), [[0, 1], [0, 0], [0, 0]]
    )
    assert compose.route(jnp.zeros((0,), jnp.int32), 2).shape == (0, 2)
    for ids in ([0, 2], [-2, 0]):
        with pytest.raises(UserError, match=r"expected -1 .the base. to 1"):
            compose.route(jnp.array(ids), 2)


@settings(max_examples=8, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 4), min_size=2, max_size=3), factor=st.floats(-2, 2), seed=st.integers(0, 9),
)  # fmt: skip
def test_fused_lora_has_the_same_change(ranks, factor, seed, small, small_params):
    parts = [
        adapter_for(small, small_params, rank=r, seed=seed + i, targets=("q", "down"))
        for i, r in enumerate(ranks)
    ]
    mixed = adapters.add(adapters.scale(parts[0], factor), *parts[1:])
    fused = compose.fuse(mixed)
    q = fused["layers"]["attn"]["q"]
    assert (
        type(q) is LoRA
        and q.a.shape == (3, 32, sum(ranks))
        and fused["layers"]["attn"]["k"] is None
    )
    assert_close(dense(fused, small_params), dense(mixed, small_params), 2e-6)


def test_fusing_drops_what_is_missing_and_leaves_other_kinds(three, small_params):
    stacked = compose.stack(*three)
    layers = compose.fuse(stacked)["layers"]
    assert type(layers["attn"]["v"]) is LoRA and layers["attn"]["v"].a.shape[-1] == 4
    assert layers["attn"]["q"] is stacked["layers"]["attn"]["q"]
    assert_close(dense(compose.fuse(stacked), small_params), dense(stacked, small_params), 0)


@pytest.mark.parametrize("case", CASES)
def test_extract_finds_the_change(case, made, small_params):
    """Full rank of the weight adapted loses nothing but rounding; less loses what truncate says."""
    tuned = adapters.merge(made[case], small_params)
    found, error, others = adapters.extract(tuned, small_params, 16)
    wanted = dense(made[case], small_params)
    assert others == ()
    if case != "dora":
        assert error < 1e-6
        assert_close(dense(found, small_params), wanted, 5e-6)
    _, low = adapters.extract(tuned, small_params, 1)[:2]
    assert (
        low == pytest.approx(adapters.truncate(made[case], small_params, 1)[1], abs=1e-4)
        and low > 0.1
    )
    assert [x is None for x in leaves(found)] == [x is None for x in leaves(made[case])]


def test_extract_at_full_rank_is_the_difference(small_params):
    """v is the narrowest weight, with rank 16; nothing of the change is low-rank."""
    noise = 0.1 * jax.random.normal(jax.random.key(7), small_params["layers"]["attn"]["v"].shape)
    attn = small_params["layers"]["attn"]
    tuned = small_params | {
        "layers": small_params["layers"] | {"attn": attn | {"v": attn["v"] + noise}}
    }
    found, error, others = adapters.extract(tuned, small_params, 16)
    print(f"relative error {error:.1e}")
    assert error < 1e-6 and others == ()
    np.testing.assert_allclose(dense(found, small_params)["v"], noise, rtol=0, atol=2e-6)
    assert adapters.extract(tuned, small_params, 4).error > 0.5


def test_extract_names_what_no_lora_holds(made, small_params):
    tuned = adapters.merge(made["lora"], small_params)
    tuned = tuned | {"embed": tuned["embed"].at[0, 0].add(1), "final_norm": tuned["final_norm"] + 1}
    assert adapters.extract(tuned, small_params, 4).others == ("embed", "final_norm")
    found, error, others = adapters.extract(small_params, small_params, 4)
    assert (leaves(found), error, others) == ([None] * 7, 0, ())


@pytest.mark.parametrize("case", CASES | MIXED)
def test_an_adapter_and_its_negation_are_the_base(case, made, run):
    nothing = adapters.add(made[case], adapters.negate(made[case]))
    difference = float(np.abs(run(nothing) - run(None)).max())
    print(f"a + (-a) = base, {case}: max difference {difference:.1e}, bound 1e-5")
    assert difference < 1e-5


@pytest.fixture(scope="module")
def veras(small, small_params):
    """Two that share A and B, and one that has its own."""
    one, other = (
        adapter_for(small, small_params, "vera", rank=8, seed=seed, targets=("q", "v", "down"))
        for seed in (1, 2)
    )
    return one, adapters.scale(one, -0.5), other


def test_what_is_shared_is_carried_along_while_a_layer_reads_it(veras, three, small_params):
    first, second, _ = veras
    second = second | {"shared": jax.tree.map(jnp.copy, second["shared"])}
    results = (
        adapters.add(first, second), adapters.add(three[2], second), adapters.scale(first, 2.0),
        compose.interpolate(first, second, 0.5), compose.stack(first, second),
        compose.select(compose.stack(first, second), 1),
    )  # fmt: skip
    for found in results:
        assert_same(found["shared"], first["shared"])
    assert "shared" not in compose.fuse(first)
    assert "shared" not in compose.select(compose.stack(first, three[0]), 1)


def test_what_is_shared_must_agree_or_be_multiplied_in(veras, small_params):
    first, _, other = veras
    for function, name in ((adapters.add, "add"), (compose.stack, "stack")):
        with pytest.raises(UserError, match=f"{name}: the adapters' 'shared' arrays differ.*fuse"):
            function(first, other)
    fused = adapters.add(compose.fuse(first), compose.fuse(other))
    wanted = [dense(adapter, small_params) for adapter in (first, other)]
    assert_close(
        dense(fused, small_params), {n: wanted[0][n] + wanted[1][n] for n in wanted[0]}, 1e-5
    )
    summed = adapters.magnitude_prune([first, other], small_params, [1.0, 1.0], 1.0)
    assert_close(dense(summed, small_params), dense(fused, small_params), 1e-5)


def test_a_member_missing_beside_a_kind_without_a_shape(three, small_params):
    ia3 = IA3(inputs=None, outputs=jnp.ones((3, 16)), gain=jnp.ones((3, 1)))
    odd = {"layers": {"attn": {"k": ia3}}}
    with pytest.raises(
        UserError,
        match="missing at layers/attn/k, and the others do not tell its shape; give params=",
    ):
        compose.stack(three[0], odd)
    stacked = compose.stack(three[0], odd, params=small_params)
    assert stacked["layers"]["attn"]["k"].layers[0].a.shape == (3, 32, 0)
    assert stacked["layers"]["attn"]["k"].layers[0].b.shape == (3, 0, 16)


def test_refusals(made, three, small_params):
    def assert_refused(message, function, *args, **options):
        with pytest.raises(UserError, match=message) as error:
            function(*args, **options)
        assert "\n" not in str(error.value)

    q = three[0]["layers"]["attn"]["q"]
    wider = {"layers": {"attn": {"q": q.replace(b=jnp.zeros((3, 4, 40)))}}}
    assert_refused("add: no adapters given", adapters.add)
    assert_refused("stack: no adapters given", compose.stack)
    assert_refused(r"add: adapters of different models: layers/attn/q is \(3, 32, 32\) and \(3, 32,"
            r" 40\)", adapters.add,
            three[0], wider)  # fmt: skip
    assert_refused("stack: adapters of different models", compose.stack, three[0], wider)
    assert_refused("stack: adapter 1 is a mix of LoRA and DoRA at layers/attn/v; fuse"
            " it", compose.stack, three[0],
            made["lora+dora"])  # fmt: skip
    assert_refused(
        r"stack: weights of shape \(2,\); expected one for each of 3",
        compose.stack,
        *three,
        weights=[1.0, 2.0],
    )
    assert_refused("stacked and others not", adapters.add, three[0], {"layers": ({}, {}, {})})
    stacked = compose.stack(*three)
    for index in (-1, 3):
        assert_refused(
            f"select: there is no member {index}; layers/attn/q has 3",
            compose.select,
            stacked,
            index,
        )
    assert_refused("select: layers/attn/q holds a LoRA", compose.select, three[0], 0)
    assert_refused(r"select: weights have \[2, 3\] members", compose.select,
            {"layers": {"attn": {"q": Mix((q, q)), "k": Mix((q, q, q))}}}, 0)  # fmt: skip
    assert_refused("extract: only one of the two has head", adapters.extract, small_params | {"head": jnp.zeros(3)},
            small_params, 2)  # fmt: skip
    assert_refused(r"extract: embed is \(3,\) in one and \(96,"
            r" 32\)", adapters.extract, small_params | {"embed": jnp.zeros(3)},
            small_params, 2)  # fmt: skip
    assert_refused("rank 17 does not fit layers/attn/v", adapters.extract, adapters.merge(three[0], small_params),
            small_params, 17)  # fmt: skip


def test_unstacked_layers_are_composed_alike(three):
    from lfl_jax.core import tree

    def unstacked(adapter):
        return {"layers": tree.unstack(adapter["layers"], 3)}

    assert_same(adapters.add(*map(unstacked, three)), unstacked(adapters.add(*three)))
    assert_same(compose.stack(*map(unstacked, three)), unstacked(compose.stack(*three)))
