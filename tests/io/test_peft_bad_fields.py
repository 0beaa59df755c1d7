"""Fields of a PEFT config that have no counterpart here: each is refused by name."""

import pytest
from peft_folders import assert_refused, write

from lfl_jax.io.peft import modules

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
    assert_refused(message, write(tmp_path, config | change, tensors), small_params)


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
        assert_refused("not a JSON object", folder, small_params)
    (folder / modules.CONFIG).unlink()
    assert_refused(
        "adapter_config.json: no such file; expected a folder that PEFT", folder, small_params
    )
