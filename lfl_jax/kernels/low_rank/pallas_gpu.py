"""Mosaic GPU (Hopper): the shrink h = (x A) * routing by XLA, then one kernel for x W + h B.

A thread block computes a tile of the output: a pipeline over the contracted axis, then one over the
ranks, both into the same accumulators. A tile of a quantised W is decoded on its way from shared
memory to the tensor cores and never written to device memory. The backward pass is the same kernel
on (dy, W, (dy B^T) * routing, A) with transposed tiles.

It multiplies bfloat16 only. Sizes are padded to the tiles by XLA: rows and ranks cheaply; a weight
whose stored sizes are no multiples of 64 is copied as it is stored, which no Llama-2 weight needs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int, Shaped

from lfl_jax.core.types import Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank import tiles
from lfl_jax.kernels.low_rank.formats import FORMATS, Format, format_of, join, product, split
from lfl_jax.kernels.low_rank.reference import Backward, Forward, routed
from lfl_jax.kernels.low_rank.tiles import Product, Tiles

UNIT = 64  # rows of a warp group's product; elements in a swizzled row of 128 bytes
TRANSFORMS = (plgpu.TilingTransform((8, UNIT)), plgpu.SwizzleTransform(128))


class _Operands(NamedTuple):
    """What the kernel reads: x or dy as planes, W as stored, routed ranks, and what they meet.

    outer: B, or A as planes in the backward pass.
    """

    x: Float[Array, "P N S"]
    stored: Shaped[Array, "S O"]
    scale: Float[Array, "J O"] | None
    h: Float[Array, "N R"]
    outer: Float[Array, "P _ _"]


@dataclasses.dataclass(frozen=True)
class PallasGPU:
    """The kernel for Hopper GPUs.

    device: the kind whose shared memory it plans with. tiles: instead of those that `tiles.gpu`
    chooses, multiples of 64. interpret: plgpu.InterpretGPUParams() (jax 0.11 or newer) to run it on
    a CPU.
    """

    device: str = ""
    tiles: Tiles | None = None
    interpret: Any = None

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
        stored, scale = form.operands(w)
        h = x @ a
        planes = split(x, form.planes, stored.shape[0])
        operands = _Operands(planes, stored, scale, routed(h, routing), b[None])
        return self._run(operands, form, transposed=False)[0], h

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
        stored, scale = form.operands(w)
        dh = dy @ b.T
        outer = split(a.T, form.planes, stored.shape[0]).swapaxes(1, 2)
        operands = _Operands(dy[None], stored, scale, routed(dh, routing), outer)
        return join(self._run(operands, form, transposed=True), w.shape[0]), dh

    def _run(self, operands: _Operands, form: Format, *, transposed: bool) -> Float[Array, "P N C"]:
        """y, or dx, as planes."""
        x, scale = operands.x, operands.scale
        if x.dtype != jnp.bfloat16:
            raise UserError(
                f"pallas_gpu multiplies bfloat16, not {x.dtype}; cast x, or use"
                " implementation='xla'"
            )
        if scale is None:
            operands = operands._replace(stored=operands.stored.astype(x.dtype))
        rank = operands.h.shape[1]
        p = product(form, operands.stored, x.shape[1], rank, x.dtype.itemsize, transposed)
        blocks = _Blocks(p, self.tiles or tiles.gpu(p, self.device), form, transposed)
        x, weight, h, outer = blocks.padded(operands)

        # outer is (P, R, cols), or (P, cols, R) in the backward pass
        cols = outer.shape[1 if transposed else 2]
        kernel = plgpu.kernel(
            partial(_kernel, blocks=blocks),
            out_type=jax.ShapeDtypeStruct((p.out_planes, x.shape[1], cols), x.dtype),
            grid=(x.shape[1] // blocks.t.rows, cols // blocks.t.cols),
            grid_names=("m", "n"),
            scratch_types=blocks.scratch(is_quantised=len(weight) > 1),
            compiler_params=plgpu.CompilerParams(
                lowering_semantics=plgpu.LoweringSemantics.Warpgroup
            ),
            **({} if self.interpret is None else {"interpret": self.interpret}),
        )
        return kernel(x, weight, h, outer)[:, : p.rows, : p.cols]


def _shared(*shape: int) -> pl.MemoryRef:
    """Shared memory that the tensor cores read, or that leaves for device memory."""
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=TRANSFORMS)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The tiles of one pass: their sizes, and the block specs of the two pipelines."""

    p: Product
    t: Tiles
    form: Format
    transposed: bool

    @property
    def weight_tile(self) -> tuple[int, int]:
        """Stored rows and columns of a tile of W."""
        return (self.t.cols, self.t.depth) if self.transposed else (self.t.depth, self.t.cols)

    @property
    def outer_tile(self) -> tuple[int, int]:
        """Of what the ranks meet: B, or A in the backward pass."""
        return (self.t.cols, UNIT) if self.transposed else (UNIT, self.t.cols)

    @property
    def groups(self) -> int:
        """Scales of a column in a tile of W."""
        return self.weight_tile[0] // self.form.group if self.form.group else 1

    def padded(self, operands: _Operands) -> tuple[Array, tuple[Array, ...], Array, Array]:
        """x, (W, its scales if it has any), ranks and outer, with zeros up to whole tiles."""
        x, stored, scale, h, outer = operands
        weight = (_pad(stored, *self.weight_tile),)
        if scale is not None:
            weight = (*weight, _pad(scale, self.groups, self.weight_tile[1]))
        return (
            _pad(x, 1, self.t.rows, self.t.depth),
            weight,
            _pad(h, self.t.rows, UNIT),
            _pad(outer, 1, *self.outer_tile),
        )

    def scratch(self, is_quantised: bool) -> tuple[pl.MemoryRef, ...]:
        """The output tile on its way to device memory, and the decoded planes of a tile of W."""
        decoded = [_shared(*self.weight_tile) for _ in range(self.form.planes * is_quantised)]
        return _shared(self.t.rows, self.t.cols), *decoded

    def oriented(self, ref: Any) -> Any:
        """A tile of W, or of outer, as the right operand of the product."""
        return ref.transpose((1, 0)) if self.transposed else ref

    def contracted(self, m: Int[Array, ""], n: Int[Array, ""], quantised: bool) -> list:
        """Specs of x, W and its scales in the pipeline over the contracted axis, step k."""
        at = (lambda k: (n, k)) if self.transposed else (lambda k: (k, n))
        sizes = self.weight_tile
        # all planes of x at once: each meets a plane of the same tile of W
        x = _tiled((self.p.in_planes, self.t.rows, self.t.depth), lambda k: (0, m, k))
        if not quantised:
            return [x, _tiled(sizes, at)]
        # codes and scales are read by the threads, not by the tensor cores: no swizzle
        scale_at = at if self.form.group else lambda k: (0, at(k)[1])
        return [
            x,
            plgpu.BlockSpec(sizes, at),
            plgpu.BlockSpec((self.groups, sizes[1]), scale_at),
        ]

    def ranks(self, m: Int[Array, ""], n: Int[Array, ""]) -> list:
        """Specs of the ranks and of outer in the pipeline over the ranks, step r."""
        at = (lambda r: (0, n, r)) if self.transposed else (lambda r: (0, r, n))
        h = _tiled((self.t.rows, UNIT), lambda r: (m, r))
        return [h, _tiled((self.p.out_planes, *self.outer_tile), at)]


def _tiled(sizes: tuple[int, ...], index: Callable) -> plgpu.BlockSpec:
    """Spec of a block that the tensor cores read."""
    return plgpu.BlockSpec(sizes, index, transforms=TRANSFORMS)


def _kernel(
    x: jax.Ref,
    weight: tuple[jax.Ref, ...],
    h: jax.Ref,
    outer: jax.Ref,
    y: jax.Ref,
    result: Any,
    *decoded: Any,
    blocks: _Blocks,
) -> None:
    """One thread block: tile (m, n) of the output.

    Any: a Ref to shared memory with transforms is of a class that jax does not export.
    """
    # one thread block for every (m, n) of the grid; k and r are its pipelines' own steps
    m, n = jax.lax.axis_index("m"), jax.lax.axis_index("n")
    p, t = blocks.p, blocks.t

    def weight_step(totals: Sequence, _: Any, x_tile: Any, *tile: Any) -> None:
        # dense tiles go to the tensor cores as they are
        if decoded:
            _decode(tile, decoded, blocks.form)
        for i, plane in enumerate(decoded or tile):
            plane = blocks.oriented(plane)
            plgpu.wgmma(totals[i % p.out_planes], x_tile.at[i % p.in_planes], plane)
        # the pipeline reuses the buffers of this step
        plgpu.wgmma_wait(0)

    def rank_step(totals: Sequence, _: Any, h_tile: Any, outer_tile: Any) -> None:
        for i, total in enumerate(totals):
            plgpu.wgmma(total, h_tile, blocks.oriented(outer_tile.at[i]))
        plgpu.wgmma_wait(0)

    def run(*totals: jax.Ref) -> None:
        plgpu.emit_pipeline(
            partial(weight_step, totals),
            grid=(x.shape[2] // t.depth,),
            in_specs=blocks.contracted(m, n, bool(decoded)),
            max_concurrent_steps=t.stages,
        )(x, *weight)
        plgpu.emit_pipeline(
            partial(rank_step, totals),
            grid=(h.shape[1] // UNIT,),
            in_specs=blocks.ranks(m, n),
            max_concurrent_steps=2,
        )(h, outer)
        _write(totals, result, y, rows=pl.ds(m * t.rows, t.rows), cols=pl.ds(n * t.cols, t.cols))

    # the accumulators are registers, one for each plane of the output
    pl.run_scoped(run, *(plgpu.ACC((t.rows, t.cols), jnp.float32) for _ in range(p.out_planes)))


def _write(totals: Sequence, result: Any, y: jax.Ref, *, rows: pl.Slice, cols: pl.Slice) -> None:
    """The accumulators of all planes to y, each by way of the tile `result` in shared memory."""
    for i, total in enumerate(totals):
        result[...] = total[...].astype(result.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(result, y.at[i, rows, cols])
        # `result` is written again for the next plane
        plgpu.wait_smem_to_gmem(0)


def _decode(tile: Sequence, decoded: Sequence, form: Format) -> None:
    """A tile (codes, scales) of W, decoded to shared memory as the tensor cores read it."""
    stored, scales = tile
    codes = stored[...]
    spread = lambda g: jax.lax.broadcast_in_dim(scales[g], codes.shape, (1,))  # noqa: E731
    # Rows of group g and later take scale g: the last one that is written stays.
    scale = spread(0)
    for g in range(1, scales.shape[0]):
        later = jax.lax.broadcasted_iota(jnp.int32, codes.shape, 0) >= g * form.group
        scale = jnp.where(later, spread(g), scale)
    for ref, plane in zip(decoded, form.decode(codes, scale, decoded[0].dtype), strict=True):
        ref[...] = plane
    plgpu.commit_smem()


def _pad(x: Shaped[Array, "..."], *tiles: int) -> Shaped[Array, "..."]:
    """x with zeros up to multiples of these sizes, one for each axis."""
    return jnp.pad(x, [(0, -size % tile) for size, tile in zip(x.shape, tiles, strict=True)])
