"""Mosaic TPU: x W + ((x A) * routing) B in one pass over the contracted axis.

The grid is (rows, cols, depth) with depth innermost. Every step adds a tile's product to an
accumulator in VMEM; the steps of the first column tile also add x A, which stays in VMEM for the
other column tiles of these rows and leaves as the residual. The backward pass is the same kernel on
(dy, W, B, A) with transposed tiles, so that W is never copied.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lfl_jax.kernels.low_rank import tiles
from lfl_jax.kernels.low_rank.formats import FORMATS, Format, format_of, join, product, split
from lfl_jax.kernels.low_rank.tiles import Product, Tiles


@dataclasses.dataclass(frozen=True)
class PallasTPU:
    """device: the kind whose VMEM it plans with; tiles: instead of those `tiles.tpu` chooses,
    multiples of 128 but for rows (of 16), or a whole axis; interpret: pallas_call's."""

    device: str = ""
    tiles: Tiles | None = None
    interpret: Any = False

    def forward(self, x: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(y, x A)."""
        form = FORMATS[format_of(w)]
        stored, scale = form.operands(w)
        planes = partial(split, planes=form.planes, stored=stored.shape[0])
        y, h = self._call(
            form, planes(x), stored, scale, planes(a.T).swapaxes(1, 2), b[None], routing, False
        )
        return y[0], h

    def backward(self, dy: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(dx, dy B^T)."""
        form = FORMATS[format_of(w)]
        stored, scale = form.operands(w)
        outer = split(a.T, form.planes, stored.shape[0]).swapaxes(1, 2)
        dx, back = self._call(form, dy[None], stored, scale, b[None], outer, routing, True)
        return join(dx, w.shape[0]), back

    def _call(
        self,
        form: Format,
        x: Any,
        stored: Any,
        scale: Any,
        inner: Any,
        outer: Any,
        routing: Any,
        transposed: bool,
    ) -> tuple[Any, Any]:
        """inner is what x meets (A forward, B backward), outer what the routed ranks meet."""
        p = product(
            form,
            stored,
            x.shape[1],
            inner.shape[1 if transposed else 2],
            x.dtype.itemsize,
            transposed,
        )
        t = self.tiles or tiles.tpu(p, self.device)
        places = _Places(p, t, form, transposed)
        call = pl.pallas_call(
            partial(_kernel, form=form, p=p, t=t, transposed=transposed),
            grid=(math.ceil(p.rows / t.rows), math.ceil(p.cols / t.cols), places.steps),
            in_specs=(
                pl.BlockSpec((p.in_planes, t.rows, t.depth), lambda m, n, k: (0, m, k)),
                *places.weight(scale),
                places.inner(),
                places.outer(),
                None if routing is None else places.ranks(),
            ),
            out_specs=(
                pl.BlockSpec((p.out_planes, t.rows, t.cols), lambda m, n, k: (0, m, n)),
                places.ranks(),
            ),
            out_shape=(
                jax.ShapeDtypeStruct((p.out_planes, p.rows, p.cols), x.dtype),
                jax.ShapeDtypeStruct((p.rows, p.rank), x.dtype),
            ),
            scratch_shapes=(
                pltpu.VMEM((p.out_planes, t.rows, t.cols), jnp.float32),
                pltpu.VMEM((t.rows, p.rank), jnp.float32),
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary", "arbitrary"),
                vmem_limit_bytes=tiles.VMEM.get(self.device),
            ),
            interpret=self.interpret,
            name="low_rank_backward" if transposed else "low_rank_forward",
        )
        return call(x, stored, None if scale is None else scale[:, None], inner, outer, routing)


def _kernel(
    x: Any, stored: Any, scale: Any, inner: Any, outer: Any, routing: Any, y: Any, h: Any, total: Any, total_h: Any,
    *, form: Format, p: Product, t: Tiles, transposed: bool,
) -> None:  # fmt: skip
    """One grid step."""
    n, k = pl.program_id(1), pl.program_id(2)
    dot = partial(_dot, transposed=transposed)
    inside = partial(_inside, start=k * t.depth, size=p.depth)
    rows = [inside(x[i], axis=1) for i in range(p.in_planes)]

    @pl.when(k == 0)
    def _() -> None:
        total[...] = jnp.zeros_like(total)

    spread = None if scale is None else _spread(scale[...], stored.shape[0])
    for i, plane in enumerate(form.decode(stored[...], spread, x.dtype)):
        total[i % p.out_planes] += dot(rows[i % p.in_planes], inside(plane, axis=int(transposed)))

    @pl.when(n == 0)
    def _() -> None:
        new = sum(dot(row, inside(inner[i], axis=int(transposed))) for i, row in enumerate(rows))
        total_h[...] = new + jnp.where(k == 0, 0.0, total_h[...])

    @pl.when(k == pl.num_programs(2) - 1)
    def _() -> None:
        ranks = total_h[...] if routing is None else total_h[...] * routing[...].astype(jnp.float32)
        h[...] = total_h[...].astype(h.dtype)
        for i in range(p.out_planes):
            y[i] = (total[i] + dot(ranks.astype(x.dtype), outer[i])).astype(y.dtype)


def _dot(x: Any, w: Any, *, transposed: bool) -> Any:
    """x w, or x w^T, in float32."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    contract = (((1,), (int(transposed),)), ((), ()))
    return jax.lax.dot_general(
        x, w, contract, precision=precision, preferred_element_type=jnp.float32
    )


def _inside(block: Any, *, start: Any, size: int, axis: int) -> Any:
    """The block with what lies past the end of the contracted axis set to 0: it may be anything,
    NaN too."""
    if size % block.shape[axis] == 0:
        return block
    place = start + jax.lax.broadcasted_iota(jnp.int32, block.shape, axis)
    return jnp.where(place < size, block, jnp.zeros((), block.dtype))


def _spread(scale: Any, rows: int) -> Any:
    """Scales (J, 1, cols) as (rows, cols)."""
    groups, _, cols = scale.shape
    return jnp.broadcast_to(scale, (groups, rows // groups, cols)).reshape(rows, cols)


@dataclasses.dataclass(frozen=True)
class _Places:
    """Which block of each operand a grid step (m, n, k) sees. Of the weight's axes, I is the
    output's if transposed."""

    p: Product
    t: Tiles
    form: Format
    transposed: bool

    @property
    def steps(self) -> int:
        return math.ceil(self.p.depth / self.t.depth)

    def weight(self, scale: Any) -> tuple[Any, Any]:
        """Of stored (S, O) and scale (J, 1, O)."""
        sizes = (self.t.cols, self.t.depth) if self.transposed else (self.t.depth, self.t.cols)
        at = (lambda m, n, k: (n, k)) if self.transposed else (lambda m, n, k: (k, n))
        stored = pl.BlockSpec(sizes, at)
        if scale is None:
            return stored, None
        groups = sizes[0] // self.form.group if self.form.group else 1
        first = lambda s, o: (s if self.form.group else 0, 0, o)  # noqa: E731
        return stored, pl.BlockSpec((groups, 1, sizes[1]), lambda m, n, k: first(*at(m, n, k)))

    def inner(self) -> Any:
        """Of A (P, S, R), or B (1, R, O). Later column tiles use no block of it, and move none:
        they name the last."""
        once = lambda n, k: jnp.where(n == 0, k, self.steps - 1)  # noqa: E731
        if self.transposed:
            return pl.BlockSpec((1, self.p.rank, self.t.depth), lambda m, n, k: (0, 0, once(n, k)))
        return pl.BlockSpec(
            (self.p.in_planes, self.t.depth, self.p.rank), lambda m, n, k: (0, once(n, k), 0)
        )

    def outer(self) -> Any:
        """Of B (1, R, O), or A (P, S, R)."""
        if self.transposed:
            return pl.BlockSpec(
                (self.p.out_planes, self.t.cols, self.p.rank), lambda m, n, k: (0, n, 0)
            )
        return pl.BlockSpec((1, self.p.rank, self.t.cols), lambda m, n, k: (0, 0, n))

    def ranks(self) -> Any:
        """Of the routing and of the residual (N, R)."""
        return pl.BlockSpec((self.t.rows, self.p.rank), lambda m, n, k: (m, 0))
