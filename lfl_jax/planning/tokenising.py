"""What the hosts of a run must tokenise, beside what one of them can."""

import math

from lfl_jax.config import Config
from lfl_jax.planning.timing import StepTime
from lfl_jax.planning.topology import Topology

# Tokens per second that a process tokenises and packs on one core of an AMD EPYC (Zen 4): of the
# paper's four configs the slowest (benchmarks/loader.py). Threads share one Python process.
TOKENS_PER_SECOND = 0.38e6


def warnings(config: Config, topology: Topology, time: StepTime) -> list[str]:
    """The warning where a host may tokenise more slowly than the chips train."""
    hosts = math.ceil(topology.chips / topology.chip.per_host)
    # A host makes whole streams, at least one.
    share = math.ceil(config.data.streams / hosts) / config.data.streams
    needed = config.train.batch * config.data.seq_len / time.total.fast * share
    if needed <= TOKENS_PER_SECOND:
        return []
    text = (
        f"each of {hosts} hosts must tokenise up to {needed / 1e6:.2g}M tokens/s, and a core of one"
        f" makes about {TOKENS_PER_SECOND / 1e6:g}M, so that the chips may wait for it"
    )
    streams = math.gcd(hosts, config.train.rows)
    if streams > config.data.streams:
        text += f": --config.data.streams={streams} shares the work"
    return [text]
