"""Weights & Biases without a network: what a run would send is in its directory."""

import importlib.util
import os
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_config_numbers_scores_and_report_are_recorded_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "results.json").write_text("{}")
    config = {"optim": {"lr": 0.0625}}
    with MetricsWriter(tmp_path, tensorboard=False, wandb="project", config=config) as writer:
        writer.write(1, {"loss": 2.5})
        writer.write(2, {"loss": 1.5})
    time.sleep(1.1)  # its folders are named by the second
    wandb_log.report("project", tmp_path, config, {"after/gsm8k": 0.25})
    name = (tmp_path / "wandb" / "id.txt").read_text()

    def recorded() -> bytes:
        files = tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")
        # records one after another, their texts in the clear
        return b"".join(file.read_bytes() for file in files)

    # A process of its own writes them, which a busy machine holds up.
    deadline = time.monotonic() + 20
    while f"report-{name}".encode() not in recorded() and time.monotonic() < deadline:
        time.sleep(0.1)
    sent = recorded()
    for text in (
        "project",
        "optim",
        "0.0625",
        "loss",
        "2.5",
        "1.5",
        "after/gsm8k",
        "0.25",
        f"report-{name}",
    ):
        assert text.encode() in sent, text
