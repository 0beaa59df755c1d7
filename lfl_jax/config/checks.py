"""Legal values of the fields of a config, and fields that contradict each other."""

import difflib
from collections.abc import Sequence

from lfl_jax.config import Config, own_code
from lfl_jax.config.sections import name_and_items

QUANTISED = ("int8", "nf4")  # values of model.base_dtype that hold linear weights in fewer bits
CHOICES: dict[str, tuple[str, ...]] = {
    "model.init": ("pretrained", "random"),
    "model.compute_dtype": ("float32", "bfloat16"),
    "model.base_dtype": ("float32", "bfloat16", "int8", "nf4"),
    "model.remat": ("none", "selective", "full"),
    "adapter.init": ("b_zero", "a_zero"),
    "adapter.scaling": ("alpha/rank", "alpha/sqrt(rank)"),
    "adapter.mora_rounding": ("nearest", "floor"),
    "adapter.dora_norm": ("output", "input"),
    "optim.name": ("adamw", "lionw", "sgd", "adafactor", "lamb", "muon"),
    "optim.schedule": ("cosine", "linear", "trapezoid", "constant"),
    "data.too_long": ("error", "skip", "truncate"),
    "data.packing": ("first_fit", "concat", "ratio"),
    "data.cross_document": ("isolate", "attend"),
    "data.loss_turns": ("all", "last"),
    "eval.shots_from": ("fixed", "lm_eval"),
}
# field -> lowest and highest legal value
RANGES: dict[str, tuple[float, float]] = {
    "model.attention_dropout": (0, 0.99),
    "adapter.dropout": (0, 0.99),
    "adapter.subspace_dim": (1, 1e9),
    "optim.lr": (0, 1e3),
    "optim.b1": (0, 0.999999),
    "optim.b2": (0, 0.999999999),
    "optim.eps": (0, 1),
    "optim.weight_decay": (0, 1),
    "optim.clip": (0, 1e9),
    "optim.warmup_steps": (0, 1e12),
    "optim.warmup_fraction": (0, 1),
    "optim.final_fraction": (0, 1),
    "optim.cooldown_fraction": (0, 1),
    "optim.lora_plus": (1e-3, 1e3),
    "penalty.l2": (0, 1e9),
    "penalty.non_target_kl": (0, 1e9),
    "train.steps": (0, 1e12),
    "train.tokens": (0, 1e15),
    "train.epochs": (0, 1e9),
    "train.batch": (1, 1e9),
    "train.microbatch": (0, 1e9),
    "data.size": (1, 1e12),
    "data.world": (0, 2**32 - 1),
    "data.shared": (0, 1),
    "data.seq_len": (2, 1e9),
    "data.pack_bins": (1, 1e6),
    "data.packing_ratio": (1, 1e4),
    "data.streams": (1, 1e6),
    "eval.base_shots": (0, 100),
    "eval.every": (0, 1e12),
    "eval.every_tokens": (0, 1e18),
    "eval.log_spaced": (0, 1e4),
    "eval.rows": (1, 1e6),
    "eval.seq_len": (16, 1e9),
    "eval.max_new_tokens": (1, 1e6),
    "eval.generate_rows": (1, 1e6),
    "eval.shots": (0, 100),
    "eval.samples": (1, 1e4),
    "eval.temperature": (0, 10),
    "eval.top_p": (1e-6, 1),
    "analysis.every": (0, 1e12),
    "checkpoint.every": (0, 1e12),
    "checkpoint.keep": (1, 1e6),
    "log.every": (1, 1e12),
}


def illegal(name: str, value: object) -> list[str]:
    """The problems of a value of "section.field" by itself: no such choice, out of range."""
    if name in CHOICES and value not in CHOICES[name] and not own_code.places(name, value):
        own = (
            f", or your own as FILE.py:NAME ({own_code.FIELDS[name].what})"
            if name in own_code.FIELDS
            else ""
        )
        near = did_you_mean(value, CHOICES[name])
        return [f"config.{name}={value!r} must be one of {', '.join(CHOICES[name])}{own}{near}"]
    low, high = RANGES.get(name, (None, None))
    if low is not None and not low <= value <= high:
        return [f"config.{name}={value!r} must be between {low:g} and {high:g}"]
    return []


def did_you_mean(word: object, words: Sequence[str]) -> str:
    """ "; did you mean 'cosine'?" where one of the words is near."""
    near = difflib.get_close_matches(str(word), words, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def contradictions(c: Config) -> list[str]:
    """The contradictions between fields, in the words of the person who wrote them."""
    return _adapter_problems(c) + _train_problems(c) + _eval_problems(c) + _log_problems(c)


def warnings(c: Config, steps: int, window: int | None = None) -> list[str]:
    """What this config, over a run of so many optimizer steps, does otherwise than it seems to say.

    window: tokens that the model's attention reaches back, None for all.
    """
    texts, o = _rows_beyond(c, window), c.optim
    warmup = o.warmup_steps or round(o.warmup_fraction * steps)
    if warmup >= steps:
        texts.append(
            f"the warmup of {warmup} steps is no shorter than the run of {steps}: the learning rate"
            " never reaches"
            f" config.optim.lr={o.lr:g}; lower config.optim.warmup_steps or warmup_fraction"
        )
    if o.weight_decay >= STRONG_DECAY:
        texts.append(
            f"config.optim.weight_decay={o.weight_decay:g} takes {o.weight_decay:.0%} off every"
            " trained weight in each step at the peak: it is not multiplied by the learning rate."
            f" PyTorch's AdamW with weight_decay {o.weight_decay:g} is"
            f" config.optim.weight_decay={o.weight_decay * o.lr:g} here"
        )
    if c.log.profile and int(c.log.profile.partition(":")[0]) > steps:
        texts.append(
            f"config.log.profile={c.log.profile} is beyond the run of {steps} steps: there is no"
            " profile"
        )
    if o.lora_plus != 1 and not c.adapter.kinds:
        texts.append(f"config.optim.lora_plus={o.lora_plus:g} changes nothing: there is no adapter")
    for name, (shortest, follows) in BEYOND.items():
        every = getattr(c, name).every
        if every > steps >= shortest:
            texts.append(
                f"config.{name}.every={every} is beyond the run of {steps} steps: {follows}"
            )
    return texts


def _rows_beyond(c: Config, window: int | None) -> list[str]:
    """Rows for which attention needs the general kernel, whose mask has T x T entries."""
    fields = {"config.data.seq_len": c.data.seq_len, "config.eval.seq_len": c.eval.seq_len}
    long = [
        f"{name}={length}"
        for name, length in fields.items()
        if window is not None and length > window
    ]
    if not long:
        return []
    return [
        f"rows longer than this model's sliding window of {window} tokens ({' and '.join(long)})"
        " are computed as they should be, but in memory that grows with the square of the row; set"
        f" at most {window} to avoid that"
    ]


STRONG_DECAY = 0.01  # of a weight, per step: after 100 such steps a third is left
# section whose `every` may be beyond the run -> steps from which that matters, and what follows
# from it
BEYOND = {
    "eval": (1, "it is evaluated before and after only"),
    "log": (1, "metrics.jsonl gets no training loss"),
    "analysis": (1, "spectra are taken after the last step only"),
    "checkpoint": (200, "only its end is saved, and a crash loses all of it"),
}


def _adapter_problems(c: Config) -> list[str]:
    a, problems = c.adapter, []
    adapts = any(p.startswith("adapter") or p.startswith(".") for p in c.trainable)
    if a.alpha is not None and (a.rank is None or not a.kinds):
        problems.append(
            f"config.adapter.alpha={a.alpha:g} is given without a rank; set config.adapter.rank"
            " (and a kind)"
        )
    if a.rank is not None and a.rank < 1:
        problems.append(f"config.adapter.rank={a.rank} must be at least 1")
    if a.alpha is not None and a.alpha <= 0:
        problems.append(f"config.adapter.alpha={a.alpha:g} must be positive")
    if a.kinds and not a.targets:
        problems.append(
            "config.adapter.targets is empty; name modules such as ('q','v'), or set"
            " config.adapter.kind=none"
        )
    if not a.kinds and adapts:
        problems.append(
            "config.trainable names adapter paths, but config.adapter.kind is none; use the :full"
            " argument"
        )
    if not a.kinds and a.init != "b_zero":
        problems.append(f"config.adapter.init={a.init} is given without an adapter")
    if a.path and a.over:
        problems.append(
            "config.adapter.path and config.adapter.over both say what there is at the start; give"
            " one"
        )
    if a.over and not a.kinds:
        problems.append(
            "config.adapter.over is under a new adapter; set config.adapter.kind (and rank)"
        )
    if a.start_config and not (a.path or a.over):
        problems.append(
            f"config.adapter.start_config={a.start_config} is of the run to start from; name its"
            " directory with config.adapter.path or config.adapter.over"
        )
    if c.analysis.every and not c.analysis.modules:
        problems.append(
            "config.analysis.modules is empty; name modules such as ('q','v'), or set"
            " config.analysis.every=0"
        )
    if not c.trainable:
        problems.append(
            "config.trainable is empty: nothing would train; use ('adapter/.*',) or ('params/.*',)"
        )
    trains_base = any(p.startswith("params") for p in c.trainable)
    if "dora" in a.kinds and trains_base:
        problems.append("DoRA's norms belong to a frozen base; do not train params/... beside it")
    if c.model.base_dtype in QUANTISED and trains_base:
        problems.append(
            f"config.model.base_dtype={c.model.base_dtype} is for a frozen base; do not train"
            " params/..."
        )
    if "loftq" in a.kinds and c.model.base_dtype not in QUANTISED:
        problems.append(
            "loftq corrects a quantised base; set config.model.base_dtype=nf4 (or int8)"
        )
    return problems


ANY_MESH = (1, -1, 1)  # data, fsdp and tensor of configs/base.py


def _train_problems(c: Config) -> list[str]:
    t, problems = c.train, []
    if t.microbatch and t.batch % t.microbatch:
        problems.append(
            f"config.train.microbatch={t.microbatch} does not divide config.train.batch={t.batch}"
        )
    elif t.rows % c.data.streams:
        problems.append(
            f"config.data.streams={c.data.streams} does not divide the {t.rows} rows of a"
            " microbatch (config.train.microbatch, or batch without it)"
        )
    if t.steps == 0 and t.epochs == 0 and t.tokens == 0:
        problems.append("config.train.steps, tokens and epochs are all 0: nothing to do")
    if min(c.data.levels) < 0 or not any(c.data.levels):
        problems.append(
            f"config.data.levels={c.data.levels} must be three numbers >= 0, not all 0, such as (6,"
            " 3, 1)"
        )
    if t.steps and t.tokens:
        problems.append(
            f"config.train.steps={t.steps} and config.train.tokens={t.tokens:g} both say how long;"
            " give one"
        )
    if t.branch_from and (c.optim.schedule != "trapezoid" or not c.optim.warmup_steps):
        problems.append(
            "config.train.branch_from needs config.optim.schedule=trapezoid and warmup_steps: only"
            " then does a shorter run begin like a longer one"
        )
    if c.optim.lr == 0:
        problems.append("config.optim.lr is 0: nothing would be learned")
    sizes = (c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
    if 0 in sizes:
        problems.append("config.mesh sizes must be positive, or -1 for one of them")
    if c.mesh.auto and sizes != ANY_MESH:
        problems.append(
            f"config.mesh.auto chooses the mesh; leave out data={sizes[0]}, fsdp={sizes[1]},"
            f" tensor={sizes[2]}, or auto"
        )
    return problems


def _eval_problems(c: Config) -> list[str]:
    problems = []
    for pair in c.eval.files:
        if not all(pair.partition("=")[::2]):
            problems.append(
                f"config.eval.files: {pair!r} must be DATASET=PATH, for example"
                " mmlu-test=data/mmlu/test"
            )
    if c.eval.samples > 1 and c.eval.temperature == 0:
        problems.append(
            "config.eval.samples are all the same at config.eval.temperature=0; set it, for example"
            " to 0.2"
        )
    problems += _several_intervals(c)
    for task in (*c.eval.tasks, *c.eval.base_tasks, *c.eval.every_tasks):
        items = name_and_items(task)[1]
        if items and not items.isdigit():
            problems.append(f"evaluation {task!r} must be a name, or name:n with n items")
    return problems


def _several_intervals(c: Config) -> list[str]:
    """When to evaluate during training is said once."""
    e = c.eval
    values = {"every": e.every, "every_tokens": e.every_tokens, "log_spaced": e.log_spaced}
    given = [f"config.eval.{name}={value:g}" for name, value in values.items() if value]
    problems = [f"{' and '.join(given)} each say when; give one"] if len(given) > 1 else []
    # One step alone is both the first and the last.
    if e.log_spaced == 1:
        problems.append(
            "config.eval.log_spaced=1 must be 0 or at least 2: the first and the last step"
        )
    return problems


# meant as such, where a name is asked for
SWITCHES = ("true", "false", "yes", "no", "on", "off", "1", "0", "none")


def _log_problems(c: Config) -> list[str]:
    problems = []
    first, _, last = c.log.profile.partition(":")
    if c.log.profile and not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
        problems.append(
            f"config.log.profile={c.log.profile!r} must be FIRST:LAST, steps from 1 on, such as"
            " 10:15"
        )
    if c.log.wandb.lower() in SWITCHES:
        problems.append(
            f"config.log.wandb={c.log.wandb!r} must be the name of a project, such as"
            " --config.log.wandb=lfl; leave it out to log nothing there"
        )
    return problems
