"""launch/tpu_pod.sh with a gcloud that queues, preempts and fails as it is told."""

import subprocess

import pytest
from fake_commands import Checkout

QUEUED = "gcloud compute tpus queued-resources"
VM = "gcloud compute tpus tpu-vm"
NAMED = {"TPU": "pod", "ZONE": "zone-a"}
ASKED = NAMED | {"ACCELERATOR": "v5litepod-32"}
MISSING = "queued-resources describe||1"


@pytest.fixture
def checkout(tmp_path):
    checkout = Checkout.make(tmp_path, "git", "gcloud")
    fake = tmp_path / "bin/gcloud"
    # As gcloud says that there is none: a failure of `describe` is told from others by its words.
    fake.write_text(fake.read_text().replace("$name fails", "NOT_FOUND: Resource was not found."))
    return checkout


def states(*names):
    """Answers of `describe` for a request, one after another; of its VMs while it is active."""
    return [f"queued-resources describe|{name}|0" if name else MISSING for name in names]


def steps(calls):
    """What was done, in words; waiting and asking left out."""
    words = {f"{QUEUED} create": "create", f"{QUEUED} delete": "delete", f"{VM} ssh": "ssh"}
    return [word for call in calls for start, word in words.items() if call.startswith(start)]


def test_a_vm_that_exists_gets_the_checkout_and_the_command(checkout):
    run = checkout.run("launch/tpu_pod.sh", "--config=c.py", "--config.data.path=my file", **NAMED)
    assert run.returncode == 0, run.stderr
    archived, copied, ran = checkout.calls()
    assert archived.startswith("git archive --format=tar.gz --output=") and archived.endswith(
        "HEAD"
    )
    assert copied.startswith(f"{VM} scp --zone=zone-a --worker=all ")
    assert copied.endswith("lfl_jax.tar.gz pod:lfl_jax.tar.gz")
    assert ran.startswith(f"{VM} ssh --zone=zone-a --worker=all pod --command=")
    assert r"launch/tpu_worker.sh --config=c.py --config.data.path=my\ file" in ran
    assert not list((checkout.folder / "tmp").iterdir())


def test_the_exit_code_of_the_command_is_the_scripts(checkout):
    checkout.answers("gcloud", "tpu-vm ssh||3")
    assert checkout.run("launch/tpu_pod.sh", **NAMED).returncode == 3


def test_a_worker_runs_what_was_quoted_for_it(checkout):
    """The text that goes through ssh, read by a shell there."""
    told = {"FETCH": "a b", "MOUNT": "mount 'my share'", "WANDB_MODE": "on $x"}
    checkout.run("launch/tpu_pod.sh", "--config.x=it's", **NAMED, **told)
    command = checkout.calls()[-1].partition("--command=")[2].replace(" ; ", "\n")
    there = checkout.folder / "there"
    (there / "lfl_jax/launch").mkdir(parents=True)
    (there / "lfl_jax/launch/tpu_worker.sh").write_text(
        'printf "%s|" "$@" "$FETCH" "$MOUNT" "$WANDB_MODE"'
    )
    command = command.replace("tar -xzf lfl_jax.tar.gz -C lfl_jax", ":")
    run = subprocess.run(["bash", "-c", command], cwd=there, capture_output=True, text=True)
    assert run.stdout == "--config.x=it's|a b|mount 'my share'|on $x|"


# A gcloud that shows its arguments as every user sees them, and keeps what it copies.
SHOWS = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline >> "$FAKES/seen"
for word; do case $word in */lfl_jax.env) cp -p "$word" "$FAKES/lfl_jax.env";; esac; done
"""


def test_tokens_are_in_no_process_s_arguments(checkout):
    (checkout.folder / "bin" / "gcloud").write_text(SHOWS)
    secret = {"HF_TOKEN": "hf_'0123' $x", "WANDB_API_KEY": "wandb_0123"}
    run = checkout.run("launch/tpu_pod.sh", "--config=c.py", **NAMED, **secret)
    assert run.returncode == 0 and "0123" not in run.stdout + run.stderr
    seen = (checkout.folder / "fakes" / "seen").read_text()
    assert "tpu_worker.sh" in seen and "0123" not in seen
    assert ". ./lfl_jax.env; rm -f lfl_jax.env" in seen and "--scp-flag=-p" in seen
    # What is copied is a shell's file, of the person alone.
    file = checkout.folder / "fakes" / "lfl_jax.env"
    assert file.stat().st_mode & 0o77 == 0
    command = f'. {file}; printf "%s|" "$HF_TOKEN" "$WANDB_API_KEY"'
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout
    assert told == "hf_'0123' $x|wandb_0123|"
    assert not list((checkout.folder / "tmp").iterdir())


def test_a_worker_mounts_installs_fetches_and_runs(checkout):
    variables = {"FETCH": "math-ift-paper evals", "MOUNT": "gcloud mounts 'it all'"}
    run = checkout.run("launch/tpu_worker.sh", "--workdir=w", **variables)
    assert run.returncode == 0, run.stderr
    assert checkout.calls() == [
        "gcloud mounts it all",
        "python3 -m venv .venv",
        "python -m pip install --quiet --disable-pip-version-check -e .[tpu]",
        "python -m lfl_jax.fetch math-ift-paper evals",
        "python -m lfl_jax.main --distributed --workdir=w",
    ]


def test_a_worker_with_an_old_python_gets_another(checkout):
    checkout.answers("python3", "-c import sys||1")
    assert checkout.run("launch/tpu_worker.sh").returncode == 0
    uv, made, *_ = checkout.calls()
    assert uv == "python3 -m pip install --quiet --user uv"
    assert made == "python3 -m uv venv --quiet --seed --python=3.12 .venv"


def test_a_slice_is_asked_for_waited_for_and_deleted(checkout):
    queue = states("", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    checkout.answers("gcloud", *queue)
    run = checkout.run("launch/tpu_pod.sh", "--workdir=/m", SPOT="1", VALID_UNTIL="6h", **ASKED)
    assert run.returncode == 0, run.stderr
    calls = checkout.calls()
    assert steps(calls) == ["create", "ssh", "delete"]
    created = next(call for call in calls if " create " in call)
    assert created == (
        f"{QUEUED} create pod --node-id=pod --accelerator-type=v5litepod-32"
        " --runtime-version=v2-alpha-tpuv5-lite --spot --valid-until-duration=6h --zone=zone-a"
    )
    deleted = next(call for call in calls if " delete " in call)
    assert deleted == f"{QUEUED} delete pod --force --quiet --zone=zone-a"
    # A line for each state, not for each question.
    assert run.stderr.count("waiting for pod: WAITING_FOR_RESOURCES") == 1
    assert "waiting for pod: PROVISIONING for 0 min" in run.stderr
    assert "done, after 0 preemptions" in run.stderr


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v5p-64", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_every_generation_has_its_software(checkout, accelerator, runtime):
    variables = NAMED | {"ACCELERATOR": accelerator}
    printed = checkout.run("launch/tpu_pod.sh", "--dry_run", **variables).stdout
    assert f"--accelerator-type={accelerator} --runtime-version={runtime} " in printed


def test_a_preempted_slice_is_asked_for_again_and_the_run_resumes(checkout):
    checkout.answers(
        "gcloud",
        *states("", "ACTIVE", "ACTIVE", "SUSPENDING"),  # while it ran, and a minute after
        "tpu-vm ssh||255",
        *states("", "ACTIVE"),
    )
    run = checkout.run("launch/tpu_pod.sh", "--workdir=/m", **ASKED)
    assert run.returncode == 0, run.stderr
    calls = checkout.calls()
    assert steps(calls) == ["create", "ssh", "delete", "create", "ssh", "delete"]
    ran = [call.partition("--command=")[2] for call in calls if " ssh " in call]
    assert ran[0] == ran[1] and "--workdir=/m" in ran[0]
    assert len([call for call in calls if call.startswith("git archive")]) == 1
    assert "pod was preempted (1 of at most 20 times)" in run.stderr
    assert "done, after 1 preemptions" in run.stderr


def test_vms_that_are_gone_are_noticed_before_their_request_says_so(checkout):
    checkout.answers(
        "gcloud",
        *states("ACTIVE", "ACTIVE"),
        "tpu-vm describe|READY|0",
        "tpu-vm describe|PREEMPTED|0",
        "tpu-vm ssh||1",
        *states("", "ACTIVE"),
    )
    assert checkout.run("launch/tpu_pod.sh", **ASKED).returncode == 0
    assert steps(checkout.calls())[:4] == ["ssh", "delete", "create", "ssh"]


@pytest.mark.parametrize("code", [2, 3])
def test_a_mistake_is_not_repeated(checkout, code):
    checkout.answers("gcloud", *states("", "ACTIVE", "SUSPENDED"), f"tpu-vm ssh||{code}")
    run = checkout.run("launch/tpu_pod.sh", **ASKED)
    assert run.returncode == code
    # A slice that was waited for stays, for the corrected command, and that is said.
    assert steps(checkout.calls()) == ["create", "ssh"]
    assert "pod is still there, and is paid for. To delete it:" in run.stderr


@pytest.mark.parametrize(("code", "said"), [(1, "is not repeated"), (130, "stopped and saved")])
def test_an_end_while_the_slice_is_there_is_not_repeated(checkout, code, said):
    checkout.answers("gcloud", *states(*["ACTIVE"] * 6), f"tpu-vm ssh||{code}")
    run = checkout.run("launch/tpu_pod.sh", **ASKED)
    assert run.returncode == code and said in run.stderr
    calls = checkout.calls()
    assert steps(calls) == ["ssh"]
    assert calls.count("sleep 30") == 5, "the state follows a preemption by a minute"


def test_retries_have_an_end(checkout):
    lost = [*states("", "ACTIVE", "SUSPENDED"), "tpu-vm ssh||255"]
    checkout.answers("gcloud", *lost * 3)
    run = checkout.run("launch/tpu_pod.sh", RETRIES="2", **ASKED)
    assert run.returncode == 1
    assert steps(checkout.calls()) == ["create", "ssh", "delete"] * 2 + ["create", "ssh"]
    last = "error: pod was preempted 3 times (RETRIES=2); the same command resumes\n"
    assert run.stderr.endswith(last)


def test_a_slice_lost_while_it_was_waited_for_is_asked_for_again(checkout):
    queue = states("", "PROVISIONING", "SUSPENDED", "", "ACTIVE")
    checkout.answers("gcloud", *queue)
    assert checkout.run("launch/tpu_pod.sh", **ASKED).returncode == 0
    assert steps(checkout.calls()) == ["create", "delete", "create", "ssh", "delete"]


def test_what_a_preemption_left_behind_is_deleted_first(checkout):
    checkout.answers("gcloud", *states("SUSPENDED", "", "ACTIVE"))
    assert checkout.run("launch/tpu_pod.sh", **ASKED).returncode == 0
    assert steps(checkout.calls()) == ["delete", "create", "ssh", "delete"]


def test_a_slice_of_someone_elses_making_is_kept(checkout):
    checkout.answers("gcloud", *states("ACTIVE"))
    run = checkout.run("launch/tpu_pod.sh", **ASKED)
    assert run.returncode == 0 and steps(checkout.calls()) == ["ssh"]
    assert "is paid for" in run.stderr
    checkout.answers("gcloud", *states("", "ACTIVE"))
    checkout.run("launch/tpu_pod.sh", KEEP="1", **ASKED)
    assert steps(checkout.calls()) == ["create", "ssh"]


def test_a_request_that_fails_is_not_repeated(checkout):
    checkout.answers("gcloud", *states("", "FAILED"))
    run = checkout.run("launch/tpu_pod.sh", **ASKED)
    assert run.returncode == 2 and steps(checkout.calls()) == ["create"]
    why = f"error: queued resource pod FAILED; why: {QUEUED} describe pod --zone=zone-a\n"
    assert run.stderr.endswith(why)
    checkout.answers("gcloud", *states(""), "queued-resources create||1")
    run = checkout.run("launch/tpu_pod.sh", **ASKED)
    assert run.returncode == 2 and steps(checkout.calls()) == ["create"]
    assert run.stderr.endswith("error: pod cannot be asked for\n")


def test_a_gcloud_that_does_not_answer_ends_the_wait(checkout):
    fake = checkout.folder / "bin/gcloud"
    fake.write_text(fake.read_text().replace("NOT_FOUND: Resource was not found.", "no network"))
    checkout.answers("gcloud", *[MISSING] * 12)
    run = checkout.run("launch/tpu_pod.sh", **ASKED)
    assert run.returncode == 2 and steps(checkout.calls()) == []
    assert run.stderr.endswith("error: gcloud does not say how pod is: no network\n")


def test_mistakes_are_said_before_anything_is_done(checkout):
    def refused(*arguments, **variables):
        run = checkout.run("launch/tpu_pod.sh", *arguments, **variables)
        assert run.returncode != 0 and checkout.calls() == []
        return run.stderr

    assert "set TPU to the name of a TPU VM" in refused()
    assert "set ZONE to the zone" in refused(TPU="pod")
    assert "a bucket is no directory; mount it" in refused("--workdir=gs://b/r", **NAMED)


def test_secrets_are_not_printed(checkout):
    secret = {"HF_TOKEN": "hf_0123", "WANDB_API_KEY": "wandb_0123"}
    printed = checkout.run("launch/tpu_pod.sh", "--dry_run", **ASKED, **secret).stdout
    assert "_0123" not in printed and printed.count("YOUR_TOKEN") == 2
