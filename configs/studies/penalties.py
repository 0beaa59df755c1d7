"""Can a penalty keep what finetuning forgets, and is it better than a lower rate?

    python -m lfl_jax.study --config=configs/studies/penalties.py --workdir=studies/penalties

Claims: a KL over the vocabulary without the target token removes forgetting at little cost to
learning (arXiv 2605.29498); L2 to the base does, too (L2-SP, arXiv 1802.01483). Refuted where, at
equal learning, the penalised arm forgets as much as the same method without: a penalty that only
slows training moves along the frontier of the learning rate, not away from it. The weights are of
a look at one seed and rate: L2 of 1e-3 does nothing and .1 halves what is learned, a KL of .03 does
nothing and 3 stops learning. 5 seeds: 180 runs in the lab.
Measured (results/studies/penalties, synthetic), at equal learning, as a share of the facts: with KL
LoRA forgets 0.162 [0.129, 0.194] less and full finetuning 0.080 [0.060, 0.101] less; with L2 LoRA
0.054 [0.021, 0.086] less, full finetuning as much as without (+0.018 [0.008, 0.029], margin 0.05).
Argument: smollm2 (120 runs), or paper (144 runs)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict

# Weights of the terms: strong ones that leave most of the learning, in the lab.
L2, KL = 1e-2, 0.3


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "penalties.py")
    s = world.study("penalties for leaving the base")
    for method, arm in {"lora": world.lora_arm, "full": world.full_arm}.items():
        s.arms[method] = arm()
        s.arms[f"{method}_l2"] = arm(penalty={"l2": L2})
        s.arms[f"{method}_kl"] = arm(penalty={"non_target_kl": KL})
    s.contrasts = tuple(
        (f"{method}_{penalty}", method) for method in ("lora", "full") for penalty in ("l2", "kl")
    )
    return s
