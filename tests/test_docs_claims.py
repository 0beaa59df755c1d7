"""docs/claims.md says what the tables in results/studies say."""

import csv
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def verdicts():
    spec = importlib.util.spec_from_file_location("docs_verdicts", ROOT / "docs" / "verdicts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(verdicts):
    assert verdicts.page() == verdicts.PAGE.read_text("utf-8"), "python docs/verdicts.py writes it"


def write(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def test_a_claim_stands_under_what_each_study_says(verdicts, tmp_path, monkeypatch):
    for study, status in (("a", "reproduced here"), ("b", "undecided"), ("c", "not tested")):
        folder = tmp_path / study / "tables"
        write(folder, "claims.csv", [{"claim": "It is so.", "source": "us", "here": status}])
        row = {"first": "x", "second": "y", "equal": "learning", "first forgets": "not answered"}
        row |= {"effect": "", "reason": "too few"}
        known = row | {"effect": "0.5", "95 % low": "0.4", "95 % high": "0.6", "margin": "0.1"}
        contrast = known | {"first forgets": "more"} if study == "b" else row
        write(folder, "verdicts.csv", [contrast, contrast | {"equal": "divergence"}])
    other = [{"claim": "And so.", "source": "us", "here": "undecided"}]
    write(tmp_path / "a/tables", "other_claims.csv", other)
    monkeypatch.setattr(verdicts, "RESULTS", tmp_path)
    claim, of_a_command = verdicts.claims().splitlines()[2:]
    assert of_a_command == "| And so. | us |  |  | `a` |"
    assert claim == "| It is so. | us | `a` |  | `b` |"
    rows = verdicts.contrasts().splitlines()[2:]
    assert len(rows) == 3 and "too few" in rows[0], "those at equal learning"
    assert rows[1] == "| `b` | x – y | +0.500 [+0.400, +0.600] | 0.1 | more |"
