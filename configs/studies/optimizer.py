"""Does the optimizer decide what is forgotten?

    python -m lfl_jax.study --config=configs/studies/optimizer.py --workdir=studies/optimizer

Claim: Decoupled LionW learns more than AdamW, for LoRA as for full finetuning, and both have their
best rates where they forget alike (arXiv 2405.09673, figure S2). Refuted where AdamW, at a rate of
its own, learns as much or forgets less at equal learning. Lion's updates are signs, several times
as large as Adam's: its rates are a fifth of Adam's, and two higher ones. 5 seeds: 140 runs in the
lab.
Measured (results/studies/optimizer, synthetic): at equal learning Lion forgets more of the facts,
LoRA by 0.219 [0.108, 0.330] and full finetuning by 0.206 [0.189, 0.224]. Which learns more at its
best rate is open: Lion less Adam -0.5 [-1.3, 0.3] nats of LoRA, +0.03 [-0.21, 0.28] of full.
Argument: smollm2 (80 runs), or paper (96 runs)
"""

from lfl_jax.configs.studies import worlds
from ml_collections import config_dict

# Lion's rates over Adam's (Chen et al., arXiv 2302.06675, advise 3 to 10 times smaller ones).
LION = 0.2
# In the lab Lion's best rates, .3 and .4 of Adam's, would else be the edges of their sweeps.
HIGHER = (2, 4)
BETAS = {"b1": 0.9, "b2": 0.95}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "optimizer.py")
    s = world.study("AdamW and LionW")
    arms = {"lora": world.lora_arm, "full": world.full_arm}
    # The paper's rates are Lion's, those of the other worlds Adam's.
    adam, lion = (1 / LION, 1.0) if argument == "paper" else (1.0, LION)
    for method, arm in arms.items():
        s.arms[method] = scaled(arm(optim={"name": "adamw"}), adam)
        of_lion = scaled(arm(optim={"name": "lionw"} | BETAS), lion)
        if not argument:
            of_lion.lr += tuple(of_lion.lr[-1] * factor for factor in HIGHER)
        s.arms[f"{method}_lion"] = of_lion
    s.contrasts = (
        ("lora_lion", "lora"),
        ("full_lion", "full"),
        ("lora_lion", "full_lion"),
        ("lora", "full"),
    )
    return s


def scaled(arm: config_dict.ConfigDict, factor: float) -> config_dict.ConfigDict:
    """The arm with its learning rates multiplied."""
    arm.lr = tuple(float(f"{lr * factor:.3g}") for lr in arm.lr)
    return arm
