"""Where a claim is asked: in the lab in minutes, of SmolLM2 overnight, or at the paper's own size.

    world = worlds.of(argument, "rank.py")     "" is the lab, "smollm2", or "paper"
    s = world.study("LoRA by rank")
    s.arms.lora = base.arm("lora,r=16", lr=world.lora[16])

A world is an empty study with a base, measures, lengths and seeds, and the learning rates at which
LoRA of a rank and full finetuning learn from a little to too much in it. Studies of one world share
runs. The paper's world is Llama-2-7B on MetaMathQA with its protocol, for a pod: it has not been
run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lfl_jax.configs.studies import base, lab, smollm2
from ml_collections import config_dict

# Steps of an epoch of MetaMathQA at the paper's batch, and the epochs at which it compares.
PAPER_EPOCH_STEPS = 131
PAPER_EPOCHS = (1, 4)


@dataclass(frozen=True)
class World:
    """title: before a study's question. lora: {rank: peak learning rates}, its lowest rank first.

    full: learning rates of full finetuning. middle: the rank where a study has one only.
    """

    title: str
    empty: Callable[[], config_dict.ConfigDict]
    lora: Mapping[int, tuple[float, ...]]
    full: tuple[float, ...]
    middle: int = 16

    def study(self, question: str) -> config_dict.ConfigDict:
        """An empty study of this world; what remains to be set are arms and contrasts."""
        s = self.empty()
        s.name = f"{self.title}: {question}"
        return s

    def lora_arm(self, words: str = "", rank: int = 0, **config: dict) -> config_dict.ConfigDict:
        """LoRA of a rank (0 = the middle one) with more words or fields, at its rates."""
        rank = rank or self.middle
        joined = ",".join(filter(None, ("lora", f"r={rank}", words)))
        return base.arm(joined, lr=self.lora[rank], **config)

    def full_arm(self, words: str = "full", **config: dict) -> config_dict.ConfigDict:
        """Full finetuning, with fields of its own."""
        return base.arm(words, lr=self.full, **config)


def paper() -> config_dict.ConfigDict:
    """The paper's protocol, with target loss beside its scores; three seeds."""
    s = base.study()
    s.base = "math_ift:paper"
    s.steps = tuple(epochs * PAPER_EPOCH_STEPS for epochs in PAPER_EPOCHS)
    s.seeds = (0, 1, 2)
    benchmarks = ("hellaswag", "arc_challenge", "winogrande")
    texts = ("target_nll:512", "target_kl:512", "source_nll:512")
    s.config = {
        "eval": {"tasks": ("gsm8k", *texts, *benchmarks), "base_tasks": ()},
        "checkpoint": {"best": ""},
    }
    s.learning, s.forgetting = "target_nll/nll", "mean_of_three/acc"
    s.divergence = "target_kl/forward_kl"
    s.margin = 0.01
    return s


WORLDS = {
    "": World("The lab", lab.shared, lab.RATES, lab.FULL[1:]),
    "smollm2": World("SmolLM2-135M", smollm2.shared, smollm2.RATES, smollm2.FULL),
    "paper": World(
        "Llama-2-7B on MetaMathQA",
        paper,
        {
            16: (5e-5, 1e-4, 2e-4, 5e-4),
            64: (5e-5, 1e-4, 2e-4, 5e-4),
            256: (2e-5, 5e-5, 1e-4, 2e-4),
        },
        (2e-6, 5e-6, 1e-5, 2e-5),
    ),
}


def two_seeds() -> config_dict.ConfigDict:
    """Studies of SmolLM2 in an hour or two, which decide what is large."""
    s = smollm2.shared()
    s.seeds = (0, 1)
    return s


# With one rank, so that it is no world of studies that compare ranks.
REDUCED = {
    "smollm2,quick": World(
        "SmolLM2-135M, reduced",
        two_seeds,
        {16: (*smollm2.RATES[16], 5e-3)},
        (*smollm2.FULL, 3e-4),
    ),
}


def of(argument: str, file: str, *, reduced: bool = False) -> World:
    """The world that an argument names; ValueError, which names the file, for an unknown one.

    reduced: whether the study has a reduced size, too.
    """
    worlds = WORLDS | REDUCED if reduced else WORLDS
    base.refuse_unknown([argument], worlds, file)
    return worlds[argument]
