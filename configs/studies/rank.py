"""Does a higher rank learn more and forget more?

    python -m lfl_jax.study --config=configs/studies/rank.py --workdir=studies/rank

Claims: LoRA learns and forgets more the higher its rank, each rank at its best learning rate
(arXiv 2405.09673, figures 1 and 2); rank 16 is a compromise, 256 better. Refuted by a slope over
the log of the rank whose interval includes 0, or is within the margin. Ranks 1, 4, 16 and 64, each
with 6 learning rates of its own, 5 seeds: 120 runs in the lab, alpha = 2 x rank.
Measured (results/studies/rank, synthetic), with each doubling of the rank: it learns 0.70 [0.64,
0.75] nats more; it forgets 0.038 [-0.003, 0.078] of the facts more, which leaves that open. Its
best rate goes with the rank to the power -0.44 [-0.53, -0.36].
Argument: smollm2 (ranks 16 and 64, 40 runs), or paper (ranks 16, 64 and 256, 72 runs)
"""

import itertools

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "rank.py")
    s = world.study("LoRA by rank")
    for rank in world.lora:
        s.arms[f"lora{rank}"] = world.lora_arm(rank=rank)
    # Each rank against the next lower one: those further apart share little of what they learn.
    neighbours = itertools.pairwise(world.lora)
    s.contrasts = tuple((f"lora{higher}", f"lora{lower}") for lower, higher in neighbours)
    return s
