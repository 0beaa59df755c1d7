"""LoRA learns less and forgets less: at equal learning, does it forget less?

    python -m lfl_jax.study --config=configs/studies/tradeoff.py --workdir=studies/tradeoff

Claim: LoRA of every rank learns less than full finetuning and forgets less, and is the better trade
where both learned as much (arXiv 2405.09673, figures 1 to 3 and tables S1 to S8). Refuted where
full finetuning forgets less at equal learning. In the lab it is configs/studies/lab.py, 330 runs of
seconds; :smollm2 is configs/studies/smollm2.py, 60 runs of minutes.
Measured (results/studies/lab, synthetic, 10 seeds): LoRA r 16 forgets more than full finetuning at
equal learning, +0.113 [0.096, 0.130] of the facts, more than the margin of 0.05. Of SmolLM2 at the
reduced size (smollm2_quick, 2 seeds) both forget alike: +0.003 [-0.000, 0.006] nats, margin 0.02.
Argument: smollm2, smollm2,quick (12 runs), or paper: Llama-2-7B with LoRA r 16, 64 and 256, 96 runs, not run
"""

from lfl_jax.configs.studies import lab, smollm2, worlds
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "tradeoff.py", reduced=True)
    if argument == "paper":
        return at_paper_size(world)
    _, _, size = argument.partition(",")
    return smollm2.get_config(size) if argument else lab.get_config()


def at_paper_size(world: worlds.World) -> config_dict.ConfigDict:
    """Every rank of the paper against full finetuning."""
    s = world.study("LoRA against full finetuning")
    for rank in world.lora:
        s.arms[f"lora{rank}"] = world.lora_arm(rank=rank)
    s.arms.full = world.full_arm()
    s.contrasts = tuple((f"lora{rank}", "full") for rank in world.lora)
    return s
