"""Compare every weight we read from a GGUF file with what transformers reads from it.

    pip install -e .[peers]
    python tests/parity/compare_gguf.py MODEL.gguf

prints JSON: the largest difference by parameter, and the seconds that each takes to read the file.
For transformers a matrix is (out, in) and one layer's; ours are transposed and stacked.
"""

import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from lfl_jax.core.sharding import make_rules
from lfl_jax.io import pretrained

NAMES = {
    "attn_norm": "input_layernorm",
    "attn/q": "self_attn.q_proj",
    "attn/k": "self_attn.k_proj",
    "attn/v": "self_attn.v_proj",
    "attn/o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}


def differences(params: dict, theirs: dict[str, np.ndarray]) -> dict[str, float]:
    def largest(ours: np.ndarray, name: str) -> float:
        peer = theirs.pop(name)
        assert ours.shape == peer.shape, (name, ours.shape, peer.shape)
        return float(np.abs(ours - peer).max())

    found = {"embed": largest(params["embed"], "model.embed_tokens.weight")}
    found["final_norm"] = largest(params["final_norm"], "model.norm.weight")
    found["head"] = largest(params.get("head", params["embed"]), "lm_head.weight")
    for path, name in NAMES.items():
        stack = params["layers"]
        for key in path.split("/"):
            stack = stack[key]
        found[path] = max(
            largest(w.T, f"model.layers.{i}.{name}.weight") for i, w in enumerate(stack)
        )
    assert not theirs, f"weights we do not have: {sorted(theirs)}"
    return found


def main() -> None:
    path = sys.argv[1]
    start = time.perf_counter()
    model = pretrained.open_model(Path(path))
    params = jax.tree.map(np.asarray, model.load(model.cfg, make_rules(), "float32"))
    ours_s = time.perf_counter() - start
    start = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32
    )
    theirs_s = time.perf_counter() - start
    found = differences(params, {name: w.numpy() for name, w in model.state_dict().items()})
    print(
        json.dumps(
            {"max_abs_difference": found, "seconds": ours_s, "transformers_seconds": theirs_s},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
