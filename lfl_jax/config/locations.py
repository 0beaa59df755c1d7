"""Config fields that name places on this machine: `~` and relative places are made absolute where a
command is given.

FIELDS is the one list of them. A place that several machines share (`hf:ORG/NAME`) stays as it is
written.
"""

from collections.abc import Callable
from pathlib import Path

from lfl_jax.config import own_code
from lfl_jax.errors import UserError

Change = Callable[[str], str]  # of one place
SHARED = ("hf:", "http:", "https:", "lfl:")  # how places begin that are the same on every machine
NO_PLACES = ("hf", "reasoning_gym")  # sources NAME:REST whose rest is no file of this machine


def absolute(place: str, here: Path) -> str:
    """The place with `~` expanded, from the root on; relative ones are relative to `here`.

    "" and what is shared between machines stay. UserError where `~` has no meaning: no home
    directory, no such user; and for an address such as gs://BUCKET/RUN.
    """
    if not place or place.startswith(SHARED):
        return place
    # A path would read it as a local directory "gs:", on every host another one.
    if "://" in place:
        raise UserError(
            f"{place}: an address, where a file or directory is expected; mount the bucket, or"
            " another file system that all hosts share, and name a directory there"
        )
    if not place.startswith("~"):
        return str(here / place)
    try:
        return str(Path(place).expanduser())
    except RuntimeError:
        home = place.partition("/")[0]
        raise UserError(
            f"{place}: there is no home directory for {home}; write the whole path"
        ) from None


def place(value: str, change: Change) -> str:
    """A field that is one place."""
    return change(value)


def place_or_name(value: str, change: Change) -> str:
    """A field that is a place or a name: a name is what has no "/" and names no file."""
    return change(value) if "/" in value or value.startswith("~") or Path(value).exists() else value


def source(value: str, change: Change) -> str:
    """Parts of "jsonl:FILE:0.9,c4:0.1": what stands between a part's name and its weight."""
    return ",".join(_source_part(part, change) for part in value.split(","))


def _source_part(part: str, change: Change) -> str:
    name, colon, rest = part.partition(":")
    if own_code.is_place(part):
        return own_code.changed(part, change)
    if not colon or name.strip() in NO_PLACES:
        return part
    inner, _, weight = rest.rpartition(":")
    if _is_number(weight):  # NAME:WEIGHT or NAME:PLACE:WEIGHT
        return f"{name}:{change(inner)}:{weight}" if inner else part
    return f"{name}:{change(rest)}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def named_places(value: tuple[str, ...], change: Change) -> tuple[str, ...]:
    """Entries of the form NAME=PLACE."""
    pairs = (pair.partition("=") for pair in value)
    return tuple(f"{name}{sign}{change(file) if sign else ''}" for name, sign, file in pairs)


def code(value: str, change: Change) -> str:
    """FILE.py:NAME, alone or among names joined by "+"."""
    return own_code.changed(value, change, "+")


def codes(value: tuple[str, ...], change: Change) -> tuple[str, ...]:
    """FILE.py:NAME:n among names of tasks."""
    return tuple(own_code.changed(task, change) for task in value)


# field -> how its value holds places; each of these functions is (value, change) -> value
FIELDS: dict[str, Callable] = {
    "model.path": place,
    "model.tokenizer": place_or_name,
    "model.name": code,
    "adapter.kind": code,
    "adapter.path": place_or_name,
    "adapter.over": place_or_name,
    "optim.name": code,
    "optim.schedule": code,
    "data.template": code,
    **dict.fromkeys(("eval.tasks", "eval.base_tasks", "eval.every_tasks"), codes),
    "train.branch_from": place,
    "data.source": source,
    "data.path": place,
    "data.dev_path": place,
    "data.test_path": place,
    "eval.source_text": place,
    "eval.files": named_places,
}
FLAGS = ("workdir", "run", "out", "include")  # flags of the commands that are places
FLAGS_OR_NAMES = ("adapter",)  # a place or a fetched name
