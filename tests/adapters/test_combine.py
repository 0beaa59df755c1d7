"""Pruning and voting: by a plain loop over entries, at their limits, on every kind, and what they
refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax import adapters
from lfl_jax.adapters import LoRA, combine, peft_combine
from lfl_jax.adapters.build import is_layer
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.errors import UserError

WEIGHTS = [0.8, -1.2, 0.5]
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def three(small, small_params):
    """A LoRA, a DoRA and a LoRA that leaves out a layer and has another rank; all at q, some at v
    and down."""
    return (
        adapter_for(small, small_params, "lora", rank=3, targets=("q", "v"), seed=1),
        adapter_for(small, small_params, "dora", rank=2, targets=("q", "down"), seed=2),
        adapter_for(
            small, small_params, "lora", rank=4, targets=("layers/[02]/attn/q", "down"), seed=3
        ),
    )


@pytest.fixture(scope="module")
def loras(small, small_params):
    """LoRA of one rank in each layer, with unequal targets."""
    pattern = ((r".*/1/.*", 2),)
    return tuple(
        adapter_for(small, small_params, rank=3, targets=targets, seed=seed, rank_pattern=pattern)
        for seed, targets in enumerate((("q", "v"), ("layers/[12]/attn/q",), ("q", "v")))
    )


def dense(adapter, params):
    found = adapters.deltas(adapter, params)["layers"]
    names = [(part, name) for part in ("attn", "mlp") for name in params["layers"][part]]
    return {
        n: np.zeros(params["layers"][p][n].shape) if (x := found[p][n]) is None else np.asarray(x)
        for p, n in names
    }


def summed(given, params, weights):
    each = [dense(adapter, params) for adapter in given]
    return {name: sum(w * x[name] for w, x in zip(weights, each, strict=True)) for name in each[0]}


def assert_close(x, y, bound):
    difference = max(float(np.abs(x[name] - y[name]).max()) for name in y)
    print(f"max difference {difference:.1e}, bound {bound}")
    assert difference <= bound and x.keys() == y.keys()


def vote(values, weights, sign):
    """TIES on one entry of already trimmed values."""
    total = sum(values) if sign == "total" else sum(np.sign(values))
    elected = 1 if total >= 0 else -1
    agreeing = [w * v for w, v in zip(weights, values, strict=True) if np.sign(v) == elected]
    return sum(agreeing) / max(len(agreeing), 1)


def trim(x, density):
    kept = np.argsort(-np.abs(x).ravel(), kind="stable")[: int(density * x.size)]
    mask = np.zeros(x.size, bool)
    mask[kept] = True
    return np.where(mask.reshape(x.shape), x, 0)


@pytest.mark.parametrize(("density", "sign"), [(0.3, "total"), (0.7, "frequency"), (1.0, "total")])
def test_ties_by_a_plain_loop(density, sign, three, small_params):
    found = dense(combine.ties(three, small_params, WEIGHTS, density, sign), small_params)
    each = [dense(adapter, small_params) for adapter in three]
    for name in ("q", "down"):
        for layer in range(3):
            trimmed = [trim(x[name][layer], density) for x in each]
            expected = [
                vote(values, WEIGHTS, sign)
                for values in zip(*(x.ravel() for x in trimmed), strict=True)
            ]
            np.testing.assert_allclose(found[name][layer].ravel(), expected, rtol=0, atol=1e-5)
    assert not found["k"].any() and found["v"].any()


def test_magnitude_prune_by_a_plain_loop(three, small_params):
    found = dense(combine.magnitude_prune(three, small_params, WEIGHTS, 0.2), small_params)
    each = [dense(adapter, small_params) for adapter in three]
    for name in found:
        for layer in range(3):
            expected = sum(
                w * trim(x[name][layer], 0.2) for w, x in zip(WEIGHTS, each, strict=True)
            )
            np.testing.assert_allclose(found[name][layer], expected, rtol=0, atol=1e-5)


def test_nothing_pruned_is_the_weighted_sum(three, small_params):
    expected = summed(three, small_params, WEIGHTS)
    assert_close(
        dense(combine.magnitude_prune(three, small_params, WEIGHTS, 1.0), small_params),
        expected,
        1e-5,
    )
    assert_close(
        dense(combine.dare(three, small_params, WEIGHTS, 1.0, KEY), small_params), expected, 1e-5
    )


def test_dare_keeps_what_its_masks_say_and_grows_it(three, small_params):
    each = [dense(adapter, small_params) for adapter in three]
    rng = np.random.default_rng(0)
    drawn = [{name: rng.random(x.shape) < 0.6 for name, x in changes.items()} for changes in each]
    masks = [
        {
            "layers": {
                part: {n: d[n] for n in small_params["layers"][part]} for part in ("attn", "mlp")
            }
        }
        for d in drawn
    ]
    kept = [{name: x[name] * d[name] / 0.6 for name in x} for x, d in zip(each, drawn, strict=True)]
    added = dense(combine.dare(three, small_params, WEIGHTS, 0.6, masks=masks), small_params)
    assert_close(
        added, {n: sum(w * x[n] for w, x in zip(WEIGHTS, kept, strict=True)) for n in added}, 1e-5
    )
    voted = dense(
        combine.dare(three, small_params, WEIGHTS, 0.6, masks=masks, ties=True), small_params
    )
    columns = zip(*(x["q"].ravel() for x in kept), strict=True)
    expected = [vote(values, WEIGHTS, "total") for values in columns]
    np.testing.assert_allclose(voted["q"].ravel(), expected, rtol=0, atol=1e-5)


def test_dare_draws_by_adapter_weight_and_key(three, small_params):
    same = (three[0], three[0])
    one, other = ([1.0, 0.0], [0.0, 1.0])
    found = {
        name: dense(combine.dare(same, small_params, weights, 0.25, key), small_params)["q"] != 0
        for name, weights, key in (("first", one, KEY), ("again", one, KEY), ("second", other, KEY),
                                   ("key", one, jax.random.key(4)))
    }  # fmt: skip
    np.testing.assert_array_equal(found["first"], found["again"])
    for name in ("first", "second", "key"):
        assert found[name].mean() == pytest.approx(0.25, abs=0.03)
    assert (found["first"] != found["second"]).any() and (found["first"] != found["key"]).any()
    assert (found["first"][0] != found["first"][1]).any(), "layers have their own draws"


def test_results_are_full_changes_that_merge_and_truncate(three, small_params):
    found = combine.ties(three, small_params, WEIGHTS, 0.5)
    kinds = [type(x) for x in jax.tree.leaves(found, is_leaf=is_layer)]
    assert set(kinds) == {FullDelta, type(None)} and kinds.count(FullDelta) == 3
    merged = (
        adapters.merge(found, small_params)["layers"]["attn"]["q"]
        - small_params["layers"]["attn"]["q"]
    )
    np.testing.assert_allclose(merged, found["layers"]["attn"]["q"].dw, rtol=0, atol=1e-5)
    lora, error = adapters.truncate(found, small_params, 16)
    assert type(lora["layers"]["attn"]["q"]) is LoRA and 0 < error < 0.5
    alone = combine.ties((three[2],), small_params, [1.0], 0.5)["layers"]["attn"]["q"]
    np.testing.assert_array_equal(alone.gain, [[1], [0], [1]])


def test_methods_differ(three, loras, small_params):
    results = [
        dense(found, small_params)["q"]
        for found in (
            combine.ties(loras, small_params, WEIGHTS, 0.5), combine.ties(loras, small_params, WEIGHTS, 0.6),
            combine.ties(loras, small_params, WEIGHTS, 0.5, "frequency"),
            combine.magnitude_prune(loras, small_params, WEIGHTS, 0.5),
            combine.dare(loras, small_params, WEIGHTS, 0.5, KEY),
            combine.dare(loras, small_params, WEIGHTS, 0.5, KEY, ties=True),
            peft_combine.peft_linear(loras, WEIGHTS), peft_combine.peft_ties(loras, WEIGHTS, 0.5),
            peft_combine.peft_ties(loras, WEIGHTS, 0.5, "frequency"),
            peft_combine.peft_magnitude_prune(loras, WEIGHTS, 0.5),
            peft_combine.peft_dare_linear(loras, WEIGHTS, 0.5, KEY),
            peft_combine.peft_dare_ties(loras, WEIGHTS, 0.5, KEY),
            peft_combine.peft_cat(loras, WEIGHTS), peft_combine.peft_svd(loras, small_params, WEIGHTS),
        )
    ]  # fmt: skip
    for i, x in enumerate(results):
        assert all(np.abs(x - y).max() > 0.01 for y in results[:i]), i


def test_cat_is_the_weighted_sum_and_svd_its_best_rank(three, loras, small_params):
    ragged = (three[0], three[2])
    expected = summed(ragged, small_params, WEIGHTS[:2])
    cat = peft_combine.peft_cat(ragged, WEIGHTS[:2])
    q = cat["layers"]["attn"]["q"]
    np.testing.assert_array_equal(np.sum(q.scale != 0, axis=1), [7, 3, 7])
    assert_close(dense(cat, small_params), expected, 1e-5)
    best = peft_combine.peft_svd(ragged, small_params, WEIGHTS[:2])
    assert best["layers"]["attn"]["q"].a.shape[-1] == 4
    assert_close(
        dense(best, small_params),
        dense(adapters.truncate(cat, small_params, 4)[0], small_params),
        1e-5,
    )
    assert_close(
        dense(peft_combine.peft_svd(ragged, small_params, WEIGHTS[:2], 7), small_params),
        expected,
        1e-5,
    )


def test_one_adapter_is_scaled_by_every_peft_method(loras, small_params):
    expected = summed(loras[:1], small_params, [-0.7])
    alone, weights = loras[:1], [-0.7]
    results = (
        peft_combine.peft_linear(alone, weights), peft_combine.peft_cat(alone, weights),
        peft_combine.peft_svd(alone, small_params, weights, 1), peft_combine.peft_ties(alone, weights, 0.2),
        peft_combine.peft_magnitude_prune(alone, weights, 0.2), peft_combine.peft_dare_linear(alone, weights, 0.2, KEY),
        peft_combine.peft_dare_ties(alone, weights, 0.2, KEY),
    )  # fmt: skip
    for found in results:
        assert_close(dense(found, small_params), expected, 1e-5)


def test_ranks_in_use_are_what_counts(loras, small_params):
    """Layer 1 has rank 2 of a stored 3: its padding is no entry that pruning could keep or drop."""
    q = peft_combine.peft_ties(loras, WEIGHTS, 1.0)["layers"]["attn"]["q"]
    np.testing.assert_array_equal(q.scale, [[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    pruned = peft_combine.peft_magnitude_prune(loras[::2], [1.0, 0.0], 0.5)["layers"]["attn"]["v"]
    assert [int(np.sum(x != 0)) for x in pruned.b] == [24, 16, 24]


def test_refusals(three, loras, small_params):
    def assert_refused(message, function, *args, **options):
        with pytest.raises(UserError, match=message) as error:
            function(*args, **options)
        assert "\n" not in str(error.value)

    for density in (0.0, -0.1, 1.5, float("nan")):
        assert_refused(
            "density .*; expected the fraction", combine.ties, three, small_params, WEIGHTS, density
        )
        assert_refused(
            "density .*; expected the fraction",
            combine.dare,
            three,
            small_params,
            WEIGHTS,
            density,
            KEY,
        )
        assert_refused(
            "density .*; expected the fraction",
            peft_combine.peft_dare_linear,
            loras,
            WEIGHTS,
            density,
            KEY,
        )
    assert_refused(
        "sign='most'; expected one of total, frequency",
        combine.ties,
        three,
        small_params,
        WEIGHTS,
        0.5,
        "most",
    )
    assert_refused(
        "sign='most'", peft_combine.peft_dare_ties, loras, WEIGHTS, 0.5, KEY, sign="most"
    )
    assert_refused(
        r"ties: weights of shape \(2,\); expected one for each of 3",
        combine.ties,
        three,
        small_params,
        [1, 2],
        0.5,
    )
    assert_refused("peft_cat: weights of shape", peft_combine.peft_cat, loras, [1.0])
    assert_refused("ties: no adapters", combine.ties, (), small_params, [], 0.5)
    assert_refused(
        "dare: give either key or masks", combine.dare, three, small_params, WEIGHTS, 0.5
    )
    assert_refused(
        "dare: give either key or masks",
        combine.dare,
        three,
        small_params,
        WEIGHTS,
        0.5,
        KEY,
        masks=[],
    )
    assert_refused("peft_dare_ties: 1 masks; expected one tree for each of"
            " 3", peft_combine.peft_dare_ties, loras, WEIGHTS, 0.5,
            masks=[{}])  # fmt: skip
    assert_refused(r"dare: adapter 0 needs a mask of shape \(3, 32, 32\) at"
            r" layers/attn/q", combine.dare, three, small_params,
            WEIGHTS, 0.5, masks=[{}] * 3)  # fmt: skip
    assert_refused(r"adapter 0 needs a mask of shape \(3, 32, 3\) at"
            r" layers/attn/q", peft_combine.peft_dare_linear, loras, WEIGHTS,
            0.5, masks=[{"layers": {"attn": {"q": (jnp.ones(3), jnp.ones(3))}}}] * 3)  # fmt: skip
    assert_refused(r"peft_linear: ranks \[3, 4\] at layers/0/attn/q; expected the"
            r" same", peft_combine.peft_linear,
            (three[0], three[2]), [1.0, 1.0])  # fmt: skip
    for function, options in ((peft_combine.peft_cat, ()), (peft_combine.peft_ties, (0.5,))):
        assert_refused(
            "peft_.*: adapter 1 is a DoRA at layers/.*; expected LoRA",
            function,
            three,
            WEIGHTS,
            *options,
        )
    assert_refused(
        "peft_svd: adapter 1 is a DoRA", peft_combine.peft_svd, three, small_params, WEIGHTS
    )
    assert_refused(
        "adapter 0 is a Mix at layers/attn/q",
        peft_combine.peft_cat,
        (adapters.add(*three), three[0]),
        [1.0, 1.0],
    )
    assert_refused("ties: layers/attn/z is no weight", combine.ties,
            ({"layers": {"attn": {"z": three[0]["layers"]["attn"]["q"]}}},), small_params, [1.0], 0.5)  # fmt: skip


def test_kinds_without_a_weight_change_are_refused_by_name(small, small_params):
    adapter = adapter_for(small, small_params, "bottleneck", rank=2, targets=("o",))
    with pytest.raises(UserError, match="ties: layers/attn/o: a bottleneck adapter is not linear"):
        combine.ties((adapter, adapter), small_params, [1.0, 1.0], 0.5)
