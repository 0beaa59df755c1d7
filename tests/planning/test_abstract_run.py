"""A run described by shapes is the run: the same arrays, sharded in the same way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from lfl_jax import optim, schedules
from lfl_jax import state as states
from lfl_jax.config import command_line
from lfl_jax.core.sharding import MESH_AXES, Rules, make_rules
from lfl_jax.planning import abstract_run
from lfl_jax.run_setup import base_model, starting
from lfl_jax.train_step import train_step


def config(words, *flags):
    argv = ["plan", f"--config=configs/math_ift.py:smoke,{words}", *flags]
    return command_line.parse(argv, "", {})[0]


def real(config, rules, folder):
    """What `train.run` makes before its first step."""
    base = base_model.load(config, rules)
    start = starting.make(config, base, rules, folder)
    tx = optim.make(config.optim, schedules.make(config.optim, 4))
    model = base.model.replace(adapter=start.adapter)
    return states.create(model, config.trainable, tx, rules)


def described(tree):
    """Shape, dtype and sharding of every leaf, by path."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (x.shape, x.dtype, x.sharding.spec) for path, x in found}


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("lora,r=4", ()),
        ("lora+dora,r=4", ("--config.optim.name=muon",)),
        ("qlora,r=4", ("--config.optim.name=lionw",)),
        ("full", ("--config.optim.name=adafactor",)),
    ],
)
def test_the_description_is_the_run(words, flags, tmp_path):
    rules, cfg = make_rules(), config(words, *flags)
    run = abstract_run.describe(cfg, rules, 4)
    state, frozen = real(cfg, rules, tmp_path)
    assert described(run.state) == described(state)
    assert described(run.frozen) == described(frozen)


def test_a_step_is_traced_from_the_description(tmp_path):
    cfg = config("lora,r=4", "--config.train.batch=4", "--config.train.microbatch=2")
    run = abstract_run.describe(cfg, make_rules(), 4)
    options = {"cfg": run.cfg, "tx": run.tx, "rules": run.rules}
    arguments = (run.state, run.frozen, run.batch, run.key)
    after, metrics = jax.eval_shape(lambda *x: train_step(*x, **options), *arguments)
    assert jax.tree.structure(after) == jax.tree.structure(run.state)
    assert metrics["loss"].shape == () and run.batch["tokens"].shape[:2] == (2, 2)


def test_a_mesh_of_devices_that_are_not_here_halves_what_is_sharded():
    mesh = AbstractMesh((1, 16, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    argv = ["plan", "--config=configs/math_ift.py:paper"]
    run = abstract_run.describe(command_line.parse(argv, "", {})[0], Rules(mesh))
    w = run.frozen.params["layers"]["mlp"]["gate"]
    assert w.shape == (32, 4096, 11008) and w.dtype == jnp.bfloat16
    assert w.sharding.shard_shape(w.shape) == (32, 256, 11008)
    assert np.prod(run.batch["tokens"].sharding.shard_shape(run.batch["tokens"].shape)) == 48 * 1024
