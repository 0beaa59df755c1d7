"""Objects of one's own in a run: adapter kind, task, source, template, optimizer, schedule, model
shape.

A config field names one as FILE.py:NAME, or as python:NAME where it was passed as an object in
Python. A file runs only
where the person allows it: by typing the field or the config that names it, or with
--allow_code=FILE.py. What a run directory or an adapter file says is never enough, since it may
come from somebody else.
"""

import contextlib
import functools
import hashlib
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax import notices
from lfl_jax.config import locations
from lfl_jax.errors import UserError

PASSED = "python"  # in place of FILE.py, of an object that was passed in Python
# FILE.py:NAME or python:NAME, and what may follow: a number of items, a weight
PLACE = re.compile(rf"(?P<file>[^,:]*\.py|{PASSED}):(?P<name>[A-Za-z_]\w*)(?P<rest>:.*)?")
SHOWN_DIGITS = 12  # of a SHA-256
Digests = tuple[tuple[str, str], ...]  # (file, its SHA-256), "" where none was recorded


@dataclass(frozen=True)
class Field:
    """A config field that may name an object of one's own.

    argument: its name in `Own`. what: the object, in words. separator: between several names in one
    value.
    """

    argument: str
    what: str
    separator: str | None = None


FIELDS: dict[str, Field] = {
    "adapter.kind": Field("adapter", "a subclass of lfl_jax.adapters.Kind", "+"),
    "data.source": Field(
        "source", "a function (path, split, data, seed) that returns a Source or Examples", ","
    ),
    "data.template": Field("template", "a Template, or a function from turns to pieces"),
    "optim.name": Field(
        "optimizer", "a function of config.optim that returns an optax.GradientTransformation"
    ),
    "optim.schedule": Field(
        "schedule", "a function (config.optim, steps, warmup) that returns a schedule"
    ),
    "model.name": Field("model", "a ModelConfig"),
    "eval.tasks": Field("tasks", "a Task"),
    "eval.base_tasks": Field("tasks", "a Task"),
    "eval.every_tasks": Field("tasks", "a Task"),
}


@dataclass(frozen=True)
class Own:
    """Objects to use in a run, each in place of what its config field names.

    docs/extending.md has one of each.
    """

    adapter: type | None = None
    source: Callable | None = None
    template: Any = None
    optimizer: Any = None
    schedule: Callable | None = None
    model: Any = None
    tasks: Iterable[Any] = ()


@dataclass(frozen=True)
class Allowed:
    """A file that may run; sha256: how its hash must begin, "" for any."""

    file: str
    sha256: str = ""

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """From FILE.py or FILE.py@HASH."""
        file, _, sha256 = text.rpartition("@")
        is_hash = file.endswith(".py") and re.fullmatch("[0-9a-f]{6,64}", sha256)
        return cls(file, sha256) if is_hash else cls(text)


@dataclass(frozen=True, eq=False)
class Passed:
    """An object that was passed in Python; equal where the object is the same.

    argument: of `Own`. name: that a config's field knows it by, one's own lambdas being all of the
    same.
    """

    argument: str
    name: str
    value: Any

    @property
    def _key(self) -> tuple[str, str, int]:
        return self.argument, self.name, id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Passed) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class Code:
    """The files and objects that a section may run; no part of what a run records.

    recorded: files that a run or an adapter was made with.
    """

    allowed: tuple[Allowed, ...] = ()
    recorded: Digests = ()
    passed: tuple[Passed, ...] = ()

    def with_passed(self, passed: Iterable[Passed]) -> "Code":
        """The same with these objects, too."""
        return Code(self.allowed, self.recorded, (*self.passed, *passed))

    def file(self, field: str, place: str) -> tuple[Path, str]:
        """(file, SHA-256) that the file of FILE.py:NAME may be run from.

        An allowed file of the same name stands for a recorded one that lies elsewhere. UserError
        where none is allowed, and where it is another than was recorded: that has to be allowed by
        its hash.
        """
        named, _ = split(place)
        allowed = self._allowed(named)
        recorded = dict(self.recorded).get(named)
        if allowed is None:
            raise UserError(_refusal(field, place, recorded))
        path, sha256 = Path(allowed.file), digest(allowed.file)
        if not sha256:
            raise UserError(f"{field}={place}: there is no file {path}")
        if allowed.sha256 and not sha256.startswith(allowed.sha256):
            raise UserError(
                f"{path} is not what was allowed: its SHA-256 is {sha256}, not {allowed.sha256}..."
            )
        if recorded and recorded != sha256 and not allowed.sha256:
            raise UserError(
                f"{path} has changed: its SHA-256 was {recorded[:SHOWN_DIGITS]} when this was made,"
                f" and is {sha256[:SHOWN_DIGITS]}. To use it as it is now:"
                f" --allow_code={path}@{sha256[:SHOWN_DIGITS]}"
            )
        return path, sha256

    def digest(self, place: str) -> str:
        """SHA-256 of the file of FILE.py:NAME as it is run now; "" where it is not there."""
        allowed = self._allowed(split(place)[0])
        return digest(allowed.file if allowed else split(place)[0])

    def _allowed(self, file: str) -> Allowed | None:
        same = [a for a in self.allowed if a.file == file]
        alike = [a for a in self.allowed if Path(a.file).name == Path(file).name]
        by_hash = sorted(same or alike, key=lambda a: not a.sha256)  # FILE@HASH says more than FILE
        return next(iter(by_hash), None)


NOTHING = Code()


def _refusal(field: str, place: str, recorded: str | None) -> str:
    known = f", SHA-256 {recorded[:SHOWN_DIGITS]} when this was made" if recorded else ""
    return (
        f"{field}={place} is code in a file{known}; it runs only where you allow it: read it, then"
        f" add --allow_code={split(place)[0]} (in Python, allow_code=[...])"
    )


def allowing(files: Iterable[str | os.PathLike], own: Own = Own()) -> Code:
    """Code with these files, FILE.py or FILE.py@HASH each, and objects.

    Relative files are of the current directory.
    """
    given = {f.argument: getattr(own, f.argument) for f in FIELDS.values() if f.argument != "tasks"}
    passed = tuple(
        Passed(name, split(place_of(x))[1], x) for name, x in given.items() if x is not None
    )
    parsed = (Allowed.parse(os.fspath(file)) for file in files)
    return Code(
        tuple(Allowed(locations.absolute(a.file, Path.cwd()), a.sha256) for a in parsed), (), passed
    )


def is_place(text: str) -> bool:
    """Whether this names an object of one's own: FILE.py:NAME or python:NAME.

    A number of items or a weight may follow.
    """
    return PLACE.fullmatch(text.strip()) is not None


def split(place: str) -> tuple[str, str]:
    """(file, name) of FILE.py:NAME."""
    match = PLACE.fullmatch(place.strip())
    return match["file"], match["name"]


def changed(text: str, change: Callable[[str], str], separator: str | None = None) -> str:
    """The text of a field with the file of every FILE.py:NAME changed."""
    parts = text.split(separator) if separator else [text]
    return (separator or "").join(_changed(part, change) for part in parts)


def _changed(part: str, change: Callable[[str], str]) -> str:
    match = PLACE.fullmatch(part.strip())
    if match is None or match["file"] == PASSED:
        return part
    return f"{change(match['file'])}:{match['name']}{match['rest'] or ''}"


def places(field: str, value: Any) -> list[str]:
    """Every FILE.py:NAME and python:NAME in the value of a field such as "adapter.kind"."""
    if field not in FIELDS:
        return []
    texts = value if isinstance(value, tuple) else (value,)
    parts = [part for text in texts for part in str(text).split(FIELDS[field].separator)]
    return [":".join(split(part)) for part in parts if is_place(part)]


def find(code: Code, field: str, place: str, accepts: Callable[[Any], bool]) -> Any:
    """The object that a config field names.

    UserError where it may not run, is not there, or is something else.
    """
    file, name = split(place)
    for passed in code.passed:
        if (passed.argument, passed.name) == (FIELDS[field].argument, name):
            return _accepted(
                passed.value, f"the object passed as {passed.argument}", field, accepts
            )
    if file == PASSED:
        raise UserError(
            f"{field}={place} was passed as an object in Python; pass it again: own=lfl_jax.Own("
            f"{FIELDS[field].argument}=...)"
        )
    path, sha256 = code.file(field, place)
    module = load(str(path), sha256)
    if name not in vars(module):
        there = [
            n
            for n, x in vars(module).items()
            if not n.startswith("_") and not isinstance(x, types.ModuleType)
        ]
        raise UserError(
            f"{field}={place}: {path} has no {name}; it has {', '.join(there) or 'nothing'}"
        )
    return _accepted(vars(module)[name], f"{name} of {path}", field, accepts)


def _accepted(found: Any, where: str, field: str, accepts: Callable[[Any], bool]) -> Any:
    if not accepts(found):
        raise UserError(
            f"{field}: {where} is a {type(found).__name__}; expected {FIELDS[field].what}"
        )
    return found


@functools.cache  # a class that is made twice would be two classes
def load(file: str, sha256: str) -> types.ModuleType:
    """The module of a file with this hash, run now.

    UserError with the line for a file that cannot be run.
    """
    content = Path(file).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{file} changed while it was read; start again")
    module = types.ModuleType(f"lfl_jax_own_{Path(file).stem}_{sha256[:SHOWN_DIGITS]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look up their annotations there
    try:
        with errors_in(file):
            exec(compile(content, file, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


@contextlib.contextmanager
def errors_in(file: str) -> Iterator[None]:
    """Inside, an error that comes from the file is a UserError with its line.

    The rest of its traceback is ours.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == file
        ]
        line = (
            error.lineno
            if isinstance(error, SyntaxError) and error.filename == file
            else lines[-1]
            if lines
            else 0
        )
        if not line:
            raise
        message = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"{file}, line {line}: {type(error).__name__}: {message}") from None


def call(function: Callable, *arguments: Any, **named: Any) -> Any:
    """function(...), with `errors_in` the file that it was loaded from."""
    code = getattr(function, "__code__", None)
    with errors_in(code.co_filename if code else ""):
        return function(*arguments, **named)


def place_of(value: Any) -> str:
    """FILE.py:NAME of a function or class; python:NAME where no file could define it again."""
    name = getattr(value, "__qualname__", None) or getattr(value, "name", None)
    name = name if isinstance(name, str) and name.isidentifier() else type(value).__name__
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    in_file = file and not module.__package__ and getattr(module, name, None) is value
    return f"{Path(file).absolute() if in_file else PASSED}:{name}"


def digest(file: str) -> str:
    """SHA-256 of a file's content; "" where there is none."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def as_recorded(found: Iterable[str], record: Mapping[str, Any]) -> Digests:
    """What a run or adapter file says of the files of these places; "" where it says nothing."""
    files = sorted({split(reference)[0] for reference in found} - {PASSED})
    return tuple((file, str(record.get(file, ""))) for file in files)


def warn_of_changes(recorded: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Warn of each file that is another than was recorded.

    It was allowed by its hash, or its object passed.
    """
    for file, sha256 in recorded.items():
        if sha256 and now.get(file, sha256) != sha256:
            notices.warn(
                f"{file} has changed since this run was made: results before and after are of other"
                " code"
            )
