"""A run's config: ml_collections on the outside, validated frozen dataclasses inside, turned once."""

import dataclasses
import hashlib
import json
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any

from lfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ModelSection:
    """Which weights, and how they are held and computed with."""

    name: str
    path: str
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
        config = _build(cls, values, "config")
        for problem in _contradictions(config):
            raise UserError(problem)
        return config

    @classmethod
    def from_record(cls, values: dict) -> "Config":
        """From the JSON object of a run directory, whose lists are tuples."""
        return cls.from_dict(_tuples(values))

    def to_json(self) -> str:
        """Canonical JSON, as written to the run directory."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    def hash(self) -> str:
        """12 hex digits of what the config computes: sections that may change between resumed runs do not count."""
        values = {name: x for name, x in dataclasses.asdict(self).items() if name not in MAY_CHANGE}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


# Sections that may differ when a run is resumed: they change what is printed or kept, not what is computed.
MAY_CHANGE = ("log", "checkpoint", "mesh")


QUANTISED = ("int8", "nf4")  # values of model.base_dtype that hold linear weights in fewer bits
CHOICES: dict[str, tuple[str, ...]] = {
    "model.init": ("pretrained", "random"),
    "model.compute_dtype": ("float32", "bfloat16"),
    "model.base_dtype": ("float32", "bfloat16", "int8", "nf4"),
    "model.remat": ("none", "selective", "full"),
    "adapter.scaling": ("alpha/rank", "alpha/sqrt(rank)"),
    "adapter.mora_rounding": ("nearest", "floor"),
    "adapter.dora_norm": ("output", "input"),
    "optim.name": ("adamw", "lionw"),
    "optim.schedule": ("cosine", "trapezoid", "constant"),
    "data.too_long": ("error", "skip", "truncate"),
    "data.packing": ("first_fit", "concat", "ratio"),
    "data.cross_document": ("isolate", "attend"),
    "eval.shots_from": ("fixed", "lm_eval"),
}
# (field, lowest legal, highest legal)
RANGES: tuple[tuple[str, float, float], ...] = (
    ("model.attention_dropout", 0, 0.99),
    ("adapter.dropout", 0, 0.99),
    ("optim.lr", 0, 1e3),
    ("optim.b1", 0, 0.999999),
    ("optim.b2", 0, 0.999999999),
    ("optim.eps", 0, 1),
    ("optim.weight_decay", 0, 1),
    ("optim.clip", 0, 1e9),
    ("optim.warmup_steps", 0, 1e12),
    ("optim.warmup_fraction", 0, 1),
    ("optim.final_fraction", 0, 1),
    ("optim.cooldown_fraction", 0, 1),
    ("optim.lora_plus", 1e-3, 1e3),
    ("train.steps", 0, 1e12),
    ("train.tokens", 0, 1e15),
    ("train.epochs", 0, 1e9),
    ("train.batch", 1, 1e9),
    ("train.microbatch", 0, 1e9),
    ("data.size", 1, 1e12),
    ("data.seq_len", 2, 1e9),
    ("data.pack_bins", 1, 1e6),
    ("data.packing_ratio", 1, 1e4),
    ("eval.base_shots", 0, 100),
    ("eval.every", 0, 1e12),
    ("eval.every_tokens", 0, 1e18),
    ("eval.rows", 1, 1e6),
    ("eval.seq_len", 16, 1e9),
    ("eval.max_new_tokens", 1, 1e6),
    ("eval.generate_rows", 1, 1e6),
    ("eval.shots", 0, 100),
    ("eval.samples", 1, 1e4),
    ("eval.temperature", 0, 10),
    ("eval.top_p", 1e-6, 1),
    ("checkpoint.every", 0, 1e12),
    ("checkpoint.keep", 1, 1e6),
    ("log.every", 1, 1e12),
)


def _build(cls: type, values: Any, where: str) -> Any:
    """The dataclass of this section, every field present, of its type, nothing else."""
    fields, hints = {f.name for f in dataclasses.fields(cls)}, typing.get_type_hints(cls)
    given = dict(values.items()) if hasattr(values, "items") else None
    if given is None:
        raise UserError(f"{where} must be a section of fields, got {values!r}")
    for name in given.keys() - fields:
        raise UserError(f"unknown config field {where}.{name}; there are: {', '.join(sorted(fields))}")
    for name in fields - given.keys():
        raise UserError(f"config field {where}.{name} is missing; start from configs/base.py, which has every field")
    return cls(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in given.items()})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {name: _tuples(x) for name, x in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(args[0], value, where)
    if origin is tuple:
        return _tuple(args, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where}={value!r} must be {'an' if hint is int else 'a'} {hint.__name__}")
    return value


def _tuple(args: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, tuple):
        raise UserError(f"{where}={value!r} must be a tuple such as \"('q','v')\", not a {type(value).__name__}")
    if any(isinstance(v, str) and "," in v and "{" not in v for v in value):
        raise UserError(f"{where}={value!r} holds a name with a comma; write a tuple: \"('q','v')\"")
    if args[-1] is Ellipsis:
        return tuple(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise UserError(f"{where}={value!r} must have {len(args)} entries")
    return tuple(_value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))


def _contradictions(c: Config) -> list[str]:
    """What is wrong with this config, in the words of the person who wrote it."""
    found = []
    for name, legal in CHOICES.items():
        section, field = name.split(".")
        value = getattr(getattr(c, section), field)
        if value not in legal:
            found.append(f"config.{name}={value!r} must be one of {', '.join(legal)}")
    for name, low, high in RANGES:
        section, field = name.split(".")
        value = getattr(getattr(c, section), field)
        if not low <= value <= high:
            found.append(f"config.{name}={value!r} must be between {low:g} and {high:g}")
    return found + _adapter_problems(c) + _train_problems(c)


def _adapter_problems(c: Config) -> list[str]:
    a, found = c.adapter, []
    adapts = any(p.startswith("adapter") or p.startswith(".") for p in c.trainable)
    if a.alpha is not None and (a.rank is None or not a.kinds):
        found.append(f"config.adapter.alpha={a.alpha:g} is given without a rank; set config.adapter.rank (and a kind)")
    if a.rank is not None and a.rank < 1:
        found.append(f"config.adapter.rank={a.rank} must be at least 1")
    if a.alpha is not None and a.alpha <= 0:
        found.append(f"config.adapter.alpha={a.alpha:g} must be positive")
    if a.kinds and not a.targets:
        found.append("config.adapter.targets is empty; name modules such as ('q','v'), or set config.adapter.kind=none")
    if not a.kinds and adapts:
        found.append("config.trainable names adapter paths, but config.adapter.kind is none; use the :full argument")
    if not c.trainable:
        found.append("config.trainable is empty: nothing would train; use ('adapter/.*',) or ('params/.*',)")
    trains_base = any(p.startswith("params") for p in c.trainable)
    if "dora" in a.kinds and trains_base:
        found.append("DoRA's norms belong to a frozen base; do not train params/... beside it")
    if c.model.base_dtype in QUANTISED and trains_base:
        found.append(f"config.model.base_dtype={c.model.base_dtype} is for a frozen base; do not train params/...")
    if "loftq" in a.kinds and c.model.base_dtype not in QUANTISED:
        found.append("loftq corrects a quantised base; set config.model.base_dtype=nf4 (or int8)")
    return found


def _train_problems(c: Config) -> list[str]:
    t, found = c.train, []
    if t.microbatch and t.batch % t.microbatch:
        found.append(f"config.train.microbatch={t.microbatch} does not divide config.train.batch={t.batch}")
    if t.steps == 0 and t.epochs == 0 and t.tokens == 0:
        found.append("config.train.steps, tokens and epochs are all 0: nothing to do")
    if t.steps and t.tokens:
        found.append(f"config.train.steps={t.steps} and config.train.tokens={t.tokens:g} both say how long; give one")
    if t.branch_from and (c.optim.schedule != "trapezoid" or not c.optim.warmup_steps):
        found.append(
            "config.train.branch_from needs config.optim.schedule=trapezoid and warmup_steps: only then does"
            " a shorter run begin like a longer one"
        )
    if c.optim.lr == 0:
        found.append("config.optim.lr is 0: nothing would be learned")
    for pair in c.eval.files:
        if not all(pair.partition("=")[::2]):
            found.append(f"config.eval.files: {pair!r} must be DATASET=PATH, for example mmlu-test=data/mmlu/test")
    if c.eval.samples > 1 and c.eval.temperature == 0:
        found.append("config.eval.samples are all the same at config.eval.temperature=0; set it, for example to 0.2")
    if c.eval.every and c.eval.every_tokens:
        found.append(
            f"config.eval.every={c.eval.every} and config.eval.every_tokens={c.eval.every_tokens:g} both say how often;"
            " give one"
        )
    for task in (*c.eval.tasks, *c.eval.base_tasks, *c.eval.every_tasks):
        if task.partition(":")[2] and not task.partition(":")[2].isdigit():
            found.append(f"evaluation {task!r} must be a name, or name:n with n items")
    if 0 in dataclasses.astuple(c.mesh):
        found.append("config.mesh sizes must be positive, or -1 for one of them")
    return found


def resolve(path: str) -> str:
    """A --config path as given, or the config of that name installed with the package; keeps ":argument".

    Raises UserError naming the configs there are.
    """
    import importlib.resources

    file, colon, argument = path.partition(":")
    if pathlib.Path(file).is_file():
        return path
    home = importlib.resources.files("lfl_jax.configs")
    relative = file.removeprefix("./").removeprefix("configs/")
    if not home.joinpath(relative).is_file():
        names = sorted(
            p.name
            for p in home.iterdir()
            if p.name.endswith(".py") and p.name not in ("base.py", "settings.py", "__init__.py")
        )
        raise UserError(f"no config {file!r}; there are: {', '.join('configs/' + n for n in names)}")
    return str(home.joinpath(relative)) + colon + argument


def parse(argv: Sequence[str], usage: str, extra: dict[str, tuple[Any, str]]) -> tuple[Config, dict[str, Any]]:
    """Config and extra flag values of a command line such as `--config=configs/x.py:arg --config.optim.lr=1e-4`.

    extra: {flag: (default, help)}. Raises UserError for anything that cannot be understood.
    """
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    if any(a in ("-h", "--help", "-help") for a in argv[1:]):
        print(usage)
        raise SystemExit(0)
    arguments = [argv[0], *(_resolved(a) for a in argv[1:])]
    options = {"flag_values": values, "lock_config": True, "sys_argv": arguments}
    holder = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:ARGUMENT]", **options)
    for name, (default, text) in extra.items():
        define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, str: flags.DEFINE_string}[type(default)]
        define(name, default, text, flag_values=values)
    try:
        rest = values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise UserError(_last_line(error)) from None
    if rest[1:]:
        raise UserError(f"unexpected arguments: {' '.join(rest[1:])}; options look like --config.optim.lr=1e-4")
    if holder.value is None:
        raise UserError("no config given; for example --config=configs/math_ift.py (see --help)")
    return Config.from_dict(holder.value), {name: values[name].value for name in extra}


def _last_line(error: Exception) -> str:
    """What the innermost error says: a flag's error of a config file carries that file's whole traceback."""
    text = str(error).strip("'\"")
    if "Traceback (most recent call last)" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _resolved(argument: str) -> str:
    prefix = "--config="
    return prefix + resolve(argument.removeprefix(prefix)) if argument.startswith(prefix) else argument
