"""Results by request, in a file: a killed evaluation resumes with what was answered before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfl_jax.evals.records import Record, RecordFile


class Answers:
    """Answers (JSON values) by the key of their request; without a file, in memory."""

    def __init__(self, path: Path | None = None, settings: Record | None = None) -> None:
        """Reads what an earlier evaluation with the same settings has recorded.

        A file of other settings is renamed.
        """
        self._file = RecordFile.resume(path, settings or {}) if path else None
        if self._file:
            self._file.start({})
        recorded = self._file.records if self._file else []
        self._by_key = {record["key"]: record["answer"] for record in recorded}

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __getitem__(self, key: str) -> Any:
        return self._by_key[key]

    def add(self, answers: Mapping[str, Any]) -> None:
        """Record new answers; they are on disk before this returns."""
        self._by_key |= answers
        if self._file and answers:
            self._file.append([{"key": key, "answer": value} for key, value in answers.items()])
