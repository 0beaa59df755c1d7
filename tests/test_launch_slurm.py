"""launch/slurm.sbatch, as Slurm runs it: from a copy elsewhere, again and again until it is done."""

import shutil

import pytest
from fake_commands import ROOT, Checkout

SRUN = "srun --kill-on-bad-exit=0 --wait=120 .venv/bin/python -m lfl_jax.main --distributed"


@pytest.fixture
def checkout(tmp_path):
    checkout = Checkout.make(tmp_path, "srun", "scontrol")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(tmp_path / "bin/python3", tmp_path / ".venv/bin/python")
    (tmp_path / "spool").mkdir()
    shutil.copy(ROOT / "launch/slurm.sbatch", tmp_path / "spool/slurm_script")
    return checkout


def start(checkout, *arguments, **variables):
    variables = {"SLURM_SUBMIT_DIR": str(checkout.folder), "SLURM_JOB_ID": "7"} | variables
    return checkout.run("spool/slurm_script", *arguments, **variables)


def test_one_process_per_task(checkout):
    assert start(checkout, "--config=c.py", "--config.data.path=my file").returncode == 0
    assert checkout.calls() == [f"{SRUN} --config=c.py --config.data.path=my file"]


@pytest.mark.parametrize("code", [130, 143])
def test_what_was_stopped_is_requeued(checkout, code):
    checkout.answers("srun", f"lfl_jax.main||{code}")
    run = start(checkout, "--workdir=w", SLURM_RESTART_COUNT="3")
    assert checkout.calls() == [f"{SRUN} --workdir=w", "scontrol requeue 7"]
    assert run.returncode == code and "restart 4" in run.stderr


@pytest.mark.parametrize("code", [1, 2, 3, 137])
def test_what_ended_by_itself_is_not_requeued(checkout, code):
    checkout.answers("srun", f"lfl_jax.main||{code}")
    run = start(checkout, "--workdir=w")
    assert checkout.calls() == [f"{SRUN} --workdir=w"]
    assert run.returncode == code
    assert f"ended with exit code {code} and is not requeued" in run.stderr


def test_requeueing_has_an_end(checkout):
    checkout.answers("srun", "lfl_jax.main||130")
    run = start(checkout, RESTARTS="5", SLURM_RESTART_COUNT="5")
    assert run.returncode == 130 and checkout.calls() == [SRUN]
    assert "error: not requeued: this job was restarted 5 times (RESTARTS=5)" in run.stderr


def test_a_job_that_cannot_be_requeued_says_what_to_do(checkout):
    checkout.answers("srun", "lfl_jax.main||130")
    checkout.answers("scontrol", "requeue||1")
    run = start(checkout)
    assert run.returncode == 130
    assert "error: not requeued; submit the same command again, it resumes" in run.stderr


def test_after_a_failed_node_its_lock_is_waited_for(checkout):
    (checkout.folder / "w").mkdir()
    (checkout.folder / "w/run.lock").touch()
    start(checkout, "--workdir=w")
    assert checkout.calls() == [f"{SRUN} --workdir=w"]
    start(checkout, "--workdir=w", SLURM_RESTART_COUNT="1")
    assert checkout.calls() == ["sleep 200", f"{SRUN} --workdir=w"]
    (checkout.folder / "w/run.lock").unlink()
    start(checkout, "--workdir=w", SLURM_RESTART_COUNT="1")
    assert checkout.calls() == [f"{SRUN} --workdir=w"]


def test_what_is_missing_is_said_in_a_line(checkout):
    def refused(**variables):
        run = start(checkout, **variables)
        assert run.returncode == 2 and checkout.calls() == []
        assert len(run.stderr.splitlines()) == 1
        return run.stderr

    assert "not it" in refused(SLURM_SUBMIT_DIR=str(checkout.folder / "spool"))
    assert "submit this file with sbatch" in refused(SLURM_JOB_ID="")
    shutil.rmtree(checkout.folder / ".venv")
    assert "error: no .venv in" in refused()


def test_slurm_is_told_to_requeue_and_to_warn():
    lines = (ROOT / "launch/slurm.sbatch").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    # Not B:TERM, which would go to this shell and not to the processes.
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300"} <= asked
    # What follows the first command is not read any more.
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < first
