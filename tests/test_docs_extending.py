"""docs/extending.md: its code runs as it stands, in Python, and its commands are understood."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from lfl_jax import main, optim
from lfl_jax.adapters import find_kinds
from lfl_jax.config import command_line, own_code
from lfl_jax.evals import suite

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
MINE, PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_the_python_of_the_page_runs(here, capfd):
    found = {}
    exec(compile(PYTHON, "extending.md", "exec"), found)
    assert {row["task"] for row in found["rows"]} >= {"parity", "target_nll"}
    assert "parity" in capfd.readouterr().out
    assert found["outcome"].config.adapter.kind == f"{here}/mine.py:FrozenA"
    assert found["outcome"].config.own_files() == {
        f"{here}/mine.py": own_code.digest(f"{here}/mine.py")
    }


def test_its_command_is_understood(here):
    (command,) = re.findall(r"python -m lfl_jax\.main (.*)", PAGE)
    config, options = command_line.parse(["main", *shlex.split(command)], "", main.FLAGS)
    assert (
        options["workdir"] == f"{here}/runs/own"
        and find_kinds(config.adapter)[0].__name__ == "FrozenA"
    )
    assert suite.tasks_of(config)[f"{here}/mine.py:PARITY"].name == "parity" and optim.find(
        config.optim
    )


def test_every_field_is_in_its_table():
    fields = {path.rpartition(".")[2] for path in own_code.FIELDS}
    rows = " ".join(re.findall(r"^\| `(.*?) \|", PAGE, re.MULTILINE))
    assert all(field in rows for field in fields)
