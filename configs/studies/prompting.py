"""Is prompting the base an alternative to training it? It forgets nothing; what does it gain?

    python -m lfl_jax.study --config=configs/studies/prompting.py:smollm2 --workdir=studies/prompt

The base is asked about the target after 0, 1, 2, 4 and 8 worked training examples, which each seed
draws anew; its answers are scored as those of LoRA and full finetuning are, which are asked without
any. At equal learning, what a trained model forgets is what training costs where a prompt would do.
Claim: parameter-efficient finetuning is more accurate than examples in the prompt (arXiv
2205.05638, which gives both the same few examples; here training has more). Refuted where the base
with its best number of examples learns as much as LoRA at its best rate.
Default: the lab, whose rule is asked after worked examples of it. A base of 1M parameters that
never read two facts in one text should learn nothing in its context; this measures whether it does.
60 runs, those of other studies of the lab, and 25 evaluations of seconds.
Measured (results/studies/prompting, synthetic): examples do not help this base, whose log
probability of the rule's answers falls from -6.8 without to -9.3 with them; LoRA gains 5.16 [4.40,
5.92] nats over it and forgets 0.108 [0.070, 0.145] of the facts.
Argument: smollm2    the real model on word problems, at rates low enough to learn as little as a
                     prompt may teach, 2 seeds: 12 runs of 3 minutes, 8 of which are those of
                     configs/studies/smollm2.py:quick, and 10 evaluations, of seconds without
                     examples and of some minutes with 8 of them, 700 tokens
Not at the paper's size, whose world has not been run.
"""

from lfl_jax.configs.studies import base, smollm2, worlds
from ml_collections import config_dict

SHOTS = (0, 1, 2, 4, 8)
# One below the lowest of the other studies, and their two lowest.
LOW = {"lora,r=16": (1.5e-5, *smollm2.RATES[16][:2]), "full": (1e-6, *smollm2.FULL[:2])}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], ("smollm2",), "prompting.py")
    world = worlds.of(argument, "prompting.py")
    s = world.study("examples in the prompt against training")
    s.arms.lora, s.arms.full = world.lora_arm(), world.full_arm()
    if argument:
        s.arms.lora.lr, s.arms.full.lr = LOW.values()
        s.seeds = (0, 1)
    else:
        # New facts cannot be told by others; a rule can.
        s.learning = "lab_rule/gold_logprob"
    s.arms.prompted = base.derived("lora", shots=SHOTS)
    s.contrasts = (("lora", "prompted"), ("full", "prompted"), ("lora", "full"))
    return s
