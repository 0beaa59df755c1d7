"""Penalties that keep a model near its base: their definitions in float64, gradients, exact zeros,
and that a step without them is the step that it was."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, packed, quantised
from lfl_jax.configs import math_ift

from lfl_jax import adapters, losses, optim, penalties, schedules, state, train
from lfl_jax.analysis.divergence import Outputs
from lfl_jax.config import Config, OptimConfig, PenaltyConfig
from lfl_jax.core import tree
from lfl_jax.data.streams import MODEL_INPUTS
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.train_step import train_step

# A step is minus the gradient: momentum 0, learning rate 1, no clipping.
OPTIM = OptimConfig(
    name="sgd", lr=1.0, b1=0.0, b2=0.0, eps=1e-8, weight_decay=0.0, clip=0.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip
TX = optim.make(OPTIM, schedules.make(OPTIM, 10))
LENGTHS = [[7, 12, 9], [20, 6]]
FULL, ADAPTER = ("params/.*",), ("adapter/.*",)


def batch(small, microbatches=1):
    rows = packed(LENGTHS, 32, small.vocab_size)
    return {k: jnp.asarray(rows[k]).reshape(microbatches, -1, 32) for k in MODEL_INPUTS}


def outputs(seed, b=2, t=70, d=8, v=40):
    """(base, tuned, rows) with trained-looking differences; a third of the positions count."""
    keys = jax.random.split(jax.random.key(seed), 6)
    hidden, head = jax.random.normal(keys[0], (b, t, d)), jax.random.normal(keys[1], (v, d))
    change, other = jax.random.normal(keys[2], (b, t, d)), jax.random.normal(keys[3], (v, d))
    weights = jax.random.uniform(keys[4], (b, t)) * (jax.random.uniform(keys[5], (b, t)) < 0.3)
    rows = {"targets": jax.random.randint(keys[4], (b, t), 0, v), "weights": weights}
    return Outputs(hidden, head), Outputs(hidden + 0.3 * change, head + 0.2 * other), rows


def non_target_kl_in_float64(base, tuned, rows):
    """The definition: the target's column is deleted, what is left is normalised again."""
    total = 0.0
    for row, position in np.argwhere(np.asarray(rows["weights"]) > 0):
        probabilities = []
        for hidden, head in (base, tuned):
            logits = np.asarray(head, np.float64) @ np.asarray(hidden, np.float64)[row, position]
            others = np.delete(logits, rows["targets"][row, position])
            others = np.exp(others - others.max())
            probabilities.append(others / others.sum())
        p, q = probabilities
        total += float(rows["weights"][row, position]) * np.sum(p * (np.log(p) - np.log(q)))
    return total


def test_non_target_kl_is_its_definition_in_float64():
    base, tuned, rows = outputs(0)
    want = non_target_kl_in_float64(base, tuned, rows)
    got = penalties.non_target_kl_sum(base, tuned, rows)
    assert want > 1
    np.testing.assert_allclose(got, want, rtol=2e-6)
    # base against tuned: the other direction, and the whole vocabulary, are other numbers
    assert abs(non_target_kl_in_float64(tuned, base, rows) / want - 1) > 0.01
    far = penalties.non_target_kl_sum(base, tuned._replace(head=1e3 * tuned.head), rows)
    assert jnp.isfinite(far)


def test_gradients_of_non_target_kl_are_differences_of_its_definition():
    base, tuned, rows = outputs(1, b=1, t=40)
    grads = jax.grad(penalties.non_target_kl_sum, argnums=1)(base, tuned, rows)
    counted = np.asarray(rows["weights"]) > 0
    assert (np.asarray(grads.hidden)[~counted] == 0).all()
    rng = np.random.default_rng(0)
    for leaf in ("hidden", "head"):
        x, direction = np.asarray(getattr(tuned, leaf), np.float64), None
        direction, step = rng.normal(size=x.shape), 1e-5
        ends = [
            non_target_kl_in_float64(base, tuned._replace(**{leaf: x + s * direction}), rows)
            for s in (step, -step)
        ]
        want = (ends[0] - ends[1]) / (2 * step)
        got = np.sum(np.asarray(getattr(grads, leaf), np.float64) * direction)
        assert got == pytest.approx(want, rel=1e-4) and abs(want) > 0.1


def test_raising_the_target_alone_costs_no_non_target_kl():
    base, _, rows = outputs(2, b=1, t=6, d=40, v=40)
    eye = jnp.eye(40)
    raised = base.hidden + 3 * jax.nn.one_hot(rows["targets"], 40)
    rows = rows | {"weights": jnp.ones((1, 6))}
    kl = penalties.non_target_kl_sum(Outputs(base.hidden, eye), Outputs(raised, eye), rows)
    assert 0 <= kl < 1e-9
    nll = jnp.sum(jax.nn.log_softmax(raised) - jax.nn.log_softmax(base.hidden))
    assert abs(nll) > 1


def test_positions_without_weight_are_never_read_and_logits_never_all_held():
    base, tuned, rows = outputs(3)
    where = rows["weights"][..., None] > 0
    poisoned = [x._replace(hidden=jnp.where(where, x.hidden, jnp.nan)) for x in (base, tuned)]
    value, grads = jax.value_and_grad(penalties.non_target_kl_sum, argnums=1)(*poisoned, rows)
    assert jnp.isfinite(value) and all(jnp.isfinite(x).all() for x in grads)

    base, tuned, rows = outputs(4, b=1, t=1024, d=16, v=8192)
    grad = jax.jit(jax.grad(penalties.non_target_kl_sum, argnums=1))
    memory = grad.lower(base, tuned, rows).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1024 * 8192 * 4 / 2


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("kind", ["dora", *slow("lora", "lora+vera", "nf4")])
def test_l2_of_an_adapter_is_of_its_weight_change(kind, small, small_params):
    held = quantised(small, small_params) if kind == "nf4" else small_params
    kind = "lora" if kind == "nf4" else kind
    adapter = adapter_for(small, small_params, kind, targets=("q", "down"))
    nothing = jax.tree.map(lambda x: None, held)
    changes = jax.tree.leaves(adapters.deltas(adapter, held))
    want = sum(np.sum(np.square(np.asarray(x, np.float64))) for x in changes)
    got, grads = jax.value_and_grad(lambda a: penalties.l2(Model(params=held, adapter=a), nothing))(
        adapter
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert len(changes) == 2
    assert jnp.abs(jax.tree.leaves(grads["layers"]["attn"]["q"])[0]).max() > 0


def test_l2_of_weights_that_train_under_an_adapter_is_of_both_changes(small, small_params):
    adapter = adapter_for(small, small_params, targets=("q",))
    change = 0.1 * jax.random.normal(jax.random.key(3), small_params["layers"]["attn"]["q"].shape)
    layers = small_params["layers"]
    attn = layers["attn"] | {"q": layers["attn"]["q"] + change}
    tuned = small_params | {"layers": layers | {"attn": attn}}
    base = jax.tree.map(lambda x: None, small_params)
    base = base | {
        "layers": base["layers"] | {"attn": base["layers"]["attn"] | {"q": layers["attn"]["q"]}}
    }
    whole = adapters.deltas(adapter, tuned)["layers"]["attn"]["q"] + change
    got = penalties.l2(Model(params=tuned, adapter=adapter), base)
    np.testing.assert_allclose(got, np.sum(np.square(np.asarray(whole, np.float64))), rtol=1e-5)


def started(small_params, adapter, trainable, config):
    """(state before the first step, frozen half, penalties)."""
    # a step donates what trains
    model = Model(params=jax.tree.map(jnp.array, small_params), adapter=adapter)
    current, frozen = state.create(model, trainable, TX)
    return current, frozen, penalties.make(config, current)


def away(small_params):
    return jax.tree.map(
        lambda x, k: x + 0.05 * jax.random.normal(k, x.shape),
        small_params,
        jax.tree.unflatten(
            jax.tree.structure(small_params),
            list(jax.random.split(jax.random.key(9), len(jax.tree.leaves(small_params)))),
        ),
    )


def full_step(small, small_params, config, microbatches=1):
    """(metrics, minus the gradients) of a step of full finetuning that is away from its base."""
    current, frozen, penalty = started(small_params, {}, FULL, config)
    tuned = away(small_params)
    current = current.replace(trainable=current.trainable.replace(params=tuned))
    after, metrics = train_step(
        current, frozen, batch(small, microbatches), None, cfg=small, tx=TX, penalty=penalty
    )
    steps = jax.tree.map(
        lambda new, old: np.asarray(new) - old, after.trainable.params, away(small_params)
    )
    return jax.device_get(metrics), steps


def test_full_finetuning_is_pulled_to_its_base(small, small_params):
    plain, steps = full_step(small, small_params, PenaltyConfig())
    pulled, with_l2 = full_step(small, small_params, PenaltyConfig(l2=0.5))
    tuned = away(small_params)
    differences = jax.tree.map(lambda x, x0: np.asarray(x, np.float64) - x0, tuned, small_params)
    for path, x in tree.items(with_l2):
        # 2 lambda (W - W0)
        want = dict(tree.items(steps))[path] - dict(tree.items(differences))[path]
        np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)
    want = sum(np.sum(np.square(x)) for x in jax.tree.leaves(differences))
    assert pulled["l2_to_base"] == pytest.approx(want, rel=1e-5)
    # apart from the loss, which is that of the same weights
    assert pulled["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert set(pulled) - set(plain) == {"l2_to_base"} and pulled["grad_norm"] != plain["grad_norm"]


@pytest.mark.parametrize("microbatches", [1, *slow(2)])
def test_a_step_s_divergence_is_that_of_the_model_s_outputs(microbatches, small, small_params):
    config = PenaltyConfig(non_target_kl=0.7)
    rows = {name: x[0] for name, x in batch(small).items()}
    tuned = away(small_params)
    pair = [
        Outputs(losses.hidden_states(params, None, rows, small), llama.head(params))
        for params in (small_params, tuned)
    ]
    targets = float(rows["weights"].sum())
    want = non_target_kl_in_float64(*pair, rows) / targets
    metrics, steps = full_step(small, small_params, config, microbatches)
    assert want > 0.01 and metrics["non_target_kl"] == pytest.approx(want, rel=1e-4)

    def objective(params):
        hidden = losses.hidden_states(params, None, rows, small)
        logits, base_logits = hidden @ llama.head(params).T, pair[0].hidden @ pair[0].head.T
        is_target = jax.nn.one_hot(rows["targets"], small.vocab_size, dtype=bool)
        log_p, log_q = (
            jax.nn.log_softmax(jnp.where(is_target, -1e9, x)) for x in (base_logits, logits)
        )
        kl = jnp.sum(jnp.where(is_target, 0, jnp.exp(log_p) * (log_p - log_q)), axis=-1)
        nll = -jnp.sum(jnp.where(is_target, jax.nn.log_softmax(logits), 0), axis=-1)
        return jnp.sum((nll + 0.7 * kl) * rows["weights"]) / targets

    for x, want in zip(*map(jax.tree.leaves, (steps, jax.grad(objective)(tuned))), strict=True):
        np.testing.assert_allclose(x, -want, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", ["lora", *slow("", "lora+dora")])
def test_an_untouched_model_has_no_penalty(kind, small, small_params):
    config = PenaltyConfig(l2=0.1, non_target_kl=1.0)
    adapter = adapter_for(small, small_params, kind, trained=False) if kind else {}
    current, frozen, penalty = started(small_params, adapter, ADAPTER if kind else FULL, config)
    before = train_step._cache_size()
    for weight in (1.0, 30.0):
        heavier = penalty.replace(l2=jnp.float32(weight), non_target_kl=jnp.float32(weight))
        copied = jax.tree.map(jnp.copy, current)
        _, metrics = train_step(
            copied, frozen, batch(small), None, cfg=small, tx=TX, penalty=heavier
        )
        assert metrics["l2_to_base"] == 0 and 0 <= metrics["non_target_kl"] < 1e-10
    # weights are arrays: runs that differ in them share the program
    assert train_step._cache_size() == before + 1


def test_no_weight_is_no_penalty(small_params):
    assert started(small_params, {}, FULL, PenaltyConfig())[2] is None
    current, _, penalty = started(small_params, {}, ("params/.*norm",), PenaltyConfig(l2=0.1))
    assert penalty.non_target_kl is None
    # copies of what trains alone, in other buffers than those that the first step donates
    for copy, x in zip(
        *map(jax.tree.leaves, (penalty.base, current.trainable.params)), strict=True
    ):
        np.testing.assert_array_equal(copy, x)
        assert copy.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()


@pytest.mark.parametrize(
    ("words", "fields", "message"),
    [
        ("lora", {"l2": -1.0}, "config.penalty.l2=-1.0 must be between 0 and"),
        (
            "bottleneck",
            {"l2": 1.0},
            "config.penalty.l2 is of weight changes, and bottleneck has none",
        ),
        (
            "lora+bottleneck",
            {"l2": 1.0},
            "and bottleneck has none; use config.penalty.non_target_kl",
        ),
    ],
)
def test_penalties_that_cannot_be_are_refused_before_anything_is_loaded(
    words, fields, message, tmp_path
):
    c = math_ift.get_config(f"smoke,{words}")
    c.penalty.update(fields)
    with pytest.raises(UserError, match=message) as error:
        train.run(train.Run(Config.from_dict(c), tmp_path / "run", quiet=True))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def run(folder, steps=4, **fields):
    c = math_ift.get_config("smoke,full_linear")
    c.train.steps, c.eval.tasks, c.eval.every_tasks, c.log.tensorboard = steps, (), (), False
    c.optim.schedule, c.optim.warmup_steps, c.checkpoint.every = "constant", 1, 2
    c.penalty.update(fields)
    train.run(train.Run(Config.from_dict(c), folder, quiet=True))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "tokens_per_s")} for row in rows]


@pytest.mark.slow
def test_a_resumed_run_is_pulled_to_the_same_base(tmp_path):
    whole = run(tmp_path / "whole", l2=1.0, non_target_kl=1.0)
    run(tmp_path / "parts", 2, l2=1.0, non_target_kl=1.0)
    assert run(tmp_path / "parts", l2=1.0, non_target_kl=1.0) == whole
    assert whole[0]["l2_to_base"] == 0 < whole[-1]["l2_to_base"]
    plain = run(tmp_path / "plain")
    assert "l2_to_base" not in plain[0] and plain[0]["loss"] == whole[0]["loss"]
    # the heavier, the nearer
    held = run(tmp_path / "held", l2=1e3, non_target_kl=1.0)
    assert held[-1]["l2_to_base"] < whole[-1]["l2_to_base"]
