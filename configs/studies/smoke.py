"""The smallest study: it shows that all of it works, and its scores mean nothing.

    python -m lfl_jax.study --config=configs/studies/smoke.py --workdir=studies/smoke

LoRA and full finetuning of a tiny random model, 2 learning rates, 2 seeds, 4 steps each.
"""

from lfl_jax.configs.studies import base
from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The study; it has no words."""
    s = base.study()
    s.name = "Smoke study"
    s.base = "math_ift:smoke"
    s.arms.lora = base.arm("lora,r=2", lr=(1e-3, 1e-2))
    s.arms.full = base.arm("full", lr=(1e-4, 1e-3))
    s.config = {
        "data": {"size": 32, "seq_len": 256},
        "eval": {
            "tasks": ("target_nll:8", "source_nll:4", "target_kl:4"),
            "every_tasks": (),
            "seq_len": 256,
        },
        "checkpoint": {"every": 0, "best": ""},
        "log": {"tensorboard": False},
    }
    s.steps = (4,)
    s.seeds = (0, 1)
    s.learning, s.forgetting = "target_nll/nll", "source_nll/nll"
    s.divergence = "target_kl/forward_kl"
    s.margin = 0.05
    s.contrasts = (("lora", "full"),)
    return s
