"""Greedy decoding with a key-value cache at the SmolLM2-135M shape in float32: ours against
transformers.generate.

    python benchmarks/decode.py --batch=1
    python benchmarks/decode.py --batch=8
    python benchmarks/decode.py --batch=32 --tokens=768 --shared=704      32 questions after the same five examples

speed_ratio > 1: ours makes more new tokens per second. Prompts of 64 random tokens, 64 new ones.
Needs extra peers.
"""

import argparse

import numpy as np
import paired


def prompts(a: argparse.Namespace) -> np.ndarray:
    """Random prompts (B, T); the first `shared` tokens are the same in all."""
    rows = np.random.default_rng(0).integers(3, 49152, (a.batch, a.tokens))
    rows[:, : a.shared] = rows[0, : a.shared]
    return rows


def ours(a: argparse.Namespace):
    """sample.generate."""
    import jax

    from lfl_jax import sample
    from lfl_jax.core import spec
    from lfl_jax.model import Model
    from lfl_jax.models import llama
    from lfl_jax.models.presets import PRESETS

    cfg = PRESETS["smollm2-135m"]
    params = jax.jit(lambda key: spec.init(llama.specs(cfg), key))(jax.random.key(0))
    model = sample.unstacked(Model(params=params, adapter={}), cfg.n_layers)
    del params
    rows = prompts(a).tolist()

    def measure() -> float:
        made = sample.generate(model, rows, cfg, max_new_tokens=a.new, eos_id=-1)
        assert all(len(row) == a.new for row in made)
        return 0.0

    return measure, a.batch * a.new


def peer(a: argparse.Namespace):
    """transformers' generate."""
    import os

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, rope_theta=1e5, tie_word_embeddings=True, attn_implementation="sdpa",
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().eval()
    ids = torch.from_numpy(prompts(a))
    options = {
        "do_sample": False,
        "max_new_tokens": a.new,
        "min_new_tokens": a.new,
        "use_cache": True,
    }

    def measure() -> float:
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert out.shape[1] == a.tokens + a.new
        return 0.0

    return measure, a.batch * a.new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1, help="prompts decoded together")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--shared", type=int, default=0, help="tokens that all prompts begin with")
    parser.add_argument("--new", type=int, default=64, help="new tokens")
    paired.main(__file__, ours, peer, parser)
