"""How many random directions does finetuning need? Its intrinsic dimension, d90.

    python -m lfl_jax.study --config=configs/studies/intrinsic_dimension.py --workdir=studies/intrinsic_dimension

Claim: to reach 90 % of full finetuning's score it is enough to train the d numbers of a random
subspace of the weights, with d below 1 % of them (arXiv 2012.13255, after 1804.08838). Refuted
where the interval of d90 lies above 1 % of the weights. The study prints d90 with an interval over
seeds, each of which has directions of its own, or why there is none between its sizes; the page has
a table of what every d learned, beside LoRA by how many numbers train. Full finetuning is of the
same matrices as the subspaces are of.
In the lab runs are longer than in its other studies, 107 passes over the new facts: after 13, a
subspace of 16,384 dimensions has learned which values there are (4.5 of 8.7 nats) and 4 % of the
facts, which says how fast Adam is in such a basis, and not what d numbers can hold.
Five d from 64 to 16,384 and full finetuning with 4 learning rates each, LoRA of ranks 1, 4 and 16
with 3, 5 seeds: 165 runs in the lab, of half a minute of CPU time each. After a first look at one
seed, d = 16, which learned nothing, gave way to higher rates below the largest d, whose best were
the edge.
Measured (results/studies/intrinsic_dimension, synthetic): d90 = 3,409 [2,579, 4,506], 0.40 % of the
851,968 weights: reproduced. LoRA of rank 1, 10,240 numbers, learns 0.99 of what full finetuning
does, and so does the subspace of 16,384. The subspace pays for it: each at its best rate, full
finetuning forgets 0.37 of the source facts, LoRA of rank 1 0.61 and the subspace 0.86.
Argument: smollm2 (4 d, LoRA 16, 3 seeds: 72 runs). Every step computes the change of all weights,
which is nothing for the paper's size.
"""

import math

from lfl_jax.configs.studies import base, worlds
from ml_collections import config_dict

SIZES = {"": (64, 256, 1024, 4096, 16384), "smollm2": (16, 256, 4096, 65536)}
# At the largest d. z moves the weights by its own length, and Adam moves it by the rate times the
# root of d: the same way of the weights takes a rate that falls with the root of d.
RATE = {"": 3e-2, "smollm2": 5e-3}
AROUND = (0.5, 1.0, 2.0, 4.0)
# Below the largest d of the lab it takes still more.
SMALLER = (1.0, 2.0, 4.0, 8.0)
# Of the lab's longer runs, in which less is enough: from the most that is forgotten to the least.
FULL = (1e-4, 2e-4, 4e-4, 1e-3)
LORA = {1: (4e-3, 8e-3, 1.6e-2), 4: (2e-3, 4e-3, 8e-3), 16: (1e-3, 2e-3, 4e-3)}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], [word for word in SIZES if word], "intrinsic_dimension.py")
    world = worlds.of(argument, "intrinsic_dimension.py")
    s = world.study("how many random directions finetuning needs")
    sizes = SIZES[argument]
    for d in sizes:
        peak = RATE[argument] * math.sqrt(sizes[-1] / d)
        factors = AROUND if argument or d == sizes[-1] else SMALLER
        rates = tuple(float(f"{peak * factor:.2g}") for factor in factors)
        s.arms[f"subspace{d}"] = base.arm(f"subspace,d={d}", lr=rates)
    if argument:
        s.arms.full_linear, s.arms.lora16 = world.full_arm("full_linear"), world.lora_arm(rank=16)
        s.seeds = (0, 1, 2)
    else:
        lab(s)
    largest = f"subspace{sizes[-1]}"
    s.contrasts = ((largest, "full_linear"), (largest, "lora16"), ("lora16", "full_linear"))
    return s


def lab(s: config_dict.ConfigDict) -> None:
    """The longer runs, and what else is trained in them."""
    s.steps, s.config.train = (160,), {"batch": 16}
    s.arms.full_linear = base.arm("full_linear", lr=FULL)
    for rank, rates in LORA.items():
        s.arms[f"lora{rank}"] = base.arm(f"lora,r={rank}", lr=rates)
