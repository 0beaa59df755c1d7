"""Mutated files of every reader are read, or refused in a line, within bounds of time and memory.

python tests/fuzzing/driver.py --cases=20000 --seed=0     what the slow test does, with a table
"""

import contextlib
import importlib
import json
import tempfile
from pathlib import Path

import pytest
from fuzzing import driver, mutations
from fuzzing.worker import READERS

from lfl_jax.errors import UserError

# In this process, so that the types of the package's functions are checked, too.
FEW = dict.fromkeys(READERS, 4) | {"gguf": 2, "safetensors folder": 2, "chat template": 2}


# Scores of records with numbers that are not finite are NaN, and shown as that.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", READERS)
def test_a_few_mutated_files_of_each_reader(name, monkeypatch):
    reader, manifest = READERS[name], importlib.import_module("lfl_jax.assets.manifest")
    # A reader puts a small manifest in its place.
    monkeypatch.setattr(manifest, "read", manifest.read)
    for case in range(FEW[name]):
        with tempfile.TemporaryDirectory() as folder:
            monkeypatch.setenv("LFL_CACHE", f"{folder}/cache")
            reader.write(mutations.generator(7, name, case), Path(folder))
            with contextlib.suppress(UserError):
                assert not reader.wrong(reader.read(Path(folder)), Path(folder))


def test_a_case_is_the_same_file_every_time():
    whole = {"a": [1, {"b": "text"}], "c": None}
    first, again, other = (
        mutations.json_bytes(mutations.generator(0, "r", case), whole) for case in (5, 5, 6)
    )
    assert first == again != other


def test_the_driver_sees_every_kind_of_fault(monkeypatch, tmp_path):
    """By a worker that pretends: slow, dead, silent for ever; and one that reads."""
    worker = tmp_path / "worker.py"
    worker.write_text(PRETENDS)
    monkeypatch.setattr(driver, "WORKER", worker)
    monkeypatch.setattr(driver, "SECONDS", 0.5)
    monkeypatch.setattr(driver, "GRACE", 1.0)
    results = driver.run("any", 0, 0, 5)
    assert [result["case"] for result in results] == [0, 1, 2, 3, 4]
    words = [f"{result['outcome']} {result['what']}" for result in results]
    assert words[0] == "read " and words[4] == "refused because"
    assert "time: 7" in words[1] and "died" in words[2] and "time: more than" in words[3]
    assert driver.summary({"any": results})["any"]["faults"] == 3


PRETENDS = """
import json, os, sys, time
for case in range(int(sys.argv[3]), int(sys.argv[4])):
    print(json.dumps({"begin": case}), flush=True)
    if case == 2: os._exit(3)
    if case == 3: time.sleep(60)
    outcome, what = ("refused", "because") if case == 4 else ("read", "")
    seconds = 7 if case == 1 else 0.1
    print(json.dumps({"case": case, "outcome": outcome, "what": what, "seconds": seconds, "mib": 0}),
          flush=True)
"""


@pytest.mark.slow
def test_twenty_thousand_mutated_files(tmp_path):
    out = tmp_path / "fuzz.json"
    assert driver.main(["--cases=20000", f"--out={out}"]) == 0
    table = json.loads(out.read_text())
    assert table["files"] >= 19_990 and table["faults"] == 0
