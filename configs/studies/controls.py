"""Replay, sham training and a run that changes nothing, beside LoRA and full finetuning in the lab.

    python -m lfl_jax.study --config=configs/studies/controls.py --workdir=studies/controls

Does 1 % of replay stop forgetting, for LoRA and for full finetuning? And how much of the forgetting
is of any training at all? The arms:
    lora, full             the lab's new facts and rule, as in configs/studies/lab.py
    lora_replay_1in1000    with 1 of 1000 examples from the source world; also 1in100 and 1in20, and
                           full_replay_1in100
    shuffled               sham: LoRA on the same questions with answers of other questions
    source                 sham: LoRA on the source world in place of the target
    identity               LoRA whose B stays 0: every change is exactly 0, at any learning rate
All are tested on the same items. 6 learning rates, 3 of the shams, and 5 seeds: 215 runs. The
lab is synthetic. Measured (results/studies/lab_controls): at equal learning 1 % of replay makes LoRA
forget 0.020 [0.003, 0.036] nats less, and full finetuning 0.021 [0.014, 0.029] more.
Argument, words joined by commas:
    quick    2 seeds, two learning rates
    smoke    a random model and 4 steps, in minutes: for tests; its scores mean nothing
"""

from lfl_jax.configs.studies import base, lab
from ml_collections import config_dict

RATES = {"lora": lab.RATES[16], "full": lab.FULL[1:]}
# Of the shams, which are compared with nothing at equal learning.
FEWER = lab.FEWER["lora"]
# One example of so many is replayed.
REPLAY = {"lora": (1000, 100, 20), "full": (100,)}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for a word that it does not know."""
    words = argument.split(",")
    base.refuse_unknown(words, ("quick", "smoke"), "controls.py")
    s = lab.shared()
    s.name = "The lab: replay and sham arms"
    arms(s, quick="quick" in words)
    s.seeds = (0, 1) if "quick" in words else (0, 1, 2, 3, 4)
    # Not the facts, which are among what is replayed: text that none of the runs has seen.
    s.forgetting, s.margin = "source_nll/nll", 0.01
    s.contrasts = (
        ("lora", "full"),
        ("lora_replay_1in100", "lora"),
        ("full_replay_1in100", "full"),
        ("lora_replay_1in100", "full_replay_1in100"),
    )
    if "smoke" in words:
        s.base, s.steps = "lab:smoke", (4,)
    return s


def arms(s: config_dict.ConfigDict, quick: bool) -> None:
    """Every arm, with two of the learning rates or with all."""
    rates = {method: lrs[:2] if quick else lrs for method, lrs in RATES.items()}
    for method, lrs in rates.items():
        s.arms[method] = base.arm(method, lr=lrs)
        for examples in REPLAY[method]:
            mix = f"lab_ift:{examples - 1},lab_source:1"
            name = f"{method}_replay_1in{examples}"
            s.arms[name] = base.arm(method, lr=lrs, data={"source": mix})
    fewer = FEWER[:2] if quick else FEWER
    s.arms.shuffled = base.arm("lora", lr=fewer, data={"shuffle_responses": True})
    # Weight 0: tested on, and not trained on.
    s.arms.source = base.arm("lora", lr=fewer, data={"source": "lab_ift:0,lab_source"})
    # With B = 0 the gradient of A is 0, and so is the change of every weight.
    s.arms.identity = base.arm("lora", lr=fewer[:1], trainable=("adapter/.*/a",))
