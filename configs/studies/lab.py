"""The lab: does LoRA forget less than full finetuning, where both learned the same new facts?

    python -m lfl_jax.study --config=configs/studies/lab.py --workdir=studies/lab --jobs=2
    python -m lfl_jax.study --config=configs/studies/lab.py:variants --workdir=studies/variants

A 1M model whose every fact is known; each arm over learning rates that reach low enough to forget
little, 10 seeds, whose halves answer the question once each. Learning is the log-probability of the
new facts' values, which stays informative where all are recalled; forgetting is the recall of what
the base was pretrained on. The lab is synthetic. Runs that another of these studies has finished,
in the same parent folder, are taken from there.
Default: LoRA at ranks 4, 16 and 64, full finetuning of all weights and of the matrices that LoRA
adapts.
Measured (results/studies): at equal learning LoRA r 16 forgets 0.113 [0.096, 0.130] of the facts
more than full finetuning; DoRA as much as LoRA, MoRA, QLoRA and A = 0 more; on another language
LoRA and full finetuning forget alike.
Argument:
    quick       LoRA and full, two rates each, 2 seeds: a first look, which decides little
    variants    DoRA, MoRA, QLoRA, (IA)^3 and LoRA from A = 0, against LoRA; 5 seeds, as below
    cpt         another language in place of new facts: LoRA against full
"""

from lfl_jax.configs.studies import base
from ml_collections import config_dict

# From little learned to too much: as many for one as for the other, and dense where both learn.
LORA = (1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 1e-2)
FULL = (1e-4, 2e-4, 3e-4, 4.5e-4, 7e-4, 1.5e-3, 3e-3)
# By rank, as many for one as for another, each with its best rate inside of its sweep.
RATES = {
    1: (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    4: (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    16: (1e-3, 1.5e-3, 2e-3, 4e-3, 6e-3, 1e-2),
    64: (2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
}
FEWER = {"lora": (2e-3, 4e-3, 6e-3), "full": (3e-4, 7e-4, 1.5e-3)}
MEASURED = ("lab_source_facts", "source_nll:128", "target_kl")
FACTS = ("lab_new_facts", "lab_rule")


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], QUESTIONS, "lab.py")
    s = shared()
    s.arms.lora = base.arm("lora,r=16", lr=LORA)
    QUESTIONS.get(argument, ranks)(s)
    return s


def shared() -> config_dict.ConfigDict:
    """What all studies of the lab share, so that they can share runs."""
    s = base.study()
    s.base, s.steps, s.seeds = "lab", (80,), tuple(range(5))
    # Looks on the way are for the picture of it; nothing is chosen by them.
    on_the_way = {"log_spaced": 6, "every_tasks": ("lab_new_facts", "lab_source_facts")}
    s.config = {
        "eval": {"tasks": (*FACTS, *MEASURED), **on_the_way},
        "checkpoint": {"best": ""},
        "log": {"tensorboard": False},
    }
    s.learning, s.forgetting = "lab_new_facts/gold_logprob", "lab_source_facts/acc"
    s.divergence = "target_kl/forward_kl"
    s.margin = 0.05
    return s


def ranks(s: config_dict.ConfigDict) -> None:
    """The question itself, over ranks and over what full finetuning may change."""
    s.name = "The lab: LoRA against full finetuning"
    s.seeds = tuple(range(10))
    s.arms.lora4 = base.arm("lora,r=4", lr=RATES[4])
    s.arms.lora64 = base.arm("lora,r=64", lr=RATES[64])
    s.arms.full = base.arm("full", lr=FULL)
    s.arms.full_linear = base.arm("full_linear", lr=FULL)
    s.contrasts = (("lora", "full"), ("lora", "full_linear"), ("lora4", "lora64"))


def quick(s: config_dict.ConfigDict) -> None:
    """A first look."""
    s.name = "The lab: LoRA against full finetuning, a first look"
    s.seeds = (0, 1)
    s.arms.lora.lr = FEWER["lora"][:2]
    s.arms.full = base.arm("full", lr=FEWER["full"][:2])
    s.contrasts = (("lora", "full"),)


def variants(s: config_dict.ConfigDict) -> None:
    """LoRA's relatives against LoRA."""
    s.name = "The lab: relatives of LoRA"
    s.arms.lora.lr = rates = (1e-3, 2e-3, 4e-3, 6e-3, 1e-2)
    s.arms.dora = base.arm("dora,r=16", lr=rates)
    s.arms.mora = base.arm("mora,r=16", lr=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3))
    s.arms.ia3 = base.arm("ia3", lr=(1e-2, 2e-2, 5e-2, 0.1, 0.2))
    s.arms.qlora = base.arm("qlora,r=16", lr=rates)
    s.arms.lora_a = base.arm(
        "lora,r=16", lr=(2e-4, 5e-4, 1e-3, 2e-3, 4e-3), adapter={"init": "a_zero"}
    )
    s.contrasts = (("dora", "lora"), ("mora", "lora"), ("qlora", "lora"), ("lora_a", "lora"))


def cpt(s: config_dict.ConfigDict) -> None:
    """Continued pretraining on a language that shares three of four transitions."""
    s.name = "The lab: LoRA against full finetuning on another language"
    s.base, s.steps = "lab:cpt", (160,)
    s.config.eval.tasks = ("target_nll:128", *MEASURED)
    s.config.eval.every_tasks = ("target_nll:64", "lab_source_facts")
    s.learning = "target_nll/nll"
    s.arms.lora.lr = (3e-4, 1e-3, 3e-3, 6e-3)
    s.arms.full = base.arm("full", lr=(3e-5, 1e-4, 3e-4, 1e-3, 2e-3))
    s.contrasts = (("lora", "full"),)


QUESTIONS = {"quick": quick, "variants": variants, "cpt": cpt}
