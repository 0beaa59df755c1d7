"""Maths instruction finetuning: what is learned, and what is forgotten.

    python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/math_ift

Default: LoRA rank 16 on SmolLM2-135M with generated (synthetic) word problems of three levels, for
two CPU cores: 48 steps of 256 tokens. On 2 cores of an AMD EPYC (Zen 4), jax 0.10.2: 3 min 39 s,
evaluations included. Held-out problems
answered exactly: level 1 (one step) 1 -> 37 of 48, level 2 (two steps) 0 -> 6 of 24, level 3 (up to
six) 0 -> 0 of 8.
Argument string, words joined by commas:
    full | full_linear | lora | rslora | qlora | pissa | dora | vera | mora | ia3 | lora+dora | ...   what trains
    attention | mlp | all   the modules that are adapted
    r=64, alpha=128, lr=2e-4, steps=20, epochs=4, tokens=1e9
    paper    Llama-2-7B on MetaMathQA with the protocol of "LoRA Learns Less and Forgets Less" (v2, appendix A);
             paper_v1: its first version's (alpha 32, no gate_proj); 13b: with Llama-2-13B
    smoke    a tiny random model and a few steps, in seconds: for tests; its scores mean nothing
For example --config=configs/math_ift.py:paper,full or :smoke,dora,r=4.
"""

from lfl_jax.configs import settings
from ml_collections import config_dict

LAPTOP = {
    "data.levels": (6, 3, 1),
    "train.batch": 1,
    "train.steps": 48,
    "eval.tasks": ("source_test:80", *settings.LAPTOP_TASKS),
    "eval.base_tasks": ("source_test_shots:40",),
    "eval.max_new_tokens": 112,  # the longest answer has 105
    "eval.generate_rows": 40,
}


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    return settings.config("math_ift", argument, LAPTOP)
