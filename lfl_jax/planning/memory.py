"""Bytes of one device, by what they are for.

What a step is given (weights, adapter, optimizer, batch) is added up from the shapes and shardings
that the run itself uses. What it needs beside that, at its fullest moment, is what XLA keeps:

    all the time             gradients, and casts of what trains
    a layer's backward pass  saved + layer + weights + head
    the loss                 saved + loss
    the embedding's          head + embedding, where it trains

The terms were read off XLA's live ranges for v5e, v5p, H100 and H200 (`results/plan_compiled`). XLA
keeps what its matrix products read or made, in the compute dtype, and computes what is between them
again. With N tokens, D the width, F of the mlp, Q and K of all query and key heads:

    layer    4 N F (gate, up, their product and its gradient), 4 N D (both norms' outputs, the
             hidden states between, and the gradient), 2 N (Q + K) for q, k, v and attention's
             output. An adapter adds a second gradient N F; dropout the dropped inputs N (F + Q),
             and masks of a byte each for N (F + 2 D + Q)
    weights  of one layer: on a GPU all of them, whole, in the compute dtype; on a TPU, which
             gathers by parts while it multiplies, gate, up and one of attention
    head     where fsdp splits a head or embedding that trains, its gradient is whole, in float32
    loss     64 positions of every row: float32 logits, their softmax and the gradient in the
             compute dtype; beside them the head, gathered, hidden states and their gradient
"""

import dataclasses

import jax

from lfl_jax.core import tree
from lfl_jax.kernels.linear_cross_entropy.chunks import positions_per_round
from lfl_jax.planning import layout as layouts
from lfl_jax.planning.bands import Number
from lfl_jax.planning.layout import Layout, bytes_of
from lfl_jax.planning.topology import CPU, Chip, Topology

GIB = 2**30
# weights of (in, out) whose out is split over fsdp, and tables of (vocabulary, width)
TRANSPOSED = {"o", "down", "embed", "head"}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device by term. arguments: all the time; temporaries: at the fullest moment.

    evaluation: beside the arguments, while answers are generated; available: what a program gets.
    """

    arguments: dict[str, Number]
    temporaries: dict[str, Number]
    evaluation: dict[str, Number]
    available: Number

    @property
    def training(self) -> Number:
        """The most that a step takes."""
        return sum(self.arguments.values()) + sum(self.temporaries.values())

    @property
    def evaluating(self) -> Number:
        """The most that an evaluation takes."""
        return sum(self.arguments.values()) + sum(self.evaluation.values())

    @property
    def peak(self) -> Number:
        """The most that the run takes."""
        return max(self.training, self.evaluating)

    @property
    def fits(self) -> bool:
        """Whether that is available."""
        return self.peak <= self.available

    @property
    def tightest(self) -> tuple[str, Number]:
        """The largest term of the fuller of the two, and its bytes."""
        beside = self.temporaries if self.training >= self.evaluating else self.evaluation
        terms = self.arguments | beside
        return max(terms.items(), key=lambda item: item[1])


def of(layout: Layout, topology: Topology) -> Memory:
    """The memory of a step and of the evaluations on a chip of the topology."""
    return Memory(
        arguments(layout),
        temporaries(layout, topology.chip),
        _evaluation(layout, topology.chip),
        topology.chip.memory,
    )


def arguments(layout: Layout) -> dict[str, Number]:
    """What `train_step` is given, from the run's own shapes and shardings."""
    run = layout.run
    trainable, frozen = run.state.trainable, run.frozen
    return {
        "weights, frozen": bytes_of(frozen.params),
        "weights, trained": bytes_of(trainable.params),
        "adapter": bytes_of(trainable.adapter) + bytes_of(frozen.adapter),
        "optimizer": bytes_of(run.state.opt_state),
        "batch": bytes_of(run.batch),
    }


def temporaries(layout: Layout, chip: Chip) -> dict[str, Number]:
    """What a step needs beside its arguments, at its fullest moment."""
    trained = bytes_of(layout.run.state.trainable)
    saved = {
        f"activations, saved ({layout.config.model.remat})": layout.cfg.n_layers * _saved(layout)
    }
    always = {
        "gradients": trained,
        # sums over microbatches, beside the gradients of one
        "gradients, accumulated": trained * (layout.microbatches > 1),
        "weights, copied once a step": _copies(layout, chip),
    }
    moments = (
        saved | _layer(layout, chip) | _head_gradient(layout),
        saved | _loss(layout) | _head_gradient(layout),
        _head_gradient(layout) | _embedding_gradient(layout),
    )
    return always | max(moments, key=lambda terms: sum(terms.values()))


def _saved(layout: Layout) -> Number:
    """Bytes that one layer's forward pass saves; casts of weights are sharded as these are."""
    saved = layout.block.saved
    return saved.of(layout.tokens, layout.row) - saved.once * (1 - 1 / layout.mesh.fsdp)


def _copies(layout: Layout, chip: Chip) -> Number:
    """Sharded copies of weights that are made before the loop over microbatches.

    A TPU's compiler casts all that train to the compute dtype there. A GPU's transposes those whose
    first axis is not the one that fsdp splits, since it gathers along the first.
    """
    trained, frozen = layout.run.state.trainable.params, layout.run.frozen.params
    if chip.torus:
        return bytes_of(trained) * layout.width / 4 * (layout.width < 4)
    if layout.mesh.fsdp == 1:
        return 0
    weights = tree.combine(trained, frozen) if frozen and trained else trained or frozen
    return sum(
        bytes_of(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
        # of a quantised weight, the path goes on to its codes and scales
        if TRANSPOSED & set(tree.name(path).split("/"))
    )


def _layer(layout: Layout, chip: Chip) -> dict[str, Number]:
    """While a layer is differentiated."""
    cfg, n = layouts.local(layout.cfg, layout.mesh.tensor), layout.tokens
    d, f = cfg.d_model, cfg.d_ff
    q, k = cfg.n_heads * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
    is_adapted, drops = bool(layout.config.adapter.kinds), layout.cfg.adapter_dropout > 0
    values = (4 + is_adapted + drops) * f + 4 * d + 2 * (q + k) + drops * q
    masks = drops * (f + 2 * d + q)
    # only attention with dropout has all its scores
    scores = layout.block.within.square * n * layout.row
    return {
        "activations, one layer": n * (values * layout.width + masks) + scores,
        "weights of a layer, whole": _whole_weights(layout, chip),
    }


def _whole_weights(layout: Layout, chip: Chip) -> Number:
    """Weights of one layer that are whole on a device at a time, in the compute dtype."""
    if chip.torus and layout.mesh.fsdp > 1:
        cfg = layouts.local(layout.cfg, layout.mesh.tensor)
        mlp, attention = 2 * cfg.d_model * cfg.d_ff, cfg.d_model * cfg.n_heads * cfg.head_dim
        return (mlp + attention) * layout.width
    return gathered_layers(layout, chip) * layer_bytes(layout, layout.width)


def gathered_layers(layout: Layout, chip: Chip) -> int:
    """Layers whose weights a device has apart from the stack: gathered, cast, or cut out of it."""
    if chip.name != CPU or layout.mesh.fsdp > 1:
        return 1
    stored = layout.run.frozen.params or layout.run.state.trainable.params
    return int(any(x.dtype.itemsize != layout.width for x in jax.tree.leaves(stored["layers"])))


def _head_gradient(layout: Layout) -> dict[str, Number]:
    """The head's gradient, from the loss to a microbatch's end, where fsdp splits the head."""
    whole = head_parameters(layout) / layout.mesh.tensor * 4
    is_whole = trains_head(layout) and layout.mesh.fsdp > 1
    return {"gradient of the head, whole": whole * is_whole}


def _embedding_gradient(layout: Layout) -> dict[str, Number]:
    """The embedding's gradient, before and after it is summed over devices."""
    trained = layout.run.state.trainable.params or {}
    whole = head_parameters(layout) / layout.mesh.tensor * 4
    is_whole = trained.get("embed") is not None and layout.mesh.fsdp > 1
    return {"gradient of the embedding, whole, twice": 2 * whole * is_whole}


def layer_bytes(layout: Layout, width: Number) -> Number:
    """Bytes of one layer's weights at so many bytes each, whole but for the tensor axis."""
    return layer_parameters(layout) * width / layout.mesh.tensor


def layer_parameters(layout: Layout) -> int:
    """Parameters of a decoder layer."""
    cfg = layout.cfg
    attention = cfg.d_model * cfg.head_dim * 2 * (cfg.n_heads + cfg.n_kv_heads)
    return attention + 3 * cfg.d_model * cfg.d_ff


def head_parameters(layout: Layout) -> int:
    """Parameters of the output projection."""
    return layout.cfg.vocab_size * layout.cfg.d_model


def trains_head(layout: Layout) -> bool:
    """Whether the output projection is differentiated."""
    trained = layout.run.state.trainable.params or {}
    name = "embed" if layout.cfg.tied else "head"
    return trained.get(name) is not None


def _loss(layout: Layout) -> dict[str, Number]:
    """While the loss is computed."""
    cfg, tensor = layout.cfg, layout.mesh.tensor
    # by the rows of all devices: the loop is one program
    size = positions_per_round(layout.run.batch["tokens"].shape[1], cfg.vocab_size)
    positions = layout.rows * min(size, layout.row)
    logits = positions * cfg.vocab_size / tensor * (4 + 4 + layout.width)
    hidden = 2 * layout.tokens * cfg.d_model * layout.width
    head = head_parameters(layout) / tensor
    gathered = head * layout.width * (layout.mesh.fsdp > 1)
    return {
        f"loss: logits of {size} positions a row": logits,
        "loss: hidden states and head": hidden + gathered,
    }


def _evaluation(layout: Layout, chip: Chip) -> dict[str, Number]:
    """While answers are generated: the cache of every row, split over the tensor axis alone.

    Its heads are as those of the weights that write it; nothing asks for its rows to be split.
    """
    cfg, e = layout.cfg, layout.config.eval
    slots = e.seq_len + e.max_new_tokens
    per_token = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * layout.width
    cache = e.generate_rows * slots * per_token / layout.mesh.tensor
    prompts = e.generate_rows * e.seq_len * (3 * cfg.d_ff + 2 * cfg.d_model) * layout.width
    return {
        "KV cache": cache,
        "activations, a layer of prompts": prompts / layout.mesh.tensor,
        "weights, gathered": gathered_layers(layout, chip) * layer_bytes(layout, layout.width),
    }
