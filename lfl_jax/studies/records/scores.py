"""One model's scores by item, of every task and metric."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Measured
from lfl_jax.studies.records import transcripts
from lfl_jax.studies.records.transcripts import Transcripts


@dataclass(frozen=True)
class Scores:
    """tasks: {task: {metric: its values by item}}, a task's main metric first.

    prompts: {task: {item: a hash of what the model was asked}}, where the records have one.
    transcripts: of a task, what was asked and answered, where the records have it. contents: {task:
    a hash of its items}, where the records have one.
    """

    name: str
    tasks: Mapping[str, Mapping[str, Measured]]
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    transcripts: Transcripts = transcripts.none
    contents: Mapping[str, str] = field(default_factory=dict)


def require_comparable(base: Scores, other: Scores, task: str, metric: str) -> None:
    """UserError when two models were scored on other items, or asked them in other words."""
    require_same_prompts(base, other, task)
    first, second = (scores.tasks[task][metric].column.ids for scores in (base, other))
    # Mostly they are in one order, too.
    if first == second or sorted(map(str, first)) == sorted(map(str, second)):
        return
    raise UserError(
        f"{task}/{metric} of {other.name} ({len(second)} items) and of {base.name}"
        f" ({len(first)}) are not of the same items: evaluate again"
    )


def require_same_prompts(base: Scores, other: Scores, task: str) -> None:
    """UserError when two models were asked an item in other words."""
    first, second = base.prompts.get(task, {}), other.prompts.get(task, {})
    changed = [item for item in first if item in second and first[item] != second[item]]
    if changed:
        raise UserError(
            f"{task}: {len(changed)} of {len(first)} prompts differ between {base.name} and"
            f" {other.name} (item {changed[0]} first): the scores are not of the same questions"
        )
