"""How many bits does an adapter store? LoRA of several ranks learns random digits by heart.

    python -m lfl_jax.study --config=configs/studies/capacity.py --workdir=studies/capacity
    python -m lfl_jax.studies.capacity studies/capacity

128 keys with 16 random hexadecimal digits each are 8,192 bits. LoRA of rank r has 10,240 r
trainable parameters in the lab's 1M model. 2 learning rates and 3 seeds of 6 arms: 36 runs of a
minute of CPU time each. The second command has the bits of every run for each parameter.
Measured (results/studies/capacity, synthetic), at 5e-3: ranks 1, 2 and 4 store 2,450, 4,700 and
8,040 bits, 0.24, 0.23 and 0.20 a parameter; from rank 4 on all is stored, as by full finetuning,
which forgets 0.22 [0.18, 0.25] of the facts less than rank 16 does.
Argument: smoke    a random model and 4 steps: for tests; its scores mean nothing
"""

from lfl_jax.configs.studies import base
from ml_collections import config_dict

RANKS = (1, 2, 4, 8, 16)


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], ("smoke",), "capacity.py")
    s = base.study()
    s.name = "The lab: bits stored by rank"
    s.base = "lab:keys,smoke" if argument else "lab:keys"
    for rank in RANKS:
        s.arms[f"lora_r{rank}"] = base.arm(f"lora,r={rank}", lr=(2.5e-3, 5e-3))
    s.arms.full = base.arm("full", lr=(5e-4, 1e-3))
    tasks = ("lab_keys", "lab_source_facts", "source_nll:128")
    s.config = {"eval": {"tasks": tasks, "every_tasks": ()}, "checkpoint": {"best": ""}}
    s.steps = (4,) if argument else (400,)
    s.seeds = (0,) if argument else (0, 1, 2)
    s.learning, s.forgetting = "lab_keys/bits", "lab_source_facts/acc"
    s.margin = 0.05
    s.contrasts = (("lora_r1", "lora_r16"), ("lora_r4", "lora_r16"), ("lora_r16", "full"))
    return s
