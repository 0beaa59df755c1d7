"""The sections of a config, one frozen dataclass each. configs/base.py says what every field is."""

import dataclasses
from typing import Any

from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code

# Fields that travel with a section and are nobody's to set: not in a file, a flag or a record.
NO_OPTION = {"option": False}
# Fields that earlier records lack. At their default, which is what those runs did, they are no part
# of the hash: a run, or a base that was cached, is found again after a field was added.
LATER = {"later": True}


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a config.

    code: what it may run of one's own. It travels with the section and is never recorded.
    """

    code: Code = dataclasses.field(
        default=own_code.NOTHING, kw_only=True, repr=False, metadata=NO_OPTION
    )


def options(cls: Any) -> list[dataclasses.Field]:
    """The fields of a section, or of a config, that configs/base.py lists."""
    return [field for field in dataclasses.fields(cls) if field.metadata.get("option", True)]


@dataclasses.dataclass(frozen=True)
class ModelSection(Section):
    """Which weights, and how they are held and computed with."""

    name: str
    path: str
    tokenizer: str
    init: str
    compute_dtype: str
    base_dtype: str
    remat: str
    attention_dropout: float


@dataclasses.dataclass(frozen=True)
class AdapterConfig(Section):
    """Which adapters, where, with which rank; `kinds` are the parts of `kind`."""

    kind: str = "lora"
    rank: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    init: str = dataclasses.field(default="b_zero", metadata=LATER)
    scaling: str = "alpha/rank"
    mora_rounding: str = "nearest"
    dora_norm: str = "output"
    dora_norm_gradient: bool = False
    path: str = ""
    over: str = ""
    subspace_dim: int = dataclasses.field(default=128, metadata=LATER)
    start_config: str = dataclasses.field(default="", metadata=LATER)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds at every target; empty without adapters."""
        # "lora+ia3" is a mix of two.
        return () if self.kind == "none" else tuple(self.kind.split("+"))


@dataclasses.dataclass(frozen=True)
class OptimConfig(Section):
    """Optimizer and learning-rate schedule."""

    name: str
    lr: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip: float
    schedule: str
    warmup_steps: int
    warmup_fraction: float
    final_fraction: float
    cooldown_fraction: float
    lora_plus: float = 1.0


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """What keeps a model near its base, beside the loss."""

    l2: float = 0.0
    non_target_kl: float = 0.0


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """When spectra are taken while training, and of which weights."""

    every: int = 0
    modules: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, and how many sequences per step."""

    steps: int
    tokens: float
    epochs: float
    branch_from: str
    batch: int
    microbatch: int

    @property
    def rows(self) -> int:
        """Sequences of a forward pass, over all devices."""
        return self.microbatch or self.batch

    @property
    def microbatches(self) -> int:
        """Forward passes of a step."""
        return self.batch // self.rows


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Training source, prompt format and packing."""

    source: str
    path: str
    size: int
    seq_len: int
    template: str
    too_long: str
    pack_bins: int
    uuid_prompt: str = "{key}"
    uuid_hyphens: bool = False
    packing: str = "first_fit"
    packing_ratio: float = 1.0
    streams: int = dataclasses.field(default=1, metadata=LATER)
    cross_document: str = "isolate"
    # Items of level 1, 2 and 3 of the word problems, of their sum.
    levels: tuple[int, int, int] = (0, 0, 1)
    columns: str = ""
    dev_path: str = ""
    test_path: str = ""
    loss_turns: str = "all"
    end_token: str = ""
    seed: int | None = None
    world: int = 0
    shuffle_responses: bool = dataclasses.field(default=False, metadata=LATER)
    shared: float = dataclasses.field(default=0.75, metadata=LATER)


@dataclasses.dataclass(frozen=True)
class EvalConfig(Section):
    """What is measured, on how many items, and how."""

    tasks: tuple[str, ...]
    limit: int | None
    base_tasks: tuple[str, ...]
    base_shots: int
    every: int
    every_tokens: float
    every_tasks: tuple[str, ...]
    rows: int
    seq_len: int
    max_new_tokens: int
    generate_rows: int
    shots: int
    shots_from: str
    samples: int
    temperature: float
    top_p: float
    allow_weak_sandbox: bool
    source_text: str
    decontaminate: bool
    files: tuple[str, ...]
    log_spaced: int = 0

    def items(self, tasks: tuple[str, ...]) -> dict[str, int]:
        """{task: number of items, 0 = all} of "name:n" strings.

        `limit` replaces n where it is set.
        """
        pairs = map(name_and_items, tasks)
        return {name: int(n or 0) if self.limit is None else self.limit for name, n in pairs}


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int
    keep: int
    best: str


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one may be -1. auto: they are chosen."""

    data: int
    fsdp: int
    tensor: int
    # no part of the repr, which names the records that bases already have
    auto: bool = dataclasses.field(default=False, repr=False, metadata=LATER)


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Independent seeds."""

    data: int
    init: int
    dropout: int
    sample: int


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written while training."""

    every: int
    tensorboard: bool
    wandb: str
    profile: str
    wandb_group: str = dataclasses.field(default="", metadata=LATER)


def name_and_items(task: str) -> tuple[str, str]:
    """("gsm8k", "8") of "gsm8k:8"; "" without a number.

    Of "FILE.py:NAME:8", ("FILE.py:NAME", "8").
    """
    if not own_code.is_place(task):
        return task.partition(":")[::2]
    name = ":".join(own_code.split(task))
    return name, task.strip().removeprefix(name).removeprefix(":")
