"""Whole runs of the smoke configs: golden numbers, exact resumption after kill -9, Ctrl-C, and
mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import train
from lfl_jax.config import Config

ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}
LITTLE = ["--config.eval.tasks=('target_nll:2',)", "--config.eval.every_tasks=('target_nll:2',)"]
# Loss and gradient norm of the first step. They change only with the numerics, the initial values
# or the data of the smoke run: if that was the purpose of a change, put the new numbers here and
# say so in the commit; else it is a bug.
GOLDEN = {
    "smoke": (5.7200599, 1.0578862),
    "smoke,dora": (5.7200599, 1.0732971),
    "smoke,lora+dora": (5.7200599, 1.4242380),
    "smoke,full": (5.7200599, 2.6692243),
}


def command(workdir, *options, config="smoke"):
    return [
        sys.executable,
        "-m",
        "lfl_jax.main",
        f"--config=configs/math_ift.py:{config}",
        f"--workdir={workdir}",
        *options,
    ]


def run(workdir, *options, config="smoke", code=0):
    done = subprocess.run(
        command(workdir, *options, config=config),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.parametrize(
    "argument",
    [*list(GOLDEN)[:1], *(pytest.param(a, marks=pytest.mark.slow) for a in list(GOLDEN)[1:])],
)
def test_golden_first_step(argument, tmp_path):
    c = math_ift.get_config(argument)
    c.train.steps, c.eval.tasks, c.eval.every_tasks, c.log.tensorboard = 1, (), (), False
    train.run(train.Run(Config.from_dict(c), tmp_path))
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (first["loss"], first["grad_norm"]) == pytest.approx(GOLDEN[argument], rel=2e-4)


def test_a_run_from_start_to_end_and_again(tmp_path):
    first = run(tmp_path, "--profile=3:4")
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    for scope in (b"(forward)/", b"/attention/adapters/", b"/optimizer/"):
        assert scope in trace.read_bytes(), "the trace names what the code names"
    for word in (
        "Learning",
        "held-out targets",
        "trainable parameters",
        "tokens/s",
        "peak memory",
        str(tmp_path),
    ):
        assert word in first.stdout.replace("\n", "")
    assert "scores mean nothing" in first.stdout and "synthetic" in first.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["label"] for row in results["rows"]} >= {"held-out targets, nats/token"}
    assert (
        list(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]
        and (tmp_path / "summary.txt").stat().st_size > 500
    )
    before = (tmp_path / "metrics.jsonl").read_text()
    again = run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before, (
        "a finished run is read back, not trained further"
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results, "and its figures stand"
    assert again.returncode == 0


def test_a_termination_signal_saves_first(tmp_path):
    options = [*LITTLE, "--config.checkpoint.every=0", "--config.train.steps=100000"]
    process = subprocess.Popen(
        command(tmp_path, *options), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "metrics.jsonl").exists() or len(losses(tmp_path)) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "stopped and saved at step" in output
    step = int(output.split("saved at step ")[1].split()[0])
    assert (tmp_path / "checkpoints" / str(step)).is_dir() and max(losses(tmp_path)) == step


def malformed(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"prompt": "1+1?", "response": "2"}\n{"prompt": "2+2?", \n')
    return [f"--config.data.path={file}"], f"{file}:2"


def empty(tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text("")
    return [f"--config.data.path={file}"], "is empty"


def too_long(tmp_path):
    return ["--config.data.seq_len=16", "--config.data.too_long=error"], "config.data.seq_len=16"


def no_targets(tmp_path):
    return ["--config.data.seq_len=16", "--config.data.too_long=skip"], "loss mask is all zero"


def missing_weights(tmp_path):
    return [
        "--config.model.init=pretrained",
        "--config.model.name=smollm2-135m",
    ], "python -m lfl_jax.fetch smollm2-135m"


def missing_data(tmp_path):
    return ["--config.data.source=gsm8k"], "python -m lfl_jax.fetch gsm8k-train"


def wrong_weights(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00")
    return ["--config.model.init=pretrained", f"--config.model.path={file}"], "model.gguf"


def unknown_target(tmp_path):
    return ["--config.adapter.targets=('query',)"], "'query' matches no weight"


def unknown_kind(tmp_path):
    return ["--config.adapter.kind=loar"], "there is no 'loar'"


def unwritable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    return [f"--workdir={tmp_path / 'file'}"], f"cannot write to {tmp_path / 'file'}"


def no_such_pattern(tmp_path):
    return ["--config.trainable=('adapter/layers/attention/.*',)"], "matches nothing"


MISTAKES = (
    malformed, empty, too_long, no_targets, missing_weights, missing_data, wrong_weights, unknown_target, unknown_kind,
    unwritable, no_such_pattern,
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda f: f.__name__)
def test_a_mistake_is_one_or_two_lines_and_leaves_nothing_behind(
    mistake, tmp_path, monkeypatch, capsys
):
    from lfl_jax import main
    from lfl_jax.errors import entry

    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    options, message = mistake(tmp_path)
    workdir = tmp_path / "run"
    arguments = [
        "main",
        "--config=configs/math_ift.py:smoke",
        *LITTLE,
        *options,
    ]
    if not any(option.startswith("--workdir") for option in options):
        arguments.append(f"--workdir={workdir}")
    with pytest.raises(SystemExit) as stopped:
        entry(main.main, arguments)
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and message in shown and shown.startswith("error: ")
    assert len(shown.strip().splitlines()) <= 2 and "Traceback" not in shown
    assert not workdir.exists()


def test_a_directory_of_another_config_is_refused_with_the_difference(tmp_path, capsys):
    from lfl_jax import main
    from lfl_jax.errors import entry

    arguments = [
        "main",
        "--config=configs/math_ift.py:smoke",
        f"--workdir={tmp_path}",
        *LITTLE,
        "--config.train.steps=1",
    ]
    main.main(arguments)
    with pytest.raises(SystemExit) as stopped:
        entry(main.main, [*arguments, "--config.optim.lr=0.5"])
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and "optim.lr was 0.001, now 0.5" in shown


def test_a_loss_that_is_no_number_stops_the_run_with_its_place(tmp_path, capsys):
    from lfl_jax import main
    from lfl_jax.errors import entry

    # Adam's 0 / 0 on A, while B is 0
    options = ["--config.optim.eps=0.0", "--config.optim.warmup_fraction=0.0"]
    arguments = [
        "main",
        "--config=configs/math_ift.py:smoke",
        f"--workdir={tmp_path}",
        *LITTLE,
        *options,
    ]
    with pytest.raises(SystemExit) as stopped:
        entry(main.main, [*arguments, "--config.checkpoint.every=1"])
    shown = capsys.readouterr().err
    assert stopped.value.code == 3 and "update norm nan at step 1" in shown
    assert "last good checkpoint: none" in shown, "the step that broke the weights is not saved"
