"""Is the change of full finetuning of a higher rank than LoRA's, and does it grow with training?

    python -m lfl_jax.study --config=configs/studies/rank_of_change.py --workdir=studies/rank_of_change

Claim: full finetuning changes weights with a rank 10 to 100 times LoRA's, which grows with the
tokens, is higher in the MLP than in attention, and lower at both ends of the stack (arXiv
2405.09673, section 4.6 and figure 6). Refuted where its rank is not above that of LoRA, or no
higher than a Gaussian matrix of the same shape has: noise alone is of full rank. Three lengths, two
rates each, 5 seeds: 90 runs in the lab.
Measured (results/studies/rank_of_change, synthetic): k90 of full finetuning is 24 (a random change
has 78), of LoRA 3.3 (13): a ratio of 7.3 [6.6, 8.0]. It grows by 3.0 [2.8, 3.2] with each doubling
of the steps, is .35 of a random change's in the MLP and .26 in attention, .26 in the first and last
layers and .34 between: as published but for the ratio, for which these matrices are too small. Of
SmolLM2 at the reduced size (smollm2_rank_of_change, 2 seeds): 58 (300) and 5.9 (14), a ratio of 9.7
[3.6, 26]; MLP .21 and attention .19, ends .15 and between .20: all undecided with two seeds.
Argument: smollm2 (90 runs), smollm2,quick (8 runs of one length and 2 seeds), or paper (36 runs: 1
and 4 epochs, 3 seeds)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict

# Optimizer steps; the last one is the length of the world's other studies.
STEPS = {"": (20, 40, 80), "smollm2": (8, 16, 32)}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "rank_of_change.py", reduced=True)
    s = world.study("the rank of the weights' change")
    arms = {"lora": world.lora_arm(), "full": world.full_arm()}
    if argument not in worlds.REDUCED:
        arms["full_linear"] = world.full_arm("full_linear")
    for name, arm in arms.items():
        # Where both learn: the second and third highest.
        arm.lr = arm.lr[-3:-1]
        s.arms[name] = arm
    s.steps = STEPS.get(argument, s.steps)
    s.weights = True
    s.contrasts = tuple(("lora", name) for name in arms if name != "lora")
    return s
