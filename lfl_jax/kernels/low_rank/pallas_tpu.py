"""Mosaic TPU: x W + ((x A) * routing) B in one pass over the contracted axis.

The grid is (rows, cols, depth) with depth innermost. Every step adds a tile's product to an
accumulator in VMEM; the steps of the first column tile also add x A, which stays in VMEM for the
other column tiles of these rows and leaves as the residual. The backward pass is the same kernel on
(dy, W, B, A) with transposed tiles, so that W is never copied.
"""

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, Shaped

from lfl_jax.core.types import Weight
from lfl_jax.kernels.low_rank import tiles
from lfl_jax.kernels.low_rank.formats import FORMATS, Format, format_of, join, product, split
from lfl_jax.kernels.low_rank.reference import Backward, Forward
from lfl_jax.kernels.low_rank.tiles import Product, Tiles


class _Operands(NamedTuple):
    """What a pass reads, in the order of the kernel's arguments.

    x: x, or dy, as planes. stored, scale: W as its format stores it. inner: what x meets, A as
    planes, or B backward. outer: what the ranks meet, B, or A as planes backward.
    """

    x: Float[Array, "P N S"]
    stored: Shaped[Array, "S O"]
    scale: Float[Array, "J 1 O"] | None
    inner: Float[Array, "P _ _"]
    outer: Float[Array, "P _ _"]
    routing: Float[Array, "N R"] | None


@dataclasses.dataclass(frozen=True)
class PallasTPU:
    """The kernel for TPUs.

    device: the kind whose VMEM it plans with. tiles: instead of those that `tiles.tpu` chooses,
    multiples of 128 but for rows (of 16), or a whole axis. interpret: pallas_call's.
    """

    device: str = ""
    tiles: Tiles | None = None
    interpret: bool | pltpu.InterpretParams = False

    def forward(
        self,
        x: Float[Array, "N I"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Forward:
        """(y, x A)."""
        form = FORMATS[format_of(w)]
        stored, scale = _stored(form, w)
        planes = partial(split, planes=form.planes, stored=stored.shape[0])
        inner = planes(a.T).swapaxes(1, 2)
        operands = _Operands(planes(x), stored, scale, inner, b[None], routing)
        y, h = self._run(operands, form, rank=a.shape[1], transposed=False)
        return y[0], h

    def backward(
        self,
        dy: Float[Array, "N O"],
        w: Weight,
        a: Float[Array, "I R"],
        b: Float[Array, "R O"],
        routing: Float[Array, "N R"] | None,
    ) -> Backward:
        """(dx, dy B^T)."""
        form = FORMATS[format_of(w)]
        stored, scale = _stored(form, w)
        outer = split(a.T, form.planes, stored.shape[0]).swapaxes(1, 2)
        operands = _Operands(dy[None], stored, scale, b[None], outer, routing)
        dx, dh = self._run(operands, form, rank=a.shape[1], transposed=True)
        return join(dx, w.shape[0]), dh

    def _run(
        self, operands: _Operands, form: Format, *, rank: int, transposed: bool
    ) -> tuple[Float[Array, "Q N C"], Float[Array, "N R"]]:
        """(y as planes, ranks) of one pass over the weight."""
        x = operands.x
        p = product(form, operands.stored, x.shape[1], rank, x.dtype.itemsize, transposed)
        t = self.tiles or tiles.tpu(p, self.device)
        blocks = _Blocks(p, t, form, transposed)
        call = pl.pallas_call(
            partial(_kernel, blocks=blocks),
            grid=blocks.grid,
            in_specs=blocks.inputs(operands),
            out_specs=(blocks.output(), blocks.ranks()),
            out_shape=(
                jax.ShapeDtypeStruct((p.out_planes, p.rows, p.cols), x.dtype),
                jax.ShapeDtypeStruct((p.rows, p.rank), x.dtype),
            ),
            # the accumulators of y and of x A
            scratch_shapes=(
                pltpu.VMEM((p.out_planes, t.rows, t.cols), jnp.float32),
                pltpu.VMEM((t.rows, p.rank), jnp.float32),
            ),
            compiler_params=pltpu.CompilerParams(
                # x A is shared between column tiles: only rows may go to other cores
                dimension_semantics=("parallel", "arbitrary", "arbitrary"),
                vmem_limit_bytes=tiles.VMEM.get(self.device),
            ),
            interpret=self.interpret,
            name="low_rank_backward" if transposed else "low_rank_forward",
        )
        return call(*operands)


def _stored(form: Format, w: Weight) -> tuple[Shaped[Array, "S O"], Float[Array, "J 1 O"] | None]:
    """W as its format stores it; the scales get an axis, because a block's last two are tiles."""
    stored, scale = form.operands(w)
    return stored, None if scale is None else scale[:, None]


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Which block of each operand a grid step (m, n, k) of rows, cols and depth reads.

    Of the weight's axes, I is the contracted one, and the output's if transposed.
    """

    p: Product
    t: Tiles
    form: Format
    transposed: bool

    @property
    def grid(self) -> tuple[int, int, int]:
        """Row tiles, column tiles, and steps over the contracted axis."""
        p, t = self.p, self.t
        return math.ceil(p.rows / t.rows), math.ceil(p.cols / t.cols), math.ceil(p.depth / t.depth)

    def inputs(self, operands: _Operands) -> tuple[pl.BlockSpec | None, ...]:
        """Of all operands; None for one that is None."""
        p, t = self.p, self.t
        x = pl.BlockSpec((p.in_planes, t.rows, t.depth), lambda m, n, k: (0, m, k))
        scale = None if operands.scale is None else self.scale()
        routing = None if operands.routing is None else self.ranks()
        return x, self.stored(), scale, self.inner(), self.outer(), routing

    def output(self) -> pl.BlockSpec:
        """Of y, or dx, as planes (P, N, cols)."""
        p, t = self.p, self.t
        return pl.BlockSpec((p.out_planes, t.rows, t.cols), lambda m, n, k: (0, m, n))

    @property
    def weight_tile(self) -> tuple[int, int]:
        """Stored rows and columns of a tile of W."""
        return (self.t.cols, self.t.depth) if self.transposed else (self.t.depth, self.t.cols)

    def at(self, n: Int[Array, ""], k: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """The indices of a grid step's tile of W."""
        return (n, k) if self.transposed else (k, n)

    def stored(self) -> pl.BlockSpec:
        """Of stored (S, O)."""
        return pl.BlockSpec(self.weight_tile, lambda m, n, k: self.at(n, k))

    def scale(self) -> pl.BlockSpec:
        """Of scale (J, 1, O): those of a tile's groups of stored rows, or the one of all rows."""
        rows, cols = self.weight_tile
        groups = rows // self.form.group if self.form.group else 1

        def index(m: Int[Array, ""], n: Int[Array, ""], k: Int[Array, ""]) -> tuple:
            row, col = self.at(n, k)
            return row if self.form.group else 0, 0, col

        return pl.BlockSpec((groups, 1, cols), index)

    def inner(self) -> pl.BlockSpec:
        """Of A (P, S, R), or B (1, R, O)."""
        p, last = self.p, self.grid[2] - 1
        # Later column tiles use no block of it, and move none: they name the last.
        once = lambda n, k: jnp.where(n == 0, k, last)  # noqa: E731
        if self.transposed:
            return pl.BlockSpec((1, p.rank, self.t.depth), lambda m, n, k: (0, 0, once(n, k)))
        return pl.BlockSpec((p.in_planes, self.t.depth, p.rank), lambda m, n, k: (0, once(n, k), 0))

    def outer(self) -> pl.BlockSpec:
        """Of B (1, R, O), or A (P, S, R)."""
        p, cols = self.p, self.t.cols
        if self.transposed:
            return pl.BlockSpec((p.out_planes, cols, p.rank), lambda m, n, k: (0, n, 0))
        return pl.BlockSpec((1, p.rank, cols), lambda m, n, k: (0, 0, n))

    def ranks(self) -> pl.BlockSpec:
        """Of the routing and of the residual (N, R)."""
        return pl.BlockSpec((self.t.rows, self.p.rank), lambda m, n, k: (m, 0))


def _kernel(
    x: jax.Ref,
    stored: jax.Ref,
    scale: jax.Ref | None,
    inner: jax.Ref,
    outer: jax.Ref,
    routing: jax.Ref | None,
    y: jax.Ref,
    h: jax.Ref,
    y_sum: jax.Ref,
    h_sum: jax.Ref,
    *,
    blocks: _Blocks,
) -> None:
    """One grid step: y_sum += x W, h_sum += x inner, and in the last one y and h are written."""
    p = blocks.p
    n, k = pl.program_id(1), pl.program_id(2)
    dot = partial(_dot, transposed=blocks.transposed)
    # of W's, A's and B's tiles, the axis that is contracted
    contracted = int(blocks.transposed)
    inside = partial(_inside, start=k * blocks.t.depth, size=p.depth)
    planes = [inside(x[i], axis=1) for i in range(p.in_planes)]

    # VMEM holds what the last output tile left
    @pl.when(k == 0)
    def _() -> None:
        y_sum[...] = jnp.zeros_like(y_sum)

    row_scale = None if scale is None else _spread(scale[...], stored.shape[0])
    for i, w in enumerate(blocks.form.decode(stored[...], row_scale, x.dtype)):
        y_sum[i % p.out_planes] += dot(planes[i % p.in_planes], inside(w, axis=contracted))

    # x A is the same for every column tile: the first one computes it
    @pl.when(n == 0)
    def _() -> None:
        new = sum(dot(x_i, inside(inner[i], axis=contracted)) for i, x_i in enumerate(planes))
        h_sum[...] = new + jnp.where(k == 0, 0.0, h_sum[...])

    # the last step: y = x W + (x A * routing) B, rounded once
    @pl.when(k == pl.num_programs(2) - 1)
    def _() -> None:
        ranks = h_sum[...] if routing is None else h_sum[...] * routing[...].astype(jnp.float32)
        h[...] = h_sum[...].astype(h.dtype)
        for i in range(p.out_planes):
            y[i] = (y_sum[i] + dot(ranks.astype(x.dtype), outer[i])).astype(y.dtype)


def _dot(
    x: Float[Array, "N _"], w: Float[Array, "_ _"], *, transposed: bool
) -> Float[Array, "N _"]:
    """x w, or x w^T, in float32."""
    # without it a TPU rounds float32 operands to bfloat16
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    contract = (((1,), (int(transposed),)), ((), ()))
    return jax.lax.dot_general(
        x, w, contract, precision=precision, preferred_element_type=jnp.float32
    )


def _inside(
    block: Float[Array, "J K"], *, start: Int[Array, ""], size: int, axis: int
) -> Float[Array, "J K"]:
    """The block, 0 past the end of the contracted axis: there it may be anything, NaN too."""
    if size % block.shape[axis] == 0:
        return block
    position = start + jax.lax.broadcasted_iota(jnp.int32, block.shape, axis)
    return jnp.where(position < size, block, jnp.zeros((), block.dtype))


def _spread(scale: Float[Array, "J 1 C"], rows: int) -> Float[Array, "N C"]:
    """A scale for every stored row, from one for each group of rows."""
    groups, _, cols = scale.shape
    return jnp.broadcast_to(scale, (groups, rows // groups, cols)).reshape(rows, cols)
