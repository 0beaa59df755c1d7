"""Does LoRA keep a model's answers more diverse than full finetuning does? SmolLM2-135M on code.

    python -m lfl_jax.study --config=configs/studies/diversity.py --workdir=studies/diversity

The claim: LoRA keeps generations more diverse ("LoRA Learns Less and Forgets Less", arXiv
2405.09673, figure 5: different texts among 50 samples of each HumanEval problem, of which the base
has most and full finetuning fewest). It is refuted where full finetuning at its best learning rate
gives as many different programs as LoRA at its own, to within 5 % of the base's number. The lab has
no task with several samples of a prompt, so this is the real model on pairs of docstrings and
functions: 16 HumanEval problems, 8 samples at temperature .8. Learning is the held-out functions'
loss, forgetting that of general text. The model solves next to none of the problems: what is
counted is how many of its answers differ.
Default: LoRA rank 16 and full finetuning, 3 learning rates, 3 seeds, 32 steps of 512 tokens: 18
runs, some hours on two CPU cores (--plan measures). Not run yet. Programs run in a sandbox; a
machine without one refuses the study.
Argument: quick    one seed, 2 rates: 4 runs, which decide nothing
"""

from lfl_jax.configs.studies import base
from ml_collections import config_dict

RATES = {"lora": (2e-4, 6e-4, 2e-3), "full": (1e-5, 4e-5, 1.5e-4)}
TASKS = ("humaneval:16", "target_nll:40", "target_kl:40", "source_nll:16")


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], ("quick",), "diversity.py")
    s = base.study()
    s.name = "SmolLM2-135M: how diverse answers stay"
    s.base = "code_ift"
    rates = {method: lrs[:2] if argument else lrs for method, lrs in RATES.items()}
    s.arms.lora = base.arm("lora,r=16", lr=rates["lora"])
    s.arms.full = base.arm("full", lr=rates["full"])
    s.contrasts = (("lora", "full"),)
    # Nothing is chosen during training, so that nothing is evaluated then.
    sampled = {"samples": 8, "temperature": 0.8, "top_p": 0.95}
    s.config = {
        "eval": {"tasks": TASKS, "base_tasks": (), "every_tasks": (), **sampled},
        "checkpoint": {"every": 0, "best": ""},
    }
    s.steps = (32,)
    s.seeds = (0,) if argument else (0, 1, 2)
    s.learning, s.forgetting = "target_nll/nll", "source_nll/nll"
    s.divergence = "target_kl/forward_kl"
    s.margin = 0.02
    return s
