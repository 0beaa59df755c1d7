"""A batch routed by ids against the same batch routed by a one-hot routing, through the whole
model."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import adapter_for, packed, same_up_to_rounding

from lfl_jax import adapters, api, sample, state
from lfl_jax.adapters import routed
from lfl_jax.adapters.mix import Mix, StackedFactors
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.core.sharding import make_rules
from lfl_jax.data.streams import MODEL_INPUTS
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.text.tokenizers import byte_tokenizer
from lfl_jax.train_step import train_step

TARGETS = ("q", "k", "v", "down")
TOKENS = jnp.arange(32).reshape(4, 8) * 5 % 96
IDS = {
    "by example": np.array([2, -1, 0, 2]),
    "by token": np.random.default_rng(0).integers(-1, 4, (4, 8)),
}
FORMS = ("low_rank_by_example", "grouped_low_rank")
BOTH = [
    pytest.param(IDS["by example"], id="by example"),
    pytest.param(IDS["by token"], id="by token", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def used(monkeypatch):
    """The grouped products that ran; four members are enough for them."""
    found = []
    for name in FORMS:
        form = getattr(routed, name)
        monkeypatch.setattr(routed, name, lambda *args, n=name, f=form: found.append(n) or f(*args))
    monkeypatch.setattr(routed, "MEMBERS", 4)
    return found


@pytest.fixture(scope="module")
def members(small, small_params):
    return [adapter_for(small, small_params, seed=seed, targets=TARGETS) for seed in range(4)]


def run(params, adapter, cfg, routing, **options):
    return jax.jit(lambda a: llama.forward(params, a, TOKENS, cfg, routing=routing, **options)[0])(
        adapter
    )


@pytest.mark.parametrize("ids", BOTH)
def test_values_and_all_gradients_are_those_of_the_one_hot_gate(
    ids, members, used, small, small_params
):
    cfg = dataclasses.replace(small, adapter_dropout=0.2, remat="selective")
    stacked, key = adapters.stack(*members, weights=[1.0, -0.5, 2.0, 0.7]), jax.random.key(3)
    direction = jax.random.normal(key, (4, 8, 32))

    @partial(jax.jit, static_argnums=0)
    def results(by, routing, params, adapter):
        def loss(params, adapter):
            hidden = llama.forward(params, adapter, TOKENS, cfg, routing=routing, key=key)[0]
            return jnp.vdot(hidden, direction), hidden

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, adapter)

    one_hot = partial(results, "routing", adapters.route(ids, 4))
    wanted = one_hot(small_params, stacked)
    assert not used
    found = results("ids", ids, small_params, stacked)
    assert set(used) == {FORMS[ids.ndim - 1]} and len(used) % 4 == 0, "q, k, v and down"
    same_up_to_rounding(found, wanted, one_hot, small_params, stacked)
    moved = [bool(jnp.any(m.b != 0)) for m in found[1][1]["layers"]["attn"]["q"].layers]
    assert moved == [m in ids for m in range(4)]


@pytest.mark.parametrize("shape", [(4,), (4, 8)])
def test_no_member_is_the_base_to_the_last_bit(shape, members, used, small, small_params):
    base, stacked = run(small_params, None, small, None), adapters.stack(*members)
    for ids in (np.full(shape, -1), np.full(shape, 4)):  # inside a program nobody can look at ids
        assert jnp.array_equal(run(small_params, stacked, small, ids), base)
    assert used
    assert jnp.abs(run(small_params, stacked, small, np.full(shape, 3)) - base).max() > 0.1


def test_what_is_not_equal_low_rank_members_on_one_device_goes_by_the_gate(
    members, used, small, small_params
):
    ids, x = jnp.asarray(IDS["by example"]), jax.random.normal(jax.random.key(0), (4, 8, 32))
    w = small_params["layers"]["attn"]["q"][0]

    def several(adapter, routing):
        layer = jax.tree.map(lambda x: x[0], adapter["layers"]["attn"]["q"])
        return adapters.project(x, (Site(w, layer),), AdapterContext(routing=routing))[0]

    one, routing = adapters.stack(*members), adapters.route(ids, 4)
    wider = adapter_for(small, small_params, rank=5, targets=TARGETS)
    other = adapter_for(small, small_params, "dora", targets=TARGETS)
    elsewhere = adapter_for(small, small_params, targets=("up",))
    for last in (wider, other, elsewhere):
        mixed = adapters.stack(*members[:3], last)
        assert jnp.array_equal(several(mixed, ids), several(mixed, routing))
        assert jnp.abs(several(mixed, ids) - several(mixed, None)).max() > 0.1
    few = adapters.stack(*members[:3])
    assert jnp.array_equal(several(few, ids), several(few, routing[:, :3]))
    assert jnp.array_equal(several(members[0], ids), several(members[0], routing[:, :1]))
    assert not used
    np.testing.assert_allclose(several(one, ids), several(one, routing), atol=1e-4)
    assert used


def test_for_evaluation_many_members_lie_side_by_side(members, used, small, small_params):
    stacked = adapters.stack(*members, weights=[1.0, -0.5, 2.0, 0.7])
    precomputed = adapters.precompute_for_inference(stacked, small_params)
    assert (
        isinstance(precomputed["layers"]["attn"]["q"], StackedFactors)
        and precomputed["layers"]["attn"]["o"] is None
    )
    assert adapters.member_count(precomputed) == 4
    for routing in (
        *IDS.values(),
        adapters.route(IDS["by token"], 4),
        jnp.linspace(0.1, 2, 16).reshape(4, 4),
        None,
    ):
        assert jnp.allclose(
            run(small_params, precomputed, small, routing),
            run(small_params, stacked, small, routing),
            atol=1e-5,
        )
    assert set(used) == set(FORMS)
    few = adapters.stack(*members[:3])
    assert adapters.precompute_for_inference(few, small_params) is few
    mixed = adapters.stack(*members[:3], adapter_for(small, small_params, "dora", targets=TARGETS))
    assert isinstance(
        adapters.precompute_for_inference(mixed, small_params)["layers"]["attn"]["q"], Mix
    )


def test_picking_from_stacked_factors_does_not_touch_the_rest(members, small, small_params):
    def temporaries(count):
        precomputed = adapters.precompute_for_inference(
            adapters.stack(*(members * 16)[:count]), small_params
        )
        one = lambda tree: jax.tree.map(lambda x: x[0], tree["layers"]["attn"]["q"])  # noqa: E731
        x, w = jnp.ones((4, 8, 32)), small_params["layers"]["attn"]["q"][0]
        context = AdapterContext(routing=jnp.array(IDS["by example"]))
        run = jax.jit(lambda layer: adapters.project(x, (Site(w, layer),), context)[0])
        return run.lower(one(precomputed)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(64) == temporaries(4)


def test_the_work_does_not_grow_with_the_number_of_members(members, small, small_params):
    def flops(count, routing):
        stacked = adapters.stack(*(members * 8)[:count])
        forward = jax.jit(
            lambda a, routing: llama.forward(small_params, a, TOKENS, small, routing=routing)[0]
        )
        return forward.lower(stacked, routing).compile().cost_analysis()["flops"]

    by_example, by_token = IDS.values()
    assert flops(32, by_example) < 1.01 * flops(4, by_example)
    assert flops(32, by_token) < 1.5 * flops(4, by_token), "tiles that are not full"
    assert flops(32, adapters.route(by_example, 32)) > 2 * flops(4, adapters.route(by_example, 4))


@pytest.mark.parametrize("ids", BOTH)
def test_a_training_step_takes_ids(ids, members, used, small, small_params):
    rows, tx = (
        packed([[9, 7], [16], [4, 12], [10, 6]], 16, small.vocab_size),
        optax.adam(1e-2, eps=1e-3),
    )
    ids = ids if ids.ndim == 1 else np.repeat(ids, 2, axis=1)

    def learned(routing):
        batch = {k: rows[k] for k in MODEL_INPUTS} | {"routing": routing}
        # two microbatches
        batch = {k: jnp.asarray(x).reshape(2, 2, *x.shape[1:]) for k, x in batch.items()}
        model = jax.tree.map(
            jnp.array, Model(params=small_params, adapter=adapters.stack(*members))
        )
        current, frozen = state.create(model, ("adapter/.*",), tx)
        options = {"cfg": small, "tx": tx, "rules": make_rules(devices=jax.devices()[:1])}
        current, metrics = train_step(current, frozen, batch, None, **options)
        return current.trainable, metrics["loss"]

    wanted = learned(adapters.route(ids, 4))
    assert not used
    for got, want in zip(jax.tree.leaves(learned(ids)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert used


def test_every_prompt_is_decoded_by_the_adapter_it_names(members, used, small, small_params):
    common = np.random.default_rng(1).integers(1, 96, sample.BUCKET + 3).tolist()
    prompts = [[5, 17, 3, 60], [40, 2], [9, 9, 33, 71, 12], [1, 2, 3]]
    shallow = dataclasses.replace(small, n_layers=1)

    def decode(adapter, prompts, **options):
        first = (  # noqa: E731
            lambda tree: tree | {"layers": jax.tree.map(lambda x: x[:1], tree.get("layers", {}))}
        )
        model = sample.unstacked(
            Model(params=first(small_params), adapter=adapter and first(adapter)), 1
        )
        return sample.generate(model, prompts, shallow, max_new_tokens=9, eos_id=0, **options)

    stacked, ids = adapters.stack(*members), [2, -1, 0, 2]
    together = decode(stacked, prompts, routing=ids)
    assert used
    alone = [
        decode(members[m] if m >= 0 else {}, [prompt])[0]
        for m, prompt in zip(ids, prompts, strict=True)
    ]
    assert together == alone != [decode({}, [prompt])[0] for prompt in prompts]
    long = [[*common, *prompt] for prompt in prompts]
    assert sample._shared_prefix(long, np.array([3] * 4)) == sample.BUCKET
    assert sample._shared_prefix(long, np.array(ids)) == 0
    model = Model(params=small_params, adapter=stacked)
    deep = sample.generate(
        sample.unstacked(model, small.n_layers),
        prompts,
        small,
        max_new_tokens=9,
        eos_id=0,
        routing=ids,
    )
    assert sample.generate(model, prompts, small, max_new_tokens=9, eos_id=0, routing=ids) == deep
    assert decode(stacked, long, routing=[3] * 4) == decode(members[3], long)


def test_refusals(members, small, small_params):
    stacked = adapters.stack(*members)
    with pytest.raises(UserError, match=r"routing: floats \(\); expected a factor on each member"):
        llama.forward(small_params, stacked, TOKENS, small, routing=1.0)
    for routing in (np.array([0, 1]), np.eye(4, dtype=int)):
        with pytest.raises(
            UserError,
            match=r"routing: integers .* expected ids of members, \(4,\) or \(4, 8\) .* floats",
        ):
            llama.forward(small_params, stacked, TOKENS, small, routing=routing)
    for adapter, last in ((stacked, 3), (members[0], 0), ({}, -1)):
        with pytest.raises(
            UserError, match=rf"routing: ids from -1 to 4; expected -1 .the base. to {last}"
        ):
            api.generate(
                small_params, small, byte_tokenizer(), ["a", "b"], adapter=adapter, routing=[4, -1]
            )
