"""FLOPs and bytes of a step: products, recomputation, attention, memory traffic and collectives.

A product of (m, k) and (k, n) is 2 m n k FLOPs. With N parameters in the products of a token, a
forward pass is 2 N, the gradient by activations 2 N, and by trained weights 2 N more: 4 N for
adapters over a frozen base, 6 N for full finetuning. What remat computes a second time is counted
apart. The products are counted in the traced program (`block`), so that an adapter's own are in.

Attention is causal: a token meets T / 2 others on average, which is 4 (T / 2) H P FLOPs a layer
forward (scores and weighted values), and five such products in place of two backward, of which one
is the scores again (FlashAttention, arXiv 2205.14135).
"""

import dataclasses

import jax
import jax.numpy as jnp

from lfl_jax import quant
from lfl_jax.core import tree
from lfl_jax.model import Model
from lfl_jax.planning import layout as layouts
from lfl_jax.planning import memory
from lfl_jax.planning.bands import Number
from lfl_jax.planning.block import Products
from lfl_jax.planning.layout import Layout, bytes_of

# what is before and after the layers
ENDS = ("params/embed", "params/head")


@dataclasses.dataclass(frozen=True)
class Collective:
    """What one device receives in a step. members: devices that take part; span: of how many
    neighbours they are taken."""

    what: str
    kind: str
    bytes: Number
    members: int
    span: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in a step.

    wide, narrow, filled: FLOPs of products, as `block.Products`; attention: those of attention.
    traffic: bytes between chip and memory, at least and at most.
    """

    wide: Number
    narrow: Number
    filled: Number
    attention: Number
    traffic: tuple[Number, Number]
    collectives: tuple[Collective, ...]


@dataclasses.dataclass(frozen=True)
class TokenFlops:
    """FLOPs of one token over the whole model: products, their recomputation, and attention's."""

    products: Number
    recomputed: Number
    attention: Number


def per_token(layout: Layout) -> TokenFlops:
    """FLOPs a token of training, where every position is a target."""
    from_plain = layouts.plain_block(layout).both.token
    layers, head = layout.cfg.n_layers, _head_flops(layout)
    again = (layout.block.both.token - from_plain) * layers
    tensor = layout.mesh.tensor
    return TokenFlops((from_plain * tensor) * layers + head, again * tensor, _attention(layout))


def forward_flops(layout: Layout) -> Number:
    """FLOPs of a token's forward pass over the whole model, without attention's."""
    layers = layout.block.forward.token * layout.mesh.tensor * layout.cfg.n_layers
    return layers + 2 * memory.head_parameters(layout)


def _head_flops(layout: Layout) -> Number:
    """The loss computes its gradient in the forward pass: nothing of it is recomputed."""
    return (4 + 2 * memory.trains_head(layout)) * memory.head_parameters(layout)


def _attention(layout: Layout) -> Number:
    """Attention's products of a token, forward and backward, over all layers."""
    cfg = layout.cfg
    reach = min(layout.row, cfg.window or layout.row) / 2
    forward = 4 * reach * cfg.n_heads * cfg.head_dim
    # under "full", the backward pass begins with the forward pass
    passes = 1 + 2.5 + (layout.config.model.remat == "full")
    return passes * forward * cfg.n_layers


def of(layout: Layout) -> Work:
    """The work of one device in one step."""
    count, tokens = layout.microbatches, layout.tokens * layout.microbatches
    products: Products = layout.block.both
    head = _head_flops(layout) * tokens / layout.mesh.tensor

    def flops(name: str) -> Number:
        of_layer = getattr(products, name).of(layout.tokens, layout.row)
        return of_layer * layout.cfg.n_layers * count

    return Work(
        wide=flops("wide") + head,
        narrow=flops("narrow"),
        filled=flops("filled"),
        attention=_attention(layout) * tokens / layout.mesh.tensor,
        traffic=_traffic(layout),
        collectives=collectives(layout),
    )


def _traffic(layout: Layout) -> tuple[Number, Number]:
    """Bytes between chip and memory of a step, at least and at most.

    Weights are read once a pass. What a layer saves inside is written and read once at least; at
    most also gradients of the same size, and everything again where it is recomputed.
    """
    count = layout.microbatches
    passes = 2 + (layout.config.model.remat != "none")
    layers = layout.cfg.n_layers
    weights = layers * memory.layer_bytes(layout, layout.width) * passes * count
    inside = layers * layout.block.within.token * layout.tokens * count
    logits = layout.tokens * layout.cfg.vocab_size / layout.mesh.tensor * count * 4
    trained = bytes_of(layout.run.state.trainable)
    # gradients and parameters are read, parameters and moments written
    update = 3 * trained + 2 * bytes_of(layout.run.state.opt_state)
    fixed = weights + update
    return fixed + 2 * inside + 2 * logits, fixed + (4 + 2 * (passes > 2)) * inside + 6 * logits


def collectives(layout: Layout) -> tuple[Collective, ...]:
    """What a device receives in a step, without what is too small to matter.

    As XLA does it (`results/plan_compiled`). fsdp: a layer's weights are gathered for the forward
    and again for the backward pass, embedding and head once, in the compute dtype. So are a layer's
    gradients reduced and scattered; those of embedding and head are summed whole, in float32. data:
    gradients are reduced. tensor: the outputs of `o` and `down` are reduced in the forward pass,
    and the gradients by the inputs of the five others, each apart, in the backward pass.
    """
    mesh, run, count = layout.mesh, layout.run, layout.microbatches
    received = []
    if mesh.fsdp > 1:
        received += _over_fsdp(layout)
    if mesh.data > 1:
        share = (mesh.data - 1) / mesh.data
        reduced = 2 * count * share * bytes_of(run.state.trainable)
        received.append(
            Collective("gradients", "all-reduce over data", reduced, mesh.data, mesh.devices)
        )
    if mesh.tensor > 1:
        share = (mesh.tensor - 1) / mesh.tensor
        # o and down; the gradients by the inputs of q, k, v, gate and up, which XLA sums apart;
        # recomputing needs the output of `o` once more
        times = 2 + 5 + (layout.config.model.remat != "none")
        activations = layout.tokens * layout.cfg.d_model * layout.width
        reduced = 2 * share * times * activations * layout.cfg.n_layers * count
        received.append(
            Collective("activations", "all-reduce over tensor", reduced, mesh.tensor, mesh.tensor)
        )
    return tuple(received)


def _over_fsdp(layout: Layout) -> list[Collective]:
    """Weights and gradients, where fsdp splits them."""
    mesh, trained = layout.mesh, layout.run.state.trainable
    # a device has its own share already, and a tensor axis splits what is sent as it does weights
    factor = layout.microbatches * (mesh.fsdp - 1) / mesh.fsdp / mesh.tensor
    scattered, _ = _moved(trained, layout.width)
    _, summed = _moved(trained, 4)
    amounts = {
        ("weights", "all-gather over fsdp"): _gathered(layout),
        ("gradients", "reduce-scatter over fsdp"): scattered,
        ("gradients of embedding and head", "all-reduce over fsdp"): 2 * summed,
    }
    return [
        Collective(*names, factor * amount, mesh.fsdp, mesh.fsdp * mesh.tensor)
        for names, amount in amounts.items()
        if amount
    ]


def _gathered(layout: Layout) -> int:
    """Bytes of all weights, whole: layers for both passes, embedding and head for one.

    Quantised ones are dequantised before they are gathered, and under "full" a third time: for the
    recomputed products and for the gradients apart.
    """
    frozen, ends = _moved(layout.run.frozen, layout.width)
    trained, trained_ends = _moved(layout.run.state.trainable, layout.width)
    passes = 2
    if layout.config.model.base_dtype in quant.FORMATS and layout.run.frozen.params:
        frozen = memory.layer_parameters(layout) * layout.cfg.n_layers * layout.width
        passes += layout.config.model.remat == "full"
    return passes * frozen + 2 * trained + ends + trained_ends


def _moved(half: Model, width: int) -> tuple[int, int]:
    """Bytes of layers and adapters, and of embedding and head, whole: floats of `width` at most."""
    layers = ends = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(half):
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        itemsize = min(leaf.dtype.itemsize, width) if is_float else leaf.dtype.itemsize
        if tree.name(path) in ENDS:
            ends += leaf.size * itemsize
        else:
            layers += leaf.size * itemsize
    return layers, ends
