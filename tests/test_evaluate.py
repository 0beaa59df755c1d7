"""The command that evaluates a base, or what was learned on it."""

import json

import pytest

from lfl_jax import evaluate
from lfl_jax.config import command_line
from lfl_jax.errors import UserError

TASKS = "--config.eval.tasks=('target_nll:4',)"
BASE = "--config=configs/math_ift.py:smoke"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from test_export import short_run

    return short_run("smoke", tmp_path_factory.mktemp("lora") / "run")


def nll(folder):
    """{before, after, change: target_nll} of results.json."""
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {
        row["variant"]: row["estimate"]
        for row in rows
        if (row["task"], row["metric"]) == ("target_nll", "nll")
    }


def test_a_base_alone_and_beside_what_was_learned(run, tmp_path, capsys):
    evaluate.main(["evaluate", BASE, TASKS, f"--out={tmp_path / 'base'}"])
    alone = nll(tmp_path / "base")["before"]
    assert "target_nll" in capsys.readouterr().out
    evaluate.main(["evaluate", f"--run={run}", TASKS, f"--out={tmp_path / 'run'}"])
    row = nll(tmp_path / "run")
    assert row["before"] == pytest.approx(alone, abs=1e-5) and row["after"] < alone
    assert "before" in capsys.readouterr().out
    evaluate.main(["evaluate", BASE, f"--adapter={run}", TASKS, f"--out={tmp_path / 'adapter'}"])
    assert nll(tmp_path / "adapter")["after"] == row["after"]
    assert "tuned target_nll" in capsys.readouterr().err
    evaluate.main(["evaluate", f"--run={run}", TASKS, f"--out={tmp_path / 'run'}"])
    assert "target_nll 1/" not in capsys.readouterr().err, "a finished evaluation is read back"


def test_the_config_of_a_run_is_what_it_ran_with(run):
    again, _ = command_line.parse(
        ["x", f"--config=configs/from_run.py:{run}", "--config.eval.limit=3"], "", {}
    )
    assert again.train.steps == 2 and again.adapter.rank == 16 and again.eval.limit == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([BASE], "no --out given"),
        (
            [BASE, "--out={tmp}", "--run=a", "--adapter=b"],
            "give either --run=DIR or --adapter=PATH",
        ),
        (["--run={tmp}", "--out={tmp}"], "not the directory of a run"),
        ([BASE, "--out={tmp}", "--adapter={tmp}"], "no adapter here"),
        ([BASE, "--out={tmp}", "--config.model.path={tmp}/none"], "no such model"),
    ],
)
def test_a_mistake_is_one_clear_line(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        evaluate.main(["evaluate", *(option.format(tmp=tmp_path) for option in options)])
