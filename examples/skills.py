"""What the examples share: a small Llama, three skills to teach it, and a short training loop.

A skill rewrites four letters from a to h:

    copy head  ->  head
    caps head  ->  HEAD
    next head  ->  afbe     (the letter after each; h is followed by a)

`base` is trained in seconds to copy letters of both cases; `taught` teaches a LoRA one of the other
two skills. Words are made up, and tokens are bytes.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lfl_jax import adapters, losses, sample, schedules, train
from lfl_jax import optim as optimizers
from lfl_jax import state as states
from lfl_jax.config import AdapterConfig, OptimConfig
from lfl_jax.core import spec
from lfl_jax.core.types import AdapterTree, Batch, Params
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS
from lfl_jax.text.tokenizers import byte_tokenizer

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
    """The line that the model continues with the answer."""
    return f"{skill} {word}\n"


def words(seed: int, letters: str = LETTERS) -> Iterator[str]:
    """Made-up words of four letters, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield "".join(rng.choice(list(letters), 4))


def batch(skills: list[str], seed: int, letters: str = LETTERS) -> Batch:
    """A row per entry of `skills`, in arrays (1, B, T): one microbatch of `train_step`."""
    tokens, weights = np.zeros((2, len(skills), LENGTH + 1), np.int32)
    for i, (skill, word) in enumerate(zip(skills, words(seed, letters), strict=False)):
        question = TOKENIZER.encode(prompt(skill, word))
        ids = [*question, *TOKENIZER.encode(SKILLS[skill](word)), TOKENIZER.eos_id]
        tokens[i, : len(ids)] = ids
        weights[i, len(question) : len(ids)] = 1  # the loss is on the answer and EOS alone

    # token t + 1 is the target of token t
    ones = np.ones_like(tokens[:, 1:])
    rows = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": weights[:, 1:].astype(np.float32),
        "segment_ids": ones,
        "positions": np.cumsum(ones, axis=1) - 1,
    }
    return {name: x[None] for name, x in rows.items()}


@functools.cache  # one object, one compiled step
def adamw(steps: int, lr: float) -> optax.GradientTransformation:
    """AdamW with a cosine schedule."""
    optim = OptimConfig(
        name="adamw", lr=lr, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip=1.0,
        schedule="cosine", warmup_steps=0, warmup_fraction=0.1, final_fraction=0.0,
        cooldown_fraction=0.0,
    )  # fmt: skip
    return optimizers.make(optim, schedules.make(optim, steps))


def learn(
    params: Params,
    adapter: AdapterTree,
    trainable: tuple[str, ...],
    batches: Iterator[Batch],
    *,
    steps: int = STEPS,
    lr: float = LR,
) -> tuple[Params, AdapterTree]:
    """(params, adapter) after `steps` of AdamW on what the patterns in `trainable` match."""
    tx = adamw(steps, lr)
    # a step donates the arrays that train, so it works on copies
    params, adapter = jax.tree.map(jnp.copy, (params, adapter))
    state, frozen = states.create(Model(params=params, adapter=adapter), trainable, tx)
    for _ in range(steps):
        state, _ = train.train_step(state, frozen, next(batches), None, cfg=CFG, tx=tx)
    model = states.model(state, frozen)
    return model.params, model.adapter


def lessons(*skills: str, rows: int = 32, letters: str = LETTERS) -> Iterator[Batch]:
    """Endless batches, the skills interleaved."""
    seed = 0
    while True:
        seed += 1
        yield batch([skills[i % len(skills)] for i in range(rows)], seed, letters)


@functools.cache
def base() -> Params:
    """Parameters of a small Llama that can copy."""
    # words of both cases, so that the base has seen every letter that an answer may need
    params = spec.init(llama.specs(CFG), jax.random.key(0))
    both_cases = lessons("copy", letters=LETTERS + LETTERS.upper())
    params, _ = learn(params, {}, ("params/.*",), both_cases, steps=300)
    return params


def fresh(seed: int = 1) -> AdapterTree:
    """A LoRA of rank 8 that changes nothing yet."""
    specs = adapters.specs(llama.specs(CFG), AdapterConfig(kind="lora", rank=8))
    return adapters.init(specs, base(), jax.random.key(seed))


@functools.cache
def taught(skill: str) -> AdapterTree:
    """A LoRA that was trained on one skill, and on copying, to tell the two apart."""
    _, adapter = learn(base(), fresh(), ("adapter/.*",), lessons(skill, "copy"))
    return adapter


@functools.partial(jax.jit, static_argnames="cfg")
def _nll(params: Params, adapter: AdapterTree, rows: Batch, cfg: llama.ModelConfig) -> jax.Array:
    return losses.nll_sum(params, adapter, rows, cfg) / jnp.sum(rows["weights"])


def nll(params: Params, adapter: AdapterTree) -> dict[str, float]:
    """Nats per answer token of every skill, on words that training did not use."""
    results = {}
    for skill in SKILLS:
        rows = {name: x[0] for name, x in batch([skill] * 64, seed=10**6).items()}
        results[skill] = float(_nll(params, adapter, rows, CFG))
    return results


def answers(
    params: Params, adapter: AdapterTree, prompts: list[str], routing: list[int] | None = None
) -> list[str]:
    """The model's answers, all of them decoded together."""
    # decoding is faster from a tuple of layers than from their stack
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
