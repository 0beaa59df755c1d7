"""weights.jsonl: records of every weight, resumed where they were cut off, and what they sum to."""

import jax
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax.adapters import merge
from lfl_jax.analysis import measure_weights, run_weights
from lfl_jax.core import files
from lfl_jax.model import Model
from lfl_jax.studies.records import run_measures

MODULES = 7


@pytest.fixture(scope="module")
def tuned(small, small_params):
    return Model(params=small_params, adapter=adapter_for(small, small_params))


@pytest.fixture(scope="module")
def records(small_params, tuned, tmp_path_factory):
    return measure_weights.measure(tmp_path_factory.mktemp("run"), small_params, tuned, 5)


def test_the_records_of_every_weight(small, small_params, tuned, records):
    assert len(records) == small.n_layers * MODULES
    merged = merge(tuned.adapter, tuned.params)["layers"]["mlp"]["up"]
    base = np.asarray(small_params["layers"]["mlp"]["up"], np.float64)
    (one,) = [record for record in records if record["weight"] == "layers/1/mlp/up"]
    change = np.asarray(merged, np.float64)[1] - base[1]
    s = np.linalg.svd(change, compute_uv=False)
    assert one["frobenius"] == pytest.approx(np.linalg.norm(change), rel=1e-5)
    assert one["relative_norm"] == pytest.approx(
        np.linalg.norm(change) / np.linalg.norm(base[1]), rel=1e-5
    )
    assert one["k90"] == 1 + np.sum(np.cumsum(s**2) < 0.9 * np.sum(s**2))
    assert one["effective_rank"] < 4 and 0 < one["k90_random"] <= 4, "of rank 4, as the adapter"
    assert 0 <= one["intruders"] <= 10 and "s" not in one


def test_of_all_weights_together(small_params, tuned, records):
    whole = run_weights.summary(records)
    merged = merge(tuned.adapter, tuned.params)
    norms = [0.0, 0.0]
    for part in ("attn", "mlp"):
        for name, after in merged["layers"][part].items():
            before = np.asarray(small_params["layers"][part][name], np.float64)
            norms[0] += np.sum((np.asarray(after, np.float64) - before) ** 2)
            norms[1] += np.sum(before**2)
    assert whole["frobenius"] == pytest.approx(np.sqrt(norms[0]), rel=1e-5)
    assert whole["relative_norm"] == pytest.approx(np.sqrt(norms[0] / norms[1]), rel=1e-5)
    assert whole["k90"] == np.mean([record["k90"] for record in records])
    assert whole["intruders"] == sum(record["intruders"] for record in records)
    assert whole.keys() <= run_measures.LABELS.keys() and run_weights.summary([]) == {}


def test_a_file_that_was_cut_off_is_completed(small_params, tuned, records, tmp_path):
    measure_weights.measure(tmp_path, small_params, tuned, 5)
    path = tmp_path / run_weights.FILE
    whole = path.read_text()
    assert run_weights.is_complete(tmp_path, 5) and not run_weights.is_complete(tmp_path, 6)
    # The end of a process in the middle of a line, the sixth weight's.
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:6]) + lines[6][:9])
    assert not run_weights.is_complete(tmp_path, 5) and not run_weights.read(tmp_path)
    assert measure_weights.measure(tmp_path, small_params, tuned, 5) == records
    assert path.read_text() == whole
    # Another step's are of no use.
    files.write_text(path, "".join(lines[:3]))
    measure_weights.measure(tmp_path, small_params, tuned, 6)
    assert run_weights.is_complete(tmp_path, 6)
    assert run_measures.read(tmp_path) == run_weights.summary(run_weights.read(tmp_path))


def test_weights_without_an_adapter_count_as_well(small, small_params, tmp_path):
    few = adapter_for(small, small_params, targets=("q",))
    records = measure_weights.measure(
        tmp_path, small_params, Model(params=small_params, adapter=few), 1
    )
    whole, changed = run_weights.summary(records), [r for r in records if not r["is_zero"]]
    assert {record["module"] for record in changed} == {"q"}
    assert 0 < whole["relative_norm"] < run_weights.summary(changed)["relative_norm"]


def test_a_change_of_nothing(small, small_params, tmp_path):
    fresh = Model(params=small_params, adapter=adapter_for(small, small_params, trained=False))
    whole = run_weights.summary(measure_weights.measure(tmp_path, small_params, fresh, 0))
    assert {name for name, value in whole.items() if value} == set(), "nothing is divided by it"
    assert whole["relative_norm"] == whole["k90_random"] == whole["intruders"] == 0


def test_parameters_that_trained(small_params, tmp_path):
    tuned = Model(params=jax.tree.map(lambda x: 1.1 * x, small_params), adapter={})
    whole = run_weights.summary(measure_weights.measure(tmp_path, small_params, tuned, 1))
    assert whole["relative_norm"] == pytest.approx(0.1, rel=1e-5)
    assert whole["intruders"] == 0, "the directions are W's own"
    assert whole["k90_random"] > 10, "a Gaussian change is of full rank"
