"""SmolLM2-135M on word problems: does LoRA forget less than full finetuning at equal learning?

    python -m lfl_jax.study --config=configs/studies/smollm2.py:quick --workdir=studies/smollm2-quick
    python -m lfl_jax.study --config=configs/studies/smollm2.py --workdir=studies/smollm2

The real model (python -m lfl_jax.fetch smollm2-135m evals) on generated word problems, 32 steps of
256 tokens a run. Learning is the held-out answers' loss, forgetting that of general text; KL to the
base, exact answers, HellaSwag, ARC-Challenge and WinoGrande stand beside them. The problems are
synthetic; the model, the text and the benchmarks are not.
Default: LoRA at ranks 16 and 64 and full finetuning, 4 learning rates, 5 seeds: 60 runs, overnight
on two CPU cores.
Argument: quick    LoRA 16 and full, 3 rates, 2 seeds: 12 runs in 45 minutes, which decide little
"""

from lfl_jax.configs.studies import base
from ml_collections import config_dict

# From little learned to the best: with 32 steps, higher rates learn less again and forget more.
RATES = {16: (5e-5, 1.5e-4, 5e-4, 1.5e-3), 64: (3e-5, 1e-4, 3e-4, 1e-3)}
FULL = (3e-6, 1e-5, 3e-5, 1e-4)
TASKS = (
    *("source_test:40", "target_nll:40", "target_kl:40", "source_nll:16", "source_kl:16"),
    *("hellaswag:40", "arc_challenge:40", "winogrande:40"),
)


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], ("quick",), "smollm2.py")
    s = shared()
    s.name = "SmolLM2-135M: LoRA against full finetuning"
    rates = 3 if argument else 4
    s.arms.lora = base.arm("lora,r=16", lr=RATES[16][:rates])
    s.arms.full = base.arm("full", lr=FULL[:rates])
    s.contrasts = (("lora", "full"),)
    if argument:
        s.seeds = (0, 1)
        return s
    s.arms.lora64 = base.arm("lora,r=64", lr=RATES[64])
    s.contrasts += (("lora64", "full"),)
    return s


def shared() -> config_dict.ConfigDict:
    """What all studies of SmolLM2 share, so that they can share runs."""
    s = base.study()
    s.base, s.steps = "math_ift", (32,)
    # Nothing is chosen during training, so that nothing is evaluated then.
    s.config = {
        "eval": {"tasks": TASKS, "base_tasks": (), "every_tasks": ()},
        "checkpoint": {"every": 0, "best": ""},
    }
    s.learning, s.forgetting = "target_nll/nll", "source_nll/nll"
    s.divergence = "target_kl/forward_kl"
    s.margin = 0.02
    return s
