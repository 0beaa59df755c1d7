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

from lfl_jax.planning import layout as layouts
from lfl_jax.planning import memory
from lfl_jax.planning.bands import Number
from lfl_jax.planning.block import Products
from lfl_jax.planning.layout import Layout, bytes_of, whole_bytes


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

    fsdp: weights are gathered for the forward and again for the backward pass, as they are stored;
    gradients of what trains are reduced and scattered. data: gradients are reduced. tensor: the
    outputs of `o` and `down` are reduced in the forward pass, and the gradients of what they and
    the others read in the backward pass.
    """
    mesh, run, count = layout.mesh, layout.run, layout.microbatches
    received = []
    if mesh.fsdp > 1:
        share, span = (mesh.fsdp - 1) / mesh.fsdp, mesh.fsdp * mesh.tensor
        stored = whole_bytes(run.frozen) + whole_bytes(run.state.trainable)
        gathered = 2 * count * share * stored / mesh.tensor
        trained = whole_bytes(run.state.trainable) / mesh.tensor
        received += [
            Collective("weights", "all-gather over fsdp", gathered, mesh.fsdp, span),
            Collective(
                "gradients", "reduce-scatter over fsdp", count * share * trained, mesh.fsdp, span
            ),
        ]
    if mesh.data > 1:
        share = (mesh.data - 1) / mesh.data
        reduced = 2 * count * share * bytes_of(run.state.trainable)
        received.append(
            Collective("gradients", "all-reduce over data", reduced, mesh.data, mesh.devices)
        )
    if mesh.tensor > 1:
        share = (mesh.tensor - 1) / mesh.tensor
        # recomputing needs the output of `o` once more
        times = 4 + (layout.config.model.remat != "none")
        activations = layout.tokens * layout.cfg.d_model * layout.width
        reduced = 2 * share * times * activations * layout.cfg.n_layers * count
        received.append(
            Collective("activations", "all-reduce over tensor", reduced, mesh.tensor, mesh.tensor)
        )
    return tuple(received)
