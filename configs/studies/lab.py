"""The lab: does LoRA forget less than full finetuning, where both learned the same new facts?

    python -m lfl_jax.study --config=configs/studies/lab.py --workdir=studies/lab

LoRA rank 16 and full finetuning of a 1M model whose every fact is known; 4 learning rates each,
which reach low enough to forget little, 160 steps and 5 seeds: 40 runs. Learning is the
log-probability of the new facts' values, which stays informative where all are recalled; forgetting
is the recall of what the base was pretrained on. The lab is synthetic.
Argument: quick    2 seeds, the middle two rates: a first look, which decides little
"""

from lfl_jax.configs.studies import base
from ml_collections import config_dict

RATES = {"lora": (5e-4, 1.5e-3, 5e-3, 1.5e-2), "full": (1e-4, 3e-4, 1e-3, 3e-3)}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    if argument not in ("", "quick"):
        raise ValueError(f"unknown argument {argument} of configs/studies/lab.py; there is: quick")
    rates = {arm: lrs[1:3] if argument else lrs for arm, lrs in RATES.items()}
    s = base.study()
    s.name = "The lab: LoRA against full finetuning"
    s.base = "lab"
    s.arms.lora = base.arm("lora,r=16", lr=rates["lora"])
    s.arms.full = base.arm("full", lr=rates["full"])
    # Nothing is chosen during training, so that nothing is evaluated then.
    tasks = ("lab_new_facts", "lab_rule", "target_kl", "lab_source_facts", "source_nll:128")
    s.config = {"eval": {"tasks": tasks, "every_tasks": ()}, "checkpoint": {"best": ""}}
    s.steps = (160,)
    s.seeds = (0, 1) if argument else (0, 1, 2, 3, 4)
    s.learning, s.forgetting = "lab_new_facts/gold_logprob", "lab_source_facts/acc"
    s.divergence = "target_kl/forward_kl"
    s.margin = 0.05
    s.contrasts = (("lora", "full"),)
    return s
