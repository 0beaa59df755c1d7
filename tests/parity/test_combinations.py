"""Our merging methods give the dW that peft's add_weighted_adapter gives; make_combinations.py
wrote the fixture."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.adapters import LoRA, combine, deltas, peft_combine
from lfl_jax.adapters.truncate import truncate

FILE = dict(np.load(Path(__file__).with_name("combinations.npz")))
CASES = json.loads(str(FILE["cases"]))
PARTS = {"q": "attn", "down": "mlp"}
PARAMS = {  # dW of LoRA does not depend on them
    "embed": jnp.zeros((2, 2)),
    "layers": {
        part: {name: jnp.zeros(FILE[f"linear/{name}"].shape)} for name, part in PARTS.items()
    },
}
BOUND = 1e-5


def adapter(name):
    layers = {}
    for weight, part in PARTS.items():
        a, b = (FILE.get(f"{name}/{weight}/{leaf}") for leaf in "ab")
        scale = None if a is None else jnp.full((a.shape[0], a.shape[2]), FILE[f"{name}/scale"])
        layers[part] = {weight: None if a is None else LoRA(jnp.asarray(a), jnp.asarray(b), scale)}
    return {"layers": layers}


def masks(case, names):
    def of(name, weight):
        a, b, dw = (FILE.get(f"{case}/mask/{name}/{weight}/{leaf}") for leaf in ("a", "b", "dw"))
        return dw if a is None else (a, b)

    return [
        {"layers": {part: {weight: of(name, weight)} for weight, part in PARTS.items()}}
        for name in names
    ]


def ours(case):
    """dW by our function of the same method."""
    options = CASES[case]
    names, weights, density = options["adapters"], options["weights"], options.get("density")
    sign = options.get("majority_sign_method", "total")
    given, drawn = [adapter(name) for name in names], masks(case, names)
    match options["combination_type"]:
        case "linear":
            found = peft_combine.peft_linear(given, weights)
        case "cat":
            found = peft_combine.peft_cat(given, weights)
        case "svd":
            found = peft_combine.peft_svd(given, PARAMS, weights, options.get("svd_rank"))
        case "ties":
            found = peft_combine.peft_ties(given, weights, density, sign)
        case "magnitude_prune":
            found = peft_combine.peft_magnitude_prune(given, weights, density)
        case "dare_linear":
            found = peft_combine.peft_dare_linear(given, weights, density, masks=drawn)
        case "dare_ties":
            found = peft_combine.peft_dare_ties(given, weights, density, masks=drawn, sign=sign)
        case "ties_svd":
            found = combine.ties(given, PARAMS, weights, density, sign)
        case "magnitude_prune_svd":
            found = combine.magnitude_prune(given, PARAMS, weights, density)
        case "dare_linear_svd":
            found = combine.dare(given, PARAMS, weights, density, masks=drawn)
        case "dare_ties_svd":
            found = combine.dare(given, PARAMS, weights, density, masks=drawn, ties=True, sign=sign)
    return changes(found)


def changes(found):
    layers = deltas(found, PARAMS)["layers"]
    return {
        name: np.asarray(layers[part][name])
        for name, part in PARTS.items()
        if layers[part].get(name) is not None
    }


def peft(case):
    return {name: FILE[f"{case}/{name}"] for name in PARTS if f"{case}/{name}" in FILE}


def largest_difference(x, y):
    """Of all entries, relative to the largest entry of y's weight."""
    assert x.keys() == y.keys()
    return max(float(np.abs(x[name] - y[name]).max() / np.abs(y[name]).max()) for name in x)


@pytest.mark.parametrize("case", [case for case in CASES if "rslora" not in case])
def test_the_change_is_pefts(case):
    difference = largest_difference(ours(case), peft(case))
    print(f"{case}: max relative difference {difference:.1e}, bound {BOUND}")
    assert difference < BOUND
    assert all(np.abs(x).max() > 0.1 for x in peft(case).values())


@pytest.mark.parametrize("case", ["linear_rslora", "cat_rslora"])
def test_rslora_is_not_scaled_twice(case):
    """peft 0.21 gives the result use_rslora with alpha = rank, which scales its dW by the root of
    the rank again."""
    rank = 3 if case.startswith("linear") else 6
    peft_undone = {name: x / np.sqrt(rank) for name, x in peft(case).items()}
    assert largest_difference(ours(case), peft_undone) < BOUND
    assert largest_difference(ours(case), peft(case)) > 0.4


def test_cat_with_rslora_is_the_weighted_sum():
    first = changes(adapter("rs1"))
    assert largest_difference(ours("cat_rslora"), first) < BOUND


def test_cases_differ_from_plain_addition():
    """The fixture would notice a method that does nothing."""
    for case in CASES:
        if CASES[case]["adapters"] == CASES["linear"]["adapters"] and case != "linear":
            assert largest_difference(peft(case), peft("linear")) > 0.05, case


def test_dense_results_become_lora():
    given = [adapter(name) for name in ("a", "b")]
    dense = combine.ties(given, PARAMS, [1.0, 1.0], 0.5)
    lora, error = truncate(dense, PARAMS, 8)
    assert isinstance(lora["layers"]["attn"]["q"], LoRA)
    assert 0 < error < 0.2  # `down` has rank 10
