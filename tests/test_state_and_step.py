"""The split state and one training step: what moves, what does not, accumulation, golden
numbers."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import adapter_for, packed
from lfl_jax.configs import math_ift

from lfl_jax import adapters, optim, schedules, state
from lfl_jax.config import Config, OptimConfig
from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.train_step import train_step

# eps: with a small one Adam's first steps are signs of gradients, which magnify rounding.
OPTIM = OptimConfig(
    name="adamw", lr=1e-2, b1=0.9, b2=0.999, eps=1e-3, weight_decay=0.01, clip=1.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip
# one object, so that steps share a compiled program
TX = optim.make(OPTIM, schedules.make(OPTIM, 10))
LENGTHS = [[7, 12, 9], [20, 6], [3, 28], [16, 10]]


def batch(small, microbatches=1):
    rows = packed(LENGTHS, 32, small.vocab_size)
    keep = ("tokens", "targets", "weights", "segment_ids", "positions")
    return {k: jnp.asarray(rows[k]).reshape(microbatches, -1, 32) for k in keep}


def start(small, small_params, kind="lora", trainable=("adapter/.*",)):
    params = jax.tree.map(jnp.array, small_params)  # a step donates what trains
    adapter = adapter_for(small, params, kind, trained=False) if kind else {}
    return *state.create(Model(params=params, adapter=adapter), trainable, TX), TX


def steps(small, small_params, count, microbatches=1, **options):
    current, frozen, tx = start(small, small_params, **options)
    for _ in range(count):
        current, metrics = train_step(
            current, frozen, batch(small, microbatches), None, cfg=small, tx=tx
        )
    return current, frozen, metrics


@pytest.mark.parametrize("kind", ["lora", "dora", "lora+dora"])
def test_only_the_adapter_moves_and_only_it_has_optimizer_state(kind, small, small_params):
    before = adapter_for(small, small_params, kind, trained=False)
    current, frozen, _ = steps(small, small_params, 3, kind=kind)
    model = state.model(current, frozen)
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, small_params))
    after = jax.tree.leaves(model.adapter)
    for (name, old), new in zip(tree.items(before), after, strict=True):
        constant = name.split("/")[-1] in ("scale", "gain", "w2")
        assert np.array_equal(old, new) == constant, name
    trainable = {x.shape for x in jax.tree.leaves(current.trainable)}
    moments = {x.shape for x in jax.tree.leaves(current.opt_state) if x.ndim}
    assert moments <= trainable and len(jax.tree.leaves(current.trainable.params)) == 0


def test_full_finetuning_moves_every_parameter(small, small_params):
    current, frozen, _ = steps(small, small_params, 3, kind=None, trainable=("params/.*",))
    assert not jax.tree.leaves(frozen)
    for old, new in zip(
        *map(jax.tree.leaves, (small_params, current.trainable.params)), strict=True
    ):
        assert not np.array_equal(old, new)


def test_full_linear_trains_the_matrices_that_lora_adapts(small):
    # with the biases and norms that some families have
    cfg = dataclasses.replace(small, qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True)
    params = spec.abstract(llama.specs(cfg))
    c = Config.from_dict(math_ift.get_config("full_linear"))
    mask = dict(tree.items(state.trainable_mask(Model(params=params, adapter={}), c.trainable)))
    adapter = adapters.specs(llama.specs(cfg), Config.from_dict(math_ift.get_config()).adapter)
    adapted = {f"params/{path.removesuffix('/a')}" for path in tree.paths(adapter, spec.is_spec)
               if path.endswith("/a")}  # fmt: skip
    assert {path for path, trains in mask.items() if trains} == adapted and len(adapted) == 7


def test_any_part_can_train(small, small_params):
    current, frozen, _ = steps(small, small_params, 1, kind=None, trainable=("params/.*norm",))
    assert {p.split("/")[-1] for p in tree.paths(current.trainable)} == {
        "attn_norm",
        "mlp_norm",
        "final_norm",
    }
    assert np.array_equal(frozen.params["embed"], small_params["embed"])


def test_a_pattern_that_selects_nothing_is_refused(small, small_params):
    with pytest.raises(UserError, match="matches nothing"):
        start(small, small_params, trainable=("params/layers/attention/.*",))


@pytest.mark.parametrize("options", [{}, {"kind": None, "trainable": ("params/.*",)}])
def test_four_microbatches_are_one_batch(options, small, small_params):
    (one, _, first), (four, _, second) = (
        steps(small, small_params, 2, m, **options) for m in (1, 4)
    )
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-5)
    np.testing.assert_allclose(first["grad_norm"], second["grad_norm"], rtol=1e-4)
    for x, y in zip(*map(jax.tree.leaves, (one.trainable, four.trainable)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5)


def test_loss_is_per_target_token_and_what_trains_is_float32(small, small_params):
    _, _, metrics = steps(small, small_params, 1)
    assert metrics["targets"] == batch(small)["weights"].sum() and 3 < metrics["loss"] < 9
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small_params)
    current, frozen = state.create(
        Model(params=half, adapter={}), ("params/.*norm",), optax.identity()
    )
    assert {x.dtype for x in jax.tree.leaves(current.trainable)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}


def test_checkpointables_go_back_where_they_came_from(small, small_params):
    current, frozen, _ = steps(small, small_params, 2, kind="lora+dora")
    saved = state.checkpointables(current, frozen, jax.random.key(0))
    fresh, other, _ = start(small, small_params, kind="lora+dora")
    again, frozen_again = state.restored(saved, fresh, other)
    same = jax.tree.map(
        np.array_equal, state.model(again, frozen_again), state.model(current, frozen)
    )
    assert jax.tree.all(same) and int(again.step) == 2


def test_dropout_follows_seed_and_step(small, small_params):
    cfg = dataclasses.replace(small, adapter_dropout=0.2)

    def loss(seed, step):
        current, frozen, tx = start(small, small_params, kind="lora")
        trained = adapter_for(small, small_params)
        current, frozen = state.create(
            Model(params=small_params, adapter=trained), ("adapter/.*",), tx
        )
        current = current.replace(step=jnp.int32(step))
        return float(
            train_step(current, frozen, batch(small), jax.random.key(seed), cfg=cfg, tx=tx)[1][
                "loss"
            ]
        )

    assert loss(0, 0) == loss(0, 0) != loss(0, 1) and loss(0, 0) != loss(1, 0)


def test_the_second_step_runs_the_program_of_the_first(small, small_params):
    rules = make_rules(devices=jax.devices()[:1])
    params = jax.device_put(small_params, spec.shardings(llama.specs(small), rules))
    adapter = jax.device_put(adapter_for(small, params), rules.sharding((), ()))
    model = Model(params=params, adapter=adapter)
    current, frozen = state.create(model, ("adapter/.*",), TX, rules)
    before = train_step._cache_size()
    for _ in range(3):
        current, _ = train_step(current, frozen, batch(small), None, cfg=small, tx=TX, rules=rules)
    assert train_step._cache_size() == before + 1


@pytest.fixture
def own_names():
    """A cached program may have the names of older code: here it is compiled with those of now."""
    option = "jax_compilation_cache_include_metadata_in_key"
    jax.config.update(option, True)
    yield
    jax.config.update(option, False)


@pytest.mark.usefixtures("own_names")
def test_phases_are_named_in_the_compiled_step(small, small_params):
    """What a profile shows: XLA has fused and renamed, and the names are still there."""
    current, frozen, tx = start(small, small_params)
    leaves, structure = jax.tree.flatten((current, frozen))

    def step(leaves):
        return train_step(
            *jax.tree.unflatten(structure, leaves), batch(small), None, cfg=small, tx=tx
        )

    program = jax.jit(step).lower(leaves).compile().as_text()
    names = re.findall(r'op_name="([^"]*)"', program)
    for phase in (r"jvp\(forward\)", r"transpose\(jvp\(forward\)\)", "optimizer", "norms"):
        assert any(re.search(rf"/{phase}/", name) for name in names), phase
    for part in ("attention", "mlp", "attention/adapters", "mlp/adapters", "embed", "final_norm"):
        assert any(re.search(rf"forward.*/{part}/", name) for name in names), part
    assert any(re.search(r"/jvp\(loss\)/.*head", name) for name in names)
