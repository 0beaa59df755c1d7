"""Per-example records: a JSONL file per task whose first line says what settings the rest was made
with."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfl_jax.evals.task import Record

log = logging.getLogger(__name__)


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The header ({"settings": ..., "plan": ...}) and the records of a file; a last line cut short
    is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    header, *records = [json.loads(line) for line in lines] or [{"settings": None}]
    return header, records


def resume(path: Path, settings: dict[str, Any]) -> list[Record] | None:
    """What an interrupted evaluation with the same settings has left, made ready to be appended to.

    None when there is none. A file of other settings is kept under another name, and a warning says
    so.
    """
    if not path.exists():
        return None
    try:
        header, records = read(path)
        found = header["settings"]
    except (ValueError, KeyError, TypeError):  # not a file of ours, or damaged
        found, records = None, []
    if found == settings:
        _drop_partial_line(path)
        return records
    old = path.with_suffix(".old.jsonl")
    os.replace(path, old)
    differs = [key for key in settings if not found or found.get(key) != settings[key]]
    log.warning(
        "%s: other settings (%s), evaluating anew; the old file is %s",
        path,
        ", ".join(differs),
        old.name,
    )
    return None


def start(path: Path, settings: dict[str, Any], plan: dict[str, Any]) -> None:
    """A new file with its header; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"settings": settings, "plan": plan}) + "\n", encoding="utf-8")
    os.replace(partial, path)


def append(path: Path, records: Sequence[Record]) -> None:
    """Add records, written out before this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _drop_partial_line(path: Path) -> None:
    data = path.read_bytes()
    os.truncate(path, data.rfind(b"\n") + 1)
