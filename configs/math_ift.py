"""Maths instruction finetuning: what is learned, and what is forgotten.

    python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/math_ift

Default: LoRA rank 16 on SmolLM2-135M with generated (synthetic) word problems, for two CPU cores: 32 steps of 512
tokens. On 2 cores of an AMD EPYC (Zen 3), jax 0.10.2: 3 min 50 s, evaluations included; held-out target NLL
1.691 -> 1.017 nats/token (40 problems).
Argument string, words joined by commas:
    full | lora | rslora | qlora | pissa | dora | vera | mora | ia3 | bottleneck | lora+dora | ...   what trains
    r=64, alpha=128, lr=2e-4, steps=20
    paper    Llama-2-7B on MetaMathQA with the protocol of "LoRA Learns Less and Forgets Less" (v2, appendix A)
    smoke    a tiny random model and a few steps, in seconds: for tests; its scores mean nothing
For example --config=configs/math_ift.py:paper,full or :smoke,dora,r=4.
"""

from lfl_jax.configs import base
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    words = [w for w in argument.split(",") if w]
    c = base.base()
    c.adapter.rank = 16
    full = "full" in words
    c.optim.lr = 1e-4 if full or "full_delta" in words else 1e-3
    c.train.steps = 32
    if "smoke" in words:
        smoke(c)
    if "paper" in words:
        paper(c, full, rank=next((int(w[2:]) for w in words if w.startswith("r=")), 16))
    unknown = base.apply(c, ",".join(w for w in words if w not in ("smoke", "paper")))
    if unknown:
        raise ValueError(f"unknown argument {', '.join(sorted(unknown))} of configs/math_ift.py; see its docstring")
    if full:
        c.adapter.rank = c.adapter.alpha = None
    return c


def smoke(c: config_dict.ConfigDict) -> None:
    """Seconds on a CPU: a tiny random model, byte tokens."""
    c.model.name, c.model.init = "tiny", "random"
    c.data.size, c.data.seq_len, c.data.too_long = 64, 512, "truncate"
    c.train.steps, c.train.batch = 6, 2
    c.checkpoint.every = 3
    c.eval.tasks, c.eval.every_tasks = ("target_nll:8", "source_test:2"), ("target_nll:4",)
    c.eval.rows, c.eval.seq_len, c.eval.max_new_tokens, c.eval.generate_rows = 2, 512, 8, 2


def paper(c: config_dict.ConfigDict, full: bool, rank: int) -> None:
    """Table of the paper's appendix A, column Math IFT. Left open there: template, loss mask, packing mask."""
    c.model.name = "llama2-7b"
    c.model.compute_dtype, c.model.base_dtype, c.model.remat = "bfloat16", "bfloat16", "full"
    c.adapter.dropout = 0.0 if full else 0.05
    c.data.source, c.data.seq_len, c.data.template, c.data.too_long = "metamath", 1024, "alpaca", "truncate"
    c.train.steps, c.train.batch, c.train.epochs = 0, 768, 1.0  # the paper: 1, 2, 4, 8, 16, each its own run
    c.optim.name, c.optim.b1, c.optim.b2 = "lionw", 0.9, 0.95
    c.optim.lr = 1e-5 if full else (5e-5 if rank >= 256 else 1e-4)
    c.optim.schedule, c.optim.warmup_fraction, c.optim.final_fraction = "cosine", 0.1, 0.01
    c.optim.weight_decay, c.optim.clip = 0.0, 1.0
    c.eval.tasks = ("gsm8k", "target_nll:512", "source_nll:512", "hellaswag", "arc_challenge", "winogrande")
    c.eval.shots, c.eval.shots_from, c.eval.max_new_tokens = 5, "lm_eval", 256
    c.eval.seq_len, c.eval.rows, c.eval.generate_rows = 1024, 32, 64
    c.checkpoint.every = 100
