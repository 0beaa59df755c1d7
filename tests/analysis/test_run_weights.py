"""weights.jsonl as others read it: whole or not at all, and what its records are together."""

import json

import numpy as np
import pytest

from lfl_jax.analysis import run_weights
from lfl_jax.core import files
from lfl_jax.studies.records import run_measures


def record(name, frobenius, base, layer=0, **measures):
    ranks = {f"{rank}{end}": 2.0 for rank in run_weights.RANKS for end in ("", "_random")}
    about = {
        "weight": f"layers/{layer}/{name}",
        "layer": layer,
        "frobenius": frobenius,
        "base_frobenius": base,
        "spectral": frobenius / 2,
    }
    return about | ranks | {"intruders": 1, "intruders_random": 0} | measures


RECORDS = [
    record("attn/q", 3.0, 30.0, k90=4.0, intruders=7),
    record("mlp/up", 4.0, 40.0, layer=1, k90_random=4.0),
    record("mlp/up", 0.0, 120.0, layer=2, k90_random=0.0, k90=0.0),
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
    assert whole["k90"] == 2 and whole["stable_rank"] == 2
    assert (whole["intruders"], whole["intruders_random"]) == (9, 0)
    assert run_weights.summary([]) == {}


def test_ranks_of_groups_are_over_those_of_a_random_change():
    """A zero change counts as of no rank, and a group without weights is left out."""
    whole = run_weights.summary(RECORDS)
    assert whole["k90_share_attention"] == 2 and whole["k90_share_mlp"] == 0.25
    assert whole["k90_share_ends"] == 1 and whole["k90_share_middle"] == 0.5
    assert "k90_share_middle" not in run_weights.summary(RECORDS[:2])


def test_what_is_known_of_a_run(tmp_path):
    assert run_measures.read(tmp_path) == {}
    write(tmp_path, RECORDS)
    rows = [
        {"task": "target_nll", "metric": "nll", "variant": variant, "estimate": x}
        for variant, x in (("before", 1.5), ("after", 0.5))
    ]
    files.write_json(tmp_path / "results.json", {"rows": rows})
    files.write_json(tmp_path / run_measures.CURVATURE, {"value": 3.0, "converged": True})
    files.write_json(tmp_path / run_measures.UNIGRAMS, {"kl": 0.5, "null": 0.1})
    known = run_measures.read(tmp_path)
    assert known.keys() == run_measures.LABELS.keys()
    assert (known["curvature"], known["base_target_nll"]) == (3.0, 1.5)
    files.write_json(tmp_path / run_measures.CURVATURE, {"value": 3.0, "converged": False})
    assert "curvature" not in run_measures.read(tmp_path)
