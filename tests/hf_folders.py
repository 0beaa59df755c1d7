"""Hugging Face folders of the tests, and how they are loaded."""

from pathlib import Path

import jax

from lfl_jax.core.sharding import make_rules
from lfl_jax.io import hf

CASES = Path(__file__).parent / "parity" / "hf"
TINY_LLAMA = Path(__file__).parent / "fixtures" / "tiny_llama"
RULES = make_rules(devices=jax.devices()[:1])


def load(folder):
    return hf.load(folder, hf.read_config(folder), RULES, "float32")
