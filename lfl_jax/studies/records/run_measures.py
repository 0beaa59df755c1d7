"""What is known of a finished run beside its scores: its weights' change, and where it started.

Files of the run directory, written by `studies.running.measuring` where a study asks for them:
weights.jsonl (`analysis.run_weights`), curvature.json and unigrams.json. What the base scored on
the target is in results.json.
"""

import json
from pathlib import Path

from lfl_jax.analysis import run_weights
from lfl_jax.core import files

CURVATURE = "curvature.json"
UNIGRAMS = "unigrams.json"
# How many numbers trained: a property of an arm and no measurement, so that LABELS has no name.
TRAINABLE = "trainable"
TARGET = ("target_nll", "nll")

# {measure: what it is called}
LABELS = {
    "frobenius": "norm of dW",
    "relative_norm": "relative norm of dW",
    "spectral": "spectral norm of dW",
    "k90": "k90 of dW",
    "k90_random": "k90, random",
    "effective_rank": "effective rank of dW",
    "effective_rank_random": "effective rank, random",
    "stable_rank": "stable rank of dW",
    "stable_rank_random": "stable rank, random",
    "intruders": "intruders",
    "intruders_random": "intruders, random",
    "k90_share_attention": "k90 over random, attention",
    "k90_share_mlp": "k90 over random, MLP",
    "k90_share_ends": "k90 over random, first and last layer",
    "k90_share_middle": "k90 over random, layers between",
    "curvature": "top Hessian eigenvalue at step 0",
    "base_target_nll": "the base's loss on the target",
    "unigram_kl": "unigram KL of the target from source text",
    "unigram_kl_random": "unigram KL, random",
}


def read(folder: Path) -> dict[str, float]:
    """{measure: value} of a run, by the names of LABELS, as far as they were measured.

    And TRAINABLE, of a run that finished.
    """
    with files.expecting(folder / run_weights.FILE, "measures of weights"):
        measures = run_weights.summary(run_weights.read(folder))
    if (folder / CURVATURE).exists():
        measured = files.read_json_object(folder / CURVATURE)
        with files.expecting(folder / CURVATURE, "an eigenvalue"):
            # One that has not converged is no measurement.
            value = files.number(measured["value"]) if measured["converged"] else None
        measures |= {} if value is None else {"curvature": value}
    if (folder / UNIGRAMS).exists():
        apart = files.read_json_object(folder / UNIGRAMS)
        with files.expecting(folder / UNIGRAMS, "two divergences"):
            names = {"unigram_kl": "kl", "unigram_kl_random": "null"}
            measures |= {ours: files.number(apart[name]) for ours, name in names.items()}
    with files.expecting(folder / "results.json", "the results of a run"):
        return measures | _results(folder)


def _results(folder: Path) -> dict[str, float]:
    """What results.json knows: nothing of a run that has not got one.

    The base's loss on the target is in nats per token, of runs that evaluated it.
    """
    # Not by report.results_json, which needs jax: reports of others' runs have none.
    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    facts, known = results.get("facts", {}), {}
    if TRAINABLE in facts:
        known[TRAINABLE] = float(files.number(facts[TRAINABLE]))
    for row in results.get("rows", ()):
        if (row["task"], row["metric"], row["variant"]) == (*TARGET, "before"):
            known["base_target_nll"] = row["estimate"]
    return known
