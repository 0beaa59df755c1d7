"""What a run that reached its end has to report, for whoever started it."""

from pathlib import Path
from typing import Any

from lfl_jax.analysis import contamination
from lfl_jax.report import results_json
from lfl_jax.report.rows import Report, report
from lfl_jax.train import Outcome


def paired(outcome: Outcome, warnings: list[str], folder: Path) -> tuple[Report, dict[str, Any]]:
    """The change of every metric, and the facts that stand beside it in results.json."""
    facts = outcome.facts
    if not outcome.trained:
        # The run was at its end before: the figures of its training are those of that start.
        facts = results_json.saved_facts(folder) or facts
    facts["provenance"]["warnings"] = warnings
    return report(outcome.before, outcome.after, contamination.read(folder)), facts
