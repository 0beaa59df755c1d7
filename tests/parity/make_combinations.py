"""Writes tests/parity/combinations.npz: small LoRA adapters, and dW of what peft's
add_weighted_adapter makes of them.

    python tests/parity/make_combinations.py

Needs the extra peers: torch, peft (0.21.2 wrote the file). Two layers of two linear weights;
adapters of ranks 3 and 2, one of them on one weight only. The masks of DARE are recorded from
torch.bernoulli as it is called. Arrays are in lfl_jax's layout: (in, out), layers stacked.
"""

import json
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

FILE = Path(__file__).with_name("combinations.npz")
LAYERS, SHAPES = 2, {"q": (12, 8), "down": (10, 12)}
BOTH = ["q", "down"]
ADAPTERS = {
    "a": {"r": 3, "lora_alpha": 5, "target_modules": BOTH},
    "b": {"r": 3, "lora_alpha": 2, "target_modules": BOTH},
    "only_q": {"r": 3, "lora_alpha": 6, "target_modules": ["q"]},
    "rank2": {"r": 2, "lora_alpha": 3, "target_modules": BOTH},
    "rs1": {"r": 3, "lora_alpha": 2, "target_modules": BOTH, "use_rslora": True},
    "rs2": {"r": 3, "lora_alpha": 4, "target_modules": BOTH, "use_rslora": True},
}
THREE = {"adapters": ["a", "b", "only_q"], "weights": [0.7, -0.4, 1.3]}
POSITIVE = {"adapters": ["b", "only_q", "a"], "weights": [1.0, 0.25, 2.0]}
RAGGED = {"adapters": ["rank2", "a", "only_q"], "weights": [-1.5, 0.8, 0.3]}
FULL = {"svd_rank": 12, "svd_full_matrices": False}
CASES = {
    "linear": {"combination_type": "linear", **THREE},
    "linear_positive": {"combination_type": "linear", **POSITIVE},
    "linear_rslora": {"combination_type": "linear", "adapters": ["rs1", "rs2"], "weights": [0.5, -1.0]},
    "cat": {"combination_type": "cat", **RAGGED},
    "cat_rslora": {"combination_type": "cat", "adapters": ["rs1", "rs2"], "weights": [1.0, 0.0]},
    "svd": {"combination_type": "svd", **RAGGED},
    "svd_rank1": {"combination_type": "svd", "svd_rank": 1, **THREE},
    "ties_30": {"combination_type": "ties", "density": 0.3, **THREE},
    "ties_60": {"combination_type": "ties", "density": 0.6, **POSITIVE},
    "ties_votes": {"combination_type": "ties", "density": 0.5, "majority_sign_method": "frequency", **THREE},
    "magnitude_prune_25": {"combination_type": "magnitude_prune", "density": 0.25, **THREE},
    "magnitude_prune_70": {"combination_type": "magnitude_prune", "density": 0.7, **POSITIVE},
    "dare_linear_40": {"combination_type": "dare_linear", "density": 0.4, **THREE},
    "dare_linear_80": {"combination_type": "dare_linear", "density": 0.8, **POSITIVE},
    "dare_ties_50": {"combination_type": "dare_ties", "density": 0.5, **THREE},
    "dare_ties_votes": {"combination_type": "dare_ties", "density": 0.7, "majority_sign_method": "frequency",
                        **POSITIVE},
    # with the rank that a weight has, these are the same methods on dW
    "ties_svd": {"combination_type": "ties_svd", "density": 0.4, **RAGGED, **FULL},
    "ties_votes_svd": {"combination_type": "ties_svd", "density": 0.7, "majority_sign_method": "frequency",
                       **THREE, **FULL},
    "magnitude_prune_svd": {"combination_type": "magnitude_prune_svd", "density": 0.3, **RAGGED, **FULL},
    "dare_linear_svd": {"combination_type": "dare_linear_svd", "density": 0.6, **RAGGED, **FULL},
    "dare_ties_svd": {"combination_type": "dare_ties_svd", "density": 0.5, **RAGGED, **FULL},
    "one_adapter": {"combination_type": "ties", "density": 0.2, "adapters": ["a"], "weights": [-0.5]},
}  # fmt: skip


class Block(torch.nn.Module):
    """The weights of one layer, never run."""

    def __init__(self):
        super().__init__()
        for name, (fan_in, fan_out) in SHAPES.items():
            setattr(self, name, torch.nn.Linear(fan_in, fan_out, bias=False))


def build():
    """A model with all adapters, every factor random."""
    base = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Block() for _ in range(LAYERS)])})
    model = None
    for name, options in ADAPTERS.items():
        config = LoraConfig(**options)
        model = get_peft_model(base, config, adapter_name=name) if model is None else model
        if name not in model.peft_config:
            model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator))
    return model


def modules(model):
    """(layer, name, module) of all adapted weights, in the order in which peft combines them."""
    return [
        (i, n, getattr(block, n))
        for i, block in enumerate(model.base_model.model["layers"])
        for n in SHAPES
    ]


def stacked(arrays, key):
    """One array for the same weight in all layers, where it has one."""
    found = {}
    for name in SHAPES:
        rows = [value for (i, n), value in sorted(arrays.items()) if n == name]
        if rows:
            found[key.format(name)] = np.stack(rows)
    return found


def factors(model, adapter):
    """A, B and the scale of one adapter."""
    has = [(i, n, m) for i, n, m in modules(model) if adapter in m.lora_A]
    a = {(i, n): m.lora_A[adapter].weight.detach().numpy().T for i, n, m in has}
    b = {(i, n): m.lora_B[adapter].weight.detach().numpy().T for i, n, m in has}
    scale = {f"{adapter}/scale": np.float32(has[0][2].scaling[adapter])}
    return stacked(a, adapter + "/{}/a") | stacked(b, adapter + "/{}/b") | scale


def masks(model, case, options, drawn):
    """The recorded masks: by weight, then (A before B, unless on dW) by adapter that has the
    weight."""
    dense, drawn, found = options["combination_type"].endswith("svd"), iter(drawn), {}
    for i, name, module in modules(model):
        for leaf in ("dw",) if dense else ("a", "b"):
            for adapter in options["adapters"]:
                if adapter in module.lora_A:
                    key = f"{case}/mask/{adapter}/{{}}/{leaf}"
                    found.setdefault(key, {})[i, name] = next(drawn).numpy().T.astype(bool)
    assert next(drawn, None) is None, "a mask too many"
    return {k: v for key, arrays in found.items() for k, v in stacked(arrays, key).items()}


def combine(model, case, options):
    """peft's dW of one case, and its masks."""
    drawn, bernoulli = [], torch.bernoulli

    def recorded(*args, **kwargs):
        drawn.append(bernoulli(*args, **kwargs))
        return drawn[-1]

    with mock.patch.object(torch, "bernoulli", recorded):
        model.add_weighted_adapter(adapter_name=case, **options)
    has = [(i, n, m) for i, n, m in modules(model) if case in m.lora_A]
    dw = {(i, n): m.get_delta_weight(case).detach().numpy().T for i, n, m in has}
    found = stacked(dw, case + "/{}")
    return found | (masks(model, case, options, drawn) if drawn else {})


def main():
    """All adapters and cases into one file."""
    torch.manual_seed(1)
    model = build()
    arrays = {k: v for name in ADAPTERS for k, v in factors(model, name).items()}
    for case, options in CASES.items():
        arrays |= combine(model, case, options)
    np.savez_compressed(FILE, cases=json.dumps(CASES), **arrays)
    print(f"{FILE.name}: {len(CASES)} cases, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
