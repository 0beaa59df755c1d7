"""Replay, sham and identity arms: all are arms of a study, and identity changes nothing at all."""

import dataclasses
from pathlib import Path

import pytest
from lfl_jax.configs.studies import controls

from lfl_jax import study as command
from lfl_jax import train
from lfl_jax.core import files
from lfl_jax.data.sources import open_source
from lfl_jax.evals import inputs
from lfl_jax.studies import grid
from lfl_jax.studies.comparison import compare
from lfl_jax.studies.records import run_directories

CONFIG = controls.__file__


@pytest.fixture(scope="module")
def planned():
    runs = grid.expand(grid.load(f"{CONFIG}:quick,smoke"))
    return {run.arm: run for run in runs if run.seed == 0}


def test_every_arm_trains_on_its_own_data(planned):
    sources = {
        arm: open_source(run.config.data, "train", run.config.seed.data).name
        for arm, run in planned.items()
    }
    assert sources == {
        "lora": "lab_ift",
        "lora_replay_1in1000": "lab_ift:99.9%,lab_source:0.1%",
        "lora_replay_1in100": "lab_ift:99.0%,lab_source:1.0%",
        "lora_replay_1in20": "lab_ift:95.0%,lab_source:5.0%",
        "full": "lab_ift",
        "full_replay_1in100": "lab_ift:99.0%,lab_source:1.0%",
        "shuffled": "lab_ift (responses shuffled)",
        "source": "lab_source",
        "identity": "lab_ift",
    }


def test_all_arms_are_tested_on_the_same_items(planned):
    arms = ("lora", "lora_replay_1in20", "shuffled", "source")
    tested = [inputs.from_config(planned[arm].config) for arm in arms]
    assert tested[0].target and tested[0].source_text
    for other in tested[1:]:
        assert list(other.target) == list(tested[0].target)
        assert other.source_text == tested[0].source_text and other.world == tested[0].world


def test_the_whole_study_is_215_runs():
    study = grid.load(CONFIG)
    assert len(study.seeds) * sum(len(arm.rates) for arm in study.arms) == 215
    with pytest.raises(ValueError, match="unknown argument quik of configs/studies/controls.py"):
        controls.get_config("quik")


@pytest.mark.slow
def test_an_identity_arm_changes_exactly_nothing(planned, tmp_path):
    config = planned["identity"].config
    tasks = ("lab_source_facts", "source_nll", "target_kl")
    e = dataclasses.replace(config.eval, tasks=tasks, limit=8)
    # A rate at which LoRA would change everything.
    optim = dataclasses.replace(config.optim, lr=0.5)
    outcome = train.run(
        train.Run(dataclasses.replace(config, eval=e, optim=optim), tmp_path, quiet=True)
    )
    assert outcome.trained == 4
    base, tuned = run_directories.read(tmp_path)
    assert set(tuned.tasks) == set(tasks)
    for row in compare(base, tuned, margin=0.01):
        assert row.change.mean == row.change.se == 0.0, row
        assert row.flips is None or row.flips.lost == row.flips.gained == 0
    for line in files.read_jsonl(tmp_path / "evals/after/target_kl.jsonl")[1:]:
        assert line["forward_kl"] == line["reverse_kl"] == 0.0


@pytest.mark.slow
def test_a_study_of_all_arms_ends_in_its_page(tmp_path):
    """4 minutes."""
    command.main(["study", f"--config={CONFIG}:quick,smoke", "--quiet", f"--workdir={tmp_path}"])
    ended = files.read_jsonl(tmp_path / "runs.jsonl")
    assert {line["state"] for line in ended} == {"finished"} and len(ended) == 34
    assert (tmp_path / "report/index.html").exists()
    runs = sorted(path.name for path in Path(tmp_path / "runs").iterdir())
    bases = [(tmp_path / "runs" / run / "evals/before").iterdir() for run in runs]
    content = [{file.name: file.read_bytes() for file in folder} for folder in bases]
    assert all(records == content[0] for records in content)
    identity = [run for run in runs if run.startswith("identity")]
    for run in identity:
        base, tuned = run_directories.read(tmp_path / "runs" / run)
        assert all(row.change.mean == 0 for row in compare(base, tuned, margin=0.01))
