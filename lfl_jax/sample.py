"""Batched decoding with a key-value cache: greedy or sampled, many prompts at once, stopping early.

What all prompts begin with (few-shot examples, or the whole prompt of many samples) is computed
once. The rest is padded on the left, so that all rows write the same cache slot. The loop runs on
the device in rounds of `ROUND` tokens; between rounds the host looks for stop texts and drops out
when every row is done. When three quarters of the rows are done, the others go on in a batch of a
quarter of the size: one answer that never ends does not cost a whole batch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lfl_jax import adapters
from lfl_jax.core import hosts, tree
from lfl_jax.core.pytree import Node
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

ROUND = 32  # tokens between looks at stop texts
BUCKET = 64  # prompts are padded to a multiple of this many tokens, so that few shapes are compiled


@struct.dataclass
class Decoding(Node):
    """Rows being decoded: cache, last token (B,), its position (B,), which rows are done (B,), a
    key per row."""

    cache: llama.Cache
    last: Any
    position: Any
    done: Any
    keys: Any


def unstacked(model: Model, n_layers: int) -> Model:
    """The model with a tuple of layers in place of the stack: views of it on a CPU, elsewhere copies.

    From them decoding is faster: on a CPU 2.0 times at one row, 1.2 at 8 and 1.4 at 32 over 192
    slots (SmolLM2-135M), and 1.05 in evaluations of 16 rows with long prompts, which do without.
    """
    params, adapter = model.params, model.adapter
    params = params | {"layers": tree.unstack(params["layers"], n_layers)}
    if adapter:
        precomputed = adapters.precompute_for_inference(adapter, model.params)
        layers = tree.unstack(precomputed["layers"], n_layers)
        adapter = precomputed | {"layers": layers}
    return Model(params=params, adapter=adapter)


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    cfg: ModelConfig,
    *,
    max_new_tokens: int,
    eos_id: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    routing: Any = None,
    stop: Callable[[list[int]], bool] = lambda tokens: False,
) -> list[list[int]]:
    """Continuations of the prompts, each with EOS at its end if it got there.

    model: stacked or `unstacked`. temperature 0 is greedy. ids: a number per
    prompt; with `seed` it alone decides a row's random draws, whatever else is in the batch.
    routing
    (B, M): factors on the members of the adapter; or integers (B,): the one a prompt uses, -1 being
    the base. stop: called on a row's tokens between rounds. UserError for a routing that names
    members there are not.
    """
    routing = _gate(routing, model.adapter)
    shared = _shared_prefix(prompts, routing)
    rest = [prompt[shared:] for prompt in prompts]
    length = -(-max(map(len, rest)) // BUCKET) * BUCKET
    rounds = -(-max_new_tokens // ROUND)
    tokens, segment_ids = _pad_left(rest, length)
    row_keys = _row_keys(seed, range(len(prompts)) if ids is None else ids)
    settings = {"temperature": jnp.float32(temperature), "top_p": jnp.float32(top_p)}
    size = shared + length + rounds * ROUND
    if shared:
        first = np.asarray(prompts[0][:shared], np.int32)[None]
        cache = _prefix(
            model,
            first,
            routing if routing is None else routing[:1],
            rows=len(prompts),
            size=size,
            cfg=cfg,
        )
    else:
        cache = llama.empty_cache(model.params, cfg, len(prompts), size)
    static = {"cfg": cfg, "greedy": temperature == 0.0}
    state = _prefill(model, tokens, segment_ids, cache, row_keys, routing, settings, **static)

    def advance(state: Decoding, routing: Any) -> tuple[Decoding, Any]:
        return _round(model, state, routing, settings, eos_id, **static)

    rows = _rounds(advance, state, routing, rounds, lambda row: eos_id in row or stop(row))
    return [_cut(row[:max_new_tokens], eos_id) for row in rows]


def _row_keys(seed: int, ids: Sequence[int]) -> Any:
    """A key per row, which its number alone decides."""
    base = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.array(ids))


def _rounds(
    advance: Callable[[Decoding, Any], tuple[Decoding, Any]],
    state: Decoding,
    routing: np.ndarray | None,
    count: int,
    ended: Callable[[list[int]], bool],
) -> list[list[int]]:
    """The tokens of every row after `count` rounds, or fewer once all have ended."""
    total = len(state.last)
    rows: list[list[int]] = [[] for _ in range(total)]
    finished = np.zeros(total, bool)
    decoded = np.arange(total)  # the rows that `state` still holds
    for _ in range(count):
        state, new = advance(state, routing)
        for i, ids in zip(decoded, hosts.whole(new).tolist(), strict=True):
            rows[i].extend([] if finished[i] else ids)
        finished = np.array([over or ended(row) for row, over in zip(rows, finished, strict=True)])
        if finished.all():
            break

        state = state.replace(done=state.done | finished[decoded])
        kept = _quarter(finished[decoded], total)
        if kept is not None:
            state, decoded, routing = (
                _take(state, kept),
                decoded[kept],
                routing if routing is None else routing[kept],
            )
    return rows


def _quarter(finished: np.ndarray, rows: int) -> np.ndarray | None:
    """Indices of a quarter of `rows` with all that are not finished among them; None where that is
    not possible.

    A quarter only, and once, so that one more shape is compiled.
    """
    size = -(-rows // 4)
    if len(finished) <= size or np.sum(~finished) > size:
        return None
    return np.argsort(finished, kind="stable")[:size]


@jax.jit
def _take(state: Decoding, kept: Any) -> Decoding:
    """These rows of a batch."""
    cache = llama.take(state.cache, kept)
    return Decoding(
        cache, state.last[kept], state.position[kept], state.done[kept], state.keys[kept]
    )


def _cut(row: list[int], eos_id: int) -> list[int]:
    return row[: row.index(eos_id) + 1] if eos_id in row else row


def _gate(routing: Any, adapter: dict) -> np.ndarray | None:
    """The routing as an array, its ids checked against the adapter."""
    routing = None if routing is None else np.asarray(routing)
    if adapters.is_ids(routing):
        adapters.check_ids("routing", routing, adapters.member_count(adapter))
    return routing


def _shared_prefix(prompts: Sequence[Sequence[int]], routing: Any) -> int:
    """How many tokens, a multiple of BUCKET, all prompts begin with and none ends with.

    None for rows that use adapters differently: their prefixes are not the same to the model.
    """
    if len(prompts) < 2 or (
        routing is not None
        and not np.array_equal(routing, np.broadcast_to(routing[:1], routing.shape))
    ):
        return 0
    shortest = min(map(len, prompts))
    rows = np.array([prompt[:shortest] for prompt in prompts])
    same = np.cumprod(np.all(rows == rows[:1], axis=0)).sum()
    return int(min(same, shortest - 1)) // BUCKET * BUCKET


@partial(jax.jit, static_argnames=("rows", "size", "cfg"))
def _prefix(
    model: Model, tokens: Any, routing: Any, *, rows: int, size: int, cfg: ModelConfig
) -> llama.Cache:
    """A cache of `rows` rows that all begin with these tokens (1, T)."""
    empty = llama.empty_cache(model.params, cfg, 1, size)
    _, cache = llama.forward(model.params, model.adapter, tokens, cfg, cache=empty, routing=routing)
    return llama.repeat(cache, rows)


def _pad_left(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(prompts), length), np.int32)
    segment_ids = np.zeros_like(tokens)
    for row, segments, prompt in zip(tokens, segment_ids, prompts, strict=True):
        row[length - len(prompt) :] = prompt
        segments[length - len(prompt) :] = 1
    return tokens, segment_ids


@partial(jax.jit, static_argnames=("cfg", "greedy"), donate_argnames=("cache",))
def _prefill(
    model: Model,
    tokens: Any,
    segment_ids: Any,
    cache: llama.Cache,
    keys: Any,
    routing: Any,
    settings: dict,
    *,
    cfg: ModelConfig,
    greedy: bool,
) -> Decoding:
    positions = cache.index + jnp.maximum(jnp.cumsum(segment_ids, axis=1) - 1, 0)
    hidden, cache = llama.forward(
        model.params,
        model.adapter,
        tokens,
        cfg,
        positions=positions,
        segment_ids=segment_ids,
        cache=cache,
        routing=routing,
    )
    position = positions[:, -1] + 1
    last = _pick(model, hidden[:, -1], position, keys, settings, greedy)
    return Decoding(cache, last, position, jnp.zeros(tokens.shape[0], bool), keys)


@partial(jax.jit, static_argnames=("cfg", "greedy"), donate_argnames=("state",))
def _round(
    model: Model,
    state: Decoding,
    routing: Any,
    settings: dict,
    eos_id: Any,
    *,
    cfg: ModelConfig,
    greedy: bool,
) -> tuple[Decoding, Any]:
    """Up to ROUND tokens for every row; the rest of a done row is EOS. Returns the tokens (B,
    ROUND)."""
    rows = state.last.shape[0]
    ones = jnp.ones((rows, 1), jnp.int32)

    def step(carry: Any) -> Any:
        i, s, out = carry
        token = jnp.where(s.done, eos_id, s.last)
        out = jax.lax.dynamic_update_slice(out, token[:, None], (0, i))
        hidden, cache = llama.forward(
            model.params,
            model.adapter,
            token[:, None],
            cfg,
            positions=s.position[:, None],
            segment_ids=ones,
            cache=s.cache,
            routing=routing,
        )
        following = _pick(model, hidden[:, 0], s.position + 1, s.keys, settings, greedy)
        return (
            i + 1,
            Decoding(cache, following, s.position + 1, s.done | (token == eos_id), s.keys),
            out,
        )

    out = jnp.full((rows, ROUND), eos_id, jnp.int32)
    unfinished = lambda carry: (carry[0] < ROUND) & ~jnp.all(carry[1].done)  # noqa: E731
    _, state, out = jax.lax.while_loop(unfinished, step, (jnp.int32(0), state, out))
    return state, out


def _pick(model: Model, hidden: Any, position: Any, keys: Any, settings: dict, greedy: bool) -> Any:
    """The next token of every row: the most likely, or drawn from the top_p nucleus with a key of
    (row, position)."""
    logits = llama.logits(model.params, hidden)
    if greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = _nucleus(logits / jnp.maximum(settings["temperature"], 1e-6), settings["top_p"])
    draw = jax.vmap(lambda key, p, row: jax.random.categorical(jax.random.fold_in(key, p), row))
    return draw(keys, position, logits).astype(jnp.int32)


def _nucleus(logits: Any, top_p: Any) -> Any:
    """Keep the smallest set of most likely tokens whose probability reaches top_p (Holtzman et al.,
    1904.09751)."""
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(
        ordered, axis=-1
    )
    lowest = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)
