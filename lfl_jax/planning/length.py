"""How many optimizer steps a config has, as far as that is known without its data."""

import dataclasses
import math

from lfl_jax.config import Config
from lfl_jax.data import mixes
from lfl_jax.planning.bands import Number
from lfl_jax.run_setup import run_length


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set's size as its paper states it, counted without a prompt template."""

    examples: int
    tokens: Number


# "LoRA Learns Less and Forgets Less" (arXiv 2405.09673), section 3.1 and appendix C
PUBLISHED = {
    "metamath": Published(395_000, 103e6),
    "magicoder": Published(111_183, 72.97e6),
}
TEMPLATE_TOKENS = 60  # that a prompt template adds to an example, at most
FILLED = 0.87  # of its rows, that first-fit packing fills on a typical mix


@dataclasses.dataclass(frozen=True)
class Steps:
    """Fewest and most optimizer steps, None where they are unknown, and where that is from."""

    fewest: int | None
    most: int | None
    why: str


def of(config: Config) -> Steps:
    """The steps of train.steps or train.tokens, or those that train.epochs fill."""
    t, d = config.train, config.data
    if t.tokens:
        steps = run_length.steps_of(config, t.tokens)
        return Steps(steps, steps, f"config.train.tokens={t.tokens:g}")
    if t.steps:
        return Steps(t.steps, t.steps, "config.train.steps")

    name = mixes.parse(d.source)[0].name
    published = PUBLISHED.get(name)
    if published is None or d.path or "," in d.source:
        why = (
            f"epochs of {d.path or d.source}, whose rows are counted when it is read: give"
            " train.steps or train.tokens"
        )
        return Steps(None, None, why)
    if d.packing == "ratio":
        # whole groups only, of so many rows
        groups = published.examples // int(d.pack_bins * d.packing_ratio)
        steps = math.ceil(t.epochs * groups * d.pack_bins / t.batch)
        return Steps(steps, steps, f"{published.examples:,} examples of {name}, as published")
    fewest = published.tokens / d.seq_len
    longest = published.tokens + TEMPLATE_TOKENS * published.examples
    rows = (fewest, longest / FILLED / d.seq_len)
    steps = [math.ceil(t.epochs * n / t.batch) for n in rows]
    return Steps(
        *steps, f"{published.tokens / 1e6:g}M tokens of {name}, as published, and its template"
    )
