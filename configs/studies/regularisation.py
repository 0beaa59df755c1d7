"""Does LoRA keep the base's abilities better than weight decay and dropout do? In the lab.

    python -m lfl_jax.study --config=configs/studies/regularisation.py --workdir=studies/regularisation

The claim: LoRA regularises more than weight decay and attention dropout, with which full finetuning
learns and forgets about as it does without ("LoRA Learns Less and Forgets Less", arXiv 2405.09673,
section 4.5 and figure 4: weight decay 5e-5 and 1e-4, attention dropout .05 and .1, on Magicoder).
It is refuted where a regularised arm forgets as little as LoRA, each at its best rate; where it
does at equal learning, by the contrasts, the learning rate explains the claim. The arms:
    lora                LoRA rank 16
    full                full finetuning, weight decay 0
    full_decay_low      the same with weight decay, as much over the run as the paper's 5e-5
    full_decay          as the paper's 1e-4
    full_dropout_low    attention dropout .05
    full_dropout        attention dropout .1
Weight decay is the fraction of a weight that a step at the peak rate removes. The paper's longest
runs (16 epochs, 3,088 steps) lose about 14 % of a weight by 1e-4; 80 steps of the lab lose as much
by 4e-3. 5 learning rates, 7 of full finetuning, and 5 seeds: 200 runs of seconds.
Measured (results/studies/regularisation, synthetic), at equal learning, as a share of the facts:
LoRA forgets 0.097 [0.064, 0.131] more than with weight decay, 0.081 [0.032, 0.130] more than with
dropout; full finetuning forgets as much with decay as without (+0.027), and more with dropout
(+0.047). Each at its best rate: decay changes nothing (+0.022 [0.000, 0.044]), the rest is open.
Argument, words joined by commas:
    quick    2 seeds, two learning rates: 24 runs
    smoke    a random model and 4 steps: for tests; its scores mean nothing
"""

from lfl_jax.configs.studies import base, lab
from ml_collections import config_dict

RATES = {
    "lora": (1e-3, 2e-3, 4e-3, 6e-3, 1e-2),
    "full": (2e-4, 3e-4, 4.5e-4, 7e-4, 1.5e-3, 3e-3, 6e-3),
}
# What 3,088 steps of 5e-5 and 1e-4 remove, in 80 steps.
DECAY = {"full_decay_low": 2e-3, "full_decay": 4e-3}
DROPOUT = {"full_dropout_low": 0.05, "full_dropout": 0.1}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for a word that it does not know."""
    words = argument.split(",")
    base.refuse_unknown(words, ("quick", "smoke"), "regularisation.py")
    s = lab.shared()
    s.name = "The lab: LoRA against weight decay and dropout"
    rates = {method: lrs[1:3] if "quick" in words else lrs for method, lrs in RATES.items()}
    s.arms.lora = base.arm("lora,r=16", lr=rates["lora"])
    s.arms.full = base.arm("full", lr=rates["full"])
    for name, fraction in DECAY.items():
        s.arms[name] = base.arm("full", lr=rates["full"], optim={"weight_decay": fraction})
    for name, fraction in DROPOUT.items():
        s.arms[name] = base.arm("full", lr=rates["full"], model={"attention_dropout": fraction})
    s.contrasts = (
        ("lora", "full_decay"),
        ("lora", "full_dropout"),
        ("full_decay", "full"),
        ("full_dropout", "full"),
    )
    if "quick" in words:
        s.seeds = (0, 1)
    if "smoke" in words:
        s.base, s.steps = "lab:smoke", (4,)
    return s
