"""The embedded model from its GGUF against transformers' numbers (make_smollm2_logits.py), and its
word on Paris."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lfl_jax.configs import math_ift

from lfl_jax import assets, sample
from lfl_jax.config import Config
from lfl_jax.core.sharding import make_rules
from lfl_jax.models import llama
from lfl_jax.run_setup import base_model

WANTED = json.loads(Path(__file__).with_name("smollm2_logits.json").read_text())["prompts"]


@pytest.fixture(scope="module")
def base():
    if not assets.is_cached("smollm2-135m"):
        pytest.skip("smollm2-135m is not fetched: run `python -m lfl_jax.fetch smollm2-135m`")
    return base_model.load(Config.from_dict(math_ift.get_config()), make_rules())


@pytest.mark.parametrize("name", WANTED)
def test_logits_are_those_of_transformers(name, base):
    wanted = WANTED[name]
    tokens = jnp.asarray(wanted["ids"])[None]
    hidden, _ = llama.forward(base.model.params, None, tokens, base.cfg)
    last = np.asarray(llama.logits(base.model.params, hidden[0, -1]))
    np.testing.assert_allclose(last[wanted["top_ids"]], wanted["top_logits"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(jax.nn.logsumexp(last), wanted["logsumexp"], rtol=0, atol=2e-3)


def test_paris(base):
    assert base.origin.quantised == "Q4_1" and base.origin.fingerprint == "553a8774f1c278d8"
    prompt = base.tokenizer.encode("The capital of France is")
    model = sample.unstacked(base.model, base.cfg.n_layers)
    (made,) = sample.generate(
        model, [prompt], base.cfg, max_new_tokens=8, eos_id=base.tokenizer.eos_id
    )
    assert made == WANTED["plain"]["greedy"][:8] and base.tokenizer.decode(made).startswith(
        " Paris."
    )
