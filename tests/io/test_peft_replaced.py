"""PEFT folders that bring whole modules: heads, embeddings and norms in place of the base's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from peft_folders import EMBED, HEAD, write

from lfl_jax.io import peft
from lfl_jax.io.peft import modules


def untied(params):
    return params | {"head": params["embed"] * 0.5}


def test_replaced_parameters_come_back(small, small_params, tmp_path):
    params = untied(small_params)
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    own = {"head": params["head"] + 1, "final_norm": params["final_norm"] + 1}
    own |= {
        "layers/attn_norm": params["layers"]["attn_norm"] + 1,
        "layers/mlp/up": params["layers"]["mlp"]["up"] + 1,
    }
    peft.save(tmp_path, adapter, params, base_name="small", replaced=own)
    loaded = peft.load(tmp_path, params)
    assert set(loaded.replaced) == set(own) and "final_norm" in loaded.summary()
    for path, value in own.items():
        np.testing.assert_array_equal(modules.get_path(loaded.params, path), value)
    assert loaded.params["embed"] is params["embed"] and params["head"] is not loaded.params["head"]


@pytest.mark.parametrize(
    ("modules", "embed", "head", "found"),
    [
        (["lm_head"], False, True, ("embed", "own")),
        (["embed_tokens"], True, False, ("own", "embed")),
        (["embed_tokens", "lm_head"], True, True, ("own", "own")),
        (None, True, True, ("own", "own")),
    ],
)
def test_a_tied_base_is_untied_as_in_peft(
    modules, embed, head, found, saved, small_params, tmp_path
):
    """A copy that modules_to_save trains is its module's alone; the other keeps the base's
    weight."""
    config, tensors = saved["lora"]
    base = np.asarray(small_params["embed"])
    tensors = tensors | ({EMBED: base + 1} if embed else {}) | ({HEAD: base + 2} if head else {})
    loaded = peft.load(
        write(tmp_path, config | {"modules_to_save": modules}, tensors), small_params
    )
    np.testing.assert_array_equal(loaded.params["embed"], base + 1 if found[0] == "own" else base)
    np.testing.assert_array_equal(loaded.params["head"], base + 2 if found[1] == "own" else base)


def test_a_tied_base_stays_tied_where_peft_ties(saved, small, small_params, tmp_path):
    config, tensors = saved["lora"]
    new = np.asarray(small_params["embed"]) + 1
    config = config | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    loaded = peft.load(write(tmp_path, config, tensors | {EMBED: new, HEAD: new}), small_params)
    assert "head" not in loaded.params and loaded.replaced == ("embed",)
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    peft.save(tmp_path, adapter, small_params, base_name="small", replaced={"embed": new})
    assert json.loads((tmp_path / modules.CONFIG).read_text())["modules_to_save"] == [
        "embed_tokens",
        "lm_head",
    ]
    loaded = peft.load(tmp_path, small_params)
    assert "head" not in loaded.params and np.array_equal(loaded.params["embed"], new)


def test_embeddings_saved_unchanged_change_nothing(saved, small_params, tmp_path):
    """PEFT's save_embedding_layers writes both, trained or not."""
    config, tensors = saved["lora"]
    base = np.asarray(small_params["embed"])
    loaded = peft.load(write(tmp_path, config, tensors | {EMBED: base, HEAD: base}), small_params)
    assert loaded.params is small_params


def test_replaced_parameters_take_the_type_of_the_base(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), untied(small_params))
    new = np.full(params["head"].shape, 1.001, np.float32)
    loaded = peft.load(write(tmp_path, config, tensors | {HEAD: new}), params)
    assert loaded.params["head"].dtype == jnp.bfloat16 and set(
        np.unique(loaded.params["head"])
    ) == {1.0}
