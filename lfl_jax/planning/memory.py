"""Bytes of one device, by what they are for.

What a step is given (weights, adapter, optimizer, batch) is added up from the shapes and shardings
that the run itself uses. What it needs beside that, at its two fullest moments:

    while a layer is differentiated   saved + layer + gathered + gradients
    while the loss is computed        saved + loss + gradients

saved: what the forward pass left in all layers (`block`). layer: what one layer saves inside where
nothing is recomputed, and the gradients that pass through it: of gate, up and their product (3 F),
and of both norms' inputs in float32 (2 D), for each token. gathered: two layers' weights in the
compute dtype where fsdp splits them, since the next layer's are fetched while one computes; one
where they are only cast or dequantised. loss: 64 positions of every row have float32 logits, their
softmax and the gradient in the compute dtype; beside them the head, gathered, hidden states and
their gradient, and the head's own gradient in float32 where it trains.
"""

import dataclasses

from lfl_jax.core.types import PyTree
from lfl_jax.kernels.linear_cross_entropy.reference import CHUNK
from lfl_jax.planning import layout as layouts
from lfl_jax.planning.bands import Number
from lfl_jax.planning.block import Sizes
from lfl_jax.planning.layout import Layout, bytes_of, whole_bytes
from lfl_jax.planning.topology import Topology

GIB = 2**30


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
        arguments(layout), _temporaries(layout), _evaluation(layout), topology.chip.memory
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


def _temporaries(layout: Layout) -> dict[str, Number]:
    trained = bytes_of(layout.run.state.trainable)
    layer, loss = _layer(layout), _loss(layout)
    saved = layout.cfg.n_layers * _saved(layout)
    both = {
        "gradients": trained,
        # sums over microbatches, beside the gradients of one
        "gradients, accumulated": trained * (layout.microbatches > 1),
        f"activations, saved ({layout.config.model.remat})": saved,
    }
    fullest = max(layer, loss, key=lambda terms: sum(terms.values()))
    return both | fullest


def _saved(layout: Layout) -> Number:
    """Bytes that one layer's forward pass saves; casts of weights are sharded as these are."""
    saved = layout.block.saved
    return saved.of(layout.tokens, layout.row) - saved.once * (1 - 1 / layout.mesh.fsdp)


def _layer(layout: Layout) -> dict[str, Number]:
    """While the fullest layer is differentiated."""
    cfg, n = layouts.local(layout.cfg, layout.mesh.tensor), layout.tokens
    inside = _without_once(layout.block.within).of(n, layout.row)
    recomputed = 0 if layout.config.model.remat == "none" else inside
    passing = n * (3 * cfg.d_ff * layout.width + 2 * cfg.d_model * 4)
    terms = {
        "activations, one layer": recomputed + passing,
        "weights, gathered": gathered_layers(layout) * layer_bytes(layout, layout.width),
    }
    trained = layout.run.state.trainable.params
    if layout.mesh.fsdp > 1 and trained is not None and "layers" in trained:
        # a gradient is whole on every device until it is reduced and scattered
        whole = whole_bytes(trained["layers"]) / layout.cfg.n_layers / layout.mesh.tensor
        terms["gradient of a layer, whole"] = whole
    return terms


def _without_once(sizes: Sizes) -> Sizes:
    return dataclasses.replace(sizes, once=0.0)


def gathered_layers(layout: Layout) -> int:
    """Layers whose weights are whole on a device, in the compute dtype, at a time."""
    if layout.mesh.fsdp > 1:
        return 2
    stored = layout.run.frozen.params or layout.run.state.trainable.params
    is_cast = bytes_of(_layers(stored)) != layout.cfg.n_layers * layer_bytes(layout, layout.width)
    return int(is_cast)


def layer_bytes(layout: Layout, width: Number) -> Number:
    """Bytes of one layer's weights at so many bytes each, whole but for the tensor axis."""
    return layer_parameters(layout) * width / layout.mesh.tensor


def layer_parameters(layout: Layout) -> int:
    """Parameters of a decoder layer."""
    cfg = layout.cfg
    attention = cfg.d_model * cfg.head_dim * 2 * (cfg.n_heads + cfg.n_kv_heads)
    return attention + 3 * cfg.d_model * cfg.d_ff


def _layers(params: PyTree) -> PyTree:
    return params["layers"] if isinstance(params, dict) else params


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
    positions = layout.rows * min(CHUNK, layout.row)
    logits = positions * cfg.vocab_size / tensor * (4 + 4 + layout.width)
    hidden = 2 * layout.tokens * cfg.d_model * layout.width
    head = head_parameters(layout) / tensor
    gathered = head * layout.width * (layout.mesh.fsdp > 1)
    return {
        "loss: logits of 64 positions a row": logits,
        "loss: hidden states and head": hidden + gathered + head * 4 * trains_head(layout),
    }


def _evaluation(layout: Layout) -> dict[str, Number]:
    """While answers are generated: the cache of every row, which no mesh axis is asked to split."""
    cfg, e = layout.cfg, layout.config.eval
    slots = e.seq_len + e.max_new_tokens
    per_token = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * layout.width
    cache = e.generate_rows * slots * per_token
    prompts = e.generate_rows * e.seq_len * (3 * cfg.d_ff + 2 * cfg.d_model) * layout.width
    return {
        "KV cache": cache,
        "activations, a layer of prompts": prompts / layout.mesh.tensor,
        "weights, gathered": gathered_layers(layout) * layer_bytes(layout, layout.width),
    }
