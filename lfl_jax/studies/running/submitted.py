"""The runs of a study on many machines: jobs of a Slurm array, which submitit submits.

    cluster = read("partition=gpu,gpus_per_node=1,timeout_min=720,jobs=8")
    finish(config, study, chosen, cluster)

All machines see the study's directory, and the environment of this Python, at the same path.
slurm/ in it has what submitit needs, the jobs' output, and jobs.json: which jobs there are, so that
the next start waits for those that still run in place of submitting their runs again.
"""

import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lfl_jax import notices
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.io.progress import progress
from lfl_jax.studies.grid import PlannedRun, StudyConfig
from lfl_jax.studies.running import execute, shares
from lfl_jax.studies.running.execute import State, Study

if TYPE_CHECKING:
    from submitit import Job

FOLDER, RECORD = "slurm", "jobs.json"
# Where jobs run: local is processes of this machine, to try it.
CLUSTERS = ("slurm", "local")
DEFAULT_JOBS = 8
EXAMPLE = "partition=gpu,gpus_per_node=1,timeout_min=720,jobs=8"

# Fields that submitit calls the same on every cluster; others are of its Slurm executor.
GENERIC = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout")
IN_ONE_PROCESS = ("nodes", "tasks_per_node", "ntasks_per_node")
Values = dict[str, int | str | bool | dict[str, bool]]
# signal_delay_s: before the time limit, for a checkpoint.
DEFAULTS: Values = {"name": "lfl_jax", "timeout_min": 240, "signal_delay_s": 300}
# Not to be chosen: one file of output for each job, and jobs that Slurm may requeue.
FIXED: Values = {"stderr_to_stdout": True, "additional_parameters": {"requeue": True}}
# How often a job that reached its time limit is requeued.
REQUEUES = 100
POLL_SECONDS = 5.0


@dataclass(frozen=True)
class Cluster:
    """Where jobs go, and how many share the runs. parameters: of submitit's AutoExecutor."""

    jobs: int = DEFAULT_JOBS
    name: str = "slurm"
    parameters: Values = field(default_factory=dict)


def read(text: str) -> Cluster:
    """FIELD=VALUE,...; UserError for fields that are wrong, and without submitit."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--slurm needs the package submitit: pip install 'lfl_jax[slurm]'")
    given = dict(map(_field, filter(None, text.split(","))))
    jobs, cluster = given.pop("jobs", DEFAULT_JOBS), given.pop("cluster", CLUSTERS[0])
    if isinstance(jobs, str) or jobs < 1:
        raise UserError(f"--slurm: jobs={jobs}: expected how many jobs share the runs, 1 or more")
    if cluster not in CLUSTERS:
        raise UserError(f"--slurm: cluster={cluster}: expected {' or '.join(CLUSTERS)}")
    asked = DEFAULTS | given | FIXED
    parameters = {n if n in GENERIC else f"slurm_{n}": value for n, value in asked.items()}
    return Cluster(jobs, cluster, parameters)


def _field(word: str) -> tuple[str, int | str | bool]:
    name, _, value = word.partition("=")
    if name in IN_ONE_PROCESS:
        raise UserError(f"--slurm: {word}: a run of a study trains in one process")
    if not value:
        raise UserError(f"--slurm: {word}: expected FIELD=VALUE, for example --slurm={EXAMPLE}")
    switches = {"true": True, "false": False}
    return name, int(value) if value.isdecimal() else switches.get(value.lower(), value)


def finish(
    config: StudyConfig,
    study: Study,
    chosen: Sequence[PlannedRun],
    cluster: Cluster,
    *,
    wait: bool = True,
    quiet: bool = False,
) -> bool:
    """Do the runs that are left; whether all ended. Without `wait`: False, and jobs run.

    Jobs of an earlier start that still run are waited for first. Raises UserError for fields that
    submitit or the cluster refuses.
    """
    if jobs := _running(study):
        _say(f"of an earlier start still run: {_listed(jobs)}; if not, remove {_record(study)}")
        if not wait:
            return False
        _wait(study, jobs, quiet)
    left = execute.left_of(chosen, study.states(chosen))
    if not left:
        return True

    jobs = _submit(config, study, left, cluster)
    _say(f"{len(left)} runs are shared by {_listed(jobs)}; their output: {study.folder / FOLDER}/")
    if not wait:
        _say("the same command without --no_wait waits for them, and writes the report")
        return False
    _wait(study, jobs, quiet)
    return State.LEFT not in study.states(chosen).values()


def _submit(
    config: StudyConfig, study: Study, left: Sequence[PlannedRun], cluster: Cluster
) -> list["Job[bool]"]:
    """A job for each share of the runs, recorded in the study's directory."""
    import submitit

    folder = study.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    todo = shares.jobs_of(config, study, shares.deal(left, cluster.jobs))
    try:
        options = {"cluster": cluster.name, "slurm_max_num_timeout": REQUEUES}
        executor = submitit.AutoExecutor(folder, **options)
        executor.update_parameters(**cluster.parameters)
        with executor.batch():
            jobs = [executor.submit(share) for share in todo]
    # What submitit says of a field or of a machine without Slurm, and sbatch of its flags.
    except (NameError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"--slurm: {' '.join(str(error).split())[:500]}") from error
    names = [share.names for share in todo]
    rows = [{"id": job.job_id, "runs": runs} for job, runs in zip(jobs, names, strict=True)]
    files.write_json(_record(study), {"cluster": cluster.name, "jobs": rows})
    return jobs


def _running(study: Study) -> list["Job[bool]"]:
    """The jobs of an earlier start that have not ended."""
    if not _record(study).exists():
        return []
    import submitit

    record, folder = files.read_json_object(_record(study)), study.folder / FOLDER
    kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[record["cluster"]]
    jobs = [kind(folder, row["id"]) for row in record["jobs"]]
    return [job for job in jobs if not job.done(force_check=True)]


def _wait(study: Study, jobs: Sequence["Job[bool]"], quiet: bool) -> None:
    """Return when the jobs have ended; says meanwhile how their runs did."""
    names, before = _runs_of(study, jobs), study.ended()
    are_done = False
    with progress(len(names), "study", visible=not quiet) as advance:
        while not are_done:
            # Asked before the logs are read, which then have all that the jobs wrote.
            are_done = all(job.done() for job in jobs)
            ended = {name: end for name, end in study.ended().items() if name in names}
            new = [end for name, end in ended.items() if before.get(name) != end]
            for end in new:
                if not quiet:
                    execute.say(end)
            if new:
                advance(len(new))
            before |= ended
            if not are_done:
                time.sleep(POLL_SECONDS)
    for job in jobs:
        _warn_of_a_crash(job)


def _runs_of(study: Study, jobs: Sequence["Job[bool]"]) -> set[str]:
    """The names of the runs that these jobs share."""
    ids, rows = {job.job_id for job in jobs}, files.read_json_object(_record(study))["jobs"]
    return {name for row in rows if row["id"] in ids for name in row["runs"]}


def _warn_of_a_crash(job: "Job[bool]") -> None:
    """Say that a job ended without a result: killed, out of memory, cancelled."""
    # None for a job that returned, however its runs ended.
    error = job.exception()
    if error is not None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        notices.warn(
            f"job {job.job_id} ended without a result: {lines[-1][:300]}; its output:"
            f" {job.paths.stdout}"
        )


def _record(study: Study) -> Path:
    return study.folder / FOLDER / RECORD


def _listed(jobs: Sequence["Job[bool]"]) -> str:
    ids = [job.job_id for job in jobs]
    first = ", ".join(ids[:4]) + (f", ... {ids[-1]}" if len(ids) > 4 else "")
    return f"{len(ids)} jobs ({first})" if len(ids) > 1 else f"job {first}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
