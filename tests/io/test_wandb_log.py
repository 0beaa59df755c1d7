"""Weights & Biases without a network: what a run would send is in its directory."""

import importlib.util
import json
import os
import struct
import time

import pytest

from lfl_jax.errors import UserError
from lfl_jax.io import wandb_log
from lfl_jax.io.metrics import MetricsWriter


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    """wandb, with no credentials of this machine's user."""
    wandb = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    wandb.teardown()
    yield wandb
    wandb.teardown()


REMEDY = "Log in with `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_without_a_login_a_run_does_not_start(logged_out, monkeypatch):
    with pytest.raises(UserError) as refused:
        wandb_log.check("p")
    assert (
        str(refused.value) == f"config.log.wandb='p': not logged in to Weights & Biases. {REMEDY}"
    )
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError) as refused:
        wandb_log.check("p")
    assert "'p': WANDB_API_KEY invalid: API key must have 40" in str(
        refused.value
    ) and REMEDY in str(refused.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_key_that_the_server_refuses_and_a_server_out_of_reach_are_a_line(
    logged_out, monkeypatch
):
    def login(**options):
        assert options == {"verify": True, "prompt": False}
        raise logged_out.errors.AuthenticationError(
            "Failed to authenticate\nwith https://api.wandb.ai."
        )

    monkeypatch.setattr(logged_out, "login", login)
    with pytest.raises(UserError) as refused:
        wandb_log.check("p")
    assert (
        str(refused.value)
        == f"config.log.wandb='p': Failed to authenticate with https://api.wandb.ai. {REMEDY}"
    )
    monkeypatch.setattr(wandb_log, "is_first_process", lambda: False)
    wandb_log.check("p")


@pytest.mark.parametrize(
    "mode", [("WANDB_MODE", "offline"), ("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_what_sends_nothing_needs_no_login(logged_out, monkeypatch, mode):
    monkeypatch.setenv(*mode)
    monkeypatch.setattr(logged_out, "login", None)
    wandb_log.check("p")


def test_without_the_package_the_extra_is_named(monkeypatch):
    wandb_log.check("")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"wandb='p' needs the package wandb: pip install 'lfl_jax\[wandb\]'"
    ):
        wandb_log.check("p")
    wandb_log.check("")


def test_a_directory_is_one_wandb_run(tmp_path):
    first = wandb_log._id(tmp_path)
    assert len(first) == 8 and wandb_log._id(tmp_path) == first


@pytest.fixture
def offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def sent(folder):
    """Records of the files that `wandb sync` would send of a directory, in their order.

    A file is a log as LevelDB's: after 7 bytes, blocks of 32 KiB of pieces (4 bytes checksum, 2 of
    length, 1 of kind: whole, first, middle, last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    records, whole = [], b""
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, place = file.read_bytes(), 7
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:  # padding at the end of a block
                place += 32768 - place % 32768
                continue
            length, kind = struct.unpack_from("<HB", data, place + 4)
            whole += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                records.append(Record.FromString(whole))
                whole = b""
    return records


def values(items):
    """{name: value} of a record's items; of nested names, the last part of the path."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def recorded(folder):
    """(the runs, {step: numbers}, the summary, {artifact: its files}) that a directory would send."""
    runs, history, summary, artifacts = [], {}, {}, {}
    for record in sent(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            runs.append(record.run)
        elif kind == "history":
            history[record.history.step.num] = values(record.history.item)
        elif kind == "summary":
            summary |= values(record.summary.update)
        elif kind == "request" and record.request.HasField("log_artifact"):
            artifact = record.request.log_artifact.artifact
            artifacts[artifact.name] = [entry.path for entry in artifact.manifest.contents]
        elif kind == "artifact":
            artifacts[record.artifact.name] = [x.path for x in record.artifact.manifest.contents]
    return runs, history, summary, artifacts


def wait_for_artifact(folder):
    """What `recorded` returns, once another process has written it all."""
    deadline = time.monotonic() + 20
    while not recorded(folder)[3] and time.monotonic() < deadline:
        time.sleep(0.1)
    return recorded(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_config_numbers_scores_and_report_are_recorded_offline(offline, tmp_path):
    folder = tmp_path / "lora-s0"
    folder.mkdir()
    for name in ("results.json", "summary.txt", "plot.png", "metrics.csv"):
        (folder / name).write_text("{}")
    config = {"optim": {"lr": 0.0625}, "train": {"steps": 2}}
    logs = {"tensorboard": False, "wandb": "project", "wandb_group": "study", "config": config}
    with MetricsWriter(folder, **logs) as writer:
        writer.write(1, {"loss": 2.5})
        writer.write(2, {"loss": 1.5, "dev/gsm8k": 0.5})
    time.sleep(1.1)  # its folders are named by the second
    wandb_log.report("project", folder, config, {"after/gsm8k": 0.25}, "study")
    runs, history, summary, artifacts = wait_for_artifact(folder)

    # Two starts of one run: the training, and the report.
    name = (folder / "wandb" / "id.txt").read_text()
    assert {run.run_id for run in runs} == {name} and len(runs) >= 2
    for run in runs:
        assert (run.project, run.display_name, run.run_group) == ("project", "lora-s0", "study")
        assert run.job_type == "train"
        written = values(run.config.update)
        assert {key: written[key] for key in config} == config
    assert history[1]["loss"] == 2.5 and history[2]["loss"] == 1.5
    assert history[2]["dev/gsm8k"] == 0.5
    assert summary["after/gsm8k"] == 0.25
    assert artifacts == {f"report-{name}": ["plot.png", "results.json", "summary.txt"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_report_of_a_study_is_a_run_of_its_group(offline, tmp_path):
    folder = tmp_path / "lab"
    for name in ("index.html", "tables/runs.csv"):
        (folder / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "report" / name).write_text(name)
    study = {"name": "The lab", "steps": (4, 8), "arms": {"lora": {"lr": (1e-3,)}}}
    wandb_log.report_of_study("project", folder, study, "The lab", folder / "report")
    runs, _, _, artifacts = wait_for_artifact(folder)
    assert [(run.display_name, run.run_group, run.job_type) for run in runs] == [
        ("lab", "The lab", "report")
    ]
    assert values(runs[0].config.update)["arms"] == {"lora": {"lr": [1e-3]}}
    assert list(artifacts.values()) == [["index.html", "tables/runs.csv"]]
