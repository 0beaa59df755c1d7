"""The command line of an entry point: `--config=FILE:WORDS`, `--config.section.field=value`, and
flags of its own."""

import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from lfl_jax.config import Config, locations, own_code
from lfl_jax.config import values as config_values
from lfl_jax.errors import UserError, mistakes

HIDDEN = ("base.py", "settings.py", "__init__.py")  # of configs/: not to be run
# the first that is not 0 says how long a run is
LENGTHS = ("train.steps", "train.tokens", "train.epochs")
Flags = dict[str, tuple[Any, str]]  # flag -> (default, help); the default's type is the flag's
CODE: Flags = {"allow_code": ("", "files with code of one's own that may run")}
REPEATED = ("allow_code",)  # flags that may be given several times
SHORT = {"profile": "config.log.profile"}  # flags that stand for a field of the config
# Of an entry point that runs on several hosts, whose processes `core.hosts` joins.
DISTRIBUTED: Flags = {
    "distributed": (False, "several processes, one per host"),
    "coordinator": ("", "HOST:PORT of process 0"),
    "processes": (0, "how many there are"),
    "process_id": (-1, "which one this is, from 0"),
    "join_timeout": (50, "seconds they wait for each other at the start"),
}


@dataclasses.dataclass
class Words:
    """A command line in parts: values as they were typed, None where a flag has none.

    problems: flags that were given twice with two values, of which nobody can tell which is meant.
    """

    config: str | None = None
    overrides: dict[str, str | None] = dataclasses.field(default_factory=dict)
    flags: dict[str, str | None] = dataclasses.field(default_factory=dict)
    strays: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def parse(argv: Sequence[str], usage: str, extra: Flags) -> tuple[Config, dict[str, Any]]:
    """Config and extra flag values of a command line.

    --config=configs/x.py:arg --config.optim.lr=1e-4 is an example. Places are absolute in the
    result, relative ones taken from the current directory. Raises UserError with everything that
    cannot be understood.
    """
    if any(a in ("-h", "--help", "-help") for a in argv[1:]):
        print(usage.strip())
        raise SystemExit(0)
    if "--version" in argv[1:]:
        print(version("lfl_jax"))
        raise SystemExit(0)
    words = split(argv[1:], extra)
    problems = words.problems.copy()
    options = _options(words, extra, problems)
    if words.config is None:
        problems.insert(0, "no config given; for example --config=configs/math_ift.py (see --help)")
        raise mistakes(problems)
    return configured(
        words.config, words.overrides, problems, files_of(options.get("allow_code", ""))
    ), options


def files_of(allow_code: str) -> list[str]:
    """The files of --allow_code=A.py,B.py@HASH."""
    return [file for file in allow_code.split(",") if file]


def configured(
    place: str,
    overrides: Mapping[str, Any],
    problems: Sequence[str] = (),
    allow_code: Sequence[str] = (),
) -> Config:
    """The config of FILE:WORDS with these fields in place of its own.

    They are text, {"optim.lr": "1e-4"}, or values. problems: what is wrong already; UserError says
    it together with everything else. The files with code that the person names may run: in these
    fields, in the config unless that is the record of a run, or in allow_code.
    """
    all_problems = list(problems)
    typed = typed_overrides(overrides, all_problems)
    try:
        values = load(resolve(place)).to_dict()
    except UserError as error:
        raise mistakes([str(error), *all_problems]) from None
    recorded = values.pop("recorded_code", None)
    override(values, typed)
    config, wrong = Config.read(values)
    if all_problems or wrong:
        raise mistakes(all_problems + wrong)
    absolute = functools.partial(locations.absolute, here=pathlib.Path.cwd())
    config = config.with_places(absolute).with_record(dict(recorded or ()))
    named = [own for path, own in config.own_places() if recorded is None or path in typed]
    files = {own_code.split(own)[0] for own in named} - {own_code.PASSED}
    return config.allowing([*sorted(files), *(absolute(file) for file in allow_code)])


def split(arguments: Sequence[str], extra: Flags) -> Words:
    """Parts of a command line; `--flag value` is `--flag=value`, and one dash does for two.

    A flag of SHORT counts as its field.
    """
    words, rest = Words(), list(arguments)
    while rest:
        word = rest.pop(0)
        name, sign, value = word.lstrip("-").partition("=")
        name = SHORT.get(name, name)
        if not word.startswith("-") or not name:
            words.strays.append(word)
            continue
        if not sign:
            value = (
                rest.pop(0)
                if _takes_next(name, extra) and rest and not rest[0].startswith("--")
                else None
            )
        _sort_in(words, name, value)
    return words


def _takes_next(name: str, extra: Flags) -> bool:
    """Whether a flag without "=" has its value in the next word."""
    if name == "config":
        return True
    if name.startswith("config."):
        return _hint(name.removeprefix("config.")) is not bool
    return name in extra and not isinstance(extra[name][0], bool)


def _hint(path: str) -> Any:
    try:
        return config_values.hint_of(Config, path)
    except UserError:
        return None


def _sort_in(words: Words, name: str, value: str | None) -> None:
    if name == "config":
        _require_once(words, name, words.config, value or "")
        words.config = value or ""
    elif name.startswith(("config.", "noconfig.")):
        negated, _, field = name.partition("config.")
        given = "false" if negated else value
        _require_once(words, name, words.overrides.get(field, given), given)
        words.overrides[field] = given
    elif name in REPEATED and value and words.flags.get(name):
        words.flags[name] = f"{words.flags[name]},{value}"
    else:
        _require_once(words, name, words.flags.get(name, value), value)
        words.flags[name] = value


def _require_once(words: Words, name: str, before: str | None, now: str | None) -> None:
    if before is not None and before != now:
        words.problems.append(f"--{name} is given twice, as {before} and as {now}: give it once")


def _options(words: Words, extra: Flags, problems: list[str]) -> dict[str, Any]:
    """Values of a command's own flags."""
    options = {name: default for name, (default, _) in extra.items()}
    for name, text in words.flags.items():
        if name in extra:
            options[name] = _flag(name, text, extra[name][0], problems)
        elif name.startswith("no") and name[2:] in extra and text is None:
            options[name[2:]] = False
        else:
            problems.append(_unknown_flag(name, text, extra))
    if words.strays:
        given = " ".join(words.strays)
        problems.append(f"unexpected arguments: {given}; options look like --config.optim.lr=1e-4")
    return options


def _flag(name: str, text: str | None, default: Any, problems: list[str]) -> Any:
    if text is None:
        if not isinstance(default, bool):
            problems.append(f"--{name} needs a value: --{name}=VALUE")
        return True
    try:
        value = config_values.from_text(type(default), text, f"--{name}")
        absolute = functools.partial(locations.absolute, here=pathlib.Path.cwd())
        if name in locations.FLAGS:
            return locations.place(value, absolute)
        return (
            locations.place_or_name(value, absolute) if name in locations.FLAGS_OR_NAMES else value
        )
    except UserError as error:
        problems.append(str(error))
        return default


def _unknown_flag(name: str, text: str | None, extra: Flags) -> str:
    near = difflib.get_close_matches(name, [*extra, *SHORT, "config"], n=1, cutoff=0.75)
    if near:
        return f"unknown flag --{name}: did you mean --{near[0]}?"
    fields = config_values.nearest_fields(name)
    if fields:
        meant = " or ".join(
            f"--config.{field}={'VALUE' if text is None else text}" for field in fields
        )
        return f"unknown flag --{name}: did you mean {meant}?"
    flags = ", ".join(f"--{flag}" for flag in ("config", *extra))
    return f"unknown flag --{name}; there are: {flags} (see --help)"


def typed_overrides(overrides: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """{"section.field": value}, each of its field's type.

    What cannot be converted is added to `problems` and left out.
    """
    typed = {}
    for path, text in overrides.items():
        try:
            hint = config_values.hint_of(Config, path)
            if text is None and hint is not bool:
                raise UserError(f"--config.{path} needs a value: --config.{path}=VALUE")
            typed[path] = _typed(hint, text, f"config.{path}")
        except UserError as error:
            problems.append(str(error))
    lengths = [f"config.{path}={overrides[path]}" for path in LENGTHS if typed.get(path)]
    if len(lengths) > 1:
        problems.append(f"{' and '.join(lengths)} both say how long; give one")
    return typed


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Text as the field's type.

    A value that is no text has that type already; None is the flag of a bool.
    """
    if value is None:
        return True
    return (
        config_values.from_text(hint, value, where)
        if isinstance(value, str)
        else config_values.as_tuples(value)
    )


def override(values: dict, typed: Mapping[str, Any]) -> None:
    """Put the values into a config.

    A length replaces the config's: epochs=3 sets its steps and tokens to 0.
    """
    if any(typed.get(path) for path in LENGTHS):
        values["train"] |= {"steps": 0, "tokens": 0.0}
    for path, value in typed.items():
        section, _, field = path.rpartition(".")
        (values[section] if section else values)[field] = value


def resolve(path: str) -> str:
    """A --config path, or the config of that name in the package; keeps ":argument".

    Raises UserError naming the configs there are.
    """
    import importlib.resources

    file, colon, argument = path.partition(":")
    own = locations.absolute(file, pathlib.Path.cwd())
    if pathlib.Path(own).is_file():
        return own + colon + argument
    home = importlib.resources.files("lfl_jax.configs")
    relative = file.removeprefix("./").removeprefix("configs/")
    if not relative.endswith(".py"):
        relative += ".py"
    if not home.joinpath(relative).is_file():
        names = sorted(
            p.name for p in home.iterdir() if p.name.endswith(".py") and p.name not in HIDDEN
        )
        raise UserError(
            f"no config {file!r}; there are: {', '.join('configs/' + n for n in names)}"
        )
    return str(home.joinpath(relative)) + colon + argument


def load(path: str) -> Any:
    """The config that get_config of FILE:ARGUMENT returns.

    UserError with the line for a file that cannot be run.
    """
    file, colon, argument = path.partition(":")
    module = own_code.load(file, own_code.digest(file))
    if not hasattr(module, "get_config"):
        raise UserError(
            f"{file} has no function get_config: see configs/base.py for how a config is made"
        )
    with own_code.errors_in(file):
        try:
            return module.get_config(argument) if colon else module.get_config()
        except ValueError as error:  # a word that the config does not know
            raise UserError(str(error)) from None
