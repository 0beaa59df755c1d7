"""A run's config: ml_collections on the outside, validated frozen dataclasses inside, turned once."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lfl_jax import locations
from lfl_jax.errors import mistakes


@dataclasses.dataclass(frozen=True)
class ModelSection:
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
class AdapterConfig:
    """Which adapters, where, with which rank; `kinds` are the parts of `kind`."""

    kind: str = "lora"
    rank: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    scaling: str = "alpha/rank"
    mora_rounding: str = "nearest"
    dora_norm: str = "output"
    dora_norm_gradient: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the kinds at every target; empty without adapters."""
        return () if self.kind == "none" else tuple(self.kind.split("+"))


@dataclasses.dataclass(frozen=True)
class OptimConfig:
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
class TrainConfig:
    """How long, and how many sequences per step."""

    steps: int
    tokens: float
    epochs: float
    branch_from: str
    batch: int
    microbatch: int


@dataclasses.dataclass(frozen=True)
class DataConfig:
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
    cross_document: str = "isolate"
    levels: tuple[int, int, int] = (0, 0, 1)
    columns: str = ""
    dev_path: str = ""
    test_path: str = ""
    loss_turns: str = "all"
    end_token: str = ""


@dataclasses.dataclass(frozen=True)
class EvalConfig:
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

    def items(self, tasks: tuple[str, ...]) -> dict[str, int]:
        """{task: number of items, 0 = all} of "name:n" strings, with `limit` in place of n where it is set."""
        pairs = [task.partition(":")[::2] for task in tasks]
        return {name: int(n or 0) if self.limit is None else self.limit for name, n in pairs}


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int
    keep: int
    best: str


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one may be -1."""

    data: int
    fsdp: int
    tensor: int


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


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. Fields are documented, with units and legal values, in configs/base.py."""

    model: ModelSection
    adapter: AdapterConfig
    trainable: tuple[str, ...]
    optim: OptimConfig
    train: TrainConfig
    data: DataConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    mesh: MeshConfig
    seed: SeedConfig
    log: LogConfig

    @classmethod
    def from_dict(cls, values: Any) -> "Config":
        """From a ConfigDict or nested dict. UserError for unknown or missing fields, wrong types, contradictions."""
        config, problems = cls.read(values)
        if problems:
            raise mistakes(problems)
        return config

    @classmethod
    def read(cls, values: Any) -> tuple["Config | None", list[str]]:
        """From a ConfigDict or nested dict, and everything that is wrong with it; None where a field is."""
        from lfl_jax import config_checks, config_values

        problems: list[str] = []
        config = config_values.build(cls, values, "config", problems)
        return config, problems or config_checks.contradictions(config)

    @classmethod
    def from_record(cls, values: dict) -> "Config":
        """From the JSON object of a run directory; fields newer than the run have their default."""
        from lfl_jax import config_values
        from lfl_jax.configs import base

        return cls.from_dict(config_values.with_defaults(config_values.as_tuples(values), base.base().to_dict()))

    def with_places(self, change: locations.Change) -> "Config":
        """Every place on this machine that the config names (`locations.FIELDS`), changed."""
        sections: dict[str, dict] = {}
        for path, apply in locations.FIELDS.items():
            section, field = path.split(".")
            value = getattr(getattr(self, section), field)
            sections.setdefault(section, {})[field] = apply(value, change)
        changed = {name: dataclasses.replace(getattr(self, name), **fields) for name, fields in sections.items()}
        return dataclasses.replace(self, **changed)

    def to_json(self) -> str:
        """Canonical JSON, as written to the run directory."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    def hash(self) -> str:
        """12 hex digits of what the config trains: sections that may change between resumed runs do not count.

        Nor does where files lie on this machine: what is in them is compared by content (base, data, evaluation items).
        """
        here = self.with_places(lambda place: place if not place or place.startswith(locations.SHARED) else "here")
        values = {name: x for name, x in dataclasses.asdict(here).items() if name not in MAY_CHANGE}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def parse(argv: Sequence[str], usage: str, extra: dict[str, tuple[Any, str]]) -> tuple[Config, dict[str, Any]]:
    """`command_line.parse`: config and values of the extra flags."""
    from lfl_jax import command_line

    return command_line.parse(argv, usage, extra)


# Sections that may differ when a run is resumed: they change what is printed, measured or kept, not what is trained.
MAY_CHANGE = ("log", "checkpoint", "mesh", "eval")
