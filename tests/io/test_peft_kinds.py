"""(IA)^3 and VeRA folders: what their configs may not say, and what their tensors may not be."""

import json

import numpy as np
import pytest
from helpers import adapter_for
from safetensors.numpy import load_file, save_file

from lfl_jax import adapters
from lfl_jax.errors import UserError
from lfl_jax.io import peft
from lfl_jax.io.peft.vera import projections

EXPECTED_A = np.float32(
    [
        [-0.010587962344288826, 0.75864577293396, -1.1639615297317505],
        [-1.040774941444397, -0.5446904897689819, 0.3792317807674408],
    ]
)
EXPECTED_B = np.float32(
    [
        [-0.03431743383407593, 1.3733248710632324],
        [-0.15370918810367584, 0.4583223760128021],
        [-0.5234484076499939, -0.34046122431755066],
        [-1.6547120809555054, -1.1471062898635864],
    ]
)
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def folder(request, small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, request.param, rank=2, targets=("v", "down"))
    peft.save(tmp_path, adapter, small_params, base_name="small")
    return tmp_path


def change(folder, **fields):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


REFUSED = [
    ("ia3", {"r": 2}, "r=2 is not supported"),
    ("ia3", {"bias": "all"}, "bias='all' is not supported"),
    ("ia3", {"target_modules": ["v_proj", "lm_head"]}, "IA3 on lm_head is not supported"),
    (
        "ia3",
        {"feedforward_modules": 3},
        "feedforward_modules=3; expected a list of strings or one regex",
    ),
    (
        "ia3",
        {"feedforward_modules": []},
        r"down_proj.ia3_l has shape \(1, 48\); expected \(32, 1\)",
    ),
    (
        "ia3",
        {"feedforward_modules": ["0.mlp.down_proj"]},
        "has down in some layers and not in others",
    ),
    ("vera", {"lora_alpha": 2}, "lora_alpha=2 is not supported"),
    ("vera", {"use_dora": True}, "use_dora=True is not supported"),
    ("vera", {"r": 0}, "r=0; expected a positive integer"),
    ("vera", {"r": 3}, r"has shape \(2,\); expected \(3,\)"),
    ("vera", {"save_projection": "no"}, "save_projection='no'; expected true or false"),
    (
        "vera",
        {"save_projection": False},
        "tensors of no module that .* names: base_model.vera_A, base_model.vera_B",
    ),
    ("vera", {"bias": "lora_only"}, "expected 'none', 'all' or 'vera_only'"),
    (
        "vera",
        {"target_modules": ["v_proj", "embed_tokens"]},
        "VERA on embed_tokens is not supported",
    ),
]


@pytest.mark.parametrize(("folder", "fields", "message"), REFUSED, indirect=["folder"])
def test_fields_that_are_refused(folder, fields, message, small_params):
    change(folder, **fields)
    with pytest.raises(UserError, match=message):
        peft.load(folder, small_params)


@pytest.mark.parametrize("folder", ["vera"], indirect=True)
def test_a_projection_key_is_an_integer(folder, small_params):
    change(folder, save_projection=False, projection_prng_key="0")
    tensors = {
        k: x for k, x in load_file(folder / TENSORS).items() if not k.startswith("base_model.vera")
    }
    save_file(tensors, folder / TENSORS)
    with pytest.raises(UserError, match="projection_prng_key='0'; expected an integer"):
        peft.load(folder, small_params)


@pytest.mark.parametrize("folder", ["ia3", "vera"], indirect=True)
def test_untrained_ones_and_names_in_keys(folder, small_params):
    plain, file = peft.load(folder, small_params), folder / TENSORS
    tensors = load_file(file)
    save_file({f"{k}.default": x for k, x in tensors.items()}, file)
    named = peft.load(folder, small_params)
    assert named.delta_norm == plain.delta_norm > 0
    fresh = {
        k: np.ones_like(x) if "ia3" in k else x * 0 if "lambda_b" in k else x
        for k, x in tensors.items()
    }
    save_file(fresh, file)
    with pytest.raises(UserError, match="the adapter changes nothing"):
        peft.load(folder, small_params)


def test_ia3_beside_lora_has_no_form(small, small_params, tmp_path):
    adapter = adapter_for(small, small_params, "ia3+lora", rank=2, targets=("v",))
    with pytest.raises(UserError, match="peft cannot represent a Mix of IA3 and LoRA"):
        peft.save(tmp_path / "out", adapter, small_params, base_name="small")
    apart = adapters.add(
        adapter_for(small, small_params, "ia3", targets=("v",)),
        adapter_for(small, small_params, targets=("q",)),
    )
    with pytest.raises(UserError, match="peft cannot represent IA3"):
        peft.save(tmp_path / "out", apart, small_params, base_name="small")


def test_projections_are_those_that_torch_draws():
    """torch.Generator().manual_seed(0), then kaiming uniform for (2, 3) and (4, 2): what PEFT 0.21
    prints."""
    a, b = projections(0, 2, 4, 3)
    np.testing.assert_array_equal(a, EXPECTED_A)
    np.testing.assert_array_equal(b, EXPECTED_B)
