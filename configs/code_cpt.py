"""Continued pretraining on code: what is learned, and what is forgotten.

    python -m lfl_jax.main --config=configs/code_cpt.py --workdir=runs/code_cpt

Default: LoRA rank 16 on SmolLM2-135M with the sources of Python's standard library, a stand-in for
StarCoder-Python: 32 steps of 512 tokens. On 2 cores of an AMD EPYC (Zen 3), jax 0.10.2, busy with
other work: 19 min, evaluations included; held-out target NLL 2.222 -> 2.140 nats/token (9 modules),
general text 3.282 -> 3.239.
Arguments: those of configs/math_ift.py. :paper is Llama-2-7B on 20B tokens of StarCoder-Python.
Shorter runs branch off
it: :paper,tokens=4e9 with --config.train.branch_from=DIR of the long one.
"""

from lfl_jax.configs import settings
from ml_collections import config_dict

LAPTOP = (
    settings.LAPTOP_TEXT
    | settings.LAPTOP_CODE
    | {
        "data.source": "python_source",
        "eval.every_tasks": ("target_nll:3",),  # of whole modules
    }
)


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    return settings.config("code_cpt", argument, LAPTOP)
