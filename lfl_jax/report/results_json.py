"""results.json: everything measured, for programs."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfl_jax import assets
from lfl_jax.core import files
from lfl_jax.evals.run import Result
from lfl_jax.report.describe import flags
from lfl_jax.report.rows import Report, Row, report

VERDICTS = {True: "better", False: "worse", None: "undecided"}


def save(report: Report, facts: Mapping[str, Any], folder: Path) -> None:
    """Of a run: the answer, every row before, after and as a change, flips, and the run's facts."""
    # Once more without the items that the training source contains, where it contains some.
    clean = Report([row.clean for row in report.rows if row.clean])
    content = {
        "answer": {"learned": _answer(report.learned), "forgotten": _answer(report.forgotten)},
        "rows": report.to_rows(),
        "prediction_flips": _flips(report),
        "clean": clean.to_rows(),
    }
    _write(folder, content, facts)


def save_results(results: Mapping[str, Result], facts: Mapping[str, Any], folder: Path) -> None:
    """Of one model: every metric of every task, as "before", and the tasks' settings."""
    tasks = {}
    for task, result in results.items():
        tasks[task] = {"settings": result.settings, "plan": result.plan}
    _write(folder, {"rows": report(results, {}).to_rows(), "tasks": tasks}, facts)


def saved_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of the file that an earlier end of this run wrote, if any."""
    # A run that is started again at its end measured no speed and no time of its own.
    try:
        facts = json.loads((folder / "results.json").read_text("utf-8"))["facts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _answer(row: Row | None) -> dict[str, Any] | None:
    """Which row is the answer to a question, and its verdict."""
    return row and {
        "task": row.task,
        "metric": row.metric.name,
        "label": row.label,
        "verdict": VERDICTS[row.is_better],
        "note": row.note,
    }


def _flips(report: Report) -> dict[str, dict[str, int | float]]:
    """{"task/metric": its prediction flips}."""
    flips = {}
    for row in report.rows:
        if row.flips:
            counts = dataclasses.asdict(row.flips)
            flips[f"{row.task}/{row.metric.name}"] = counts | {"n": row.items}
    return flips


def _without_places(value: object) -> object:
    """The content without where this machine keeps its cache and its people: files get published.

    $LFL_CACHE and ~ stand for them.
    """
    if isinstance(value, Mapping):
        return {name: _without_places(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(x) for x in value]
    return _shown(value) if isinstance(value, str) else value


def _shown(text: str) -> str:
    # The cache first, as it is often below the home. Whole folders only: /home/ab is not /home/a's.
    for folder, name in {str(assets.root()): "$LFL_CACHE", os.path.expanduser("~"): "~"}.items():
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?=/|\W|$)", lambda _: name, text)  # noqa: B023
    return text


def _write(folder: Path, content: dict[str, Any], facts: Mapping[str, Any]) -> None:
    content |= {"facts": facts, "flags": flags(facts["provenance"])}
    content = _without_places(content)
    # NaN and infinity (no interval, an overflown perplexity) are no JSON: null stands for them.
    strict = json.loads(json.dumps(content), parse_constant=lambda _: None)
    files.write_json(folder / "results.json", strict)
