"""A reduced run of a smoke config, made once; its parts are computed where a test needs them."""

import dataclasses

import pytest

import lfl_jax
from lfl_jax.proofs import reduced


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """LoRA over a random model, byte tokens; two examples share a row."""
    config = lfl_jax.get_config("math_ift:smoke", **{"data.levels": (1, 0, 0)})
    return reduced.prepare(config, tmp_path_factory.mktemp("doctor"))


@pytest.fixture
def run(smoke, tmp_path):
    """The same with a folder of its own, and nothing that an earlier test replaced."""
    copy = dataclasses.replace(smoke, folder=tmp_path)
    for name in ("rules", "params", "adapter_specs", "fresh", "trained", "batch"):
        copy.__dict__[name] = getattr(smoke, name)
    return copy
