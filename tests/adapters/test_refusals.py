"""What the algebra cannot mean is refused by name: gates, adapters over other weights, arguments of
other types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, quantised

import lfl_jax
from lfl_jax import adapters
from lfl_jax.adapters import KINDS, Kind, LoRA, peft_combine
from lfl_jax.adapters.kind import CONSTANTS
from lfl_jax.adapters.mix import StackedFactors
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, hf
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.state import trainable_mask

TOKENS = jnp.arange(22).reshape(2, 11) % 96


def assert_refused(message, function, *args, **options):
    with pytest.raises(UserError, match=message) as error:
        function(*args, **options)
    assert "\n" not in str(error.value)


def hidden(params, adapter, cfg, routing=None):
    return llama.forward(params, adapter, TOKENS, cfg, routing=routing)[0]


@pytest.fixture(scope="module")
def two(small, small_params):
    return [adapter_for(small, small_params, seed=seed, targets=("q",)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def dora(small, small_params):
    return adapter_for(small, small_params, "dora", targets=("q", "down"))


@pytest.mark.parametrize("traced", [False, True])
def test_gates_that_are_refused(traced, two, small, small_params):
    stacked = adapters.stack(*two)

    def run(adapter, routing):
        function = lambda routing: hidden(small_params, adapter, small, routing)  # noqa: E731
        return jax.jit(function)(routing) if traced else function(routing)

    for shape in ((2, 1), (2, 3), (3, 2), (2, 5, 2), (2, 11, 1)):
        assert_refused(
            r"routing: floats .* has 2: \(2, 2\) or \(2, 11, 2\)", run, stacked, jnp.ones(shape)
        )
    for ids in ([0.0, 1.0], [0.0, -1.0], [1.0, 0.0, 0.0]):
        assert_refused(
            "routing: floats .*ids of members are integers", run, stacked, jnp.array(ids)
        )
    assert_refused(r"which has 1: \(2, 1\)", run, two[0], jnp.ones((2, 5)))
    assert_refused("which has 0", run, None, jnp.ones((2, 1)))
    if not traced:
        assert_refused(
            "ids from 0 to 2; expected -1 .the base. to 1", run, stacked, jnp.array([0, 2])
        )


def test_a_row_of_factors_is_every_rows(two, small, small_params):
    stacked, routing = adapters.stack(*two), jnp.array([[0.3, -2.0]])
    found = hidden(small_params, stacked, small, routing)
    np.testing.assert_array_equal(
        found, hidden(small_params, stacked, small, jnp.repeat(routing, 2, axis=0))
    )
    assert jnp.abs(found - hidden(small_params, stacked, small)).max() > 0.01


def test_a_dora_over_other_weights_is_refused_until_it_is_rebound(
    dora, two, small, small_params, tmp_path
):
    other = adapters.merge(adapters.scale(two[0], 3.0), small_params)
    for name, call in {
        "forward": lambda: hidden(other, dora, small), "merge": lambda: adapters.merge(dora, other),
        "deltas": lambda: adapters.deltas(dora, other),
        "precompute_for_inference": lambda: adapters.precompute_for_inference(dora, other),
        "truncate": lambda: adapters.truncate(dora, other, 2),
        "save_adapter": lambda: lfl_jax.save_adapter(tmp_path / "a.safetensors", dora, other),
    }.items():  # fmt: skip
        assert_refused(
            f"{name}: the DoRA at layers/attn/q was trained over other weights.*rebind", call
        )
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small_params)
    adapters.deltas(dora, rounded)  # the same weights, held in less


def test_rebind_keeps_what_was_trained_and_bind_does_not(dora, two, small_params):
    other = adapters.merge(adapters.scale(two[0], 3.0), small_params)
    found, old = (x["layers"]["attn"]["q"] for x in (adapters.rebind(dora, other), dora))
    for name in ("a", "b", "m", "scale", "gain"):
        np.testing.assert_array_equal(getattr(found, name), getattr(old, name))
    w = other["layers"]["attn"]["q"][1]
    v = w + (old.a[1] * old.scale[1]) @ old.b[1]
    # the paper's W', over the weights that are there
    wanted = old.m[1] * v / jnp.linalg.norm(v, axis=0) - w
    dw = adapters.deltas(adapters.rebind(dora, other), other)["layers"]["attn"]["q"][1]
    np.testing.assert_allclose(dw, wanted, rtol=0, atol=2e-5)
    assert jnp.abs(adapters.bind(dora, other)["layers"]["attn"]["q"].m - old.m).max() > 0.01
    held = adapters.precompute_for_inference(dora, small_params)
    assert adapters.rebind(held, other)["layers"]["attn"]["q"].n is None, (
        "a norm that was held belongs to the old base"
    )


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_quantised_bases_work_or_are_refused(form, dora, two, small, small_params, tmp_path):
    base = quantised(small, small_params, form)
    whole = adapters.merge(None, base, "float32")
    over = adapters.rebind(dora, base)
    merged = adapters.merge(over, base, "float32")["layers"]["attn"]["q"]
    np.testing.assert_allclose(
        merged, adapters.merge(over, whole)["layers"]["attn"]["q"], rtol=0, atol=1e-6
    )
    tuned = adapters.merge(two[0], whole)
    found = adapters.extract(tuned, base, 4)
    assert found.error < 1e-5 and found.others == ()
    for one, other in zip(jax.tree.leaves(adapters.deltas(found.adapter, base)),
                          jax.tree.leaves(adapters.deltas(two[0], base)), strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert_refused(
        "save: 7 of these weights are quantised.*merge.None, params",
        hf.save,
        tmp_path / "s",
        base,
        small,
    )


def test_a_bank_is_what_it_was_made_of(small, small_params, tmp_path):
    parts = [adapter_for(small, small_params, "vera", rank=8, seed=3, targets=("q", "up"))]
    parts += [adapters.scale(parts[0], 0.1 * i) for i in range(1, 8)]
    stacked = adapters.stack(*parts)
    compact = adapters.precompute_for_inference(stacked, small_params)
    assert isinstance(compact["layers"]["attn"]["q"], StackedFactors) and "shared" not in compact
    adapter_file.save(tmp_path / "a.safetensors", compact)
    pairs = {
        "deltas": (compact, stacked), "scale": (adapters.scale(compact, -2.0), adapters.scale(stacked, -2.0)),
        "add": (adapters.add(compact, parts[0]), adapters.add(stacked, parts[0])),
        "fuse": (adapters.fuse(compact), stacked),
        "select": (adapters.select(compact, 3), parts[3]), "rebind": (adapters.rebind(compact, small_params), stacked),
        "file": (adapter_file.load(tmp_path / "a.safetensors", small_params), stacked),
        "truncate": (adapters.truncate(compact, small_params, 16)[0], stacked),
    }  # fmt: skip
    for name, (found, wanted) in pairs.items():
        found, wanted = (
            adapters.deltas(x, small_params)["layers"]["attn"]["q"] for x in (found, wanted)
        )
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5, err_msg=name)
    merged = adapters.merge(compact, small_params)["layers"]["mlp"]["up"]
    np.testing.assert_allclose(
        merged, adapters.merge(stacked, small_params)["layers"]["mlp"]["up"], rtol=0, atol=2e-5
    )
    assert_refused(
        "peft_cat: adapter 0 is a StackedFactors",
        peft_combine.peft_cat,
        [compact, compact],
        [1.0, 1.0],
    )


def test_arguments_that_are_something_else(two, small, small_params, tmp_path):
    a, b = two
    for name in ("merge", "deltas", "bind", "rebind", "precompute_for_inference"):
        assert_refused(f"{name}: the adapter comes first", getattr(adapters, name), small_params, a)
        assert_refused(
            f"{name}: got an adapter where the model's parameters", getattr(adapters, name), a, b
        )
    assert_refused("truncate: the adapter comes first", adapters.truncate, small_params, a, 2)
    assert_refused(
        "save_adapter: the adapter comes first",
        lfl_jax.save_adapter,
        tmp_path / "x",
        small_params,
        a,
    )
    assert_refused(
        "forward: got parameters where an adapter", hidden, small_params, small_params, small
    )
    for function in (adapters.add, adapters.stack):
        assert_refused("got a list where an adapter belongs; write", function, [a, b])
    assert_refused(
        "ties: got a dict; expected the adapters as a list",
        adapters.ties,
        a,
        small_params,
        [1.0],
        0.5,
    )
    assert_refused("add: got parameters where an adapter belongs", adapters.add, a, small_params)
    loose = small_params | {"layers": tree.unstack(small_params["layers"], 3)}
    assert_refused("merge: the parameters' layers are unstacked", adapters.merge, a, loose)
    assert_refused(
        "load_adapter: the parameters' layers are unstacked",
        lfl_jax.load_adapter,
        tmp_path / "x",
        loose,
    )
    assert_refused("merge: the adapter's layers are unstacked", adapters.merge,
            {"layers": tree.unstack(a["layers"], 3)}, small_params)  # fmt: skip
    assert_refused(r"scale: a factor of shape \(2,\)", adapters.scale, a, jnp.ones(2))
    unknown = {"layers": {"attn": {"x": a["layers"]["attn"]["q"]}}}
    assert_refused("no weight of these parameters", adapters.merge, unknown, small_params)


def test_nothing_is_an_adapter_too(two, small, small_params):
    for empty in (None, {}, {"layers": {}}):
        assert (
            adapters.merge(empty, small_params)["layers"]["attn"]["q"]
            is small_params["layers"]["attn"]["q"]
        )
        assert jax.tree.leaves((adapters.negate(empty), adapters.deltas(empty, small_params))) == []
        assert jax.tree.leaves(adapters.add(two[0], empty))[0] is jax.tree.leaves(two[0])[0]
        np.testing.assert_array_equal(
            hidden(small_params, empty, small), hidden(small_params, None, small)
        )


def test_a_factor_for_each_layer(two, small_params):
    factors = jnp.array([0.5, 0.0, -2.0])
    found = adapters.deltas(adapters.scale(adapters.stack(*two), factors), small_params)["layers"][
        "attn"
    ]["q"]
    wanted = adapters.deltas(adapters.stack(*two), small_params)["layers"]["attn"]["q"]
    np.testing.assert_allclose(found, factors[:, None, None] * wanted, rtol=0, atol=1e-6)


def test_a_kind_says_what_never_trains(two, small, small_params):
    class Own(LoRA):
        constants = ("scale", "a")

    own = Own.__new__(Own)
    assert (
        set(CONSTANTS) >= {name for kind in KINDS.values() for name in kind.constants}
        and Kind.constants
    )
    assert own.constants == ("scale", "a")
    mask = trainable_mask(Model(params=small_params, adapter=two[0]), ("adapter/.*",))
    q = mask.adapter["layers"]["attn"]["q"]
    assert (q.a, q.b, q.scale) == (True, True, False)


def test_a_weight_does_not_train_under_its_dora(dora, small_params):
    model = Model(params=small_params, adapter=dora)
    assert_refused("layers/attn/q would train under a DoRA", trainable_mask, model, (".*",))
    assert trainable_mask(model, ("adapter/.*", "params/.*norm")).params["final_norm"]
