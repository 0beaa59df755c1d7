"""Weights & Biases (extra `wandb`): the config, every number of metrics.jsonl, final scores, and
the report's files.

A run directory is one W&B run, also when it is resumed: its id is kept in it. The runs of a study
are a group, and its report is a run of that group. With WANDB_MODE=offline nothing leaves the
machine, and `wandb sync` sends it later.
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


def start(
    project: str, folder: Path, config: Mapping[str, Any], group: str = "", kind: str = "train"
) -> Any:
    """The W&B run of this directory, new or continued; UserError where W&B cannot be used.

    group: of the project's runs, "" for none. kind: W&B's job type, train or report.
    """
    _require_package(project)
    import wandb

    try:
        return wandb.init(
            project=project,
            dir=folder,
            id=_id(folder),
            name=folder.name,
            group=group or None,
            job_type=kind,
            # A known id resumes its run, a new one starts one.
            resume="allow",
            config=dict(config),
        )
    except wandb.errors.Error as error:
        raise _refusal(project, str(error)) from error


def report(
    project: str,
    folder: Path,
    config: Mapping[str, Any],
    scores: Mapping[str, float],
    group: str = "",
) -> None:
    """Final scores as the run's summary, and the files of its report as an artifact."""
    run = start(project, folder, config, group)
    run.summary.update(dict(scores))
    files = [*(folder / name for name in REPORT), *sorted(folder.glob("*.png"))]
    _finish(run, {file.name: file for file in files if file.is_file()})


def report_of_study(
    project: str, folder: Path, config: Mapping[str, Any], group: str, pages: Path
) -> None:
    """The files of a study's report as an artifact of a run of its own, in the study's group.

    config: the study's. pages: the folder of the report.
    """
    run = start(project, folder, config, group, kind="report")
    files = [file for file in sorted(pages.rglob("*")) if file.is_file()]
    _finish(run, {file.relative_to(pages).as_posix(): file for file in files})


def _finish(run: Any, files: Mapping[str, Path]) -> None:
    """End the W&B run with an artifact of these files, each under its name there."""
    import wandb

    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    for name, file in files.items():
        artifact.add_file(str(file), name=name)
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
