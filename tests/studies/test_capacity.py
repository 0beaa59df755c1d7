"""The capacity study: its arms are ranks, and its table has bits for each trainable parameter."""

import json

import pytest
from lfl_jax.configs.studies import capacity as config

from lfl_jax import study as command
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.studies import capacity, grid


def test_the_study_is_of_ranks_and_refuses_unknown_words():
    planned = {run.arm: run.config for run in grid.expand(grid.load(f"{config.__file__}:smoke"))}
    ranks = {arm: run.adapter.rank for arm, run in planned.items()}
    assert ranks == {f"lora_r{r}": r for r in (1, 2, 4, 8, 16)} | {"full": None}
    assert {run.data.source for run in planned.values()} == {"lab_keys"}
    with pytest.raises(ValueError, match="unknown argument smok of configs/studies/capacity.py"):
        config.get_config("smok")


def finish(folder, bits, parameters, keys=100):
    """What `stored` reads of a run directory."""
    section = {"hash": "", "config": {"data": {"size": keys}}}
    files.write_json(folder / "config.json", section)
    for when, values in (("before", [0.5, 1.5]), ("after", bits)):
        lines = [{"settings": {"items": 2}}]
        for i, value in enumerate(values):
            scores = {"bits": value, "net_bits": value, "digits": 1.0, "whole": 0.0}
            scores |= {"acc": 1.0, "gold_logprob": 0.0}
            lines.append({"id": str(i), "cluster": str(i), **scores})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        files.write_text(folder / "evals" / when / "lab_keys.jsonl", text)
    files.write_json(folder / "results.json", {"facts": {"trainable": parameters}})


def test_bits_of_all_keys_for_each_parameter(tmp_path, capsys):
    finish(tmp_path / "runs/b", [64.0, 32.0], 2400)
    finish(tmp_path / "runs/a", [16.0, 16.0], 800)
    small, large = capacity.of_study(tmp_path)
    assert (small.run, small.bits, small.per_parameter) == ("a", 1600.0, 2.0)
    assert (large.run, large.bits, large.per_parameter) == ("b", 4800.0, 2.0)
    assert large.base_bits == 100.0
    capacity.main(["capacity", str(tmp_path)])
    assert "4800" in capsys.readouterr().out
    table = (tmp_path / "report/tables/capacity.csv").read_text().splitlines()
    assert table[1] == "a,800,100,1600,100,2"


def test_directories_without_runs_or_keys_are_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        capacity.of_study(tmp_path)
    finish(tmp_path / "runs/a", [1.0, 2.0], 10)
    for when in ("before", "after"):
        file = tmp_path / "runs/a/evals" / when / "lab_keys.jsonl"
        file.rename(file.with_name("lab_source_facts.jsonl"))
    with pytest.raises(UserError, match="a has no evaluation lab_keys"):
        capacity.of_study(tmp_path)


@pytest.mark.slow
def test_the_smoke_study_runs(tmp_path):
    """3 minutes."""
    arguments = [f"--config={config.__file__}:smoke", "--quiet", f"--workdir={tmp_path}"]
    command.main(["study", *arguments])
    table = capacity.of_study(tmp_path)
    assert len(table) == 12 and table[-1].run.startswith("full")
    assert all(0 <= one.bits < 90 * 16 and one.keys == 90 for one in table)
