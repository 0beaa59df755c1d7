"""Which matters most: the learning rate, the target modules, or the rank?

    python -m lfl_jax.study --config=configs/studies/modules.py --workdir=studies/modules

Claims: LoRA of the attention matrices alone learns least, of the MLP's almost as much as of all
(arXiv 2405.09673, figure 7); learning is most sensitive to the learning rate, then to the modules,
then to the rank (its section 4.7). Refuted where MLP and all differ by more than the margin, and
where another order of the shares of variance holds with every seed left out in turn. A full grid of
3 sets of modules, 3 ranks and 6 rates, the same for all, 5 seeds: 270 runs in the lab.
Measured (results/studies/modules, synthetic): attention alone learns least at every rank, at rank
16 by 2.68 [2.12, 3.25] nats less than all. The MLP alone learns as much as all at rank 64 (-0.06
[-0.11, -0.01]), less at 16 (-1.25 [-2.01, -0.48]). Of learning's variance the rank has 22 %, the
learning rate 16 % and the modules 11 %: not the published order.
Argument: smollm2 (2 ranks, 4 rates, 3 seeds, 72 runs), or paper (216 runs)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
TARGETS = {"attention": ATTENTION, "mlp": MLP, "all": ATTENTION + MLP}
# One sweep for all arms, since the sensitivity to the rate is compared with the others'.
RATES = {
    "": (1e-3, 2e-3, 4e-3, 6e-3, 8e-3, 1.6e-2),
    "smollm2": (5e-5, 1.5e-4, 5e-4, 1.5e-3),
    "paper": (5e-5, 1e-4, 2e-4, 5e-4),
}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "modules.py")
    s = world.study("LoRA by target modules and rank")
    s.seeds = (0, 1, 2) if argument else (0, 1, 2, 3, 4)
    ranks = [rank for rank in world.lora if rank > 1]
    for name, targets in TARGETS.items():
        for rank in ranks:
            arm = world.lora_arm(rank=rank, adapter={"targets": targets})
            arm.lr = RATES[argument]
            s.arms[f"{name}_r{rank}"] = arm
    middle = world.middle
    s.contrasts = (
        (f"attention_r{middle}", f"all_r{middle}"),
        (f"mlp_r{middle}", f"all_r{middle}"),
        (f"attention_r{middle}", f"mlp_r{middle}"),
    )
    return s
