"""PEFT folders: round trips, and what their spellings may be."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from peft_folders import HEAD, Q0, assert_refused, equal, write

from lfl_jax import adapters
from lfl_jax.io import peft, tensor_file
from lfl_jax.io.peft import modules
from lfl_jax.models import llama


@partial(jax.jit, static_argnums=0)
def logits(small, params, adapter):
    tokens = jnp.arange(18).reshape(2, 9) * 5 % small.vocab_size
    return llama.logits(params, llama.forward(params, adapter, tokens, small)[0])


UNEVEN = {
    "targets": ("layers/[02]/attn/q", "v", "layers/1/mlp/.*"),
    "rank": 3,
    "alpha": 5.0,
    "rank_pattern": (("layers/1/.*", 2), (".*/q", 5)),
    "alpha_pattern": ((".*/v", 0.7),),
}
TRIPS = {
    "lora": ({}, "21 of 21 modules (q, k, v, o, gate, up, down), rank 4,"),
    "patterns": (UNEVEN, "8 of 21 modules (q, v, gate, up, down), rank 2 to 5,"),
    "dora": (UNEVEN | {"kind": "dora"}, "8 of 21 modules (q, v, gate, up, down), rank 2 to 5,"),
    "mix": (
        UNEVEN | {"kind": "lora+lora"},
        "8 of 21 modules (q, v, gate, up, down), rank 4 to 10,",
    ),
}


@pytest.mark.parametrize("case", TRIPS)
def test_round_trip(case, small, small_params, tmp_path):
    options, summary = TRIPS[case]
    adapter = adapter_for(small, small_params, **options)
    peft.save(tmp_path, adapter, small_params, base_name="small", fingerprint="0123")
    loaded = peft.load(tmp_path, small_params, fingerprint="0123")
    assert loaded.summary().startswith(summary)
    assert loaded.params is small_params and not loaded.replaced
    wanted, found = (
        adapters.deltas(adapter, small_params),
        adapters.deltas(loaded.adapter, small_params),
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), wanted, found)
    size = np.sqrt(sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(wanted)))
    assert loaded.delta_norm == pytest.approx(size, rel=1e-5) and size > 0.1
    if case == "lora":
        assert jax.tree.all(jax.tree.map(np.array_equal, adapter, loaded.adapter))
    change = logits(small, small_params, loaded.adapter) - logits(small, small_params, adapter)
    assert np.abs(change).max() <= 1e-5


def test_scales_that_differ_by_rank_are_folded_into_b(small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    layer = adapter["layers"]["attn"]["q"]
    adapter["layers"]["attn"]["q"] = layer.replace(scale=layer.scale * jnp.asarray([1.0, -3.0]))
    peft.save(tmp_path, adapter, small_params, base_name="small")
    loaded = peft.load(tmp_path, small_params)
    found = adapters.deltas(loaded.adapter, small_params)["layers"]["attn"]["q"]
    np.testing.assert_allclose(
        found, adapters.deltas(adapter, small_params)["layers"]["attn"]["q"], atol=1e-6
    )
    assert set(np.asarray(loaded.adapter["layers"]["attn"]["q"].scale).ravel()) == {1.0}


def test_a_dora_whose_scales_are_zero_keeps_its_magnitudes(small, small_params, tmp_path):
    adapter = adapters.bind(adapter_for(small, small_params, "dora", targets=("q",)), small_params)
    layer = adapter["layers"]["attn"]["q"]
    adapter["layers"]["attn"]["q"] = layer.replace(scale=layer.scale * 0, m=layer.m * 1.5)
    peft.save(tmp_path, adapter, small_params, base_name="small")
    found = adapters.deltas(peft.load(tmp_path, small_params).adapter, small_params)["layers"][
        "attn"
    ]["q"]
    np.testing.assert_allclose(
        found, 0.5 * small_params["layers"]["attn"]["q"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files(dtype, small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    peft.save(tmp_path, adapter, small_params, base_name="small", dtype=dtype)
    loaded = peft.load(tmp_path, small_params).adapter["layers"]["attn"]["q"]
    assert set(tensor_file.open_folder(tmp_path, modules.STEM).dtypes.values()) == {dtype}
    wanted = adapter["layers"]["attn"]["q"].a.astype(dtype).astype(jnp.float32)
    np.testing.assert_array_equal(loaded.a, wanted)


def test_a_magnitude_may_be_called_weight(saved, small_params, tmp_path):
    config, tensors = saved["dora"]
    longer = {re.sub("vector$", "vector.weight", k): x for k, x in tensors.items()}
    assert longer.keys() != tensors.keys()
    one, other = peft.load(write(tmp_path / "a", config, tensors), small_params), None
    other = peft.load(write(tmp_path / "b", config, longer), small_params)
    assert jax.tree.all(jax.tree.map(np.array_equal, one.adapter, other.adapter))
    assert_refused(
        "is there twice .with and without '.weight'",
        write(tmp_path / "c", config, tensors | longer),
        small_params,
    )


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapters_name_may_be_in_the_keys(kind, saved, small_params, tmp_path):
    """As in a plain state_dict: lora_A.default.weight, lm_head.modules_to_save.default.weight."""
    config, tensors = saved[kind]
    config, head = config | {"modules_to_save": ["lm_head"]}, np.asarray(small_params["embed"]) + 1
    named = {
        re.sub(r"(lora_[AB]|lora_magnitude_vector)", r"\1.default", k): x
        for k, x in tensors.items()
    }
    named |= {HEAD.replace(".weight", ".modules_to_save.default.weight"): head}
    plain = peft.load(write(tmp_path / "plain", config, tensors | {HEAD: head}), small_params)
    found = peft.load(write(tmp_path / "named", config, named), small_params)
    assert equal(plain, found) and np.array_equal(found.params["head"], head)
    first = f"{Q0}.lora_A.default.weight"
    two = named | {f"{Q0}.lora_A.other.weight": named[first]}
    assert_refused(
        "several adapters .'default', 'other'.", write(tmp_path / "two", config, two), small_params
    )
    twice = named | {f"{Q0}.lora_A.weight": named[first]}
    assert_refused(
        "q_proj.lora_A.weight is there twice",
        write(tmp_path / "twice", config, twice),
        small_params,
    )


def test_target_modules_null_are_those_of_peft(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    plain = peft.load(write(tmp_path / "a", config, tensors), small_params)
    assert equal(
        plain,
        peft.load(write(tmp_path / "b", config | {"target_modules": None}, tensors), small_params),
    )


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_of_a_model_without_biases_are_none(bias, saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    plain = peft.load(write(tmp_path / "a", config, tensors), small_params)
    found = peft.load(write(tmp_path / "b", config | {"bias": bias}, tensors), small_params)
    assert equal(plain, found) and found.params is small_params


@pytest.mark.parametrize("value", [None, False, {}, [], "", 0])
def test_unknown_fields_without_a_value_are_ignored(value, saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    folder = write(tmp_path, config | {"from_the_future": value}, tensors)
    assert peft.load(folder, small_params).params is small_params


def test_doubles_are_read_as_float32(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    doubles = {k: x.astype(np.float64) for k, x in tensors.items()}
    found = peft.load(write(tmp_path / "f64", config, doubles), small_params).adapter
    wanted = peft.load(write(tmp_path / "f32", config, tensors), small_params).adapter
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    key = max(doubles)  # the type checks of the test run read the first one
    beyond = doubles | {key: np.full_like(doubles[key], 1e300)}
    assert_refused(
        "holds numbers too large for float32",
        write(tmp_path / "large", config, beyond),
        small_params,
    )


def test_the_base_is_the_one_it_was_made_for(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    folder = write(tmp_path, config, tensors, {tensor_file.FINGERPRINT: "aaaa"})
    peft.load(folder, small_params, fingerprint="aaaa")
    peft.load(folder, small_params)
    assert_refused(
        "made for another base .fingerprint 'aaaa'; this one is 'bbbb'",
        folder,
        small_params,
        fingerprint="bbbb",
    )
    peft.load(write(tmp_path, config, tensors), small_params, fingerprint="bbbb")
