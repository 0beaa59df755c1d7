"""MoRA's memorisation task (Jiang et al., arXiv 2405.12130, §3 and §5.1): the value of a random
UUID, given its key.

    python -m lfl_jax.main --config=configs/uuid.py --workdir=runs/uuid

Default: LoRA rank 8 on SmolLM2-135M, 8 pairs, all of them in every step. What is measured is
memory: the values of the training pairs, generated greedily, digit by digit (dev/uuid_recall in
metrics.jsonl, evals/after/uuid_recall.jsonl). On 2 cores of an AMD EPYC (Zen 3), jax 0.10.2, shared
with other work: 9 min; 8.6 % of the digits at step 10 (9.8 % is what the format alone gives), 18.4
% at step 20, 100 % at steps 30 and 40.
Argument string, words joined by commas:
    full | full_linear | lora | mora | mora_sharing1 | ...   what trains (default lora)
    r=64, alpha=128, lr=2e-4, steps=20
    paper    Llama-2-7B on 10,000 pairs with MoRA's protocol; its operator is sharing: :paper,mora_sharing1
    smoke    a tiny random model and a few steps, in seconds: for tests; its scores mean nothing
benchmarks/uuid_memorisation.py compares methods at one size, with learning rates searched for each.
"""

from lfl_jax.configs import base
from ml_collections import config_dict


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config for an argument string; raises ValueError for a word it does not know."""
    words = [w for w in argument.split(",") if w]
    c = base.base()
    full, mora = base.is_full(words), any(w.startswith("mora") for w in words)
    c.adapter.rank = 8
    c.optim.lr, c.optim.schedule = 1e-4 if full else 1e-3, "constant"
    c.train.steps = 40
    recall(c, pairs=8, every=10)
    # 4 pairs a row: all of them in every step
    c.data.seq_len, c.data.pack_bins, c.train.batch = 288, 2, 2
    if "smoke" in words:
        smoke(c)
    if "paper" in words:
        paper(c, full, mora)
    unknown = base.apply(c, ",".join(w for w in words if w not in ("smoke", "paper")))
    if unknown:
        raise ValueError(
            f"unknown argument {', '.join(sorted(unknown))} of configs/uuid.py; see its docstring"
        )
    if full:
        c.adapter.rank = c.adapter.alpha = None
    return c


def recall(c: config_dict.ConfigDict, pairs: int, every: int) -> None:
    """Train on this many pairs; generate the values of them all at the start, the end and every so
    many steps."""
    c.data.source, c.data.size = "uuid", pairs
    c.eval.tasks = c.eval.every_tasks = (f"uuid_recall:{pairs}",)
    c.eval.every = c.checkpoint.every = every
    c.eval.max_new_tokens, c.eval.generate_rows = 48, min(pairs, 64)


def smoke(c: config_dict.ConfigDict) -> None:
    """Seconds on a CPU: a tiny random model, byte tokens."""
    c.model.name, c.model.init = "tiny", "random"
    recall(c, pairs=4, every=2)
    c.data.seq_len, c.train.batch, c.train.steps = 90, 4, 4


def paper(c: config_dict.ConfigDict, full: bool, mora: bool) -> None:
    """Section 3: 100 epochs of 10,000 pairs, 1,000 a step. A row of 96 tokens has room for one
    pair.

    Learning rates are the middle of the paper's grids: LoRA 1e-4, 2e-4, 3e-4; MoRA 5e-5, 1e-4,
    2e-4; full 3e-5.
    Left open there: the prompt, hyphens, alpha, optimizer and schedule. For MoRA it speaks of
    sharing.
    """
    c.model.name = "llama2-7b"
    c.model.compute_dtype, c.model.base_dtype, c.model.remat = "bfloat16", "bfloat16", "full"
    recall(c, pairs=10000, every=100)
    c.data.seq_len, c.train.batch, c.train.steps = 96, 1000, 1000
    c.optim.lr = 3e-5 if full else 1e-4 if mora else 2e-4
