"""Writes tests/parity/intruders.npz: weights and changes, the intruder dimensions that the published
script counts in them, and what peft's mitigation of intruders makes of the changes.

    python tests/parity/make_intruders.py REPOSITORY
    python tests/parity/make_intruders.py REPOSITORY --check FILE.npz    only the numbers, of other weights

REPOSITORY is a checkout of github.com/reeceshuttle/intruder-dimensions (d4445a2 wrote the file);
without it, as "-", only peft's numbers are written. Needs the extra peers: torch, peft (0.21.2
wrote the file). The second command is called by `pytest -m peers tests/parity/test_intruders.py`.
Arrays are in lfl_jax's layout, (in, out).
"""

import argparse
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension

FILE = Path(__file__).with_name("intruders.npz")
# (out, in); "half" is stored in float16. The published script looks for modules of these names.
SHAPES = {
    "square_query": (32, 32),
    "wide_query": (24, 40),
    "tall_value": (40, 24),
    "half_query": (32, 24),
}
RANK, ALPHA = 3, 6
EPSILONS, TOP_KS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (1, 3, 10)
# (lambda, epsilon, top k) of the mitigation
MITIGATIONS = {"default": (0.75, 0.5, 10), "removed": (0.0, 0.6, 10), "doubled": (2.0, 0.5, 2)}


def drawn():
    """{name: W (out, in)}, {name: (B, A)}: spectra that fall, changes as large as the middle of W."""
    rng = np.random.default_rng(0)
    weights, factors = {}, {}
    for name, (out, fan_in) in SHAPES.items():
        size = min(out, fan_in)
        u, v = (np.linalg.qr(rng.normal(size=(n, size)))[0] for n in (out, fan_in))
        dtype = np.float16 if name.startswith("half") else np.float32
        weights[name] = ((u * np.geomspace(4, 0.2, size)) @ v.T).astype(dtype)
        factors[name] = tuple(
            0.25 * rng.normal(size=s).astype(np.float32) for s in ((out, RANK), (RANK, fan_in))
        )
    return weights, factors


class Weights(torch.nn.Module):
    """Linear layers by name."""

    def __init__(self, weights):
        super().__init__()
        for name, w in weights.items():
            layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float32)
            layer.weight.data = torch.from_numpy(w.astype(np.float32))
            self.add_module(name, layer)


def adapted(weights, factors):
    """A peft model with these factors."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(weights))
    model = get_peft_model(Weights(weights), config)
    for name, (b, a) in factors.items():
        layer = model.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data = torch.from_numpy(a)
        layer.lora_B["default"].weight.data = torch.from_numpy(b)
    return model


def deltas(model, weights, adapter):
    """{name: dW (in, out)}."""
    layers = {name: model.base_model.model.get_submodule(name) for name in weights}
    return {
        name: layer.get_delta_weight(adapter).detach().numpy().T for name, layer in layers.items()
    }


def published_counts(repository, weights, changes):
    """{name: (epsilons, top ks)} by the published function, one weight at a time."""
    sys.path.insert(0, repository)
    # Imported by the script's other half, which trains; nothing here reads a data set.
    sys.modules.setdefault("datasets", types.SimpleNamespace(load_dataset=None))
    script = importlib.import_module("find_intruder_dimensions")
    arguments = argparse.Namespace(base_model="roberta-base", tune_layers="qv_only")
    counts = {}
    for name, w in weights.items():
        base = Weights({name: w})
        tuned = Weights({name: w.astype(np.float32) + changes[name].T})
        counts[name] = [
            [
                script.find_number_of_intruder_dimensions(base, tuned, arguments, epsilon, k)
                for k in TOP_KS
            ]
            for epsilon in EPSILONS
        ]
    return counts


def main():
    """Numbers of the weights that are drawn here, or of those of a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repository")
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    weights, factors = drawn()
    if options.check:
        given = np.load(options.check)
        weights = {name: given[f"w/{name}"].T for name in SHAPES}
        factors = {name: (given[f"b/{name}"].T, given[f"a/{name}"].T) for name in SHAPES}

    changes = deltas(adapted(weights, factors), weights, "default")
    arrays = {f"w/{name}": w.T for name, w in weights.items()}
    arrays |= {f"dw/{name}": dw for name, dw in changes.items()}
    if options.repository != "-":
        counts = published_counts(options.repository, weights, changes)
        arrays |= {f"counts/{name}": np.array(x) for name, x in counts.items()}
    for case, (factor, epsilon, top_k) in MITIGATIONS.items():
        model, said = adapted(weights, factors), []
        reduce_intruder_dimension(
            model, "default", "reduced", top_k, epsilon, factor, logging_sink=said.append
        )
        arrays |= {f"{case}/{name}": dw for name, dw in deltas(model, weights, "reduced").items()}
        found = [line.rsplit(" ", 1)[1] for line in said if "ntruders" in line]
        arrays[f"{case}/counts"] = np.array(
            [0 if text == "intruders" else int(text) for text in found]
        )
    np.savez_compressed(options.check.with_name("numbers.npz") if options.check else FILE, **arrays)


if __name__ == "__main__":
    main()
