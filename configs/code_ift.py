"""Code instruction finetuning: functions from their docstrings, and what is forgotten meanwhile.

    python -m lfl_jax.main --config=configs/code_ift.py --workdir=runs/code_ift

Default: LoRA rank 16 on SmolLM2-135M with docstring-to-function pairs of Python's standard library,
a stand-in for
Magicoder-Evol-Instruct-110K: 32 steps of 512 tokens. On 2 cores of an AMD EPYC (Zen 3), jax 0.10.2,
busy with other
work: 8 min 10 s, evaluations included; held-out target NLL 3.121 -> 2.001 nats/token (29
functions).
Arguments: those of configs/math_ift.py. :paper is Llama-2-7B on Magicoder-Evol-Instruct-110K;
HumanEval with 50 samples at temperature 0.2 is run in a sandbox.
"""

from lfl_jax.configs import settings
from ml_collections import config_dict

LAPTOP = (
    settings.LAPTOP_RUN
    | settings.LAPTOP_CODE
    | {
        "data.source": "docstring_functions",
        "data.too_long": "skip",
    }
)


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    return settings.config("code_ift", argument, LAPTOP)
