"""Optimizers and schedules against plain restatements of the paper's protocol."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfl_jax import optim, schedules
from lfl_jax.adapters import LoRA
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
    p, m, f = (
        np.linspace(-1, 1, 4).astype(np.float32),
        np.zeros(4),
        schedules.make(config, len(grads)),
    )
    for t, g in enumerate(grads):
        ratio = float(f(t))
        p = p * (1 - ratio * config.weight_decay) - ratio * config.lr * np.sign(
            config.b1 * m + (1 - config.b1) * g
        )
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
        p = p * (1 - ratio * config.weight_decay) - ratio * config.lr * mh / (
            np.sqrt(vh) + config.eps
        )
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
    np.testing.assert_allclose(
        [f(0), f(5), f(10), f(79), f(90), f(100)], [0, 0.5, 1, 1, 0.5, 0], atol=1e-6
    )
    long_warmup = schedules.make(
        OptimConfig(**BASE | {"schedule": "trapezoid", "warmup_steps": 90}), 100
    )
    np.testing.assert_allclose(
        [long_warmup(45), long_warmup(90), long_warmup(95)], [0.5, 1, 0.5], atol=1e-6
    )


def test_learning_rate_is_an_array_so_that_runs_share_a_program():
    configs = [OptimConfig(**BASE | {"lr": lr}) for lr in (1e-2, 3e-4)]
    states = [optim.make(c, schedules.make(c, 10)).init({"w": jnp.zeros(2)}) for c in configs]
    rates = [
        [float(x) for x in jax.tree.leaves(s) if getattr(x, "shape", None) == ()] for s in states
    ]
    assert rates[0] != rates[1]


def test_lora_plus_moves_b_faster_and_decays_it_alike():
    def moved(ratio):
        config = OptimConfig(
            **BASE | {"lora_plus": ratio, "schedule": "constant", "warmup_fraction": 0.0}
        )
        params = {"layers": {"q": LoRA(a=jnp.ones(3), b=jnp.ones(3), scale=None)}}
        tx = optim.make(config, schedules.make(config, 3))
        updates, _ = tx.update(jax.tree.map(lambda x: 0.5 * x, params), tx.init(params), params)
        return updates["layers"]["q"]

    plain, plus = moved(1.0), moved(16.0)
    decay = -BASE["weight_decay"]
    np.testing.assert_array_equal(plus.a, plain.a)
    np.testing.assert_allclose(plus.b - decay, 16 * (plain.b - decay), rtol=1e-5)


# Leaves as a run has them: stacked matrices and vectors of three layers, and an array of no layer.
TREE = {
    "params": {"embed": (7, 6), "layers": {"norm": (3, 6)}},
    "adapter": {"layers": {"q": LoRA(a=(3, 6, 4), b=(3, 4, 5), scale=None)}},
}


def arrays(seed, scale=1.0):
    is_shape = {"is_leaf": lambda x: isinstance(x, tuple)}
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(scale * rng.normal(size=s), jnp.float32), TREE, **is_shape
    )


def unstacked(tree):
    """{name: array} with every layer's own array in place of a stacked one."""
    found = {"embed": tree["params"]["embed"]}
    for name, stack in {
        "norm": tree["params"]["layers"]["norm"],
        "a": tree["adapter"]["layers"]["q"].a,
        "b": tree["adapter"]["layers"]["q"].b,
    }.items():
        found |= {f"{name}{i}": x for i, x in enumerate(stack)}
    return found


def run(tx, params, grads):
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


MUON = {"beta": 0.9, "adam_b1": 0.9, "adam_b2": 0.95, "eps": 1e-8, "consistent_rms": 0.2}
# what optax does with one array of each layer, and weight decay 0
THEIRS = {
    "sgd": optax.sgd(1e-2, momentum=0.9),
    "adafactor": optax.adafactor(1e-2),
    "lamb": optax.lamb(1e-2, 0.9, 0.95, 1e-8),
    "adamw": optax.adam(1e-2, 0.9, 0.95, 1e-8),
}


@pytest.mark.parametrize("name", THEIRS)
def test_optimizers_by_name_are_optaxs_applied_to_every_layer_by_itself(name):
    changes = {"name": name, "schedule": "constant", "warmup_fraction": 0.0, "weight_decay": 0.0}
    config = OptimConfig(**BASE | changes)
    grads = [arrays(seed) for seed in (1, 2, 3)]
    ours = run(optim.make(config, schedules.make(config, 3)), arrays(0, scale=0.3), grads)
    theirs = run(THEIRS[name], unstacked(arrays(0, scale=0.3)), list(map(unstacked, grads)))
    for leaf, x in unstacked(ours).items():
        np.testing.assert_allclose(x, theirs[leaf], rtol=1e-4, atol=1e-6, err_msg=leaf)


def test_muon_orthogonalises_each_layers_matrix_and_gives_the_rest_to_adam():
    changes = {"name": "muon", "schedule": "constant", "warmup_fraction": 0.0, "weight_decay": 0.0}
    config = OptimConfig(**BASE | changes)
    start, grads = arrays(0), [arrays(seed) for seed in (1, 2)]
    ours = unstacked(run(optim.make(config, schedules.make(config, 2)), start, grads))

    def part(tree, of_matrices):
        return {leaf: x for leaf, x in unstacked(tree).items() if (leaf[0] in "ab") is of_matrices}

    muon, adam = optax.contrib.muon(1e-2, **MUON), optax.nadam(1e-2, 0.9, 0.95, 1e-8)
    for tx, matrices in ((muon, True), (adam, False)):
        theirs = run(tx, part(start, matrices), [part(g, matrices) for g in grads])
        for leaf, x in theirs.items():
            np.testing.assert_allclose(ours[leaf], x, rtol=1e-4, atol=1e-5, err_msg=leaf)

    first = unstacked(run(optim.make(config, schedules.make(config, 1)), start, grads[:1]))
    for leaf, x in part(start, True).items():
        step = (first[leaf] - x) / (1e-2 * 0.2 * np.sqrt(max(x.shape)))
        values = np.linalg.svd(step, compute_uv=False)
        assert (values > 0.5).all() and (values < 1.5).all(), "singular values near 1"


@pytest.mark.parametrize("name", optim.DIRECTIONS)
def test_every_optimizer_takes_a_tree_with_holes_and_the_paths_decay(name):
    """Frozen leaves are None; weight decay is a fraction of the weight per step, whatever the
    optimizer; LoRA+ too."""
    config = OptimConfig(
        **BASE | {"name": name, "schedule": "constant", "warmup_fraction": 0.0, "lora_plus": 4.0}
    )
    tx = optim.make(config, schedules.make(config, 3))
    params, grads = ({"params": None, "adapter": arrays(seed)["adapter"]} for seed in (0, 1))
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    plain = optim.make(
        dataclasses.replace(config, weight_decay=0.0, lora_plus=1.0), schedules.make(config, 3)
    )
    before, _ = plain.update(grads, plain.init(params), params)
    for leaf, ratio in (("a", 1.0), ("b", 4.0)):
        x, u, v = (
            getattr(tree["adapter"]["layers"]["q"], leaf) for tree in (params, updates, before)
        )
        np.testing.assert_allclose(
            u, ratio * v - config.weight_decay * x, rtol=1e-4, atol=1e-6, err_msg=leaf
        )


def test_linear_falls_to_its_final_fraction():
    f = schedules.make(OptimConfig(**BASE | {"schedule": "linear", "final_fraction": 0.2}), 100)
    np.testing.assert_allclose(
        [f(0), f(10), f(20), f(60), f(100)], [0, 0.5, 1, 0.6, 0.2], atol=1e-6
    )


def closed_form(config: OptimConfig, steps: int) -> np.ndarray:
    """The schedules as formulas of the step in float64, for every step of a run and two more."""
    warmup, final = schedules.warmup_steps(config, steps), config.final_fraction
    t = np.arange(steps + 2, dtype=np.float64)
    progress = np.clip((t - warmup) / max(steps - warmup, 1), 0, 1)
    start = schedules.cooldown_start(config, steps)
    after = {
        "cosine": final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 - (1 - final) * progress,
        "trapezoid": 1 - np.clip((t - start) / max(steps - start, 1), 0, 1),
        "constant": np.ones_like(t),
    }[config.schedule]
    return np.where(t < warmup, t / max(warmup, 1), after)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 7, 50])
def test_every_step_of_a_schedule_is_its_formula(name: str, warmup: int) -> None:
    """Also where nothing is left after the warmup, which optax refuses or takes for constant."""
    values = {"schedule": name, "warmup_steps": warmup, "warmup_fraction": 0.0}
    config = OptimConfig(**BASE | values)
    schedule = schedules.make(config, 50)
    rates = np.broadcast_to(schedule(jnp.arange(52)), 52)
    np.testing.assert_allclose(rates, closed_form(config, 50), rtol=0, atol=2e-7)
    assert float(schedule(3)) == pytest.approx(float(rates[3]), abs=2e-7)


def test_a_resumed_run_has_the_numbers_of_its_own_config() -> None:
    """It may have become longer: the checkpoint has how far it is, the config how long it is."""
    config = OptimConfig(**BASE | {"schedule": "trapezoid"})
    short, long = (optim.make(config, schedules.make(config, steps)) for steps in (10, 40))
    params = {"w": jnp.linspace(-1, 1, 4)}
    _, state = short.update({"w": jnp.ones(4)}, short.init(params), params)
    saved = optim.to_checkpoint(state)
    # As checkpoints of optax.scale_by_schedule are, which earlier versions wrote.
    assert jax.tree.leaves(saved[-1]) == [1] and saved[-1]._fields[0] == "count"
    resumed = optim.from_checkpoint(saved, long.init(params))
    begun = long.init(params)
    assert resumed[-1].numbers == begun[-1].numbers != state[-1].numbers
    assert int(resumed[-1].count) == 1
    assert jax.tree.structure(resumed) == jax.tree.structure(begun)
