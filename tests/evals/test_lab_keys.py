"""Bits stored: 64 of a value that is known, 0 of a guess, and nothing gained from chance."""

import math

import pytest
from lfl_jax.configs import lab

from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs
from lfl_jax.evals.batching import Scored
from lfl_jax.evals.tasks import lab_keys
from lfl_jax.run_setup import lab_folder
from lfl_jax.text.tokenizers import byte_tokenizer


@pytest.fixture(scope="module")
def key():
    return lab_keys.keys(inputs.from_config(Config.from_dict(lab.get_config("keys,smoke"))))[3]


def scored(*probabilities):
    return [Scored(math.log(p), 1, p > 0.5, truncated=False) for p in probabilities]


def test_bits_of_known_guessed_and_misjudged_digits(key):
    assert lab_keys.record(key, scored(*[1.0] * 16))["bits"] == pytest.approx(64)
    assert lab_keys.record(key, scored(*[1 / 16] * 16))["bits"] == pytest.approx(0, abs=1e-9)
    found = lab_keys.record(key, scored(*[1.0] * 4, *[1 / 4] * 4, *[1 / 64] * 8))
    # 4 bits each, 2 bits each, and 2 bits each below chance, which count as none or as less.
    assert found["bits"] == pytest.approx(24) and found["net_bits"] == pytest.approx(8)
    assert found["digits"] == 0.25 and found["whole"] == 0.0


def test_each_digit_is_asked_after_those_before_it(key):
    tokenizer = lab_folder.tokenizer()
    asked = lab_keys.requests(key, tokenizer, 64)
    ids = [tokenizer.bos_id, *tokenizer.encode(f"{key.prompt} {key.value}")]
    assert len(asked) == 16 and len(ids) == 19
    for i, request in enumerate(asked):
        assert list(request.ids) == ids[: 4 + i] and len(request.continuation) == 1


def test_other_items_are_refused(key):
    with pytest.raises(UserError, match=r"needs config.data.source=lab_keys .* not 16 digits"):
        lab_keys.requests(key, byte_tokenizer(), 64)
