"""Code instruction finetuning: functions from their docstrings, and what is forgotten meanwhile.

    python -m lfl_jax.main --config=configs/code_ift.py --workdir=runs/code_ift

Default: LoRA rank 16 on SmolLM2-135M with docstring-to-function pairs of Python's standard library, a stand-in for
Magicoder-Evol-Instruct-110K: 32 steps of 512 tokens. On 2 cores of an AMD EPYC (Zen 3), jax 0.10.2, busy with other
work: 8 min 10 s, evaluations included; held-out target NLL 3.121 -> 2.001 nats/token (29 functions).
Arguments: those of configs/math_ift.py. :paper is Llama-2-7B on Magicoder-Evol-Instruct-110K; HumanEval with 50 samples
at temperature 0.2 is run in a sandbox.
"""

from lfl_jax.configs import settings
from ml_collections import config_dict

LAPTOP = {
    "data.source": "docstring_functions",
    "data.seq_len": 512,
    "data.too_long": "skip",
    "train.batch": 1,
    "train.steps": 32,
    "eval.tasks": (
        "humaneval:4",
        "target_nll:40",
        "source_nll:16",
        "hellaswag:40",
        "arc_challenge:40",
        "winogrande:40",
    ),
    "eval.samples": 2,
    "eval.temperature": 0.2,
    "eval.top_p": 0.95,
}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    return settings.config("code_ift", argument, LAPTOP)
