"""data.seed: what generated sources generate, apart from the order of training."""

from lfl_jax.configs import math_ift

from lfl_jax.config import Config
from lfl_jax.data.sources import open_source


def prompts(seed, data_seed):
    c = math_ift.get_config("smoke")
    c.data.seed = data_seed
    data = Config.from_dict(c).data
    return [open_source(data, split, seed).examples[0].prompt for split in ("train", "test_seen")]


def test_items_stay_when_the_order_changes():
    assert prompts(1, 0) == prompts(2, 0) == prompts(0, None)
    assert prompts(1, None) != prompts(2, None) and prompts(1, 3) != prompts(1, 0)
