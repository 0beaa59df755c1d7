"""The directory of a run: one config each, and files that are either whole or not there."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfl_jax.core import files
from lfl_jax.errors import UserError

CONFIG_FILE = "config.json"
MAX_FIELDS = 5


def prepare(
    path: str | Path,
    config_json: str,
    config_hash: str,
    *,
    may_change: Sequence[str] = (),
    defaults_json: str = "{}",
    code: Mapping[str, str] | None = None,
    process_index: int = 0,
) -> Path:
    """Make the run directory and write its `config.json`.

    That is {"hash": config_hash, "config": the config, "code": code}. code: {file: SHA-256} of the
    files with objects of one's own; left out where there are none.

    A directory that holds another config raises UserError with the fields that differ. Fields whose
    dotted path fully matches a regex of `may_change` (r"log\\..*") may differ: the file then takes
    the new values. A field that the directory's config is too old to have is compared by its value
    in defaults_json. Every process calls it; process 0 writes.
    """
    path = Path(path).absolute()
    config = json.loads(config_json)
    before = _existing(path / CONFIG_FILE)
    if before is not None:
        before_flat = flatten(json.loads(defaults_json)) | flatten(before["config"])
        _refuse_other_config(path, before_flat, config, may_change)
    if process_index == 0:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Written even when unchanged: whether the directory takes files is found out now, not
            # in an hour.
            files.write_json(
                path / CONFIG_FILE,
                {"hash": config_hash, "config": config} | ({"code": code} if code else {}),
            )
        except OSError as error:
            raise UserError(
                f"cannot write to workdir {path}: {error.strerror}; make it writable or pass"
                " another --workdir"
            ) from error
    return path


@contextlib.contextmanager
def withdrawn_on_refusal(path: Path, is_new: bool) -> Iterator[None]:
    """A UserError inside removes a new run's config.

    The corrected command can then use the same directory.
    """
    try:
        yield
    except UserError:
        if is_new:
            (path / CONFIG_FILE).unlink(missing_ok=True)
        raise


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run directory, as JSON has it; UserError for a directory of no run."""
    record = _existing(path / CONFIG_FILE)
    if record is None:
        raise UserError(f"{path}: not the directory of a run; there is no {CONFIG_FILE} in it")
    return record["config"]


def read_code(path: Path) -> dict[str, str]:
    """{file: SHA-256} of the files that a run used objects of; {} where no run has been yet."""
    record = _existing(path / CONFIG_FILE)
    return {} if record is None else record["code"]


def _existing(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
        return {
            "hash": record["hash"],
            "config": dict(record["config"]),
            "code": dict(record.get("code", {})),
        }
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; pass another --workdir") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} was not written by a run of lfl_jax; pass another --workdir"
        ) from error


def differences(before_json: str, now_json: str, may_change: Sequence[str] = ()) -> list[str]:
    """ "field was x, now y" of every field in which two configs differ.

    may_change: regexes of fields that may differ.
    """
    return _differences(json.loads(before_json), json.loads(now_json), may_change)


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str]
) -> list[str]:
    # Flat, so that a message names the field that differs and not a section.
    old, new = flatten(before), flatten(now)

    def differs(field: str) -> bool:
        # A field that is not set differs from one that is set to None.
        if (field in old, old.get(field)) == (field in new, new.get(field)):
            return False
        return not any(re.fullmatch(pattern, field) for pattern in may_change)

    fields = filter(differs, sorted(old | new))
    return [f"{field} was {_value(old, field)}, now {_value(new, field)}" for field in fields]


def _refuse_other_config(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str]
) -> None:
    fields = _differences(before, now, may_change)
    if not fields:
        return
    listed = fields[:MAX_FIELDS]
    more = f"; and {len(fields) - MAX_FIELDS} more" if len(fields) > MAX_FIELDS else ""
    raise UserError(
        f"workdir {path} belongs to another config: {'; '.join(listed)}{more}\n"
        "pass another --workdir, or delete this one to start over"
    )


def _value(flat: Mapping[str, Any], field: str) -> str:
    return json.dumps(flat[field]) if field in flat else "not set"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted paths to values; a list or an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
