"""Keys of the lab: each once, with 64 uniform bits that no other word of the world tells."""

from collections import Counter

import pytest
from lfl_jax.configs import lab

from lfl_jax.config import Config
from lfl_jax.data.lab import keys
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs


def test_no_key_comes_twice_and_more_than_all_are_refused():
    source = keys.source(0, "train", keys.MOST_KEYS)
    assert len({source._pair(i) for i in range(len(source))}) == 256**2
    assert len({source[i].prompt for i in range(500)}) == 500
    with pytest.raises(UserError, match="size=65537: lab_keys has at most 65536 keys"):
        keys.source(0, "train", keys.MOST_KEYS + 1)


def test_digits_are_uniform():
    values = [keys.source(0, "train", 500)[i].response.split() for i in range(500)]
    assert {len(value) for value in values} == {16}
    counts = Counter(digit for value in values for digit in value)
    assert set(counts) == {f"v{i:02}" for i in range(16)}
    # Four standard errors of a count of 8000 draws at 1 in 16.
    assert all(abs(count - 500) < 4 * (8000 / 16 * 15 / 16) ** 0.5 for count in counts.values())


def test_the_first_key_stays_what_it_is():
    """Whoever changes the draw makes every earlier result one of other keys."""
    first = keys.source(0, "train", 1)[0]
    assert first.prompt == "e067 e210"
    assert first.response == "v10 v00 v12 v14 v10 v14 v08 v15 v01 v06 v08 v03 v14 v13 v08 v07"


def test_every_split_and_every_order_has_the_same_keys_and_every_world_others():
    c = lab.get_config("keys,smoke")
    data = Config.from_dict(c).data
    train, dev, test, other = (
        list(open_source(data, split, seed).examples)
        for split, seed in (("train", 0), ("dev", 0), ("test", 0), ("train", 1))
    )
    assert train == dev == test == other and len(train) == c.data.size == 90
    assert list(inputs.from_config(Config.from_dict(c)).target) == train[:32]
    c.data.world = 1
    changed = open_source(Config.from_dict(c).data, "train", 0).examples
    assert not {e.response for e in changed} & {e.response for e in train}
