"""What `lfl_jax.analyze` reads: the base and the checkpoints that its flags name."""

import contextlib
import dataclasses
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from lfl_jax import analyze_runs, assets
from lfl_jax.analysis import checkpoints
from lfl_jax.analysis.checkpoints import Base, Subject
from lfl_jax.analyze_runs import allowed_code
from lfl_jax.assets import readers
from lfl_jax.errors import UserError
from lfl_jax.models.presets import PRESETS

# The base of every checkpoint that was published with the paper.
PUBLISHED, PUBLISHED_BASE = "lfl:", "llama2-7b"


def open_subject(options: Namespace) -> Subject:
    """What the flags name, loaded as far as it has to be; UserError for what is not one model."""
    kind = next(name for name in KINDS if getattr(options, name))
    # What is loaded says so; with --json, standard output is for the numbers alone.
    with contextlib.redirect_stdout(sys.stderr):
        subject = KINDS[kind](options)
        if options.control:
            control = subject.base.checkpoint(options.control)
            named = dataclasses.replace(control, label=f"control: {short(options.control)}")
            # First, since tables by module are of the last one.
            subject = dataclasses.replace(subject, checkpoints=(named, *subject.checkpoints))
        if options.compare:
            other = subject.base.checkpoint(options.compare)
            other = dataclasses.replace(other, label=short(options.compare))
            subject = dataclasses.replace(subject, other=other)
    return subject


def folder(options: Namespace) -> Path:
    """Where the page goes: --out, the run's folder analysis, or analysis/NAME."""
    if options.out:
        return Path(options.out)
    if options.run:
        return Path(options.run) / "analysis"
    return Path("analysis") / short(_names(options)[0]).replace(":", "--")


def texts(options: Namespace) -> list[str]:
    """Of --text, as many as --texts says; none without it."""
    if not options.text:
        return []
    # A few documents say which types of tokens were lost; all of them would take an evaluation.
    named = options.text == "run"
    whole = analyze_runs.source_texts(options) if named else readers.texts(Path(options.text))
    return whole[: options.texts]


def short(name: str) -> str:
    """The last part of a path that exists; a name as it is."""
    return Path(name).absolute().name if Path(name).exists() else name


def _names(options: Namespace) -> list[str]:
    """Of adapters, models or published checkpoints."""
    return options.published or (options.adapter or options.tuned).split(",")


def _of_names(options: Namespace) -> Subject:
    """Adapters or models over a base, in the order in which they are given."""
    names = _names(options)
    base_name = options.base or (PUBLISHED_BASE if names[0].startswith(PUBLISHED) else "")
    if not base_name:
        raise UserError(f"{names[0]} also needs --base=PATH, what it was tuned from")
    # A published checkpoint is smaller than its base: what is wrong with it is known sooner.
    paths = {name: checkpoints.located(name) for name in names}
    base = _base(base_name, options)
    warnings = [_other_base(name, path, base_name) for name, path in paths.items()]
    return Subject(
        title=", ".join(map(short, names)),
        base=base,
        checkpoints=tuple(map(base.checkpoint, names)),
        flags=tuple(filter(None, (*warnings, _dequantised(base)))),
    )


def _of_published(options: Namespace) -> Subject:
    wrong = [name for name in options.published if not name.startswith(PUBLISHED)]
    if wrong:
        raise UserError(f"{wrong[0]}: expected a published checkpoint, lfl:NAME or lfl:NAME@BRANCH")
    return _of_names(options)


def _base(name: str, options: Namespace) -> Base:
    if not options.without_base:
        return checkpoints.open_base(name, allowed_code(options))
    # The shape is enough, and known of a model that is not here.
    if name in PRESETS:
        return Base(name, PRESETS[name], load=None)
    return dataclasses.replace(checkpoints.open_base(name), load=None, folder=None)


def _dequantised(base: Base) -> str:
    if not base.quantised:
        return ""
    return f"The base is dequantised from {base.quantised}: dW is against those weights."


def _other_base(name: str, path: Path, base_name: str) -> str:
    """A warning where an adapter names another base than the one that is given; else ""."""
    named = checkpoints.named_base(path)
    known = f"{base_name} {_repository(base_name)}".lower()
    # A name is no proof, since folders are renamed: shapes and fingerprints are refused elsewhere.
    if not named or Path(named).name.lower() in known:
        return ""
    return f"{short(name)} says that it was trained over {named}; the base given is {base_name}."


def _repository(base_name: str) -> str:
    plain = base_name.partition("@")[0]
    return getattr(assets.item(plain).origin, "repo", "") if plain in assets.manifest() else ""


# flag -> how what it names is opened
KINDS: dict[str, Callable[[Namespace], Subject]] = {
    "run": analyze_runs.subject,
    "adapter": _of_names,
    "tuned": _of_names,
    "published": _of_published,
}
