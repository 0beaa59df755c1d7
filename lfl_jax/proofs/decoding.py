"""Decoding with a key-value cache against reading everything again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lfl_jax import sample
from lfl_jax.core.types import Params
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.cache import empty_cache
from lfl_jax.models.config import ModelConfig
from lfl_jax.proofs import rounding
from lfl_jax.proofs.finding import Finding, judged
from lfl_jax.proofs.reduced import ReducedRun

PROMPTS = (23, 9)  # tokens of each, which the decoder pads on the left
NEW = 4  # tokens that are decoded of each
NOTHING_ENDS = -1  # in place of EOS: no token is it
Texts = tuple[tuple[int, ...], ...]  # hashable: they are static


def check(run: ReducedRun) -> Finding:
    """Hidden states through the cache are those without, and so are the tokens that are chosen."""
    prompts = [run.batch["tokens"][0, :n].tolist() for n in PROMPTS]
    texts = _decoded(run, prompts)
    options = {"texts": texts, "cfg": run.exact}
    wanted = _hidden(run.trained, **options)
    cached = _hidden_through_cache(run.trained, **options)
    args = (functools.partial(_hidden, **options), run.trained)
    distance = rounding.distance(cached, wanted, *args)

    others = _other_tokens(run.params, wanted, texts)
    measured = f"{distance.times:.2g} x rounding, {others} other tokens"
    holds = distance.is_rounding and others == 0
    reason = f"{NEW} tokens after each prompt of {PROMPTS}"
    return judged(holds, measured, f"{rounding.ROUNDINGS} x, 0", reason)


def _other_tokens(params: Params, hidden: Float[Array, "B N D"], texts: Texts) -> int:
    """How many decoded tokens are not the most likely ones of these hidden states."""
    # The hidden state of a position chooses the token after it.
    likeliest = np.argmax(llama.logits(params, hidden), axis=-1)[:, :-1]
    return int((likeliest != np.array([text[-NEW:] for text in texts])).sum())


def _decoded(run: ReducedRun, prompts: list[list[int]]) -> Texts:
    """The prompts with the tokens that the decoder chooses."""
    model = sample.unstacked(run.trained, run.exact.n_layers)
    options = {"max_new_tokens": NEW, "eos_id": NOTHING_ENDS}
    rows = sample.generate(model, prompts, run.exact, **options)
    return tuple(tuple(prompt + row) for prompt, row in zip(prompts, rows, strict=True))


@functools.partial(jax.jit, static_argnames=("texts", "cfg"))
def _hidden(model: Model, *, texts: Texts, cfg: ModelConfig) -> Float[Array, "B N D"]:
    """Hidden states of each prompt's last token and of those after it, without a cache."""
    length = max(map(len, texts))
    tokens = jnp.array([[*text, *[0] * (length - len(text))] for text in texts])
    # What follows a text cannot matter: attention is causal.
    hidden, _ = llama.forward(model.params, model.adapter, tokens, cfg)
    rows = zip(hidden, texts, strict=True)
    return jnp.stack([row[len(text) - NEW - 1 : len(text)] for row, text in rows])


@functools.partial(jax.jit, static_argnames=("texts", "cfg"))
def _hidden_through_cache(model: Model, *, texts: Texts, cfg: ModelConfig) -> Float[Array, "B N D"]:
    """The same: prompts padded on the left fill a cache, and tokens follow one by one."""
    prompts = [text[:-NEW] for text in texts]
    length = max(map(len, prompts))
    tokens = jnp.array([[*[0] * (length - len(p)), *p] for p in prompts])
    segments = jnp.array([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
    cache = empty_cache(model.params, cfg, len(texts), length + NEW)
    states = []
    for following in (None, *zip(*(text[-NEW:] for text in texts), strict=True)):
        if following is not None:
            tokens, positions = jnp.array(following)[:, None], positions[:, -1:] + 1
            segments = jnp.ones_like(tokens)
        options = {"positions": positions, "segment_ids": segments, "cache": cache}
        hidden, cache = llama.forward(model.params, model.adapter, tokens, cfg, **options)
        states.append(hidden[:, -1])
    return jnp.stack(states, axis=1)
