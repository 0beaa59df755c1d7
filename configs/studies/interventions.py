"""Which part of a finished change learned, and which part forgot?

    python -m lfl_jax.study --config=configs/studies/interventions.py --workdir=studies/interventions

Claims: scaling a finished adapter, or averaging with the base, moves along the frontier of the
learning rate (WiSE-FT, arXiv 2109.01903); intruder dimensions cause forgetting, so that scaling
them down restores it at little cost, and random directions do not (arXiv 2410.21228). Refuted where
a scaled run lies off the frontier of its method, and where intruders matter no more than as many
random directions. LoRA and full finetuning, four rates and 5 seeds, then evaluated with the change
scaled, truncated, with intruders or random directions scaled, and without one part: 40 trained runs
and 560 evaluations in the lab.
Measured (results/studies/interventions, synthetic), at equal learning, as a share of the facts: a
scaled LoRA forgets 0.047 [0.025, 0.068] less than one trained at a lower rate, scaled full
finetuning 0.056 [0.036, 0.077] less: scaling is the better trade. With intruders scaled down LoRA
forgets 0.096 [0.047, 0.145] less than with random directions scaled as much, but loses so much of
what it learned that at equal learning it forgets 0.214 [0.082, 0.347] more.
Argument: smollm2 (two rates and 3 seeds: 12 trained runs, 168 evaluations of minutes)
"""

from lfl_jax.configs.studies import base, worlds
from ml_collections import config_dict

SCALES = (-0.5, 0.25, 0.5, 0.75, 1.25, 1.5)
RANKS = (1, 2, 4, 8)
INTRUDERS = (0.0, 0.5, 1.5)
PARTS = ("attn", "mlp", "layers/0", "layers/1", "layers/2", "layers/3")


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], ("smollm2",), "interventions.py")
    world = worlds.of(argument, "interventions.py")
    s = world.study("parts of a finished change")
    if argument:
        s.seeds = (0, 1, 2)
    s.arms.lora, s.arms.full = world.lora_arm(), world.full_arm()
    for arm in ("lora", "full"):
        s.arms[arm].lr = s.arms[arm].lr[-3:-1] if argument else s.arms[arm].lr[-5:-1]
        s.arms[f"{arm}_scaled"] = base.derived(arm, scales=SCALES)
    s.arms.lora_truncated = base.derived("lora", truncate=RANKS)
    s.arms.lora_intruders = base.derived("lora", intruders=INTRUDERS)
    s.arms.lora_random = base.derived("lora", random_directions=INTRUDERS)
    s.arms.lora_without = base.derived("lora", without=PARTS)
    s.contrasts = (
        ("lora_scaled", "lora"),
        ("full_scaled", "full"),
        ("lora_intruders", "lora_random"),
    )
    return s
