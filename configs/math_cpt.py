"""Continued pretraining on mathematical text: what is learned, and what is forgotten.

    python -m lfl_jax.main --config=configs/math_cpt.py --workdir=runs/math_cpt

Default: LoRA rank 16 on SmolLM2-135M with generated (synthetic) word problems as running text, a
stand-in for OpenWebMath. On 2 cores among other work, 7 min of CPU time: target NLL 2.224 -> 1.638
nats/token (40 documents), general text 3.282 -> 3.574.
Arguments: those of configs/math_ift.py. :paper is Llama-2-7B on 20B tokens of OpenWebMath. Shorter
runs branch off it: :paper,tokens=4e9 with --config.train.branch_from=DIR of the long one.
"""

from lfl_jax.configs import settings
from ml_collections import config_dict

LAPTOP = settings.LAPTOP_TEXT | {
    "data.source": "math_text",
    "eval.tasks": ("gsm8k:4", *settings.LAPTOP_TASKS),
}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    return settings.config("math_cpt", argument, LAPTOP)
