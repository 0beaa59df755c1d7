"""What cannot be written as a PEFT folder is refused, and nothing of it stays."""

import json

import jax
import numpy as np
import pytest
from helpers import adapter_for
from peft_folders import assert_refused

from lfl_jax import adapters
from lfl_jax.adapters.build import is_layer
from lfl_jax.errors import UserError
from lfl_jax.io import peft, tensor_file


def assert_not_saved(message, folder, adapter, params, **options):
    with pytest.raises(UserError, match=message):
        peft.save(folder, adapter, params, base_name="small", **options)
    assert not folder.exists(), "nothing is written"


ALTERNATIVE = r".*; write its weight change as a LoRA of rank k with lfl_jax.adapters.truncate\(adapter, params, k\)"


def test_kinds_that_peft_does_not_have(small, small_params, tmp_path):
    def of(kind, *targets):
        return adapter_for(small, small_params, kind, rank=2, targets=targets)

    folder = tmp_path / "new"
    assert_not_saved(
        "a Mix of DoRA and LoRA .at .*q_proj." + ALTERNATIVE,
        folder,
        of("lora+dora", "q"),
        small_params,
    )
    half = adapters.scale(of("dora", "q"), 0.5)
    assert_not_saved("DoRA scaled by 0.5 .at .*q_proj." + ALTERNATIVE, folder, half, small_params)
    both = jax.tree.map(lambda x, y: x or y, of("dora", "q"), of("lora", "v"), is_leaf=is_layer)
    assert_not_saved("LoRA beside DoRA" + ALTERNATIVE, folder, both, small_params)
    other = of("mora", "q")
    assert_not_saved("MoRARotation .at .*q_proj." + ALTERNATIVE, folder, other, small_params)


def test_adapters_and_parameters_that_do_not_fit(small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    folder, embed = tmp_path / "new", small_params["embed"]
    empty = jax.tree.map(lambda _: None, adapter, is_leaf=is_layer)
    assert_not_saved("no layers to save", folder, empty, small_params)
    assert_not_saved("no layers to save", folder, adapters.scale(adapter, 0.0), small_params)
    assert_not_saved(
        "dtype='int8'; expected one of float32", folder, adapter, small_params, dtype="int8"
    )
    assert_not_saved(
        "replaced='heads' is no parameter", folder, adapter, small_params, replaced={"heads": embed}
    )
    assert_not_saved(
        r"lm_head has shape \(95, 32\)", folder, adapter, small_params, replaced={"head": embed[1:]}
    )
    q = small_params["layers"]["attn"]["q"]
    assert_not_saved(
        "q_proj also has an adapter", folder, adapter, small_params, replaced={"layers/attn/q": q}
    )
    assert_not_saved("scale is not finite", folder, adapters.scale(adapter, np.nan), small_params)


def test_numbers_that_do_not_fit_the_dtype(small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    huge = jax.tree.map(
        lambda x: x.replace(a=x.a * 1e6), adapter, is_leaf=lambda x: hasattr(x, "a")
    )
    with pytest.raises(
        UserError,
        match="q_proj.lora_A.weight holds NaN or infinity, or numbers too large for float16",
    ):
        peft.save(tmp_path, huge, small_params, base_name="small", dtype="float16")
    assert_refused("no such file", tmp_path, small_params)
    peft.save(tmp_path, huge, small_params, base_name="small", dtype="bfloat16")


@pytest.mark.parametrize("at", ["tensors", "config"])
def test_a_killed_save_leaves_nothing_that_loads(at, small, small_params, tmp_path, monkeypatch):
    first, second = (
        adapter_for(small, small_params, rank=2, targets=("q",), seed=seed) for seed in (1, 2)
    )
    peft.save(tmp_path, first, small_params, base_name="small")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tensor_file, "save", killed) if at == "tensors" else patched.setattr(
            json, "dumps", killed
        )
        peft.save(tmp_path, second, small_params, base_name="small")
    assert_refused("no such file", tmp_path, small_params)
    peft.save(tmp_path, second, small_params, base_name="small")
    found = peft.load(tmp_path, small_params).adapter["layers"]["attn"]["q"]
    np.testing.assert_array_equal(found.a, second["layers"]["attn"]["q"].a)
