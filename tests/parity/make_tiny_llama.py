"""Writes tiny_llama.npz: what transformers and peft compute for a tiny Llama, for
tests/parity/test_tiny_llama.py.

    python tests/parity/make_tiny_llama.py         needs the extra peers; a new file is right only when this changes

Weights are stored in our layout (in, out), so the test maps nothing: logits, the loss of the second
half of the tokens, gradients of every parameter, and the same for LoRA and DoRA with non-zero
factors on all linear modules.
"""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
         "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}  # fmt: skip
PARTS = {"attn": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
LAYERS, RANK, ALPHA = 2, 3, 5.0


def base() -> LlamaForCausalLM:
    """Grouped queries, untied head, weights larger than at initialisation so that everything
    matters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=24, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, rope_theta=500.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.25 + (1.0 if p.ndim == 1 else 0.0))
    return model


def run(model, tokens) -> tuple[np.ndarray, float]:
    """Logits and the summed loss of the targets in the second half; gradients are left on the
    parameters."""
    model.zero_grad()
    logits = model(input_ids=tokens[:, :-1]).logits
    half = tokens.shape[1] // 2
    loss = torch.nn.functional.cross_entropy(
        logits[:, half:].flatten(0, 1), tokens[:, half + 1 :].flatten(), reduction="sum"
    )
    loss.backward()
    return logits.detach().numpy(), loss.item()


def stacked(get) -> dict[str, np.ndarray]:
    """{"layers/attn/q": (L, in, out)} of a per-layer getter of torch's (out, in) arrays."""
    return {
        f"layers/{part}/{name}": np.stack([get(layer, name) for layer in range(LAYERS)]).swapaxes(
            1, 2
        )
        for part, names in PARTS.items()
        for name in names
    }


def parameters(model, what) -> dict[str, np.ndarray]:
    """All parameters, or their gradients, by our paths."""
    inner, get = model.model, lambda p: what(p).detach().numpy()
    norms = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    found = stacked(lambda i, n: get(inner.layers[i].get_submodule(NAMES[n]).weight))
    found |= {
        f"layers/{k}": np.stack([get(getattr(x, v).weight) for x in inner.layers])
        for k, v in norms.items()
    }
    return found | {
        "embed": get(inner.embed_tokens.weight),
        "final_norm": get(inner.norm.weight),
        "head": get(model.lm_head.weight),
    }


def adapted(kind: str, tokens) -> dict[str, np.ndarray]:
    """Factors, logits, loss and gradients of a peft model with trained-looking factors."""
    options = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    model = get_peft_model(
        base(), LoraConfig(**options, use_dora=kind == "dora", task_type="CAUSAL_LM")
    ).double()
    torch.manual_seed(1)
    trained = [p for n, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(torch.randn_like(p) * 0.2)
    logits, loss = run(model, tokens)
    layers = model.base_model.model.model.layers
    found = {"logits": logits, "loss": np.float64(loss)}
    for leaf in ("a", "b", "m") if kind == "dora" else ("a", "b"):
        for what, read in (("value", lambda p: p), ("grad", lambda p: p.grad)):

            def get(i: int, name: str, leaf=leaf, read=read) -> np.ndarray:
                x = (
                    read(leaf_parameter(layers[i].get_submodule(NAMES[name]), leaf))
                    .detach()
                    .numpy()
                )
                return x.reshape(len(x), -1)

            found |= {f"{what}/{path}/{leaf}": x for path, x in stacked(get).items()}
    return {f"{kind}/{k}": v for k, v in found.items()}


def leaf_parameter(module, name):
    """The parameter behind a leaf of ours."""
    holder = {
        "a": module.lora_A,
        "b": module.lora_B,
        "m": getattr(module, "lora_magnitude_vector", {}),
    }[name]
    return holder["default"].weight


def main() -> None:
    tokens = torch.randint(0, 48, (2, 14), generator=torch.Generator().manual_seed(2))
    model = base()
    logits, loss = run(model, tokens)
    found = {"tokens": tokens.numpy(), "base/logits": logits, "base/loss": np.float64(loss)}
    found |= {f"base/value/{k}": v for k, v in parameters(model, lambda p: p).items()}
    found |= {f"base/grad/{k}": v for k, v in parameters(model, lambda p: p.grad).items()}
    for kind in ("lora", "dora"):
        found |= adapted(kind, tokens)
    small = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in found.items()}
    np.savez_compressed(Path(__file__).with_name("tiny_llama.npz"), **small)


if __name__ == "__main__":
    main()
