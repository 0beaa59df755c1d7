"""Logs that lm-evaluation-harness wrote of two models, 200 documents a task: its means and errors.

HARNESS_LOGS=DIR python -m pytest -m slow tests/parity/test_harness_logs.py    on whole logs, which
`python tests/parity/make_harness_logs.py --whole=DIR` writes
"""

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from lfl_jax.studies import records
from lfl_jax.studies.comparison import compare

FIXTURE = Path(__file__).with_name("harness_logs")
WHOLE = os.environ.get("HARNESS_LOGS", "")
DOCUMENTS = 200
METRICS = [
    *(("hellaswag", "acc_norm"), ("hellaswag", "acc")),
    *(("arc_challenge", "acc"), ("arc_challenge", "acc_norm"), ("winogrande", "acc")),
]


@pytest.fixture(scope="module")
def shortened(tmp_path_factory):
    """The committed logs, as they are when they are not compressed."""
    folder = tmp_path_factory.mktemp("logs")
    for file in FIXTURE.rglob("*.gz"):
        copy = folder / file.relative_to(FIXTURE).with_suffix("")
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(gzip.decompress(file.read_bytes()))
    (folder / "results.json").write_text((FIXTURE / "results.json").read_text())
    return folder


def require_theirs(folder):
    """Means, errors and paired errors of a folder's logs."""
    results = json.loads((folder / "results.json").read_text())
    (a,), (b,) = (records.read(str(folder / name)) for name in "ab")
    rows = {(row.task, row.metric): row for row in compare(a, b, margin=0.02)}
    assert sorted(rows) == sorted(METRICS)
    for task, metric in METRICS:
        row = rows[task, metric]
        for name, estimate in (("a", row.before), ("b", row.after)):
            theirs = results[name][task]
            assert estimate.n == DOCUMENTS
            assert estimate.mean == pytest.approx(theirs[f"{metric},none"], abs=1e-12)
            assert estimate.se == pytest.approx(theirs[f"{metric}_stderr,none"], rel=1e-9)

        # The error of a paired difference, from the samples themselves.
        before, after = (values(folder / name, task, metric) for name in "ab")
        differences = [after[item] - before[item] for item in before]
        assert row.change.mean == pytest.approx(np.mean(differences))
        expected = np.std(differences, ddof=1) / math.sqrt(DOCUMENTS)
        assert row.change.se == pytest.approx(expected)


def values(folder, task, metric):
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    samples = map(json.loads, file.read_text().splitlines())
    return {sample["doc_hash"]: sample[metric] for sample in samples}


def test_committed_logs_have_the_harness_s_means_and_errors(shortened):
    require_theirs(shortened)


@pytest.mark.slow
@pytest.mark.skipif(not WHOLE, reason="HARNESS_LOGS names no folder of whole logs")
def test_whole_logs_have_them_too():
    folder = Path(WHOLE)
    require_theirs(folder)
    (a,) = records.read(str(folder / "a"))
    for task, choices in (("hellaswag", 4), ("winogrande", 2)):
        asked = list(a.transcripts(task).values())
        assert {len(one.choices) for one in asked} == {choices}
        # In WinoGrande the choice stands in the context: each one is a sentence.
        assert all(bool(one.question) == (task == "hellaswag") for one in asked)
        assert all(choice.text and choice.logprob < 0 for one in asked for choice in one.choices)
