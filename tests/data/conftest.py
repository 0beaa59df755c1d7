"""A small source of examples of many lengths, and the config section that formats it."""

import dataclasses
import random

import pytest

from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Example, Source
from lfl_jax.text.tokenizers import byte_tokenizer

DATA = DataConfig(
    source="jsonl", path="", size=1, seq_len=64, template="plain", too_long="error", pack_bins=4
)


def example(i: int, prompt: str = "", response: str = "") -> Example:
    """Example i, of its own words and a length that depends on i."""
    rng = random.Random(i)
    words = [f"{i}{chr(97 + rng.randrange(26))}" for _ in range(rng.randint(1, 6))]
    return Example(
        prompt or " ".join(words), response or f"r{i}" * rng.randint(1, 3), f"ex{i}", f"c{i}"
    )


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def make_data():
    return lambda **changes: dataclasses.replace(DATA, **changes)


@pytest.fixture
def make_source():
    def make(n: int = 37, examples: list[Example] | None = None) -> Source:
        examples = [example(i) for i in range(n)] if examples is None else examples
        return Source("test", "train", examples, "none", "", None, False, "made for tests")

    return make
