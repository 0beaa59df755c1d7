"""The four settings of "LoRA Learns Less and Forgets Less" (arXiv 2405.09673): what their configs
share.

PAPER is the protocol of the paper's second version (appendix A). What it leaves open is a field of
base.py with its alternatives, and named where it is set below.
"""

from lfl_jax.configs import base
from ml_collections import config_dict

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
TARGETS = {"attention": ATTENTION, "mlp": MLP, "all": ATTENTION + MLP}
# no gate_proj
TARGETS_V1 = {"attention": ATTENTION, "mlp": ("up", "down"), "all": (*ATTENTION, "up", "down")}
FORGETTING = ("hellaswag_gauntlet", "arc_challenge_gauntlet", "winogrande_gauntlet")
# lr_high_rank: for rank 256, where the other was unstable
PAPER = {
    "code_cpt": {"source": "starcoder_python", "seq_len": 4096, "batch": 192, "lr_full": 1e-5, "lr": 1e-5,
                 "lr_high_rank": 1e-5, "weight_decay": 1e-6},
    "math_cpt": {"source": "openwebmath", "seq_len": 4096, "batch": 192, "lr_full": 1e-5, "lr": 4e-5,
                 "lr_high_rank": 4e-5, "weight_decay": 0.0},
    "code_ift": {"source": "magicoder", "seq_len": 4096, "batch": 192, "lr_full": 5e-5, "lr": 2e-4,
                 "lr_high_rank": 1e-4, "weight_decay": 0.0},
    "math_ift": {"source": "metamath", "seq_len": 1024, "batch": 768, "lr_full": 1e-5, "lr": 1e-4,
                 "lr_high_rank": 5e-5, "weight_decay": 0.0},
}  # fmt: skip
# What the laptop's forms share: SmolLM2-135M on two CPU cores for a few minutes.
LAPTOP_RUN = {"data.seq_len": 512, "train.batch": 1, "train.steps": 32}
LAPTOP_TEXT = LAPTOP_RUN | {
    "data.packing": "concat",
    "optim.schedule": "trapezoid",
    "optim.warmup_steps": 4,
}
LAPTOP_TASKS = (
    "target_nll:40",
    "source_nll:16",
    "hellaswag:40",
    "arc_challenge:40",
    "winogrande:40",
)
LAPTOP_CODE = {
    "eval.tasks": ("humaneval:4", *LAPTOP_TASKS),
    "eval.samples": 2,
    "eval.temperature": 0.2,
    "eval.top_p": 0.95,
}
OWN_WORDS = ("smoke", "paper", "paper_v1", "13b")


def config(name: str, argument: str, laptop: dict) -> config_dict.ConfigDict:
    """The config of a setting: base.py's, the laptop's values {"section.field": value}, then the
    argument's words.

    Raises ValueError for a word that is not known.
    """
    words = [w for w in argument.split(",") if w]
    _check_words(words)
    c = base.base()
    c.adapter.rank = 16
    full = base.is_full(words)
    _set(c, laptop)
    c.optim.lr = 1e-4 if full or "full_delta" in words else 1e-3
    if "smoke" in words:
        smoke(c)
    if "paper" in words or "paper_v1" in words:
        rank = next((int(w[2:]) for w in words if w.startswith("r=")), 16)
        paper(c, name, full, rank, v1="paper_v1" in words)
    if "13b" in words:
        c.model.name = "llama2-13b"
    _targets(c, words)
    rest = [w for w in words if w not in OWN_WORDS and w not in TARGETS]
    unknown = base.apply(c, ",".join(rest))
    if unknown:
        raise ValueError(
            f"unknown argument {', '.join(sorted(unknown))} of configs/{name}.py; see its docstring"
        )
    if full:
        c.adapter.rank = c.adapter.alpha = None
    return c


def _check_words(words: list[str]) -> None:
    base.refuse_several(
        [w for w in words if w in ("smoke", "paper", "paper_v1")], "each is a whole protocol"
    )
    base.refuse_several([w for w in words if w in ("smoke", "13b")], "both name the model")
    modules = [w for w in words if w in TARGETS]
    base.refuse_several(modules, "both say what is adapted; all is every module")
    if modules and base.is_full(words):
        raise ValueError(
            f"full finetuning names its own weights: leave out {modules[0]}, which is for adapters"
        )


def _set(c: config_dict.ConfigDict, values: dict) -> None:
    for path, value in values.items():
        section, field = path.split(".")
        c[section][field] = value


def _targets(c: config_dict.ConfigDict, words: list[str]) -> None:
    sets = TARGETS_V1 if "paper_v1" in words else TARGETS
    for word in words:
        if word in sets:
            c.adapter.targets = sets[word]


def smoke(c: config_dict.ConfigDict) -> None:
    """Seconds on a CPU: a tiny random model, byte tokens."""
    c.model.name, c.model.init = "tiny", "random"
    c.data.size, c.data.seq_len, c.data.too_long = 64, 512, "truncate"
    c.data.levels = (0, 0, 1)
    c.train.steps, c.train.batch = 6, 2
    c.checkpoint.every = 3
    c.eval.tasks, c.eval.every_tasks = ("target_nll:8", "source_test:2"), ("target_nll:4",)
    c.eval.base_tasks = ()
    c.eval.rows, c.eval.seq_len, c.eval.max_new_tokens, c.eval.generate_rows = 2, 512, 8, 2


def paper(c: config_dict.ConfigDict, name: str, full: bool, rank: int, v1: bool) -> None:
    """The protocol for Llama-2-7B. v1: the first version's, which most summaries quote: alpha 32,
    no gate_proj."""
    p, code, cpt = PAPER[name], name.startswith("code"), name.endswith("cpt")
    c.model.name = "llama2-7b"
    c.model.compute_dtype, c.model.base_dtype, c.model.remat = "bfloat16", "bfloat16", "full"
    c.adapter.dropout = 0.0 if full else 0.05
    if v1:
        c.adapter.alpha, c.adapter.targets = 32.0, TARGETS_V1["all"]
    c.data.source, c.data.seq_len, c.train.batch = p["source"], p["seq_len"], p["batch"]
    c.optim.lr = p["lr_full"] if full else p["lr_high_rank"] if rank >= 256 else p["lr"]
    c.optim.name, c.optim.b1, c.optim.b2 = "lionw", 0.9, 0.95
    c.optim.weight_decay, c.optim.clip = p["weight_decay"], 1.0
    _pretraining(c) if cpt else _instructions(c, code)
    asked = "humaneval" if code else "gsm8k"
    # continued pretraining has no format of its own
    both_ways = (asked,) if cpt else (asked, f"{asked}_trained")
    c.eval.tasks = (*both_ways, "target_nll:512", "source_nll:512", *FORGETTING)
    c.eval.base_tasks = () if code or cpt else ("source_test_shots:200",)
    c.eval.samples, c.eval.temperature, c.eval.top_p = (50, 0.2, 0.95) if code else (1, 0.0, 1.0)
    c.eval.shots, c.eval.shots_from, c.eval.max_new_tokens = 5, "lm_eval", 512 if code else 256
    c.eval.seq_len, c.eval.rows, c.eval.generate_rows = min(p["seq_len"], 2048), 32, 64


def _pretraining(c: config_dict.ConfigDict) -> None:
    """20B tokens; shorter ones (0.25, 0.5, 1, 2, 4, 8, 16B) branch off with tokens=4e9 and
    train.branch_from.

    Left open: whether attention crosses documents (llm-foundry's default, which lets it, is taken).
    """
    c.train.steps, c.train.tokens = 0, 20e9
    c.data.packing, c.data.cross_document, c.data.template, c.data.too_long = (
        "concat",
        "attend",
        "plain",
        "truncate",
    )
    c.optim.schedule, c.optim.warmup_steps, c.optim.cooldown_fraction = "trapezoid", 1000, 0.2
    c.checkpoint.every, c.checkpoint.keep = 250, 200
    # hours for 20B tokens: python -m lfl_jax.inspect_data --decontaminate, once
    c.eval.decontaminate = False


def _instructions(c: config_dict.ConfigDict, code: bool) -> None:
    """1, 2, 4, 8, 16 epochs, each a run of its own (epochs=4). Left open: template, loss mask,
    packing and its mask.

    For code, the 193 steps an epoch that are stated mean three examples a row: llm-foundry's
    packing_ratio.
    """
    c.train.steps, c.train.tokens, c.train.epochs = 0, 0.0, 1.0
    c.data.template, c.data.too_long = "alpaca", "truncate"
    if code:
        c.data.packing, c.data.packing_ratio, c.data.pack_bins = "ratio", 3.0, 6
    c.optim.schedule, c.optim.warmup_fraction, c.optim.final_fraction = "cosine", 0.1, 0.01
    c.checkpoint.every = 100
