"""Do adapters of different ranks and seeds find the same directions, and what has W in them?

    python -m lfl_jax.study --config=configs/studies/subspaces.py --workdir=studies/subspaces
    python -m lfl_jax.studies.subspaces studies/subspaces

Claims (LoRA, arXiv 2106.09685, sections 7.2 and 7.3, figures 3 and 4, table 7): LoRA of ranks 8 and
64 share their top direction (similarity above .5) and no other; two seeds of one rank share some,
which random matrices do not; W has more in a change's directions than in random ones and far less
than in its own first ones, and the change amplifies that, 21.5 times at rank 4 and 1.9 times at 64.
Refuted where phi(1, 1) is below .5, where seeds share no more than random directions, and where W's
share in a change's directions is nearer to that of its own first ones than to that of random ones.
The lowest and the highest rank and full finetuning, with the rates of the world's other studies, 5
seeds: 90 runs in the lab (ranks 4 and 64), all of which are runs of configs/studies/lab.py. The
second command compares the runs at each arm's best rate, pair by pair. Rank 64 is half of the lab's
width, so that its directions are hardly a choice: look at the first ones.
Measured (results/studies/subspaces, synthetic): ranks 4 and 64 do not share their top direction,
phi(1, 1) = 0.15 [0.14, 0.15], random 0.01, nor others. Two seeds of rank 64 share 0.11 [0.10, 0.11]
of their first 4 directions, random ones 0.03, and two of full finetuning 0.67 of dW's inputs. W has
1.2 times as much in the directions of rank 4 as in random ones, a tenth of what its own have; the
factor is 9.4 [9.0, 9.8] at rank 4 (random directions 11.4), and 1.08 at rank 64 (1.12).
Argument: smollm2 (ranks 16 and 64, the 60 runs of smollm2.py), or paper (ranks 16 and 256, 72 runs)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "subspaces.py")
    s = world.study("directions of the weights' change")
    # An adapter of rank 1 has one direction, and nothing to share beside it.
    ranks = [rank for rank in world.lora if rank > 1]
    low, high = f"lora{min(ranks)}", f"lora{max(ranks)}"
    s.arms[low], s.arms[high] = (world.lora_arm(rank=r) for r in (min(ranks), max(ranks)))
    s.arms.full = world.full_arm()
    s.contrasts = ((low, high), (low, "full"), (high, "full"))
    return s
