"""What the examples share: a small Llama, three skills to teach it, and a training loop of ten
lines.

A skill rewrites four letters from a to h: "copy head" -> "head", "caps head" -> "HEAD", "next head"
-> "afbe". The base is trained here, in seconds, to copy letters of both cases; adapters teach it
the other two. Words are made up, and tokens are bytes.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lfl_jax import adapters, losses, sample, schedules
from lfl_jax import optim as optimizers
from lfl_jax import state as states
from lfl_jax.config import AdapterConfig, OptimConfig
from lfl_jax.core import spec
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS
from lfl_jax.text.tokenizers import byte_tokenizer
from lfl_jax.train_step import train_step

CFG = dataclasses.replace(PRESETS["tiny"], d_model=128, d_ff=256, head_dim=32)
TOKENIZER = byte_tokenizer()
LETTERS, LENGTH = "abcdefgh", 16  # tokens of a row
STEPS, LR = 150, 3e-3  # of an adapter
SKILLS = {
    "copy": lambda word: word,
    "caps": lambda word: word.upper(),
    "next": lambda word: "".join(LETTERS[(LETTERS.index(c) + 1) % 8] for c in word),
}


def prompt(skill: str, word: str) -> str:
    """What the model is asked."""
    return f"{skill} {word}\n"


def words(seed: int, letters: str = LETTERS) -> Iterator[str]:
    """Made-up words of four letters."""
    rng = np.random.default_rng(seed)
    while True:
        yield "".join(rng.choice(list(letters), 4))


def batch(skills: list[str], seed: int, letters: str = LETTERS) -> dict[str, np.ndarray]:
    """A row per entry of `skills`, (1, B, T) arrays; the loss is on the answer and EOS alone."""
    tokens, weights = np.zeros((2, len(skills), LENGTH + 1), np.int32)
    for row, weight, skill, word in zip(
        tokens, weights, skills, words(seed, letters), strict=False
    ):
        asked = TOKENIZER.encode(prompt(skill, word))
        ids = [*asked, *TOKENIZER.encode(SKILLS[skill](word)), TOKENIZER.eos_id]
        row[: len(ids)], weight[len(asked) : len(ids)] = ids, 1
    ones = np.ones_like(tokens[:, 1:])
    rows = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights[:, 1:].astype(np.float32),
    }
    rows |= {"segment_ids": ones, "positions": np.cumsum(ones, axis=1) - 1}
    return {name: x[None] for name, x in rows.items()}


@functools.cache  # one object, one compiled step
def adamw(steps: int, lr: float) -> optax.GradientTransformation:
    """AdamW with a cosine schedule."""
    optim = OptimConfig(
        name="adamw", lr=lr, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=1.0, schedule="cosine",
        warmup_steps=0, warmup_fraction=0.1, final_fraction=0.0, cooldown_fraction=0.0,
    )  # fmt: skip
    return optimizers.make(optim, schedules.make(optim, steps))


def learn(
    params: dict,
    adapter: dict,
    trainable: tuple[str, ...],
    batches: Iterator[dict],
    *,
    steps: int,
    lr: float,
):
    """(params, adapter) after `steps` of AdamW on what the patterns in `trainable` match."""
    tx = adamw(steps, lr)
    # a step takes the arrays that train for its own
    params, adapter = jax.tree.map(jnp.copy, (params, adapter))
    state, frozen = states.create(Model(params=params, adapter=adapter), trainable, tx)
    for _ in range(steps):
        state, _ = train_step(state, frozen, next(batches), None, cfg=CFG, tx=tx)
    learned = states.model(state, frozen)
    return learned.params, learned.adapter


def lessons(*skills: str, rows: int = 32, letters: str = LETTERS) -> Iterator[dict]:
    """Endless batches, the skills in turns."""
    seed = 0
    while True:
        seed += 1
        yield batch([skills[i % len(skills)] for i in range(rows)], seed, letters)


@functools.cache
def base() -> dict:
    """Parameters of a small Llama that can copy."""
    params = spec.init(llama.specs(CFG), jax.random.key(0))
    return learn(
        params,
        {},
        ("params/.*",),
        lessons("copy", letters=LETTERS + LETTERS.upper()),
        steps=300,
        lr=3e-3,
    )[0]


def fresh(kind: str = "lora", seed: int = 1, params: dict | None = None, **options) -> dict:
    """An adapter of rank 8 that changes nothing yet."""
    specs = adapters.specs(llama.specs(CFG), AdapterConfig(kind=kind, rank=8, **options))
    return adapters.init(specs, params or {}, jax.random.key(seed))


@functools.cache
def taught(skill: str) -> dict:
    """A LoRA that was trained on one skill, and on copying beside it, so that it learns to tell
    them apart."""
    return learn(base(), fresh(), ("adapter/.*",), lessons(skill, "copy"), steps=STEPS, lr=LR)[1]


@functools.partial(jax.jit, static_argnames="cfg")
def _nll(params: dict, adapter: dict, rows: dict, cfg: llama.ModelConfig) -> jax.Array:
    return losses.nll_sum(params, adapter, rows, cfg) / jnp.sum(rows["weights"])


def nll(params: dict, adapter: dict) -> dict[str, float]:
    """Nats per answer token of every skill, on words that training did not use."""
    rows = {skill: jax.tree.map(lambda x: x[0], batch([skill] * 64, 10**6)) for skill in SKILLS}
    return {skill: float(_nll(params, adapter, each, CFG)) for skill, each in rows.items()}


def answers(
    params: dict, adapter: dict, prompts: list[str], routing: list[int] | None = None
) -> list[str]:
    """What the model writes after each prompt, all of them decoded together."""
    model = sample.unstacked(Model(params=params, adapter=adapter), CFG.n_layers)
    ids = [TOKENIZER.encode(text) for text in prompts]
    rows = sample.generate(
        model, ids, CFG, max_new_tokens=8, eos_id=TOKENIZER.eos_id, routing=routing
    )
    return [TOKENIZER.decode(row) for row in rows]


def table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print figures by name and skill."""
    width = max(map(len, rows)) + 2
    print(f"{title}\n{'':{width}}" + "".join(f"{skill:>9}" for skill in SKILLS))
    for name, values in rows.items():
        print(f"{name:{width}}" + "".join(f"{values[skill]:9.3f}" for skill in SKILLS))
