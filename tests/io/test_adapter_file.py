"""One file for any adapter: what was saved comes back to the bit, and nothing else is taken for
it."""

import json

import jax
import numpy as np
import pytest
from helpers import adapter_for
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lfl_jax import adapters
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file


def rewrite(file, tensors=None, metadata=None):
    """The file with other tensors or header."""
    with safe_open(file, "np") as opened:
        old = opened.metadata()
    save_file(
        load_file(file) if tensors is None else tensors, file, metadata=old | (metadata or {})
    )


@pytest.fixture
def mixture(small, small_params):
    lora = adapter_for(small, small_params, "lora", rank=3, targets=("q", "down"))
    dora = adapter_for(small, small_params, "dora", rank=2, targets=("q", "v"))
    return adapters.add(lora, adapters.scale(dora, -0.5))


def test_a_mixture_comes_back_to_the_bit(mixture, small_params, tmp_path):
    adapter_file.save(tmp_path / "a.safetensors", mixture, fingerprint="cafe")
    again = adapter_file.load(tmp_path / "a.safetensors", small_params, fingerprint="cafe")
    assert jax.tree.structure(again) == jax.tree.structure(mixture)
    jax.tree.map(np.testing.assert_array_equal, again, mixture)


def test_a_stack_with_missing_members_comes_back(small, small_params, tmp_path):
    parts = [
        adapter_for(small, small_params, rank=r, targets=(t,)) for r, t in ((2, "q"), (3, "down"))
    ]
    stacked = adapters.stack(*parts)
    adapter_file.save(tmp_path / "a.safetensors", stacked)
    again = adapter_file.load(tmp_path / "a.safetensors", small_params)
    jax.tree.map(np.testing.assert_array_equal, again, stacked)
    assert adapters.select(again, 1)["layers"]["attn"]["q"] is None


def test_another_base_is_refused(mixture, small_params, tmp_path):
    adapter_file.save(tmp_path / "a.safetensors", mixture, fingerprint="cafe")
    with pytest.raises(
        UserError, match="made for another base .fingerprint 'cafe'; this one is 'beef'"
    ):
        adapter_file.load(tmp_path / "a.safetensors", small_params, fingerprint="beef")


def test_values_that_are_not_finite_are_refused(mixture, small_params, tmp_path):
    broken = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.inf), mixture)
    adapter_file.save(tmp_path / "a.safetensors", broken)
    with pytest.raises(UserError, match="tensor layers/attn/.* has values that are not finite"):
        adapter_file.load(tmp_path / "a.safetensors", small_params)


def damaged(case, file):
    tensors = load_file(file)
    with safe_open(file, "np") as opened:
        structure = json.loads(opened.metadata()["lfl_adapter"])
    match case:
        case "tensor missing":
            rewrite(file, {k: v for k, v in tensors.items() if k != "layers/attn/q/1/m"})
        case "tensor too many":
            rewrite(file, tensors | {"layers/attn/k/0/a": np.ones((2, 2), np.float32)})
        case "wrong shape":
            rewrite(file, tensors | {"layers/mlp/down/0/b": np.ones((3, 3, 5), np.float32)})
        case "unknown kind":
            structure = structure | {"kinds": structure["kinds"] | {"layers/attn/v": "veda"}}
            rewrite(file, metadata={"lfl_adapter": json.dumps(structure)})
        case "unknown weight":
            structure = structure | {"kinds": {"layers/attn/z": "lora"}}
            rewrite(file, metadata={"lfl_adapter": json.dumps(structure)})
        case "static missing":
            structure = structure | {"static": {}}
            rewrite(file, metadata={"lfl_adapter": json.dumps(structure)})
        case "no structure":
            rewrite(file, metadata={"lfl_adapter": "[1"})
        case "cut short":
            file.write_bytes(file.read_bytes()[:-9])


MISTAKES = {
    "tensor missing": "tensor layers/attn/q/1/m is missing",
    "tensor too many": "tensor layers/attn/k/0/a belongs to no layer",
    "wrong shape": r"layers/mlp/down does not fit this model's weight \(3, 48, 32\)",
    "unknown kind": "layers/attn/v has kind 'veda'; kinds are lora, pissa",
    "unknown weight": "layers/attn/z is no weight of this model",
    "static missing": "layers/attn/v/0/per_input is None; expected bool|layers/attn/q/1/per_input",
    "no structure": "not an adapter that lfl_jax saved",
    "cut short": "not a whole safetensors file",
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_damaged_file_is_one_clear_line(case, mixture, small_params, tmp_path):
    file = tmp_path / "a.safetensors"
    adapter_file.save(file, mixture)
    damaged(case, file)
    with pytest.raises(UserError, match=MISTAKES[case]) as error:
        adapter_file.load(file, small_params)
    assert "\n" not in str(error.value)
