"""Writes kinds.npz: what peft computes with VeRA, (IA)^3, PiSSA and OLoRA on a tiny Llama, for
test_kinds.py here.

    python tests/parity/make_kinds.py         needs the extra peers; a new file is right only when this changes

The base is that of make_tiny_llama.py, stored there. Stored here, weights (in, out): every trained
tensor at a trained-looking value, its gradient, logits, and, for the two initialisations, where
peft started.
"""

from pathlib import Path

import numpy as np
import torch
from make_tiny_llama import LAYERS, NAMES, PARTS, base, run
from peft import IA3Config, LoraConfig, VeraConfig, get_peft_model

RANK, ALPHA = 3, 5.0
IA3_MODULES = ("k", "v", "down")
ALL = [name.split(".")[-1] for name in NAMES.values()]
CONFIGS = {
    "vera": VeraConfig(r=4, target_modules=ALL, vera_dropout=0.0),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "pissa": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ALL, init_lora_weights="pissa"),
    "olora": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ALL, init_lora_weights="olora"),
}
# kind -> {our leaf: (attribute of peft's layer, which of its axes to transpose to ours)}
LEAVES = {
    "vera": {"lambda_d": "vera_lambda_d", "lambda_b": "vera_lambda_b"},
    "ia3": {"vector": "ia3_l"},
    "pissa": {"a": "lora_A", "b": "lora_B"},
    "olora": {"a": "lora_A", "b": "lora_B"},
}


def tensor(module, attribute: str) -> torch.Tensor:
    """A layer's parameter of the adapter."""
    found = getattr(module, attribute)["default"]
    return found.weight if hasattr(found, "weight") else found


def stacked(model, attribute: str, what, names) -> dict[str, np.ndarray]:
    """{"attn/q": (L, ...)}; matrices (in, out), vectors flat."""
    found, inner = {}, model.base_model.model.model
    for part, members in PARTS.items():
        for name in (n for n in members if n in names):
            rows = [
                what(tensor(inner.layers[i].get_submodule(NAMES[name]), attribute)).detach().numpy()
                for i in range(LAYERS)
            ]
            rows = [x.ravel() if 1 in x.shape or x.ndim == 1 else x.T for x in rows]
            found[f"{part}/{name}"] = np.stack(rows)
    return found


def case(kind: str, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """Everything stored for one kind."""
    torch.manual_seed(1)
    model = get_peft_model(base().float(), CONFIGS[kind]).double()
    names = IA3_MODULES if kind == "ia3" else tuple(NAMES)
    found = {}
    if kind in ("pissa", "olora"):
        for leaf, attribute in LEAVES[kind].items():
            for path, x in stacked(model, attribute, lambda p: p.data, names).items():
                found[f"{path}/{leaf}0"] = x
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p.add_(torch.randn_like(p) * 0.2)
    logits, loss = run(model, tokens)
    for leaf, attribute in LEAVES[kind].items():
        for path, x in stacked(model, attribute, lambda p: p.data, names).items():
            found[f"{path}/{leaf}"] = x
        for path, x in stacked(model, attribute, lambda p: p.grad, names).items():
            found[f"{path}/{leaf}_grad"] = x
    if kind == "vera":
        found["shared/a"] = model.base_model.vera_A["default"].detach().numpy().T
        found["shared/b"] = model.base_model.vera_B["default"].detach().numpy().T
    return found | {"logits": logits, "loss": np.array(loss)}


def main() -> None:
    """Write the fixture."""
    tokens = torch.from_numpy(np.load(Path(__file__).with_name("tiny_llama.npz"))["tokens"]).long()
    found = {f"{kind}/{name}": x for kind in CONFIGS for name, x in case(kind, tokens).items()}
    np.savez_compressed(
        Path(__file__).with_name("kinds.npz"), **{k: np.float32(x) for k, x in found.items()}
    )


if __name__ == "__main__":
    main()
