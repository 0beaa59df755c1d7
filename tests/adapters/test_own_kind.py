"""A kind of one's own is treated like the built-in ones, whatever its leaves are called."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import adapter_for, moved, packed

import lfl_jax
from lfl_jax import adapters, state, train
from lfl_jax.config import AdapterConfig, OptimConfig, own_code
from lfl_jax.core import tree
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.optim import make

FILE = Path(__file__).with_name("rank_one.py")
TX = optax.sgd(0.1)


@pytest.fixture(scope="module")
def fresh(small, small_params):
    config = AdapterConfig(kind=f"{FILE}:RankOne", targets=("q",), code=own_code.allowing([FILE]))
    specs = adapters.specs(llama.specs(small), config)
    return adapters.init(specs, small_params, jax.random.key(1))


@pytest.fixture(scope="module")
def trained(fresh):
    return moved(fresh, 7)


def logits(params, adapter, small):
    tokens = jnp.arange(16).reshape(2, 8) % small.vocab_size
    return llama.logits(params, llama.forward(params, adapter, tokens, small)[0])


def changed_leaves(before, after):
    leaves = jax.tree.leaves(after)
    pairs = zip(tree.items(before), leaves, strict=True)
    return {path.split("/")[-1] for (path, old), new in pairs if not np.array_equal(old, new)}


def test_its_leaf_n_trains_and_its_constant_does_not(trained, small, small_params):
    model = Model(params=small_params, adapter=trained)
    current, frozen = state.create(jax.tree.map(jnp.array, model), ("adapter/.*",), TX)
    rows = packed([[20, 12], [30]], 32, small.vocab_size)
    batch = {name: jnp.asarray(x)[None] for name, x in rows.items()}
    current, _ = train.train_step(current, frozen, batch, None, cfg=small, tx=TX)
    assert changed_leaves(trained, state.model(current, frozen).adapter) == {"n", "b"}


def test_lora_plus_moves_the_leaf_that_it_names(trained):
    options = {"name": "sgd", "lr": 1.0, "b1": 0.0, "b2": 0.9, "eps": 1e-8, "weight_decay": 0.0}
    options |= {"clip": 0.0, "schedule": "constant", "warmup_steps": 0, "warmup_fraction": 0.0}
    options |= {"final_fraction": 0.0, "cooldown_fraction": 0.0, "lora_plus": 4.0}
    tx = make(OptimConfig(**options), lambda step: 1.0)
    q = trained["layers"]["attn"]["q"]
    updates, _ = tx.update(q, tx.init(q), q)
    np.testing.assert_allclose(updates.n, -4 * q.n, rtol=1e-6)
    np.testing.assert_allclose(updates.b, -q.b, rtol=1e-6)


def test_it_is_saved_and_loaded(trained, small_params, tmp_path):
    file = tmp_path / "own.safetensors"
    lfl_jax.save_adapter(file, trained, small_params)
    _, loaded = lfl_jax.load_adapter(file, small_params, allow_code=[FILE])
    assert type(loaded["layers"]["attn"]["q"]) is type(trained["layers"]["attn"]["q"])
    assert changed_leaves(trained, loaded) == set()


def test_it_mixes_and_merges(trained, small, small_params):
    # LoRA has no layer at q: the stack asks RankOne for the weight's shape
    lora = adapter_for(small, small_params, targets=("o",))
    both = adapters.stack(trained, lora, weights=(0.5, 1.0))
    alone = adapters.add(adapters.scale(trained, 0.5), lora)
    merged = adapters.merge(both, small_params)

    expected = logits(small_params, both, small)
    assert not np.allclose(expected, logits(small_params, {}, small), atol=1e-3)
    np.testing.assert_allclose(logits(small_params, alone, small), expected, atol=1e-4)
    np.testing.assert_allclose(logits(merged, {}, small), expected, atol=1e-4)
    assert changed_leaves(trained, adapters.select(adapters.stack(trained, lora), 0)) == set()
