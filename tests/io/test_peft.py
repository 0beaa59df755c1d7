"""PEFT folders: round trips, every refusal by name, and damaged files never more than a
UserError."""

import json
import random
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from safetensors.numpy import load_file, save_file

from lfl_jax import adapters
from lfl_jax.adapters.build import is_layer
from lfl_jax.errors import UserError
from lfl_jax.io import peft, tensor_file
from lfl_jax.io.peft import fields, modules
from lfl_jax.io.peft.read import KINDS
from lfl_jax.models import llama

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD, EMBED = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def saved(small, small_params, tmp_path_factory):
    """{kind: (fields of the config, tensors)} of folders with each kind that PEFT has, of rank 2,
    at q and v."""
    found = {}
    for kind in ("lora", "dora", "ia3", "vera"):
        folder = tmp_path_factory.mktemp(kind)
        adapter = adapter_for(small, small_params, kind, rank=2, targets=("q", "v"))
        peft.save(folder, adapter, small_params, base_name="small")
        config = json.loads((folder / modules.CONFIG).read_text())
        found[kind] = config, load_file(folder / "adapter_model.safetensors")
    return found


def write(folder, config, tensors, metadata=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / modules.CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", metadata=metadata)
    return folder


def refused(message, *args, **kwargs):
    with pytest.raises(UserError, match=message) as caught:
        peft.load(*args, **kwargs)
    assert len(str(caught.value).splitlines()) <= 2 and len(str(caught.value)) < 900


@partial(jax.jit, static_argnums=0)
def logits(small, params, adapter):
    tokens = jnp.arange(18).reshape(2, 9) * 5 % small.vocab_size
    return llama.logits(params, llama.forward(params, adapter, tokens, small)[0])


# Round trips

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
    refused(
        "is there twice .with and without '.weight'",
        write(tmp_path / "c", config, tensors | longer),
        small_params,
    )


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one.adapter, other.adapter))


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
    refused(
        "several adapters .'default', 'other'.", write(tmp_path / "two", config, two), small_params
    )
    twice = named | {f"{Q0}.lora_A.weight": named[first]}
    refused(
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
    peft.load(write(tmp_path, config | {"from_the_future": value}, tensors), small_params)


# Whole modules that the folder brings


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


# What the config may not say

BAD_FIELDS = [
    ({"peft_type": "ADALORA"}, "peft_type='ADALORA'; only LORA, IA3, VERA are read"),
    ({"peft_type": "IA3"}, "is not supported: it has no counterpart"),
    ({"peft_type": None}, "peft_type=None; only LORA"),
    ({"peft_type": ["LORA"]}, "only LORA"),
    ({"bias": "vera_only"}, "bias='vera_only'; expected 'none', 'all' or 'lora_only'"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out=True is not supported.*for a Llama it is false"),
    ({"lora_bias": True}, "lora_bias=True is not supported"),
    ({"megatron_config": {"a": 1}}, "megatron_config=.* is not supported: save the adapter from"),
    (
        {"alora_invocation_tokens": [1, 2]},
        r"alora_invocation_tokens=\[1, 2\] is not supported.*train a plain LoRA",
    ),
    (
        {"target_parameters": ["experts.up"]},
        "target_parameters=.* is not supported: .*target_modules",
    ),
    ({"trainable_token_indices": [3]}, "trainable_token_indices=.*modules_to_save=.'embed_tokens'"),
    ({"layer_replication": [[0, 2]]}, "layer_replication=.* is not supported"),
    ({"use_qalora": True}, "use_qalora=True is not supported: it has no counterpart"),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora=.* is not supported"),
    ({"kasa_config": {"beta": 1}}, "kasa_config=.* is not supported"),
    ({"from_the_future": "x"}, "from_the_future='x' is not supported: it has no counterpart here"),
    (
        {"init_lora_weights": "pissa"},
        "'pissa' changed the base.*path_initial_model_for_weight_conversion",
    ),
    ({"init_lora_weights": "PiSSA_niter_16"}, "changed the base.*writes a plain LoRA"),
    ({"init_lora_weights": "olora"}, "changed the base"),
    ({"init_lora_weights": "corda"}, "changed the base"),
    ({"init_lora_weights": "lora_ga"}, "changed the base"),
    ({"init_lora_weights": "loftq"}, "'loftq' is not known to keep the base.*cannot convert"),
    ({"init_lora_weights": "new"}, "'new' is not known to keep the base"),
    ({"init_lora_weights": 3}, "init_lora_weights=3; expected true, false or"),
    *[
        ({"r": r}, "r=.*; expected a positive integer")
        for r in ("2", -1, 0, True, 1.5, [2], 10**12, 10**400)
    ],
    ({"r": 10**9}, r"q_proj.lora_A.weight has shape \(2, 32\); expected \(1000000000, 32\)"),
    *[
        ({"lora_alpha": alpha}, "lora_alpha=.*; expected a number")
        for alpha in ("x", float("nan"), float("inf"), 10**400, True, {})
    ],
    ({"rank_pattern": [1]}, r"rank_pattern=\[1\]; expected an object"),
    (
        {"rank_pattern": {"q_proj": 0}},
        "rank_pattern=.*; expected an object of regex to positive integer",
    ),
    ({"rank_pattern": {"(": 2}}, r"rank_pattern: '\(' is not a regex"),
    ({"rank_pattern": {"q_proj": 3}}, r"has shape \(2, 32\); expected \(3, 32\)"),
    (
        {"alpha_pattern": {"q_proj": float("nan")}},
        "alpha_pattern=.*; expected an object of regex to number",
    ),
    ({"target_modules": 3}, "target_modules=3; expected a list of strings or one regex"),
    ({"target_modules": [1]}, r"target_modules=\[1\]; expected a list"),
    ({"target_modules": "("}, r"target_modules: '\(' is not a regex"),
    ({"target_modules": "a{99999999999}"}, "is not a regex"),
    ({"target_modules": "[[a]q"}, "names no module"),  # Python warns of it
    ({"target_modules": "(" * 3000 + ")" * 3000}, "is not a regex"),
    ({"target_modules": []}, "names no module of this model's layers; there are: q_proj, k_proj"),
    ({"target_modules": ["c_attn"]}, "names no module"),
    ({"target_modules": "q_proj"}, "names no module"),
    (
        {"target_modules": ["q_proj", "v_proj", "lm_head"]},
        "not there: .*lm_head.lora_A.weight, .*lm_head.lora_B.weight",
    ),
    ({"target_modules": ".*embed_tokens"}, "names no module of this model's layers"),
    (
        {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
        "use_dora with an adapter on lm_head is not supported; exclude lm_head",
    ),
    (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        "ensure_weight_tying with an adapter on embed_tokens is not supported",
    ),
    ({"exclude_modules": 3}, "exclude_modules=3; expected"),
    ({"exclude_modules": "["}, r"exclude_modules: '\[' is not a regex"),
    *[
        ({"layers_to_transform": x}, "layers_to_transform=.*; expected")
        for x in (-1, 1.5, True, "0", [0, None])
    ],
    ({"layers_to_transform": [0, 3]}, "layers_to_transform has 3; the model has 3 layers"),
    ({"layers_to_transform": 0, "target_modules": ".*q_proj"}, "needs target_modules to be a list"),
    ({"layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
    ({"layers_to_transform": 0, "layers_pattern": 5}, "layers_pattern=5; expected"),
    ({"layers_to_transform": 0, "layers_pattern": ["("]}, "layers_pattern: .* is not a regex"),
    ({"modules_to_save": "lm_head"}, "modules_to_save='lm_head'; expected a list of strings"),
    ({"modules_to_save": ["("]}, "modules_to_save: .* is not a regex"),
    ({"modules_to_save": ["proj"]}, "is in target_modules and in modules_to_save"),
    ({"use_dora": "yes"}, "use_dora='yes'; expected true or false"),
    ({"use_rslora": 1}, "use_rslora=1; expected true or false"),
    (
        {"ensure_weight_tying": 1, "modules_to_save": ["embed_tokens"]},
        "ensure_weight_tying=1; expected|are not there",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD_FIELDS, ids=lambda x: str(x)[:40])
def test_fields_that_are_refused(change, message, saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    refused(message, write(tmp_path, config | change, tensors), small_params)


def test_a_config_that_is_none(saved, small_params, tmp_path):
    _, tensors = saved["lora"]
    folder = write(tmp_path, {}, tensors)
    for text in (
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"7" * 5000,
        b" " * (1 << 24) + b"{}",
    ):
        (folder / modules.CONFIG).write_bytes(text)
        refused("not a JSON object", folder, small_params)
    (folder / modules.CONFIG).unlink()
    refused("adapter_config.json: no such file; expected a folder that PEFT", folder, small_params)


# What the tensors may not be


def test_tensors_that_belong_nowhere(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    extra = {
        f"base_model.model.model.layers.{i}.mlp.up_proj.lora_A.weight": np.ones((2, 32), "f")
        for i in range(3)
    }
    refused(
        f"no module that {modules.CONFIG} names: .*up_proj",
        write(tmp_path, config, tensors | extra),
        small_params,
    )
    extra |= {k.replace("up", "gate"): x for k, x in extra.items()}
    refused(r", \.\.\. \(6 in all\)", write(tmp_path, config, tensors | extra), small_params)


def test_tensors_that_are_missing(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    without = {k: x for k, x in tensors.items() if not k.startswith(Q0)}
    refused(
        f"tensors are not there: {Q0}.lora_A.weight, {Q0}",
        write(tmp_path, config, without),
        small_params,
    )
    few = {k: x for k, x in tensors.items() if ".v_proj." in k}
    refused(r"\(6 in all\)", write(tmp_path, config, few), small_params)
    refused(
        "lora_magnitude_vector", write(tmp_path, config | {"use_dora": True}, tensors), small_params
    )
    refused(
        "lm_head.weight",
        write(tmp_path, config | {"modules_to_save": ["lm_head"]}, tensors),
        small_params,
    )


def test_shapes_are_compared_before_anything_is_read(saved, small_params, tmp_path):
    config, tensors = saved["dora"]
    for key, found, wanted in (
        (f"{Q0}.lora_A.weight", (2, 31), (2, 32)),
        (f"{Q0}.lora_B.weight", (33, 2), (32, 2)),
        (f"{Q0}.lora_magnitude_vector", (1, 32), (32,)),
        (HEAD, (97, 32), (96, 32)),
    ):
        message = re.escape(f"{key} has shape {found}; expected {wanted}")
        refused(
            message,
            write(tmp_path, config, tensors | {key: np.ones(found, np.float32)}),
            small_params,
        )


def test_more_layers_than_the_model(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    deeper = {k.replace(".0.", ".3."): x for k, x in tensors.items() if ".0." in k}
    refused(
        r"more than the 3 layers of this model: .*layers\.3\.",
        write(tmp_path, config, tensors | deeper),
        small_params,
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value, saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    broken = tensors[f"{Q0}.lora_B.weight"].copy()
    broken[3, 1] = value
    folder = write(tmp_path, config, tensors | {f"{Q0}.lora_B.weight": broken})
    refused(f"{Q0}.lora_B.weight holds NaN or infinity", folder, small_params)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_change_that_is_not_finite(kind, saved, small_params, tmp_path):
    config, tensors = saved[kind]
    huge = {
        k: x * np.float32(1e30) if "lora_A" in k or "lora_B" in k else x for k, x in tensors.items()
    }
    refused("the weight change is not finite", write(tmp_path, config, huge), small_params)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("leaf", ["lora_A", "lora_B"])
def test_an_adapter_without_effect(kind, leaf, saved, small, small_params, tmp_path):
    config, tensors = saved[kind]
    still = {k: x * 0 if leaf in k else x for k, x in tensors.items()}
    if kind == "dora":
        fresh = adapter_for(small, small_params, "dora", rank=2, targets=("q", "v"), trained=False)
        for part, name in (("q", "q_proj"), ("v", "v_proj")):
            for i, m in enumerate(fresh["layers"]["attn"][part].m):
                key = f"base_model.model.model.layers.{i}.self_attn.{name}.lora_magnitude_vector"
                still[key] = np.asarray(m) * np.float32(1 + 1e-7)  # another library's rounding
    if kind == "dora" and leaf == "lora_A":
        return  # B is not zero: one step more and A would not be, either
    refused(r"changes nothing \(\|\|dW\|\|_F = ", write(tmp_path, config, still), small_params)


def test_files_that_are_not_safetensors(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    folder = write(tmp_path, config, tensors)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    refused("not a whole safetensors file", folder, small_params)
    save_file({k: x.astype(np.int32) for k, x in tensors.items()}, file)
    refused("I32; expected one of F32", folder, small_params)
    file.unlink()
    refused("neither adapter_model.safetensors nor", folder, small_params)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused("only pickle files .adapter_model.bin., which can run any code", folder, small_params)


def test_doubles_are_read_as_float32(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    doubles = {k: x.astype(np.float64) for k, x in tensors.items()}
    found = peft.load(write(tmp_path / "f64", config, doubles), small_params).adapter
    wanted = peft.load(write(tmp_path / "f32", config, tensors), small_params).adapter
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    key = max(doubles)  # the type checks of the test run read the first one
    beyond = doubles | {key: np.full_like(doubles[key], 1e300)}
    refused(
        "holds numbers too large for float32",
        write(tmp_path / "large", config, beyond),
        small_params,
    )


def test_the_base_is_the_one_it_was_made_for(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    folder = write(tmp_path, config, tensors, {tensor_file.FINGERPRINT: "aaaa"})
    peft.load(folder, small_params, fingerprint="aaaa")
    peft.load(folder, small_params)
    refused(
        "made for another base .fingerprint 'aaaa'; this one is 'bbbb'",
        folder,
        small_params,
        fingerprint="bbbb",
    )
    peft.load(write(tmp_path, config, tensors), small_params, fingerprint="bbbb")


# What cannot be written


def not_saved(message, folder, adapter, params, **options):
    with pytest.raises(UserError, match=message):
        peft.save(folder, adapter, params, base_name="small", **options)
    assert not folder.exists(), "nothing is written"


ALTERNATIVE = r".*; write its weight change as a LoRA of rank k with lfl_jax.adapters.truncate\(adapter, params, k\)"


def test_kinds_that_peft_does_not_have(small, small_params, tmp_path):
    def of(kind, *targets):
        return adapter_for(small, small_params, kind, rank=2, targets=targets)

    folder = tmp_path / "new"
    not_saved(
        "a Mix of DoRA and LoRA .at .*q_proj." + ALTERNATIVE,
        folder,
        of("lora+dora", "q"),
        small_params,
    )
    half = adapters.scale(of("dora", "q"), 0.5)
    not_saved("DoRA scaled by 0.5 .at .*q_proj." + ALTERNATIVE, folder, half, small_params)
    both = jax.tree.map(lambda x, y: x or y, of("dora", "q"), of("lora", "v"), is_leaf=is_layer)
    not_saved("LoRA beside DoRA" + ALTERNATIVE, folder, both, small_params)
    other = of("mora", "q")
    not_saved("MoRARotation .at .*q_proj." + ALTERNATIVE, folder, other, small_params)


def test_adapters_and_parameters_that_do_not_fit(small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    folder, embed = tmp_path / "new", small_params["embed"]
    empty = jax.tree.map(lambda _: None, adapter, is_leaf=is_layer)
    not_saved("no layers to save", folder, empty, small_params)
    not_saved("no layers to save", folder, adapters.scale(adapter, 0.0), small_params)
    not_saved("dtype='int8'; expected one of float32", folder, adapter, small_params, dtype="int8")
    not_saved(
        "replaced='heads' is no parameter", folder, adapter, small_params, replaced={"heads": embed}
    )
    not_saved(
        r"lm_head has shape \(95, 32\)", folder, adapter, small_params, replaced={"head": embed[1:]}
    )
    q = small_params["layers"]["attn"]["q"]
    not_saved(
        "q_proj also has an adapter", folder, adapter, small_params, replaced={"layers/attn/q": q}
    )
    not_saved("scale is not finite", folder, adapters.scale(adapter, np.nan), small_params)


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
    refused("no such file", tmp_path, small_params)
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
    refused("no such file", tmp_path, small_params)
    peft.save(tmp_path, second, small_params, base_name="small")
    found = peft.load(tmp_path, small_params).adapter["layers"]["attn"]["q"]
    np.testing.assert_array_equal(found.a, second["layers"]["attn"]["q"].a)


# Damage

JUNK = [
    None, True, -1, 0, 3, 10**12, 10**400, 1.5, -0.0, float("nan"), float("inf"), 1e308, "", "x", "\ud800", "(", ".*",
    "all-linear", "q_proj", "\x00", [], ["q_proj"], [""], [0], [[]], [None], {}, {"": 1}, {"q_proj": 1}, {"(": 2},
    {"a": {}},
]  # fmt: skip
KNOWN = set().union(*(kind.READ | kind.IGNORED for kind in KINDS.values()))
FIELDS = sorted(KNOWN | fields.PROVENANCE | set(fields.ADVICE) | {"new"})


def flip(rng, data, end):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(max(1, min(end, len(data))))] = rng.randrange(256)
    return bytes(data)


def damage_config(rng, text):
    way = rng.randrange(5)
    if way == 0:
        return flip(rng, text, len(text))
    if way == 1:
        return text[: rng.randrange(len(text))]
    config = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if way == 2 and config:
            config.pop(rng.choice(sorted(config)))
        else:
            config[rng.choice(FIELDS)] = rng.choice(JUNK)
    return json.dumps(config).encode("utf-8", "surrogatepass")


def damage_tensors(rng, data):
    size = 8 + int.from_bytes(data[:8], "little")
    way = rng.randrange(5)
    if way == 0:
        return flip(rng, data, size)
    if way == 1:
        return flip(rng, data, len(data))
    if way == 2:
        return data[: rng.randrange(len(data))]
    header = data[8:size].decode()
    if way == 3:  # one number of the header: a shape, an offset
        number = rng.choice(list(re.finditer(r"\d+", header)))
        header = (
            header[: number.start()]
            + str(rng.choice([0, 1, 2, 2**31, 10**12, 2**64]))
            + header[number.end() :]
        )
    else:
        old, new = rng.choice(
            [("F32", "F16"), ("F32", "BF16"), ("F32", "I8"), ("lora_A", "lora_B"), ("0", "1")]
        )
        header = header.replace(old, new, rng.choice([1, 1, -1]))
    return len(header.encode()).to_bytes(8, "little") + header.encode() + data[size:]


def fuzz(saved, params, folder, count):
    """How many damaged folders loaded, and how many were refused; anything else fails, with its
    number."""
    files = {}
    for kind, (config, tensors) in saved.items():
        more = (
            {"lora_dropout": 0.1, "rank_pattern": {"v_proj": 2}}
            if config["peft_type"] == "LORA"
            else {}
        )
        write(folder, config | more, tensors)
        files[kind] = [
            (folder / name).read_bytes() for name in (modules.CONFIG, "adapter_model.safetensors")
        ]
    outcomes = {"loaded": 0, "refused": 0}
    for number in range(count):
        rng = random.Random(number)
        config, tensors = files[rng.choice(sorted(files))]
        if rng.random() < 0.6:
            config = damage_config(rng, config)
        else:
            tensors = damage_tensors(rng, tensors)
        (folder / modules.CONFIG).write_bytes(config)
        (folder / "adapter_model.safetensors").write_bytes(tensors)
        try:
            peft.load(folder, params)
            outcomes["loaded"] += 1
        except UserError as error:
            outcomes["refused"] += len(str(error)) < 1500
        except BaseException as error:
            error.add_note(f"damage number {number}: {config[:500]!r}")
            raise
    return outcomes


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damage_is_a_user_error_or_harmless(count, saved, small_params, tmp_path):
    outcomes = fuzz(saved, small_params, tmp_path, count)
    assert sum(outcomes.values()) == count, "a message is too long"
    assert outcomes["loaded"] > count // 20 and outcomes["refused"] > count // 3, outcomes
