"""Which factor of LoRA should start at zero, and does the best rate then carry over?

    python -m lfl_jax.study --config=configs/studies/init.py --workdir=studies/init

Claims: with A = 0 and B random, LoRA's best learning rate is that of full finetuning, whatever the
rank; with A random and B = 0 at a constant factor it falls with the root of the rank (arXiv
2602.06204). On average A random is the better start (arXiv 2406.08447). Refuted where the interval
of the ratio of best rates leaves out 1, or the slope over ranks 0 and -1/2. Both starts at ranks 4
and 64, and full finetuning, 5 seeds: 170 runs in the lab.
Measured (results/studies/init, synthetic): the best rate from A = 0 is 2.2 [1.0, 4.9] times that of
full finetuning at rank 4 and 0.8 [0.4, 1.8] times at rank 64, which leaves it open; from B = 0 it
goes with the rank to the power -0.53 [-0.88, -0.19], over four ranks -0.44 [-0.53, -0.36]
(results/studies/rank). At rank 64 A = 0 forgets 0.113 [0.051, 0.175] of the facts more.
Argument: smollm2 (ranks 16 and 64, 120 runs), or paper (16 and 256, 144 runs)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict

# A = 0 may learn at rates several times lower than B = 0, as full finetuning does.
LOWER = 0.25


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "init.py")
    s = world.study("LoRA from A = 0 and from B = 0")
    ranks = [rank for rank in world.lora if rank > 1]
    for rank in (ranks[0], ranks[-1]):
        s.arms[f"b_zero_r{rank}"] = world.lora_arm(rank=rank)
        arm = world.lora_arm(rank=rank, adapter={"init": "a_zero"})
        arm.lr = (*(lr * LOWER for lr in arm.lr), *arm.lr[-2:])
        s.arms[f"a_zero_r{rank}"] = arm
    s.arms.full = world.full_arm()
    s.contrasts = tuple(
        (f"a_zero_r{rank}", other)
        for rank in (ranks[0], ranks[-1])
        for other in (f"b_zero_r{rank}", "full")
    )
    return s
