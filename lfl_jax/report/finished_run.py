"""What a run that reached its end has to report, for whoever started it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfl_jax.analysis import contamination
from lfl_jax.config import Config
from lfl_jax.evals import suite
from lfl_jax.evals.run import Result
from lfl_jax.io import wandb_log
from lfl_jax.report import results_json
from lfl_jax.report.rows import Report, report
from lfl_jax.train import Outcome

Results = Mapping[str, Result]  # {task: its scores}


def paired(outcome: Outcome, warnings: list[str], folder: Path) -> tuple[Report, dict[str, Any]]:
    """The change of every metric, and the facts that stand beside it in results.json."""
    facts = outcome.facts
    if not outcome.trained:
        # The run was at its end before: the figures of its training are those of that start.
        facts = results_json.saved_facts(folder) or facts
    facts["provenance"]["warnings"] = warnings
    return report(outcome.before, outcome.after, contamination.read(folder)), facts


def send(config: Config, before: Results, after: Results, folder: Path) -> None:
    """Send the scores and the report's files to W&B, where the config names a project."""
    if not config.log.wandb:
        return
    scores = {f"before/{task}": x for task, x in suite.flat(before).items()}
    scores |= {f"after/{task}": x for task, x in suite.flat(after).items()}
    wandb_log.report(config.log.wandb, folder, config.values(), scores, config.log.wandb_group)
