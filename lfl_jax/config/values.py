"""From text and plain values to the fields of a config, each of its declared type; every mistake is
collected.

A field's type is its annotation in `lfl_jax.config`; its legal values are in
`lfl_jax.config.checks`.
"""

import ast
import dataclasses
import difflib
import functools
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from lfl_jax import config
from lfl_jax.config import checks
from lfl_jax.errors import UserError

# what people type who know other tools -> the field here
ALIASES = {
    "learning_rate": "optim.lr",
    "lr_scheduler_type": "optim.schedule",
    "scheduler": "optim.schedule",
    "warmup": "optim.warmup_steps",
    "warmup_ratio": "optim.warmup_fraction",
    "max_grad_norm": "optim.clip",
    "grad_clip": "optim.clip",
    "beta1": "optim.b1",
    "beta2": "optim.b2",
    "adam_beta1": "optim.b1",
    "adam_beta2": "optim.b2",
    "epsilon": "optim.eps",
    "adam_epsilon": "optim.eps",
    "optimizer": "optim.name",
    "wd": "optim.weight_decay",
    "loraplus_lr_ratio": "optim.lora_plus",
    "max_steps": "train.steps",
    "num_steps": "train.steps",
    "total_steps": "train.steps",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "batch_size": "train.batch",
    "per_device_train_batch_size": "train.microbatch",
    "micro_batch_size": "train.microbatch",
    "gradient_accumulation_steps": "train.microbatch",
    "max_length": "data.seq_len",
    "max_seq_length": "data.seq_len",
    "block_size": "data.seq_len",
    "dataset": "data.source",
    "dataset_path": "data.path",
    "prompt_template": "data.template",
    "adapter_name_or_path": "adapter.path",
    "lora_r": "adapter.rank",
    "r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "target_modules": "adapter.targets",
    "peft_type": "adapter.kind",
    "use_rslora": "adapter.scaling",
    "model_name_or_path": "model.path",
    "dtype": "model.compute_dtype",
    "quantization": "model.base_dtype",
    "load_in_4bit": "model.base_dtype",
    "gradient_checkpointing": "model.remat",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "eval.every",
    "logging_steps": "log.every",
    "num_fewshot": "eval.shots",
    "seeds": "seed.data",
}


def build(cls: type, values: Any, where: str, problems: list[str]) -> Any | None:
    """The dataclass of this section, with every field of its type and legal values.

    Unknown fields are problems, too. What is wrong is added to `problems`, and the result is then
    None.
    """
    given = dict(values.items()) if hasattr(values, "items") else None
    if given is None:
        problems.append(f"{where} must be a section of fields, got {values!r}")
        return None
    # All mistakes are collected: who has three should not run the command three times.
    names, already = [field.name for field in config.options(cls)], len(problems)
    problems += [unknown(f"{where}.{name}") for name in given if name not in names]
    problems += [
        f"config field {where}.{name} is missing; start from configs/base.py, which has every field"
        for name in names
        if name not in given
    ]
    hints = _hints(cls)
    built = {n: _field(hints[n], given[n], f"{where}.{n}", problems) for n in names if n in given}
    return cls(**built) if len(problems) == already else None


# A study builds hundreds of configs, and resolving the annotations was a third of each.
@functools.lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _field(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where, problems)
    try:
        typed = _value(hint, value, where)
    except UserError as error:
        problems.append(str(error))
        return None
    problems += checks.illegal(where.removeprefix("config."), typed)
    return typed


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(args[0], value, where)
    if origin is tuple:
        return _tuple(args, value, where)
    # 3 is a float as people write it; true is neither that nor an int.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        # Python's integers have no limit, and its floats have one.
        if abs(value) > sys.float_info.max:
            raise UserError(f"{where}={value!r:.20}... must be a number below 1e308")
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where}={value!r} must be {a_type(hint)}")
    return value


def _tuple(args: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, tuple):
        raise UserError(
            f"{where}={value!r} must be a tuple such as \"('q','v')\", not a {type(value).__name__}"
        )
    # A forgotten quote: ('q,v') is the text "q,v". A comma in braces is part of a regex.
    if any(isinstance(v, str) and "," in v and "{" not in v for v in value):
        raise UserError(
            f"{where}={value!r} holds a name with a comma; write a tuple: \"('q','v')\""
        )
    if args[-1] is Ellipsis:
        return tuple(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise UserError(f"{where}={value!r} must have {len(args)} entries")
    return tuple(
        _value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
    )


def as_tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {name: as_tuples(x) for name, x in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def with_defaults(values: dict, defaults: dict) -> dict:
    """The values, with what a record is too old to have taken from the defaults.

    That is what is missing in sections that are there, and sections that were added later.
    """
    later = {f.name for f in config.options(config.Config) if f.metadata.get("later")}
    values = {name: defaults[name] for name in later if name in defaults} | values
    sections = {
        name: x
        for name, x in values.items()
        if isinstance(x, dict) and isinstance(defaults.get(name), dict)
    }
    return values | {name: defaults[name] | x for name, x in sections.items()}


def hint_of(cls: type, path: str) -> Any:
    """The declared type of "section.field"; UserError with the nearest names without one."""
    hint: Any = cls
    for name in path.split("."):
        hints = _hints(hint) if dataclasses.is_dataclass(hint) else {}
        if name not in hints:
            raise UserError(unknown(f"config.{path}"))
        hint = hints[name]
    if dataclasses.is_dataclass(hint):
        first = config.options(hint)[0].name
        raise UserError(
            f"config.{path} is a section; set a field of it, such as --config.{path}.{first}=VALUE"
        )
    return hint


def from_text(hint: Any, text: str, where: str) -> Any:
    """The value that someone typed for a field.

    That is None for a field that may be None, 1e3 for an integer, q,v for a tuple. UserError says
    which type is expected.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if text.lower() in ("none", "null") else from_text(args[0], text, where)
    try:
        return READERS[origin or hint](text)
    except (ValueError, SyntaxError, OverflowError, KeyError):
        raise UserError(f"{where}={text!r} must be {a_type(hint)}") from None


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def _bool(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
        text.lower()
    ]


def _tuple_of(text: str) -> tuple:
    """A tuple or list as Python writes it, or names between commas: "('q','v')", "(q,v)", "q,v"."""
    bare = text.strip()
    try:
        value = ast.literal_eval(bare or "()")
    except (ValueError, SyntaxError):
        if any(mark in bare for mark in "'\"[]{"):  # it was meant as Python
            raise
        value = [word.strip() for word in bare.strip("()").split(",") if word.strip()]
    return as_tuples(value) if isinstance(value, list | tuple) else (value,)


READERS: dict[Any, Callable[[str], Any]] = {
    int: _int,
    float: float,
    str: str,
    bool: _bool,
    tuple: _tuple_of,
}


def a_type(hint: Any) -> str:
    """A type in words, as an error names it."""
    if typing.get_origin(hint) is tuple:
        return "a tuple such as \"('q','v')\""
    words = {
        int: "an int",
        float: "a float (a number)",
        str: "a str",
        bool: "true or false (a bool)",
    }
    return words.get(hint, str(hint))


def unknown(where: str) -> str:
    """What is said of "config.optim.learning_rate": the fields it may have been meant as."""
    path = where.removeprefix("config.")
    meant = nearest_fields(path)
    if meant:
        suggestion = " or ".join(f"config.{field}" for field in meant)
        return f"unknown config field {where}: did you mean {suggestion}?"
    section = path.rpartition(".")[0]
    there = [f for f in all_fields() if f.rpartition(".")[0] == section] or [
        "configs/base.py lists them"
    ]
    return (
        f"unknown config field {where}; there are: {', '.join(f.rpartition('.')[2] for f in there)}"
    )


def nearest_fields(path: str) -> list[str]:
    """Fields that "optim.learning_rate" or "lr" may have meant, likeliest first.

    There are at most three.
    """
    section, _, leaf = path.rpartition(".")
    fields = all_fields()
    if leaf in ALIASES:
        return [ALIASES[leaf]]
    by_leaf: dict[str, list[str]] = {}
    # those of the section named first
    for field in sorted(fields, key=lambda f: f.rpartition(".")[0] != section):
        by_leaf.setdefault(field.rpartition(".")[2], []).append(field)
    if leaf in by_leaf:
        return by_leaf[leaf][:3]
    whole = difflib.get_close_matches(path, fields, n=2, cutoff=0.8)
    words = difflib.get_close_matches(leaf, by_leaf, n=2, cutoff=0.7)
    return list(dict.fromkeys([*whole, *(by_leaf[word][0] for word in words)]))[:3]


def all_fields() -> list[str]:
    """Every field as "section.field", in the order of configs/base.py."""
    return [
        f"{name}.{field.name}" if dataclasses.is_dataclass(hint) else name
        for name, hint in typing.get_type_hints(config.Config).items()
        for field in (config.options(hint) if dataclasses.is_dataclass(hint) else (None,))
    ]
