"""Writes hf/: small checkpoints as transformers saves them, and what it computes with them, for
test_hf.py.

    python tests/parity/make_hf.py            needs the extra peers; a new file is right only when this script changes
    python tests/parity/make_hf.py --check FOLDER ...   loads folders that `io.hf.save` wrote, and prints their logits

For every case: config.json and safetensors (sharded, in the case's dtype), and in CASE.npz the
tokens, logits, the gradient of the mean loss by every parameter (by its name in the file), and a
greedy continuation of left-padded prompts.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FOLDER = Path(__file__).parent / "hf"
SIZES = {
    "vocab_size": 56,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "gqa_tied": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
        "float32",
    ),
    "mha_bf16": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=4), "bfloat16"),
    "llama3_fp16": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters=LLAMA3),
        "float16",
    ),
    "mistral": (
        MistralForCausalLM,
        MistralConfig(**SIZES, num_key_value_heads=2, head_dim=8, sliding_window=None),
        "float32",
    ),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=2), "float32"),
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True),
        "float32",
    ),
}
for name, rope in {
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 8.0,
        "original_max_position_embeddings": 16,
    },
}.items():
    CASES[name] = (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters=rope),
        "float32",
    )
biases = {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "num_key_value_heads": 2}
CASES["biases"] = (LlamaForCausalLM, LlamaConfig(**SIZES, **biases), "float32")
CASES["window"] = (
    MistralForCausalLM,
    # shorter than rows, and than greedy's
    MistralConfig(**SIZES, num_key_value_heads=2, head_dim=8, sliding_window=9),
    "float32",
)
PROMPTS = ([5, 9, 11], [7, 3, 40, 41, 42, 43, 8])


def old_style(folder: Path) -> None:
    """The older spelling of the rotary fields, which most published checkpoints have."""
    fields = json.loads((folder / "config.json").read_text())
    rope = fields.pop("rope_parameters")
    fields["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    fields["rope_scaling"] = None if kind == "default" else {"rope_type": kind, **rope}
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")


def make(name: str) -> None:
    """One case: weights rounded to the dtype they are saved in, everything computed in float64."""
    kind, config, dtype = CASES[name]
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = kind(config)
    with torch.no_grad():
        for p in model.parameters():
            norm = p.ndim == 1 and not any(
                p is m.bias for m in model.modules() if isinstance(m, torch.nn.Linear)
            )
            p.copy_(torch.randn_like(p) * 0.25 + (1.0 if norm else 0.0))
    model = model.to(getattr(torch, dtype))
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    model.save_pretrained(FOLDER / name, max_shard_size="12KB" if dtype == "float32" else "100KB")
    (FOLDER / name / "generation_config.json").unlink()
    if name == "mha_bf16":
        old_style(FOLDER / name)
    # Loaded anew: a cast of the whole model would have rounded its rotary frequencies, too.
    model = kind.from_pretrained(FOLDER / name, dtype=torch.float64, attn_implementation="eager")
    tokens = torch.randint(0, SIZES["vocab_size"], (2, 48))
    out = model(tokens)
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, 56), tokens[:, 1:].reshape(-1)
    )
    loss.backward()
    width = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    # masked rows are not a number in float64
    single = kind.from_pretrained(FOLDER / name, dtype=torch.float32)
    greedy = single.generate(
        padded, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    found = {"tokens": tokens.numpy(), "logits": out.logits.detach().numpy(), "loss": loss.item()}
    found |= {"greedy": greedy[:, width:].numpy()}
    found |= {f"grad/{n}": p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()}
    np.savez_compressed(FOLDER / f"{name}.npz", **found)


def check(folders: list[str]) -> None:
    """Prints the float64 logits of each folder for the tokens that lie in it as tokens.npy; saves
    them beside."""
    for folder in map(Path, folders):
        model = (
            AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
            .double()
            .eval()
        )
        with torch.no_grad():
            logits = model(torch.tensor(np.load(folder / "tokens.npy"))).logits.numpy()
        np.save(folder / "logits.npy", logits)
        print(folder, type(model).__name__, np.abs(logits).max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("cases", nargs="*", help="the cases to make; by default all")
    arguments = parser.parse_args()
    if arguments.check:
        check(arguments.check)
    else:
        for name in arguments.cases or CASES:
            make(name)
