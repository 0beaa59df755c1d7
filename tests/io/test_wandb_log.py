"""Weights & Biases without a network: what a run would send is in its directory."""

import importlib.util
import time

import pytest

from lfl_jax.errors import UserError
from lfl_jax.io import wandb_log
from lfl_jax.io.metrics import MetricsWriter


def test_without_the_package_the_extra_is_named(monkeypatch):
    wandb_log.check("")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb='p' needs the package wandb: pip install 'lfl_jax\[wandb\]'"):
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
    files = list(tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    sent = b"".join(file.read_bytes() for file in files)  # records one after another, their texts in the clear
    for text in ("project", "optim", "0.0625", "loss", "2.5", "1.5", "after/gsm8k", "0.25", f"report-{name}"):
        assert text.encode() in sent, text
