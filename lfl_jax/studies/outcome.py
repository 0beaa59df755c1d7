"""From a study's directory to its report: the runs' records, and what readers must know of them."""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lfl_jax.errors import UserError
from lfl_jax.evals.inputs import from_config
from lfl_jax.report import describe, results_json
from lfl_jax.report.study import page
from lfl_jax.studies import runs as study_runs
from lfl_jax.studies import traits
from lfl_jax.studies.fields import ArmConfig, overrides
from lfl_jax.studies.findings import Findings, find
from lfl_jax.studies.grid import PlannedRun, StudyConfig
from lfl_jax.studies.records import run_directories, run_measures, run_transcripts
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.running import finished as finished_runs
from lfl_jax.studies.running import reuse
from lfl_jax.studies.running.execute import State, States, Study
from lfl_jax.studies.sequences import STARTS


def write(
    config: StudyConfig, study: Study, states: States, command: str, console: Console
) -> Path:
    """The report of the runs that finished, in the study's report/; prints its verdicts.

    states: the study's, which are passed on as all records are read for them. Raises as `findings`.
    """
    answered = findings(config, study, states)
    flagged = flags(study, finished(study, states))
    about = page.About(config.name, command, flagged, methods(config, study))
    return page.publish(answered, about, study.folder / "report", console)


def findings(config: StudyConfig, study: Study, states: States) -> Findings:
    """What the runs say that finished.

    Raises UserError where no run finished, and where the finished ones cannot be compared.
    """
    tasks = config.sequence
    last = tasks[-1].name if tasks else ""
    ended = [run for run in finished(study, states) if run.task == last]
    if not ended:
        raise UserError(f"{study.folder}: no run of the last task, {last}, has finished yet")
    base, by_config = _base(study, ended[0]), traits.of_runs(study.runs)
    return find(base, read(study, states, base), config.question, by_config, tasks)


def finished(study: Study, states: States) -> list[PlannedRun]:
    """The runs with results; UserError where there are none."""
    runs = [run for run in study.runs if states[run.name] is State.FINISHED]
    if not runs:
        raise UserError(f"{study.folder}: no run has finished, so that there is nothing to report")
    return runs


def _base(study: Study, run: PlannedRun) -> Scores:
    """As a run evaluated it, with the questions that it was asked."""
    folder = study.run_folder(run)
    inputs = functools.cache(functools.partial(from_config, run.config))
    questions = functools.partial(
        run_transcripts.with_questions, folder / "evals" / "before", inputs
    )
    scores = run_directories.read(folder, "before")[0]
    return dataclasses.replace(scores, transcripts=questions)


def read(study: Study, states: States, base: Scores) -> list[study_runs.Run]:
    """Every run of the grid with its scores, or with the reason why it has none.

    base: the study's; a run that was scored on other items has one of its own.
    """
    ended, read_runs, bases = study.ended(), [], _Bases(base)
    for run in study.runs:
        scores, reason, more = None, "not run yet", {"point": run.point, "task": run.task}
        if states[run.name] is State.FINISHED:
            scores, reason, folder = _scores(study, run), "", study.run_folder(run)
            more |= {"along": run_directories.along(folder), "base": bases.of(study, run)}
            more |= {"measures": run_measures.read(folder)}
        elif run.name in ended:
            reason = finished_runs.lost(study.run_folder(run), run.config)
            reason = reason or ended[run.name].reason
        read_runs.append(
            study_runs.Run(run.arm, run.lr, run.seed, run.steps, scores, reason, **more)
        )
    return read_runs


@dataclasses.dataclass(frozen=True)
class _Bases:
    """The base on the items of each target, read once. by_items: by the hashes of all its items."""

    of_study: Scores
    by_items: dict[tuple[tuple[str, str], ...], Scores] = dataclasses.field(default_factory=dict)

    def of(self, study: Study, run: PlannedRun) -> Scores | None:
        """None for a run that was scored on the items of the study's base."""
        items, shared = run_directories.contents(study.run_folder(run), "before"), self.of_study
        if all(shared.contents.get(task, digest) == digest for task, digest in items.items()):
            return None
        key = tuple(sorted(items.items()))
        if key not in self.by_items:
            self.by_items[key] = _base(study, run)
        return self.by_items[key]


def _scores(study: Study, run: PlannedRun) -> Scores:
    scores = run_directories.read(study.run_folder(run), "after")[0]
    # What a prompted base was asked differs on purpose: the questions are the same.
    return dataclasses.replace(scores, prompts={}) if run.point.is_prompt else scores


def flags(study: Study, finished: Sequence[PlannedRun]) -> tuple[str, ...]:
    """What stands at every figure: synthetic sources, rounded bases, bases that differ by run."""
    flagged: dict[str, set[str]] = {}
    fingerprints: dict[str, set[str]] = {}
    for run in finished:
        facts = results_json.saved_facts(study.run_folder(run)) or {}
        provenance = facts["provenance"]
        fingerprints.setdefault(provenance["base"]["fingerprint"], set()).add(run.arm)
        # Warnings of single runs stand in their own results.
        # Where a later task starts is what the study is.
        unsaid = {"warnings": []} | ({"start": None} if run.start else {})
        for flag in describe.flags(provenance | unsaid):
            flagged.setdefault(flag, set()).add(run.arm)

    everyone = {run.arm for run in finished}
    texts = []
    for text, arms in flagged.items():
        # A flag of all arms says nothing about their difference.
        texts.append(text if arms == everyone else f"{', '.join(sorted(arms))}: {text}")
    if len(fingerprints) > 1:
        texts.append(
            f"the arms have {len(fingerprints)} different bases; all are compared with that of"
            f" {finished[0].name}"
        )
    return tuple(texts)


def methods(config: StudyConfig, study: Study) -> tuple[str, ...]:
    """How the runs were made, written from the study's config."""
    run = study.runs[0].config
    arms = "; ".join(map(_described, config.arms))
    lengths = " and ".join(map(str, config.steps))
    fields = "; ".join(f"{name} = {json.dumps(value)}" for name, value in config.config)
    sequences = f"{run.train.batch} sequences of {run.data.seq_len} tokens"
    return (
        f"Every run starts from {config.base} and trains for {lengths} steps of {sequences} with"
        f" {run.optim.name}, schedule {run.optim.schedule}. Arms: {arms}. Seeds"
        f" {', '.join(map(str, config.seeds))}, each of which sets initialisation, data order and"
        " dropout apart; arms are paired by seed.",
        f"Fields in place of the base config's: {fields or 'none'}.",
        *_sequence(config),
        *_reused(study),
    )


def _sequence(config: StudyConfig) -> list[str]:
    """The tasks, and what each method does between them, in a sentence; none without any."""
    if not config.sequence:
        return []
    tasks = "; ".join(
        f"{task.name} ({json.dumps(dict(overrides(task.config)))})" for task in config.sequence
    )
    between = "; ".join(f"{arm.name} {STARTS[arm.start]}" for arm in config.arms)
    return [
        f"Tasks, one after another: {tasks}. Each begins with a fresh optimizer and has a whole"
        f" schedule of its own. {between}. What is said of learning and forgetting outside of the"
        " transfer between tasks is of the model after the last one."
    ]


def _reused(study: Study) -> list[str]:
    """Which runs another study had done, in a sentence; none without any."""
    origins = filter(None, (reuse.origin(study.run_folder(run)) for run in study.runs))
    by_study = Counter(str(Path(origin).parent.parent) for origin in origins)
    # Arms with the same first task have one run of it.
    del by_study[str(study.folder)]
    if not by_study:
        return []
    listed = ", ".join(f"{count} of {folder}" for folder, count in sorted(by_study.items()))
    return [f"Runs that other studies had done with the same config are theirs: {listed}."]


def _described(arm: ArmConfig) -> str:
    if arm.of:
        altered = ", ".join(map(str, arm.points))
        return f"{arm.name} (not trained: the finished change of {arm.of}: {altered})"
    rates = ", ".join(f"{lr:g}" for lr in arm.rates)
    return f"{arm.name} ({arm.words or 'as the base config'}) at learning rates {rates}"
