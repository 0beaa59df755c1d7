"""Folders that PEFT would have written."""

import json

import pytest
from helpers import adapter_for
from safetensors.numpy import load_file

from lfl_jax.io import peft
from lfl_jax.io.peft import modules


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
