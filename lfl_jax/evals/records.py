"""A file of records: JSON lines, the first of which names the settings that the rest depends on."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Record

log = logging.getLogger(__name__)


def digest(value: object) -> str:
    """16 hexadecimal digits of a hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path) -> tuple[Record, list[Record]]:
    """The header, {"settings": ..., "plan": ...}, and the records; half a last line is left out."""
    header, *records = files.read_jsonl(path) or [{"settings": None}]
    return header, records


def header(path: Path) -> Record:
    """The header alone, {"settings": ..., "plan": ...}; of an empty file, without settings."""
    with files.expecting(path, "records"), path.open(encoding="utf-8") as lines:
        return dict(json.loads(next(lines, '{"settings": null}')))


def copy_new(source: Path, target: Path) -> None:
    """Copy a file of records that is there to where none is yet; it appears complete."""
    if source.exists() and not target.exists():
        files.write_text(target, source.read_text("utf-8"))


@dataclass
class RecordFile:
    """A file that is appended to, with its content.

    settings: everything that the records depend on. plan: figures of the header, None before
    `start`.
    """

    path: Path
    settings: Record
    plan: Record | None = None
    records: list[Record] = field(default_factory=list)

    @classmethod
    def resume(cls, path: Path, settings: Record) -> "RecordFile":
        """The file that an interrupted evaluation with these settings left, or a new one.

        A file of other settings is renamed, and a warning names them.
        """
        if not path.exists():
            return cls(path, settings)
        try:
            header, records = read(path)
            earlier, plan = header["settings"], header.get("plan")
        except (UserError, KeyError, TypeError):  # not such a file, or damaged
            earlier, plan, records = None, None, []

        if earlier == settings:
            files.drop_half_line(path)
            return cls(path, settings, plan or {}, records)
        _rename_old(path, settings, earlier or {})
        return cls(path, settings)

    def start(self, plan: Record) -> None:
        """Write the header of a new file; the file appears complete or not at all."""
        # A resumed file has its header.
        if self.plan is not None:
            return
        self.plan = plan
        header = json.dumps({"settings": self.settings, "plan": plan})
        files.write_text(self.path, header + "\n")

    def append(self, records: Sequence[Record]) -> None:
        """Add records, on disk before this returns."""
        # A log-probability may be -inf, which Python's JSON writes and reads as -Infinity.
        files.append_jsonl(self.path, records, ensure_ascii=False, allow_nan=True)
        # As a restart reads them, where tuples are lists: results do not depend on interruptions.
        self.records += json.loads(json.dumps(records))


def _rename_old(path: Path, settings: Record, earlier: Record) -> None:
    old = path.with_suffix(".old.jsonl")
    os.replace(path, old)
    differs = [key for key in settings if key not in earlier or earlier[key] != settings[key]]
    log.warning(
        "%s: other settings (%s), evaluating again; the old file is %s",
        path,
        ", ".join(differs),
        old.name,
    )
