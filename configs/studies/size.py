"""Does the gap between LoRA and full finetuning shrink with the size of the model?

    python -m lfl_jax.study --config=configs/studies/size.py:0.3m --workdir=studies/size-0.3m
    python -m lfl_jax.study --config=configs/studies/size.py:1m --workdir=studies/size-1m
    python -m lfl_jax.study --config=configs/studies/size.py:3m --workdir=studies/size-3m
    python -m lfl_jax.studies.across studies/size-0.3m studies/size-1m studies/size-3m

Claim: larger models show less of a gap (discussed in arXiv 2405.09673). Refuted where the trend of
the difference, at equal learning, over the log of the parameters has an interval around 0, or goes
the other way. A study for each size of the lab's model, each with a base of its own that knows all
of the source world, LoRA r 16 and full finetuning, 5 seeds: 60 runs each.
Measured (results/studies/size*, synthetic), LoRA's forgetting less full finetuning's at equal
learning: 0.3M -0.060 [-0.098, -0.022], LoRA forgets less; 1M +0.121 [0.099, 0.143] and 3M +0.133
[0.089, 0.177], more. With each doubling +0.06 [-0.47, 0.59]: undecided, as three sizes leave the
trend one degree of freedom. 4, 2 (most runs reused) and 15 minutes on two CPU cores; 10M was not
run.
Argument: 0.3m, 1m (default), 3m or 10m; 10m takes half an hour for its base and minutes for a run
"""

from lfl_jax.configs.studies import base, worlds
from ml_collections import config_dict

SIZES = ("0.3m", "1m", "3m", "10m")


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The study for an argument; raises ValueError for one that it does not know."""
    base.refuse_unknown([argument], SIZES, "size.py")
    world, size = worlds.of("", "size.py"), argument or "1m"
    s = world.study(f"LoRA against full finetuning of {size.upper()}")
    # The default size has no word, so that these are the runs of the other studies.
    s.base = f"lab:{size}" if size != "1m" else "lab"
    s.arms.lora, s.arms.full = world.lora_arm(), world.full_arm()
    s.contrasts = (("lora", "full"),)
    return s
