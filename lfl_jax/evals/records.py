"""Per-example records: a JSONL file per task whose first line says what settings the rest was made
with."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals.task import Record

log = logging.getLogger(__name__)


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The header ({"settings": ..., "plan": ...}) and the records of a file; a last line cut short
    is left out."""
    header, *records = files.read_jsonl(path) or [{"settings": None}]
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
    except (UserError, KeyError, TypeError):  # not a file of ours, or damaged
        found, records = None, []
    if found == settings:
        files.drop_half_line(path)
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
    files.write_text(path, json.dumps({"settings": settings, "plan": plan}) + "\n")


def append(path: Path, records: Sequence[Record]) -> None:
    """Add records, written out before this returns."""
    # A log-probability may be -inf, which Python's JSON writes and reads as -Infinity.
    files.append_jsonl(path, records, ensure_ascii=False, allow_nan=True)
