"""A run directory of this package: its evaluations before and after training."""

import functools
import re
from pathlib import Path

from lfl_jax.core.files import expecting
from lfl_jax.errors import UserError
from lfl_jax.evals import records as record_files
from lfl_jax.evals.tasks import TASKS
from lfl_jax.studies.records import run_transcripts
from lfl_jax.studies.records.scores import Scores

WHEN = ("before", "after")
# The folder of an evaluation during training ends in the number of steps, "dev-000040".
DURING = re.compile(r".*-(\d+)")


def recognises(path: Path) -> bool:
    """By the folder of its records."""
    return (path / "evals").is_dir()


def read(path: Path, part: str = "") -> list[Scores]:
    """The model before and after training, as far as they were evaluated; or the one named."""
    if part and part not in WHEN:
        raise UserError(f"{path}:{part}: expected :before or :after")
    variants = (part,) if part else WHEN
    scores = [_scores(path, when) for when in variants if (path / "evals" / when).is_dir()]
    if not scores:
        raise UserError(f"{path} was not evaluated {' or '.join(variants)} training")
    return scores


def finished(study: Path) -> list[Path]:
    """The run directories of a study that have ended; UserError without any."""
    # results.json is the last thing that a run writes.
    runs = sorted(file.parent for file in study.glob("runs/*/results.json"))
    if not runs:
        raise UserError(f"{study} has no finished run in {study / 'runs'}")
    return runs


def along(path: Path) -> dict[int, Scores]:
    """{steps: the model then} of the evaluations during training; {} without any."""
    folders = [DURING.fullmatch(folder.name) for folder in sorted((path / "evals").glob("*-*"))]
    return {int(match[1]): _scores(path, match[0]) for match in folders if match}


def on_dev_items(path: Path, step: int) -> Scores:
    """The model after so many steps, on the dev items; UserError where it was not evaluated."""
    when = f"dev-{step:06d}"
    if not (path / "evals" / when).is_dir():
        raise UserError(f"{path} was not evaluated after step {step}")
    return _scores(path, when)


def contents(path: Path, when: str) -> dict[str, str]:
    """{task: a hash of its items} of one of WHEN, read from the first lines of the records."""
    files = sorted((path / "evals" / when).glob("*.jsonl"))
    headers = {file.stem: record_files.header(file) for file in files if file.stem in TASKS}
    return {task: digest for task, header in headers.items() if (digest := _content(header))}


def _content(header: dict) -> str:
    content = _settings(header).get("content", "")
    return content if isinstance(content, str) else ""


def _settings(header: dict) -> dict:
    """What the records depend on; {} where the header says nothing of the kind."""
    settings = header.get("settings")
    return settings if isinstance(settings, dict) else {}


def _scores(path: Path, when: str) -> Scores:
    tasks, prompts, digests = {}, {}, {}
    for file in sorted((path / "evals" / when).glob("*.jsonl")):
        # A file of earlier settings is kept as TASK.old.jsonl; a task of one's own is not known
        # here, and its metrics are not either.
        if file.stem not in TASKS:
            continue
        header, records = record_files.read(file)
        _require_complete(file, header, records)
        with expecting(file, f"records of {file.stem}"):
            tasks[file.stem] = TASKS[file.stem].measure(records)
            prompts[file.stem] = {
                record["id"]: record["prompt_sha256"]
                for record in records
                if "prompt_sha256" in record
            }
        if digest := _content(header):
            digests[file.stem] = digest
    if not tasks:
        raise UserError(f"{path}/evals/{when} has no records of a task of this package")
    transcripts = functools.partial(run_transcripts.read, path / "evals" / when)
    return Scores(f"{path.name}:{when}", tasks, prompts, transcripts, digests)


def _require_complete(file: Path, header: dict, records: list[dict]) -> None:
    expected = _settings(header).get("items")
    if expected != len(records):
        raise UserError(
            f"{file}: {len(records)} of {expected} items; the evaluation was interrupted: run its"
            " command again"
        )
