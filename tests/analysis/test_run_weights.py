"""weights.jsonl as others read it: whole or not at all, and what its records are together."""

import json

import numpy as np
import pytest

from lfl_jax.analysis import run_weights
from lfl_jax.core import files
from lfl_jax.studies.records import run_measures


def record(name, frobenius, base, **measures):
    ranks = {f"{rank}{end}": 2.0 for rank in run_weights.RANKS for end in ("", "_random")}
    about = {
        "weight": name,
        "frobenius": frobenius,
        "base_frobenius": base,
        "spectral": frobenius / 2,
    }
    return about | ranks | {"intruders": 1, "intruders_random": 0} | measures


RECORDS = [
    record("a", 3.0, 30.0, k90=4.0, intruders=7),
    record("b", 4.0, 40.0),
    record("c", 0.0, 120.0),
]


def write(folder, records, step=5):
    header = {"version": run_weights.VERSION, "step": step, "weights": 3}
    lines = "".join(json.dumps(line) + "\n" for line in (header, *records))
    files.write_text(folder / run_weights.FILE, lines)


def test_a_file_that_is_not_whole_is_none(tmp_path):
    assert not run_weights.read(tmp_path) and not run_weights.is_complete(tmp_path, 5)
    write(tmp_path, RECORDS[:2])
    assert not run_weights.read(tmp_path) and not run_weights.is_complete(tmp_path, 5)
    write(tmp_path, RECORDS)
    assert run_weights.read(tmp_path) == RECORDS and run_weights.is_complete(tmp_path, 5)
    assert not run_weights.is_complete(tmp_path, 6)


def test_norms_are_of_the_whole_change_ranks_means_and_intruders_sums():
    whole = run_weights.summary(RECORDS)
    assert whole["frobenius"] == 5 and whole["spectral"] == 2
    assert whole["relative_norm"] == pytest.approx(5 / np.hypot(50, 120))
    assert whole["k90"] == pytest.approx(8 / 3) and whole["stable_rank"] == 2
    assert (whole["intruders"], whole["intruders_random"]) == (9, 0)
    assert run_weights.summary([]) == {}


def test_what_is_known_of_a_run(tmp_path):
    assert run_measures.read(tmp_path) == {}
    write(tmp_path, RECORDS)
    rows = [
        {"task": "target_nll", "metric": "nll", "variant": variant, "estimate": x}
        for variant, x in (("before", 1.5), ("after", 0.5))
    ]
    files.write_json(tmp_path / "results.json", {"rows": rows})
    files.write_json(tmp_path / run_measures.CURVATURE, {"value": 3.0, "converged": True})
    known = run_measures.read(tmp_path)
    assert known.keys() == run_measures.LABELS.keys()
    assert (known["curvature"], known["base_target_nll"]) == (3.0, 1.5)
    files.write_json(tmp_path / run_measures.CURVATURE, {"value": 3.0, "converged": False})
    assert "curvature" not in run_measures.read(tmp_path)
