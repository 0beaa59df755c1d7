"""Batched decoding with a key-value cache: greedy or sampled, many prompts at once, stopping early.

What all prompts begin with (few-shot examples, or the whole prompt of many samples) is computed
once. The remainders are padded on the left, so that all rows write the same cache slot. The loop
runs on the device in rounds of `ROUND` tokens; between rounds the host looks for stop texts and
ends when every row is done. When three quarters of the rows are done, the others continue in a
batch of a quarter of the size: one answer that never ends does not cost a whole batch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int
from jaxtyping import Key as Keys

from lfl_jax import adapters, quant
from lfl_jax.core import hosts, tree
from lfl_jax.core.pytree import Node
from lfl_jax.core.transposed import Transposed
from lfl_jax.core.types import AdapterTree, Params, Routing
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.cache import Cache, empty_cache, repeat
from lfl_jax.models.cache import take as take_rows
from lfl_jax.models.config import ModelConfig

ROUND = 32  # tokens between two searches for stop texts
COPY = 4 << 30  # bytes of weights that are copied transposed at most
BUCKET = 64  # prompts are padded to a multiple of this many tokens, so that few shapes are compiled


@struct.dataclass
class Decoder(Node):
    """What stays the same while a batch is decoded: model, temperature, top_p and EOS.

    greedy: temperature is 0, and tokens are not drawn.
    """

    model: Any
    temperature: Any
    top_p: Any
    eos_id: Any
    cfg: ModelConfig = struct.field(pytree_node=False)
    greedy: bool = struct.field(pytree_node=False)


@struct.dataclass
class Decoding(Node):
    """Rows being decoded.

    cache, last token (B,), its position (B,), which rows are done (B,), a key per row.
    """

    cache: Any
    last: Any
    position: Any
    done: Any
    keys: Any


def unstacked(model: Model, n_layers: int) -> Model:
    """The model with a tuple of layers in place of the stack, from which decoding is faster.

    On a CPU the layers are views of the stack, except for its weights: up to `COPY` bytes of them
    are copied transposed, as `kernels.linear.output_rows` multiplies by them. That takes 0.76 of
    the CPU seconds at 8 rows, and at 16 half of those of the stack (SmolLM2-135M, AMD EPYC, AVX2).
    Elsewhere all are copies.
    """
    params, adapter = model.params, model.adapter
    # over the stacked weights, which it reads layer by layer
    if adapter:
        adapter = adapters.precompute_for_inference(adapter, params)
        adapter = adapter | {"layers": tree.unstack(adapter["layers"], n_layers)}
    layers = tree.unstack(_transposed(params["layers"]), n_layers)
    return Model(params=params | {"layers": layers}, adapter=adapter)


def _transposed(layers: Params) -> Params:
    """Stacked layers with `Transposed` for every dense weight in a CPU's memory."""
    matrices = {part: layers[part] for part in ("attn", "mlp")}
    if not all(map(tree.in_cpu_memory, jax.tree.leaves(matrices))):
        return layers
    if tree.nbytes(matrices) > COPY:
        return layers
    return layers | jax.tree.map(
        lambda w: w if quant.is_quantised(w) else Transposed(_swap(w)),
        matrices,
        is_leaf=quant.is_quantised,
    )


@jax.jit
def _swap(w: Float[Array, "L I O"]) -> Float[Array, "L O I"]:
    return w.swapaxes(1, 2)


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
    routing: ArrayLike | Sequence[int] | None = None,
    stop: Callable[[list[int]], bool] = lambda tokens: False,
) -> list[list[int]]:
    """Continuations of the prompts, each with EOS at its end if it got there.

    model: stacked or `unstacked`. temperature 0 is greedy. ids: a number per prompt; with `seed` it
    alone decides a row's random draws, whatever else is in the batch. routing (B, M): factors on
    the M adapters of a mix; or integers (B,): the one a prompt uses, -1 being the base. stop:
    called on a row's tokens between rounds. UserError for ids of adapters there are not.
    """
    routing = _checked_routing(routing, model.adapter)
    rounds = -(-max_new_tokens // ROUND)
    decoder = Decoder(
        model, jnp.float32(temperature), jnp.float32(top_p), eos_id, cfg, temperature == 0.0
    )
    keys = _row_keys(seed, range(len(prompts)) if ids is None else ids)
    state = _start(decoder, prompts, routing, keys, new_slots=rounds * ROUND)
    rows = _run_rounds(decoder, state, routing, rounds, lambda row: eos_id in row or stop(row))
    return [_truncate_after_eos(row[:max_new_tokens], eos_id) for row in rows]


def _checked_routing(
    routing: ArrayLike | Sequence[int] | None, adapter: AdapterTree | None
) -> np.ndarray | None:
    """The routing as an array, its ids checked against the adapter."""
    routing = None if routing is None else np.asarray(routing)
    if adapters.is_ids(routing):
        adapters.check_ids("routing", routing, adapters.member_count(adapter))
    return routing


def _row_keys(seed: int, ids: Sequence[int]) -> Keys[Array, " B"]:
    """A key per row, which its number alone decides."""
    # not by its index in the batch: batches may be formed in another way, and samples stay
    base = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.array(ids))


def _start(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    routing: np.ndarray | None,
    keys: Keys[Array, " B"],
    new_slots: int,
) -> Decoding:
    """The rows after their prompts, with the first new token of each picked."""
    shared = _shared_prefix(prompts, routing)
    remainders = [prompt[shared:] for prompt in prompts]
    # slots of the prompts; the last one of every row is that of its last token
    length = -(-max(map(len, remainders)) // BUCKET) * BUCKET
    size = shared + length + new_slots
    if shared:
        # one row of the prefix is computed, and its cache repeated
        prefix = np.asarray(prompts[0][:shared], np.int32)[None]
        one_row = routing if routing is None else routing[:1]
        cache = _prefix_cache(decoder, prefix, one_row, rows=len(prompts), size=size)
    else:
        cache = empty_cache(decoder.model.params, decoder.cfg, len(prompts), size)
    tokens, segment_ids = _pad_left(remainders, length)
    return _prefill(decoder, tokens, segment_ids, cache, keys, routing)


def _shared_prefix(prompts: Sequence[Sequence[int]], routing: ArrayLike | None) -> int:
    """How many tokens, a multiple of BUCKET, all prompts begin with and none ends with.

    0 for rows that use adapters differently: their prefixes are not the same to the model.
    """
    if len(prompts) < 2 or not _is_same_in_every_row(routing):
        return 0
    shortest = min(map(len, prompts))
    rows = np.array([prompt[:shortest] for prompt in prompts])
    same = np.cumprod(np.all(rows == rows[:1], axis=0)).sum()
    # The last token of a prompt is not shared: the first new one is picked from its hidden state.
    return int(min(same, shortest - 1)) // BUCKET * BUCKET


def _is_same_in_every_row(routing: ArrayLike | None) -> bool:
    return routing is None or bool(np.all(np.asarray(routing) == np.asarray(routing)[:1]))


def _pad_left(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segment ids (B, length); padding is segment 0, which no token attends to."""
    tokens = np.zeros((len(prompts), length), np.int32)
    segment_ids = np.zeros_like(tokens)
    for row, segments, prompt in zip(tokens, segment_ids, prompts, strict=True):
        row[length - len(prompt) :] = prompt
        segments[length - len(prompt) :] = 1
    return tokens, segment_ids


def _run_rounds(
    decoder: Decoder,
    state: Decoding,
    routing: np.ndarray | None,
    rounds: int,
    has_ended: Callable[[list[int]], bool],
) -> list[list[int]]:
    """The tokens of every row after these rounds, or fewer once all have ended."""
    total = len(state.last)
    rows: list[list[int]] = [[] for _ in range(total)]
    finished = np.zeros(total, bool)
    active = np.arange(total)  # the rows that `state` has, by their index in the batch
    for _ in range(rounds):
        state, new_tokens = _round(decoder, state, routing)
        for i, tokens in zip(active, hosts.to_numpy(new_tokens).tolist(), strict=True):
            rows[i].extend([] if finished[i] else tokens)

        finished = np.array([finished[i] or has_ended(row) for i, row in enumerate(rows)])
        if finished.all():
            break

        # rows that a stop text ended: the device only knows of EOS
        state = state.replace(done=state.done | finished[active])
        selected = _last_quarter(finished[active], total)
        if selected is not None:
            state, active = _take(state, selected), active[selected]
            routing = None if routing is None else routing[selected]
    return rows


def _last_quarter(finished: np.ndarray, rows: int) -> np.ndarray | None:
    """Indices of a quarter of `rows` with all unfinished ones; None while those are more.

    A quarter only, and once, so that one more shape is compiled.
    """
    size = -(-rows // 4)
    if len(finished) <= size or np.sum(~finished) > size:
        return None
    # unfinished rows first, in their order
    return np.argsort(finished, kind="stable")[:size]


def _truncate_after_eos(row: list[int], eos_id: int) -> list[int]:
    return row[: row.index(eos_id) + 1] if eos_id in row else row


@jax.jit
def _take(state: Decoding, rows: Int[Array, " N"]) -> Decoding:
    """These rows of a batch."""
    return Decoding(
        take_rows(state.cache, rows),
        *(x[rows] for x in (state.last, state.position, state.done, state.keys)),
    )


@partial(jax.jit, static_argnames=("rows", "size"))
def _prefix_cache(
    decoder: Decoder, tokens: Int[Array, "1 T"], routing: Routing | None, *, rows: int, size: int
) -> Cache:
    """A cache of `rows` rows that all begin with these tokens."""
    params, adapter = decoder.model.params, decoder.model.adapter
    empty = empty_cache(params, decoder.cfg, 1, size)
    _, cache = llama.forward(params, adapter, tokens, decoder.cfg, cache=empty, routing=routing)
    return repeat(cache, rows)


@partial(jax.jit, donate_argnames=("cache",))
def _prefill(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    cache: Cache,
    keys: Keys[Array, " B"],
    routing: Routing | None,
) -> Decoding:
    """The rows after these tokens, which the cache's tokens precede."""
    # padding has the position of the first token; nobody attends to it
    positions = cache.next_slot + jnp.maximum(jnp.cumsum(segment_ids, axis=1) - 1, 0)
    hidden, cache = llama.forward(
        decoder.model.params,
        decoder.model.adapter,
        tokens,
        decoder.cfg,
        positions=positions,
        segment_ids=segment_ids,
        cache=cache,
        routing=routing,
    )
    position = positions[:, -1] + 1
    last = _pick(decoder, hidden[:, -1], position, keys)
    return Decoding(cache, last, position, jnp.zeros(tokens.shape[0], bool), keys)


# What a round's loop carries: the number of tokens so far, the rows, and their new tokens.
Carry: TypeAlias = tuple[Int[Array, ""], Decoding, Int[Array, "B _"]]


@partial(jax.jit, donate_argnames=("state",))
def _round(
    decoder: Decoder, state: Decoding, routing: Routing | None
) -> tuple[Decoding, Int[Array, "B _"]]:
    """Up to ROUND tokens (B, ROUND) for every row, filled up with EOS after a row is done."""

    def unfinished(carry: Carry) -> Bool[Array, ""]:
        count, state, _ = carry
        return (count < ROUND) & ~jnp.all(state.done)

    def step(carry: Carry) -> Carry:
        count, state, new_tokens = carry
        token = jnp.where(state.done, decoder.eos_id, state.last)
        new_tokens = jax.lax.dynamic_update_slice(new_tokens, token[:, None], (0, count))
        return count + 1, _next(decoder, state, token, routing), new_tokens

    no_tokens = jnp.full((state.last.shape[0], ROUND), decoder.eos_id, jnp.int32)
    _, state, new_tokens = jax.lax.while_loop(unfinished, step, (jnp.int32(0), state, no_tokens))
    return state, new_tokens


def _next(
    decoder: Decoder, state: Decoding, token: Int[Array, " B"], routing: Routing | None
) -> Decoding:
    """The rows with `token` appended, and the token after it picked."""
    hidden, cache = llama.forward(
        decoder.model.params,
        decoder.model.adapter,
        token[:, None],
        decoder.cfg,
        positions=state.position[:, None],
        segment_ids=jnp.ones((len(token), 1), jnp.int32),
        cache=state.cache,
        routing=routing,
    )
    position = state.position + 1
    following = _pick(decoder, hidden[:, 0], position, state.keys)
    done = state.done | (token == decoder.eos_id)
    return Decoding(cache, following, position, done, state.keys)


def _pick(
    decoder: Decoder,
    hidden: Float[Array, "B D"],
    position: Int[Array, " B"],
    keys: Keys[Array, " B"],
) -> Int[Array, " B"]:
    """The next token of every row: the most likely, or one drawn from the top_p nucleus.

    The draw's key is folded from (row, position).
    """
    logits = llama.logits(decoder.model.params, hidden)
    if decoder.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # greedy is static and the temperature is not: at 0 this branch is never taken
    logits = _nucleus(logits / jnp.maximum(decoder.temperature, 1e-6), decoder.top_p)
    draw = jax.vmap(lambda key, p, row: jax.random.categorical(jax.random.fold_in(key, p), row))
    return draw(keys, position, logits).astype(jnp.int32)


def _nucleus(logits: Float[Array, "B V"], top_p: float | Float[Array, ""]) -> Float[Array, "B V"]:
    """Logits of the nucleus, -inf elsewhere (Holtzman et al., arXiv 1904.09751).

    The nucleus is the smallest set of most likely tokens whose probability reaches top_p.
    """
    # a token stays if those more likely than it do not reach top_p by themselves
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    lowest = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)
