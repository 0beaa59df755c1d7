"""Optimizers and schedules against plain restatements of the paper's protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfl_jax import optim, schedules
from lfl_jax.config import OptimConfig

BASE = {
    "name": "adamw", "lr": 1e-2, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 0.0,
    "schedule": "cosine", "warmup_steps": 0, "warmup_fraction": 0.2, "final_fraction": 0.01, "cooldown_fraction": 0.2,
}  # fmt: skip
GRADS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)


def descend(config, grads):
    params = {"w": jnp.linspace(-1, 1, 4)}
    tx = optim.make(config, schedules.make(config, len(grads)))
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update({"w": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["w"])


def lionw(config, grads):
    p, m, f = np.linspace(-1, 1, 4).astype(np.float32), np.zeros(4), schedules.make(config, len(grads))
    for t, g in enumerate(grads):
        ratio = float(f(t))
        p = p * (1 - ratio * config.weight_decay) - ratio * config.lr * np.sign(config.b1 * m + (1 - config.b1) * g)
        m = config.b2 * m + (1 - config.b2) * g
    return p


def adamw(config, grads):
    p, m, v, f = (
        np.linspace(-1, 1, 4).astype(np.float32),
        np.zeros(4),
        np.zeros(4),
        schedules.make(config, len(grads)),
    )
    for t, g in enumerate(grads):
        m, v = config.b1 * m + (1 - config.b1) * g, config.b2 * v + (1 - config.b2) * g**2
        mh, vh = m / (1 - config.b1 ** (t + 1)), v / (1 - config.b2 ** (t + 1))
        ratio = float(f(t))
        p = p * (1 - ratio * config.weight_decay) - ratio * config.lr * mh / (np.sqrt(vh) + config.eps)
    return p


@pytest.mark.parametrize(("name", "plain"), [("lionw", lionw), ("adamw", adamw)])
def test_optimizers_equal_the_protocol(name, plain):
    config = OptimConfig(**BASE | {"name": name})
    np.testing.assert_allclose(descend(config, GRADS), plain(config, GRADS), rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_global_norm():
    config = OptimConfig(**BASE | {"clip": 0.5, "weight_decay": 0.0})
    clipped = [g * min(1, 0.5 / np.linalg.norm(g)) for g in GRADS]
    np.testing.assert_allclose(descend(config, GRADS), adamw(config, clipped), rtol=1e-4, atol=1e-5)


def test_cosine_is_composers():
    f = schedules.make(OptimConfig(**BASE), 100)
    np.testing.assert_allclose(f(10), 0.5)
    np.testing.assert_allclose(f(20), 1.0)
    np.testing.assert_allclose(f(60), 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * 0.5)), rtol=1e-5)
    np.testing.assert_allclose(f(100), 0.01, rtol=1e-4)


def test_trapezoid_is_flat_then_linear_to_zero():
    f = schedules.make(OptimConfig(**BASE | {"schedule": "trapezoid", "warmup_steps": 10}), 100)
    np.testing.assert_allclose([f(0), f(5), f(10), f(79), f(90), f(100)], [0, 0.5, 1, 1, 0.5, 0], atol=1e-6)
    long_warmup = schedules.make(OptimConfig(**BASE | {"schedule": "trapezoid", "warmup_steps": 90}), 100)
    np.testing.assert_allclose([long_warmup(45), long_warmup(90), long_warmup(95)], [0.5, 1, 0.5], atol=1e-6)


def test_learning_rate_is_an_array_so_that_runs_share_a_program():
    configs = [OptimConfig(**BASE | {"lr": lr}) for lr in (1e-2, 3e-4)]
    states = [optim.make(c, schedules.make(c, 10)).init({"w": jnp.zeros(2)}) for c in configs]
    rates = [[float(x) for x in jax.tree.leaves(s) if getattr(x, "shape", None) == ()] for s in states]
    assert rates[0] != rates[1]


def test_lora_plus_moves_b_faster_and_decays_it_alike():
    def moved(ratio):
        config = OptimConfig(**BASE | {"lora_plus": ratio, "schedule": "constant", "warmup_fraction": 0.0})
        params = {"layers": {"q": {"a": jnp.ones(3), "b": jnp.ones(3)}}}
        tx = optim.make(config, schedules.make(config, 3))
        updates, _ = tx.update(jax.tree.map(lambda x: 0.5 * x, params), tx.init(params), params)
        return updates["layers"]["q"]

    plain, plus = moved(1.0), moved(16.0)
    decay = -BASE["weight_decay"]
    np.testing.assert_array_equal(plus["a"], plain["a"])
    np.testing.assert_allclose(plus["b"] - decay, 16 * (plain["b"] - decay), rtol=1e-5)
