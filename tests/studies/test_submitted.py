"""A study on a cluster: shares of its runs, what submitit is asked for, and a real one by processes
of this machine.

python -m pytest -m slow tests/studies/test_submitted.py      3 minutes
"""

import dataclasses
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from lfl_jax.configs.studies import smoke
from pretended_runs import Fake

from lfl_jax import study as command
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.studies import grid
from lfl_jax.studies.running import execute, measuring, shares, submitted
from lfl_jax.studies.running.execute import State, Study

submitit = pytest.importorskip("submitit", reason="submitit is not here (extra slurm)")
CONFIG = smoke.__file__


@pytest.fixture(scope="module")
def config():
    return grid.read(smoke.get_config().to_dict())


@pytest.fixture(scope="module")
def planned(config):
    return grid.expand(config)


@pytest.fixture
def study(tmp_path, planned):
    return Study(tmp_path / "study", planned)


def names(runs):
    return [run.name for run in runs]


# --- what a share is


def test_runs_are_dealt_out_and_none_is_lost(planned):
    dealt = shares.deal(planned, 3)
    assert [len(share) for share in dealt] == [3, 3, 2]
    assert sorted(name for share in dealt for name in names(share)) == sorted(names(planned))
    assert len(shares.deal(planned, 100)) == len(planned) and shares.deal([], 3) == []


def test_runs_that_need_one_another_stay_together_in_order(planned):
    a, b, c, d, *rest = planned
    b = dataclasses.replace(b, source=a.name)
    d = dataclasses.replace(d, source=c.name, start=b.name)  # makes one group of two
    dealt = shares.deal([a, b, c, d, *rest], 2)
    assert names(dealt[0])[:4] == names([a, b, c, d])
    assert sorted(map(len, dealt)) == [4, 4]
    # What it needs is finished: nothing holds it back.
    assert [len(share) for share in shares.deal([b, d], 2)] == [2]
    assert [len(share) for share in shares.deal([b, c], 2)] == [1, 1]


def job(config, study, runs, index=0, **faults):
    jobs = shares.jobs_of(config, study, [[]] * index + [runs])
    return dataclasses.replace(jobs[index], do=Fake(**faults))


def test_a_job_does_its_share_and_logs_it_apart(config, study, monkeypatch):
    measured = []
    complete = lambda config, study, states: measured.append(states) or True  # noqa: E731
    monkeypatch.setattr(measuring, "complete", complete)
    first, second = study.runs[:3], study.runs[3:]
    assert job(config, study, first)()
    assert not (study.folder / "runs.jsonl").exists()
    assert names(study.runs[:3]) == list(study.ended())
    # Of its own runs only: the others' are measured where they are done.
    assert [name for name, state in measured[0].items() if state is State.FINISHED] == names(first)

    failing = {"lora_0_01_4_s1": UserError("no room")}
    assert job(config, study, second, 1, **failing)()
    ended, states = study.ended(), study.states()
    assert len(ended) == len(study.runs) and states["lora-0.01-4-s1"] is State.FAILED
    assert ended["lora-0.01-4-s1"].reason == "no room"
    # A later attempt, written to another log, is the one that counts.
    assert execute.execute(study, Fake(), quiet=True)
    assert study.ended()["lora-0.01-4-s1"].reason == ""
    assert study.ended()["lora-0.01-4-s1"].state is State.FINISHED


def test_a_stopped_job_says_so_and_resumes(config, study):
    stopped = job(config, study, study.runs[:2], full_0_001_4_s0="interrupted")
    assert stopped() is False
    assert stopped.checkpoint().function is stopped
    assert names(execute.left_of(study.runs[:2], study.states())) == names(study.runs[:2])[1:]


class Training:
    """A run that is told to stop by submitit's signal while it trains, as by a time limit."""

    def __init__(self, is_over):
        self.is_over, self.done = is_over, []  # is_over: it has no step left to stop at

    def __call__(self, config, folder, base_records, shared):
        from lfl_jax.io.interrupt import interrupts

        self.done.append(folder.name)
        with interrupts() as stop:
            signal.raise_signal(signal.SIGUSR2)
            return self.is_over or not stop.requested


@pytest.mark.parametrize("is_over", [False, True])
def test_a_time_limit_saves_before_the_job_is_requeued(config, study, is_over):
    events = []
    previous = {
        number: signal.signal(number, lambda *_: events.append("requeued"))
        for number in (signal.SIGUSR2, signal.SIGTERM)
    }
    try:
        training = Training(is_over)
        stopped = dataclasses.replace(job(config, study, study.runs[:2]), do=training)
        assert stopped() is False
        # Requeued once, after the run had returned; the next one did not begin.
        assert events == ["requeued"] and training.done == names(study.runs[:1])
        # Where nothing trains there is nothing to wait for.
        with shares._requeued_after_saving() as requeue:
            signal.raise_signal(signal.SIGUSR2)
            assert events == ["requeued"] * 2 and not requeue.is_wanted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# --- what is asked for


def test_fields_are_those_of_submitit():
    cluster = submitted.read("partition=gpu,gpus_per_node=1,timeout_min=720,jobs=3,exclusive=true")
    assert (cluster.jobs, cluster.name) == (3, "slurm")
    asked = {"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 720}
    assert asked.items() <= cluster.parameters.items()
    assert cluster.parameters["slurm_exclusive"] is True
    assert submitted.read("").jobs == submitted.DEFAULT_JOBS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition", "--slurm: partition: expected FIELD=VALUE, for example --slurm=partition="),
        ("nodes=2", "--slurm: nodes=2: a run of a study trains in one process"),
        ("jobs=0", "--slurm: jobs=0: expected how many jobs"),
        ("jobs=many", "--slurm: jobs=many: expected how many jobs"),
        ("cluster=pbs", "--slurm: cluster=pbs: expected slurm or local"),
    ],
)
def test_wrong_fields_are_said_in_a_line(text, said):
    with pytest.raises(UserError, match=said):
        submitted.read(text)


def test_without_submitit_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package submitit: pip install 'lfl_jax\[slurm\]'"):
        submitted.read("")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--slurm", "--jobs=2"], "--jobs=2 shares the cores of this machine: --slurm=jobs=N"),
        (["--no_wait"], "--no_wait is for --slurm"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        command.main(["study", f"--config={CONFIG}", f"--workdir={tmp_path}", *flags])
    assert not list(tmp_path.iterdir())


def test_a_search_is_not_shared(tmp_path):
    arguments = ["--config=configs/studies/search.py", f"--workdir={tmp_path}", "--slurm"]
    with pytest.raises(UserError, match="--slurm is for studies: what a search runs next"):
        command.main(["study", *arguments])


# --- a Slurm of fakes


SBATCH = 'cp "$1" "$CALLS/script"; echo "Submitted batch job 42"'
SACCT = (
    'echo "JobID|State|NodeList"; echo "42_0|$(cat "$CALLS/state")|n1"; echo "42_1|COMPLETED|n2"'
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with the script that sbatch was given; `state` in it is what sacct says of job 0."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "srun": ":"}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path))
    monkeypatch.setattr(submitted, "POLL_SECONDS", 0.01)
    # How long submitit looks for the result of a job that is over, on a slow file system.
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    (tmp_path / "state").write_text("RUNNING")
    return tmp_path


def test_an_array_is_submitted_with_the_fields(config, study, slurm, capsys):
    cluster = submitted.read("partition=gpu,gpus_per_node=1,timeout_min=720,jobs=2")
    assert not submitted.finish(config, study, study.runs, cluster, wait=False)
    script = (slurm / "script").read_text().splitlines()
    for flag in (
        "--array=0-1%2", "--partition=gpu", "--gpus-per-node=1", "--time=720",
        "--job-name=lfl_jax", "--signal=USR2@300", "--requeue", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {flag}" in script, flag
    assert any(sys.executable in line and line.startswith("srun ") for line in script)
    said = capsys.readouterr().err
    assert f"8 runs are shared by 2 jobs (42_0, 42_1); their output: {study.folder}/slurm/" in said

    # Started again while a job runs, nothing is submitted; once it is over, what it left is.
    (slurm / "script").unlink()
    assert not submitted.finish(config, study, study.runs, cluster, wait=False)
    assert "of an earlier start still run: job 42_0" in capsys.readouterr().err
    assert not (slurm / "script").exists()
    (slurm / "state").write_text("CANCELLED")
    execute.execute(study, Fake(), only="full", quiet=True)
    submitted.finish(config, study, study.runs, cluster, wait=False)
    record = json.loads((study.folder / "slurm/jobs.json").read_text())
    left = [name for row in record["jobs"] for name in row["runs"]]
    assert sorted(left) == sorted(name for name in names(study.runs) if "lora" in name)


def test_a_finished_study_submits_nothing(config, study, slurm):
    execute.execute(study, Fake(), quiet=True)
    assert submitted.finish(config, study, study.runs, submitted.read(""))
    assert not (slurm / "script").exists()


def test_jobs_that_were_killed_are_said_and_their_runs_are_left(config, study, slurm, capsys):
    (slurm / "state").write_text("OUT_OF_MEMORY")
    assert not submitted.finish(config, study, study.runs, submitted.read("jobs=2"))
    said = capsys.readouterr().err
    assert "warning: job 42_0 ended without a result" in said
    assert f"its output: {study.folder}/slurm/42_0_0_log.out" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitoin=gpu", "--slurm: Unknown argument 'partitoin' for executor 'slurm'"),
        ("timeout_min=long", '--slurm: Parameter "timeout_min" expected type'),
    ],
)
def test_what_submitit_refuses_is_said_in_a_line(config, study, slurm, text, said):
    with pytest.raises(UserError) as refused:
        submitted.finish(config, study, study.runs, submitted.read(text))
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not (study.folder / "slurm/jobs.json").exists()


def test_what_sbatch_refuses_is_said_in_a_line(config, study, slurm):
    (slurm / "bin/sbatch").write_text("#!/bin/sh\necho 'invalid partition specified' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"--slurm: .*invalid partition specified"):
        submitted.finish(config, study, study.runs, submitted.read("partition=x"))


def test_a_machine_without_slurm_is_said_in_a_line(config, study, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r'--slurm: Could not detect "srun", are you indeed on'):
        submitted.finish(config, study, study.runs, submitted.read(""))


# --- a real study, by processes of this machine


def content(folder):
    """{file: its bytes} of everything that a study says."""
    tables = {file.name: file.read_bytes() for file in (folder / "report/tables").iterdir()}
    records = folder.glob("runs/*/evals/*/*.jsonl")
    return tables | {str(file.relative_to(folder)): file.read_bytes() for file in records}


LOCAL = "--slurm=cluster=local,jobs=2"


@pytest.mark.slow
def test_jobs_end_in_the_tables_of_one_process(tmp_path, capsys):
    arguments = ["study", f"--config={CONFIG}"]
    command.main([*arguments, f"--workdir={tmp_path / 'one/study'}", "--quiet"])
    shared = tmp_path / "several/study"
    command.main([*arguments, f"--workdir={shared}", LOCAL])
    assert content(shared) == content(tmp_path / "one/study")
    said = capsys.readouterr().err
    assert "8 runs are shared by 2 jobs" in said and "lora-0.01-4-s1 finished in" in said
    assert "study 8/8" in said
    # Again: nothing is left to submit, and the report is written from what is there.
    command.main([*arguments, f"--workdir={shared}", LOCAL])
    assert "are shared by" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_requeued_job_resumes_its_run(tmp_path):
    """submitit's signal while a run trains: saved at a step, requeued, resumed, ended."""
    values = smoke.get_config().to_dict()
    config = grid.read(values | {"steps": (150,), "seeds": (0,)})
    study = Study(tmp_path / "study", grid.expand(config))
    cluster = submitted.read("cluster=local,jobs=1,timeout_min=10")
    run = study.named("lora-0.001-150-s0")
    (started,) = submitted._submit(config, study, [run], cluster)
    metrics = study.run_folder(run) / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert not started.done() and time.monotonic() < deadline
        time.sleep(0.05)
    (task,) = Path(f"/proc/{started.job_id}/task/{started.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)

    assert started.result() is True
    facts = files.read_json_object(study.run_folder(run) / "results.json")["facts"]
    assert facts["starts"] == 2
    assert "Requeued job" in started.paths.stdout.read_text()
    assert study.states()[run.name] is State.FINISHED
