"""The directory of a run: one config each, and files that are either whole or not there."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfl_jax.errors import MAKE_ROOM, UserError, full

CONFIG_FILE = "config.json"
SHOWN_FIELDS = 5


def prepare(
    path: str | Path,
    config_json: str,
    config_hash: str,
    *,
    may_change: Sequence[str] = (),
    code: Mapping[str, str] | None = None,
    process_index: int = 0,
) -> Path:
    """Make the run directory and put `config.json` into it: {"hash": config_hash, "config": the
    config, "code": code}.

    code: {file: SHA-256} of the files with objects of one's own; left out where there are none.

    A directory that holds another config raises UserError with the fields that differ. Fields whose
    dotted path fully matches a regex of `may_change` (r"log\\..*") may differ: the file then takes
    the new values. Every process calls it; process 0 writes.
    """
    path = Path(path).absolute()
    config = json.loads(config_json)
    before = _existing(path / CONFIG_FILE)
    if before is not None:
        _refuse_other_config(path, before["config"], config, may_change)
    if process_index == 0:
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Written even when unchanged: whether the directory takes files is found out now, not
            # in an hour.
            write_json(
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
    """A UserError inside takes a new run's config back: the mended command is welcome in the same
    directory."""
    try:
        yield
    except UserError:
        if is_new:
            (path / CONFIG_FILE).unlink(missing_ok=True)
        raise


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run directory, as JSON has it; UserError for a directory of no run."""
    found = _existing(path / CONFIG_FILE)
    if found is None:
        raise UserError(f"{path}: not the directory of a run; there is no {CONFIG_FILE} in it")
    return found["config"]


def read_code(path: Path) -> dict[str, str]:
    """{file: SHA-256} of the files that a run used objects of; {} where no run has been yet."""
    found = _existing(path / CONFIG_FILE)
    return {} if found is None else found["code"]


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
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} was not written by a run of lfl_jax; pass another --workdir"
        ) from error


def differences(before_json: str, now_json: str, may_change: Sequence[str] = ()) -> list[str]:
    """ "field was x, now y" of every field in which two configs differ, but those whose path
    matches a regex."""
    return _differences(json.loads(before_json), json.loads(now_json), may_change)


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str]
) -> list[str]:
    old, new = flatten(before), flatten(now)
    return [
        f"{field} was {_shown(old, field)}, now {_shown(new, field)}"
        for field in sorted(old | new)
        if (field in old, old.get(field)) != (field in new, new.get(field))
        and not any(re.fullmatch(pattern, field) for pattern in may_change)
    ]


def _refuse_other_config(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str]
) -> None:
    fields = _differences(before, now, may_change)
    if not fields:
        return
    shown = fields[:SHOWN_FIELDS]
    more = f"; and {len(fields) - SHOWN_FIELDS} more" if len(fields) > SHOWN_FIELDS else ""
    raise UserError(
        f"workdir {path} belongs to another config: {'; '.join(shown)}{more}\n"
        "pass another --workdir, or delete this one to start over"
    )


def _shown(flat: Mapping[str, Any], field: str) -> str:
    return json.dumps(flat[field]) if field in flat else "not set"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted paths to values; a list or an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Inside, a disk that is full is a UserError that names this file: the system's own error does
    not."""
    try:
        yield
    except Exception as error:  # safetensors has an exception of its own
        if full(error) is None:
            raise
        raise UserError(f"cannot write {path}: {full(error)}; {MAKE_ROOM}") from error


@contextlib.contextmanager
def new(path: str | Path) -> Iterator[None]:
    """Inside, a file or folder that is not there yet is written; nothing of it stays when that
    fails."""
    path = Path(path)
    try:
        with writing(path):
            yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Replace the file at once: a reader finds the old text or the new, whatever ends this
    process."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path), partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Replace the file at once. Strict JSON: ValueError for a float that is not finite."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Add one line, which is with the operating system when this returns; a half line of a kill is
    removed first.

    Strict JSON: ValueError for a float that is not finite.
    """
    line = json.dumps(record, allow_nan=False) + "\n"
    with writing(path), Path(path).open("ab+") as file:
        size = file.tell()
        if size and not _ends_line(file, size):
            file.truncate(_whole_lines(Path(path).read_bytes()))
        file.write(line.encode())


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of the file, none without a file. A half last line is left out; any other is a
    UserError."""
    path = Path(path)
    if not path.exists():
        return []
    data = path.read_bytes()
    records = []
    for number, line in enumerate(data[: _whole_lines(data)].splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path}:{number} is not JSON ({error}); restore or delete the file"
            ) from error
    return records


def _ends_line(file: Any, size: int) -> bool:
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _whole_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1
