"""Should alpha grow with the rank, or only the learning rate?

    python -m lfl_jax.study --config=configs/studies/alpha.py --workdir=studies/alpha

Claim: at a high rank alpha = 2 x rank learns more than smaller ones, at every learning rate (arXiv
2405.09673, figure S3). Refuted where a smaller alpha learns as much, within the margin, each at its
own best rate: alpha and the learning rate may stand for each other. LoRA of the highest rank with
alpha 2, 1/2 and 1/8 of it, at the same rates, which go four times higher than alpha = 2 x rank
needs; 5 seeds: 120 runs in the lab.
Measured (results/studies/alpha, synthetic), rank 64, each at its best rate: alpha 128 learns 2.50
[2.29, 2.71] nats more than alpha 32 and 4.09 [3.90, 4.28] more than alpha 8, though their rates go
higher: the rate does not stand in for alpha.
Argument: smollm2 (90 runs), or paper (rank 256 with alpha 512, 128 and 32, 108 runs)
"""

from lfl_jax.configs.studies import base, worlds
from ml_collections import config_dict

# Alpha over the rank: LoRA's factor.
FACTORS = (2.0, 0.5, 0.125)
HIGHER = (2, 4)


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "alpha.py")
    rank = max(world.lora)
    s = world.study(f"alpha at rank {rank}")
    known = world.lora[rank]
    rates = (*known, *(round(known[-1] * factor, 8) for factor in HIGHER))
    alphas = [int(rank * factor) for factor in FACTORS]
    for alpha in alphas:
        s.arms[f"alpha{alpha}"] = base.arm(f"lora,r={rank},alpha={alpha}", lr=rates)
    largest, *smaller = alphas
    s.contrasts = tuple((f"alpha{alpha}", f"alpha{largest}") for alpha in smaller)
    return s
