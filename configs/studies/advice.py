"""Does the paper's advice on how to use LoRA hold, each piece of it by a contrast of its own?

    python -m lfl_jax.study --config=configs/studies/advice.py --workdir=studies/advice
    python -m lfl_jax.study --config=configs/studies/advice.py:epochs --workdir=studies/epochs
    python -m lfl_jax.study --config=configs/studies/advice.py:cpt --workdir=studies/advice_cpt
    python -m lfl_jax.studies.advice configs/studies/advice.py=studies/advice \
        configs/studies/advice.py:epochs=studies/epochs \
        configs/studies/advice.py:cpt=studies/advice_cpt configs/studies/modules.py=studies/modules

Claims (arXiv 2405.09673, section 6 and its first version): use LoRA for instruction finetuning
rather than continued pretraining; train for at least 4 epochs; adapt all modules; rank 16 is a
compromise, and 256 better; choose the learning rate with most care, then the modules, then the
rank. Each is asked at every arm's own best rate. Refuted where LoRA falls short of full finetuning
as much of instructions as of text, where fewer epochs learn as much, where fewer modules do, where
the highest rank learns no more than rank 16 or rank 16 forgets no less than it, and by another
order of the shares of variance, which configs/studies/modules.py measures. The last command reads
all of it, and ends with the config to use.
Measured (results/studies/advice, epochs, advice_cpt and modules, synthetic): LoRA falls short of
full finetuning by 9.7 % [5.3, 14.1] of instructions and by 2.9 % [2.5, 3.3] of text, so that the
first does not hold here; 4 epochs learn 0.26 [0.11, 0.42] nats more than 2, and 13 3.4 more than 4;
all modules and the highest rank learn most, and rank 16 forgets 0.21 [0.14, 0.27] of the facts less
than 64; the rank has the largest share of the variance (22 %, rate 16 %, modules 11 %), so that the
order does not hold. The config that it ends with: all modules, rank 64, 80 steps, 2.4e-3.
Default: all modules, attention alone and the MLP alone at rank 16, all at rank 64, and full
finetuning, 5 seeds: 155 runs in the lab, of which lab.py and modules.py have all but five.
Argument:
    epochs      LoRA and full finetuning for 2, 4 and 13 epochs of the lab: 150 runs
    cpt         both on the lab's other language, with higher rates than lab.py:cpt: 50 runs
    smollm2     the default's arms (100 runs); 32 steps of it are no epoch
    paper       likewise, for 1 and 4 epochs (120 runs), not run
"""

from lfl_jax.configs.studies import base, lab, modules, worlds
from ml_collections import config_dict

PARTS = ("attention", "mlp")
# An epoch of the lab is 6 steps.
EPOCHS = (12, 24, 80)
# Up to rates that are too high, for any length.
LORA, FULL = (2e-3, 4e-3, 6e-3, 1e-2, 1.6e-2), (3e-4, 7e-4, 1.5e-3, 3e-3, 6e-3)


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], (*worlds.WORLDS, *IN_THE_LAB), "advice.py")
    if argument in IN_THE_LAB:
        return IN_THE_LAB[argument]()
    return methods(argument)


def methods(argument: str) -> config_dict.ConfigDict:
    """Modules and ranks, beside full finetuning, in a world."""
    world = worlds.of(argument, "advice.py")
    s = world.study("the paper's advice")
    s.arms.lora, s.arms.full = world.lora_arm(), world.full_arm()
    if not argument:
        # Beyond its best rate, which differs little from the next in some seeds.
        s.arms.full.lr = (*world.full, FULL[-1])
    for part in PARTS:
        s.arms[part] = world.lora_arm(adapter={"targets": modules.TARGETS[part]})
        s.arms[part].lr = modules.RATES[argument]
    highest = max(world.lora)
    s.arms[f"lora{highest}"] = world.lora_arm(rank=highest)
    s.contrasts = (
        ("lora", "full"),
        ("attention", "lora"),
        ("mlp", "lora"),
        (f"lora{highest}", "lora"),
    )
    return s


def epochs() -> config_dict.ConfigDict:
    """The lab by length, each with its own best rate."""
    s = lab.shared()
    s.name = "The lab: the paper's advice, by epochs"
    s.steps = EPOCHS
    s.arms.lora = base.arm("lora,r=16", lr=LORA)
    s.arms.full = base.arm("full", lr=FULL)
    s.contrasts = (("lora", "full"),)
    return s


def cpt() -> config_dict.ConfigDict:
    """The lab's other language, up to rates that are too high."""
    s = lab.get_config("cpt")
    s.name = "The lab: the paper's advice, another language"
    s.arms.lora.lr = (1e-3, 3e-3, 6e-3, 1e-2, 2e-2)
    s.arms.full.lr = (3e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    return s


IN_THE_LAB = {"epochs": epochs, "cpt": cpt}
