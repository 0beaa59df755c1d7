"""Weights & Biases (extra `wandb`): the config, every number of metrics.jsonl, final scores, and
the report's files.

A run directory is one W&B run, also when it is resumed: its id is kept in it. With
WANDB_MODE=offline nothing leaves the machine, and `wandb sync` sends it later.
"""

import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.notices import is_first_process

ID_FILE = "wandb/id.txt"
REPORT = ("results.json", "summary.txt", "config.json", "contamination.json")


LOCAL_MODES = ("offline", "dryrun", "disabled")  # values of WANDB_MODE with which nothing is sent


def check(project: str) -> None:
    """UserError where a project is named and W&B cannot be used.

    That is without the package, without a login, or with one that is refused. For the start of a
    run: it would be noticed otherwise when its base is loaded and evaluated.
    """
    if not project:
        return
    _require_package(project)
    if is_first_process():  # the only one that logs
        _require_login(project)


def _require_package(project: str) -> None:
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.log.wandb={project!r} needs the package wandb: pip install 'lfl_jax[wandb]'"
        )


def _require_login(project: str) -> None:
    import wandb

    # Where nothing is sent, no login is needed.
    if wandb.setup().settings.mode in LOCAL_MODES or os.environ.get("WANDB_DISABLED"):
        return
    try:
        is_logged_in = wandb.login(verify=True, prompt=False)
    except wandb.errors.Error as error:
        raise _refusal(project, str(error)) from error
    if not is_logged_in:
        raise _refusal(project, "not logged in to Weights & Biases")


def _refusal(project: str, reason: str) -> UserError:
    line = " ".join(reason.split()).rstrip(".")
    return UserError(
        f"config.log.wandb={project!r}: {line}. Log in with `wandb login`, or set WANDB_API_KEY, or"
        " WANDB_MODE=offline"
    )


def start(project: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """The W&B run of this run directory, new or continued; UserError where W&B cannot be used."""
    _require_package(project)
    import wandb

    try:
        return wandb.init(
            project=project,
            dir=folder,
            id=_id(folder),
            name=folder.name,
            # A known id resumes its run, a new one starts one.
            resume="allow",
            config=dict(config),
        )
    except wandb.errors.Error as error:
        raise _refusal(project, str(error)) from error


def report(
    project: str, folder: Path, config: Mapping[str, Any], scores: Mapping[str, float]
) -> None:
    """Final scores as the run's summary, and the files of its report as an artifact."""
    import wandb

    run = start(project, folder, config)
    run.summary.update(dict(scores))
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    files = [*(folder / name for name in REPORT), *sorted(folder.glob("*.png"))]
    for file in filter(Path.is_file, files):
        artifact.add_file(str(file))
    run.log_artifact(artifact)
    run.finish()


def _id(folder: Path) -> str:
    """The same in every start of a run directory."""
    file = folder / ID_FILE
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Before W&B is asked, so that a start that fails there leaves its id for the next.
        file.write_text(secrets.token_hex(4), "utf-8")
    return file.read_text("utf-8").strip()
