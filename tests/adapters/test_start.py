"""Which factor of A B starts at zero: the fresh values, what trains first, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from lfl_jax.configs import math_ift

from lfl_jax import adapters
from lfl_jax.adapters import KINDS
from lfl_jax.config import AdapterConfig, Config
from lfl_jax.errors import UserError
from lfl_jax.models import llama

TOKENS = jnp.arange(22).reshape(2, 11) % 96
PATTERN = ((r"layers/1/.*", 2), (r"layers/2/.*", 16))


def fresh(cfg, params, kind="lora", **options):
    return adapter_for(cfg, params, kind, trained=False, **options)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_one_factor_is_zero_and_the_other_as_wide_as_its_fan_in_says(kind, small, small_params):
    options = {"rank": 4, "rank_pattern": PATTERN, "targets": ("q",)}
    usual = fresh(small, small_params, kind, **options)["layers"]["attn"]["q"]
    other = fresh(small, small_params, kind, init="a_zero", **options)["layers"]["attn"]["q"]
    assert (usual.b == 0).all() and (other.a == 0).all()
    for layer, rank in enumerate((4, 2, 16)):
        # ranks that are not used stay zero, in both factors
        assert (usual.a[layer, :, rank:] == 0).all() and (other.b[layer, rank:] == 0).all()
        for factor, fan_in in ((usual.a[layer, :, :rank], 32), (other.b[layer, :rank], rank)):
            # uniform: the largest of many draws is near the bound 1/sqrt(fan-in), never above it
            largest = float(jnp.abs(factor).max()) * np.sqrt(fan_in)
            assert 0.9 < largest <= 1
            assert jnp.std(factor) * np.sqrt(3 * fan_in) == pytest.approx(1, abs=0.2)
    # the constants, and so alpha and rank, are the same
    np.testing.assert_array_equal(usual.scale, other.scale)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora+ia3"])
def test_the_first_gradient_is_of_the_factor_at_zero(kind, small, small_params):
    targets = ("q", "down")
    for init, moves in (("b_zero", "b"), ("a_zero", "a")):
        adapter = fresh(small, small_params, kind, init=init, targets=targets)

        def loss(adapter):
            hidden, _ = llama.forward(small_params, adapter, TOKENS, small)
            return jnp.sum(jnp.sin(hidden))

        q = jax.grad(loss)(adapter)["layers"]["attn"]["q"]
        q = q.layers[0] if "+" in kind else q
        for leaf in ("a", "b"):
            assert bool((getattr(q, leaf) != 0).any()) == (leaf == moves)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"lora", "dora"}))
def test_kinds_with_a_start_of_their_own_refuse_it(kind, small):
    config = AdapterConfig(kind=kind, rank=2, init="a_zero")
    with pytest.raises(UserError, match=f"^config.adapter.init=a_zero is for .*{kind} has a start"):
        adapters.specs(llama.specs(small), config)


def test_it_needs_an_adapter_and_a_known_word():
    for words, init, message in (
        ("full", "a_zero", "without an adapter"),
        ("", "zero_a", "must be one of b_zero, a_zero.*did you mean"),
    ):
        c = math_ift.get_config(words)
        c.adapter.init = init
        with pytest.raises(UserError, match=message):
            Config.from_dict(c)
