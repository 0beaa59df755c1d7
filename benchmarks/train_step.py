"""One training step at the SmolLM2-135M shape in float32: ours against transformers (and peft),
tokens per second.

    python benchmarks/train_step.py --kind=lora                      1 x 256 tokens, rank 16 on all linear modules
    python benchmarks/train_step.py --kind=lora --batch=2 --tokens=512
    python benchmarks/train_step.py --kind=full
    python benchmarks/train_step.py --kind=lora --loss=all                every token in the loss, as in pretraining

Both sides: random weights, AdamW, no clipping. By default the first half of every row is masked out
of the loss, as a prompt is. The peer computes in float32, or with --peer_dtype=bfloat16 under
torch's autocast. speed_ratio > 1: ours is faster. peak_memory_ratio < 1: ours needs less. Needs the
extra peers.
"""

import argparse

import numpy as np
import paired


def rows(a: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (B, T + 1) and whether each of the T targets carries loss."""
    tokens = np.random.default_rng(0).integers(3, 49152, (a.batch, a.tokens + 1)).astype(np.int32)
    first = {"half": a.tokens // 2, "all": 0}[a.loss]
    return tokens, np.broadcast_to(np.arange(a.tokens) >= first, (a.batch, a.tokens))


def ours(a: argparse.Namespace):
    """train_step."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from lfl_jax.configs import math_ift

    from lfl_jax import adapters, optim, schedules, state
    from lfl_jax.config import AdapterConfig, Config
    from lfl_jax.core import spec
    from lfl_jax.core.process import keep_freed_memory
    from lfl_jax.core.sharding import make_rules
    from lfl_jax.model import Model
    from lfl_jax.models import llama
    from lfl_jax.models.presets import PRESETS
    from lfl_jax.train_step import train_step

    cfg, rules = dataclasses.replace(PRESETS["smollm2-135m"], remat=a.remat), make_rules()
    config = Config.from_dict(math_ift.get_config())
    config = dataclasses.replace(
        config.optim, lr=1e-4, clip=0.0, schedule="constant", warmup_fraction=0.0
    )
    specs = llama.specs(cfg)
    params = jax.jit(lambda key: spec.init(specs, key))(jax.random.key(0))
    adapter = {}
    if a.kind != "full":
        adapter = adapters.init(
            adapters.specs(specs, AdapterConfig(kind=a.kind, rank=16)), params, jax.random.key(1)
        )
    tx = optim.make(config, schedules.make(config, 1000))
    trainable = ("params/.*",) if a.kind == "full" else ("adapter/.*",)
    current, frozen = state.create(Model(params=params, adapter=adapter), trainable, tx, rules)
    del params, adapter
    keep_freed_memory()  # as every run does once it is loaded
    tokens, weights = rows(a)
    ones = np.ones_like(tokens[:, 1:])
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights.astype(np.float32),
    }
    batch |= {"segment_ids": ones, "positions": np.cumsum(ones, axis=1) - 1}
    batch = {name: jnp.asarray(x)[None] for name, x in batch.items()}

    def measure() -> float:
        nonlocal current
        current, metrics = train_step(current, frozen, batch, None, cfg=cfg, tx=tx, rules=rules)
        return float(metrics["loss"])

    return measure, a.batch * a.tokens


def peer(a: argparse.Namespace):
    """transformers' Llama with sdpa attention; peft's LoRA or DoRA."""
    import os

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, rope_theta=1e5, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    if a.kind != "full":
        from peft import LoraConfig, get_peft_model

        options = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
        model = get_peft_model(
            model, LoraConfig(**options, use_dora=a.kind == "dora", task_type="CAUSAL_LM")
        )
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0
    )
    tokens, weights = rows(a)
    ids = torch.from_numpy(tokens[:, :-1].astype(np.int64))
    # transformers shifts labels itself: label t is predicted at t - 1.
    labels = torch.full_like(ids, -100)
    labels[:, 1:] = torch.from_numpy(
        np.where(weights, tokens[:, 1:], -100)[:, :-1].astype(np.int64)
    )

    def measure() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=a.peer_dtype == "bfloat16"):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return measure, a.batch * a.tokens


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("lora", "dora", "full"), default="lora")
    parser.add_argument("--batch", type=int, default=1, help="rows")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per row")
    parser.add_argument(
        "--loss", choices=("half", "all"), default="half", help="tokens of a row in the loss"
    )
    parser.add_argument(
        "--peer_dtype", choices=("float32", "bfloat16"), default="float32", help="of its products"
    )
    parser.add_argument(
        "--remat", choices=("none", "selective", "full"), default="selective", help="ours only"
    )
    paired.main(__file__, ours, peer, parser)
