"""Tensors of a PEFT folder that are missing, misshapen, not finite or without effect."""

import re

import numpy as np
import pytest
from helpers import adapter_for
from peft_folders import HEAD, Q0, assert_refused, write
from safetensors.numpy import save_file

from lfl_jax.io.peft import modules


def test_tensors_that_belong_nowhere(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    extra = {
        f"base_model.model.model.layers.{i}.mlp.up_proj.lora_A.weight": np.ones((2, 32), "f")
        for i in range(3)
    }
    assert_refused(
        f"no module that {modules.CONFIG} names: .*up_proj",
        write(tmp_path, config, tensors | extra),
        small_params,
    )
    extra |= {k.replace("up", "gate"): x for k, x in extra.items()}
    assert_refused(r", \.\.\. \(6 in all\)", write(tmp_path, config, tensors | extra), small_params)


def test_tensors_that_are_missing(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    without = {k: x for k, x in tensors.items() if not k.startswith(Q0)}
    assert_refused(
        f"tensors are not there: {Q0}.lora_A.weight, {Q0}",
        write(tmp_path, config, without),
        small_params,
    )
    few = {k: x for k, x in tensors.items() if ".v_proj." in k}
    assert_refused(r"\(6 in all\)", write(tmp_path, config, few), small_params)
    assert_refused(
        "lora_magnitude_vector", write(tmp_path, config | {"use_dora": True}, tensors), small_params
    )
    assert_refused(
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
        assert_refused(
            message,
            write(tmp_path, config, tensors | {key: np.ones(found, np.float32)}),
            small_params,
        )


def test_more_layers_than_the_model(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    deeper = {k.replace(".0.", ".3."): x for k, x in tensors.items() if ".0." in k}
    assert_refused(
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
    assert_refused(f"{Q0}.lora_B.weight holds NaN or infinity", folder, small_params)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_change_that_is_not_finite(kind, saved, small_params, tmp_path):
    config, tensors = saved[kind]
    huge = {
        k: x * np.float32(1e30) if "lora_A" in k or "lora_B" in k else x for k, x in tensors.items()
    }
    assert_refused("the weight change is not finite", write(tmp_path, config, huge), small_params)


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
    assert_refused(
        r"changes nothing \(\|\|dW\|\|_F = ", write(tmp_path, config, still), small_params
    )


def test_files_that_are_not_safetensors(saved, small_params, tmp_path):
    config, tensors = saved["lora"]
    folder = write(tmp_path, config, tensors)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert_refused("not a whole safetensors file", folder, small_params)
    save_file({k: x.astype(np.int32) for k, x in tensors.items()}, file)
    assert_refused("I32; expected one of F32", folder, small_params)
    file.unlink()
    assert_refused("neither adapter_model.safetensors nor", folder, small_params)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert_refused(
        "only pickle files .adapter_model.bin., which can run any code", folder, small_params
    )
