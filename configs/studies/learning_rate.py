"""Is the gap between LoRA and full finetuning a gap of learning rates?

    python -m lfl_jax.study --config=configs/studies/learning_rate.py --workdir=studies/learning_rate

Claims: at a low enough rate, full finetuning keeps what the base knows at the same target score
(arXiv 2509.20758); LoRA's best rate is ten times that of full finetuning (arXiv 2405.09673, figure
S1). Refuted where LoRA still forgets less at equal learning with the rates of both free, and where
the interval of the ratio leaves out 10. Rates a factor of about 1.5 apart, dense where the best
ones are: 14 rates, 5 seeds, 70 runs in the lab.
Measured (results/studies/learning_rate, synthetic): LoRA forgets 0.117 [0.092, 0.141] of the facts
more at equal learning, and its best rate is 2.9 [1.3, 6.2] times that of full finetuning. Of
SmolLM2 at the reduced size (smollm2_learning_rate, 2 seeds) both forget alike at equal learning
(+0.003 [0.000, 0.007] nats, margin 0.02); the ratio, 16 [0.8, 310], is open.
Argument: smollm2 (40 runs), smollm2,quick (20 runs of 2 seeds), or paper (48 runs)
"""

from lfl_jax.configs.studies import lab, worlds
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    world = worlds.of(argument, "learning_rate.py", reduced=True)
    s = world.study("the learning rate, of LoRA and of full finetuning")
    s.arms.lora, s.arms.full = world.lora_arm(), world.full_arm()
    if not argument:
        s.arms.lora.lr, s.arms.full.lr = lab.LORA, lab.FULL
    s.contrasts = (("lora", "full"),)
    return s
