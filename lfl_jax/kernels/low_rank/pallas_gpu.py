"""Mosaic GPU (Hopper): the shrink h = (x A) * routing by XLA, then one kernel for x W + h B.

A thread block computes a tile of the output: a pipeline over the contracted axis, then one over the
ranks, both into the same accumulators. A tile of a quantised W is decoded on its way from shared
memory to the tensor cores and never written to device memory. The backward pass is the same kernel
on (dy, W, (dy B^T) * routing, A) with transposed tiles.

It multiplies bfloat16 only. Sizes are padded to the tiles by XLA: rows and ranks cheaply; a weight
whose stored sizes are no multiples of 64 is copied as it is stored, which no Llama-2 weight needs.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank import tiles
from lfl_jax.kernels.low_rank.formats import FORMATS, Format, format_of, join, product, split
from lfl_jax.kernels.low_rank.reference import routed
from lfl_jax.kernels.low_rank.tiles import Product, Tiles

UNIT = 64  # rows of a warp group's product; elements in a swizzled row of 128 bytes
TRANSFORMS = (plgpu.TilingTransform((8, UNIT)), plgpu.SwizzleTransform(128))


@dataclasses.dataclass(frozen=True)
class PallasGPU:
    """device: the kind whose shared memory it plans with; tiles: instead of those `tiles.gpu`
    chooses, multiples of 64;
    interpret: plgpu.InterpretGPUParams() (jax 0.11 or newer) to run it on a CPU."""

    device: str = ""
    tiles: Tiles | None = None
    interpret: Any = None

    def forward(self, x: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(y, x A)."""
        form = FORMATS[format_of(w)]
        stored, scale = form.operands(w)
        h = x @ a
        planes = split(x, form.planes, stored.shape[0])
        return self._call(form, planes, stored, scale, routed(h, routing), b[None], False)[0], h

    def backward(self, dy: Any, w: Any, a: Any, b: Any, routing: Any) -> tuple[Any, Any]:
        """(dx, dy B^T)."""
        form = FORMATS[format_of(w)]
        stored, scale = form.operands(w)
        back = dy @ b.T
        outer = split(a.T, form.planes, stored.shape[0]).swapaxes(1, 2)
        planes = self._call(form, dy[None], stored, scale, routed(back, routing), outer, True)
        return join(planes, w.shape[0]), back

    def _call(
        self, form: Format, x: Any, stored: Any, scale: Any, h: Any, outer: Any, transposed: bool
    ) -> Any:  # (P, N, cols)
        if x.dtype != jnp.bfloat16:
            raise UserError(
                f"pallas_gpu multiplies bfloat16, not {x.dtype}; cast x, or use"
                " implementation='xla'"
            )
        stored = stored.astype(x.dtype) if scale is None else stored
        p = product(form, stored, x.shape[1], h.shape[1], x.dtype.itemsize, transposed)
        t = self.tiles or tiles.gpu(p, self.device)
        sizes = (t.cols, t.depth) if transposed else (t.depth, t.cols)
        x, h = _pad(x, 1, t.rows, t.depth), _pad(h, t.rows, UNIT)
        outer = _pad(outer, 1, *((t.cols, UNIT) if transposed else (UNIT, t.cols)))
        groups = sizes[0] // form.group if form.group else 1
        weight = (
            (_pad(stored, *sizes),)
            if scale is None
            else (_pad(stored, *sizes), _pad(scale, groups, sizes[1]))
        )
        decoded = [_shared(*sizes) for _ in range(form.planes if len(weight) > 1 else 0)]
        grid = (x.shape[1] // t.rows, outer.shape[1 if transposed else 2] // t.cols)
        kernel = plgpu.kernel(
            partial(_kernel, form=form, p=p, t=t, transposed=transposed, sizes=sizes, groups=groups),
            out_type=jax.ShapeDtypeStruct((p.out_planes, x.shape[1], grid[1] * t.cols), x.dtype),
            grid=grid,
            grid_names=("m", "n"),
            scratch_types=(_shared(t.rows, t.cols), *decoded),
            compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
            **({} if self.interpret is None else {"interpret": self.interpret}),
        )  # fmt: skip
        return kernel(x, weight, h, outer)[:, : p.rows, : p.cols]


def _shared(*shape: int) -> Any:
    """Shared memory that the tensor cores read, or that leaves for device memory."""
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=TRANSFORMS)


def _kernel(
    x: Any, weight: Any, h: Any, outer: Any, y: Any, result: Any, *decoded: Any,
    form: Format, p: Product, t: Tiles, transposed: bool, sizes: tuple[int, int], groups: int,
) -> None:  # fmt: skip
    """One thread block: tile (m, n) of the output."""
    m, n = jax.lax.axis_index("m"), jax.lax.axis_index("n")
    oriented = (lambda ref: ref.transpose((1, 0))) if transposed else (lambda ref: ref)
    at = (lambda k: (n, k)) if transposed else (lambda k: (k, n))
    tiled = partial(plgpu.BlockSpec, transforms=TRANSFORMS)
    weight_specs = [plgpu.BlockSpec(sizes, at) if decoded else tiled(sizes, at)]
    if len(weight) > 1:
        weight_specs.append(
            plgpu.BlockSpec((groups, sizes[1]), at if form.group else lambda k: (0, at(k)[1]))
        )
    outer_sizes = (t.cols, UNIT) if transposed else (UNIT, t.cols)

    def run(*totals: Any) -> None:
        def weight_step(_: Any, x_tile: Any, *tile: Any) -> None:
            if decoded:
                _decode(tile, decoded, form)
            for i, plane in enumerate(decoded or tile):
                plgpu.wgmma(totals[i % p.out_planes], x_tile.at[i % p.in_planes], oriented(plane))
            plgpu.wgmma_wait(0)

        def rank_step(_: Any, h_tile: Any, outer_tile: Any) -> None:
            for i, total in enumerate(totals):
                plgpu.wgmma(total, h_tile, oriented(outer_tile.at[i]))
            plgpu.wgmma_wait(0)

        plgpu.emit_pipeline(
            weight_step,
            grid=(x.shape[2] // t.depth,),
            in_specs=[tiled((p.in_planes, t.rows, t.depth), lambda k: (0, m, k)), *weight_specs],
            max_concurrent_steps=t.stages,
        )(x, *weight)
        plgpu.emit_pipeline(
            rank_step,
            grid=(h.shape[1] // UNIT,),
            in_specs=[
                tiled((t.rows, UNIT), lambda r: (m, r)),
                tiled(
                    (p.out_planes, *outer_sizes), lambda r: (0, n, r) if transposed else (0, r, n)
                ),
            ],
            max_concurrent_steps=2,
        )(h, outer)
        for i, total in enumerate(totals):
            result[...] = total[...].astype(result.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(
                result, y.at[i, pl.ds(m * t.rows, t.rows), pl.ds(n * t.cols, t.cols)]
            )
            plgpu.wait_smem_to_gmem(0)

    pl.run_scoped(run, *(plgpu.ACC((t.rows, t.cols), jnp.float32) for _ in range(p.out_planes)))


def _decode(tile: Any, decoded: Any, form: Format) -> None:
    """The numbers of a tile of the weight, written to shared memory as the tensor cores want
    them."""
    stored, scales = tile
    codes = stored[...]
    spread = lambda g: jax.lax.broadcast_in_dim(scales[g], codes.shape, (1,))  # noqa: E731
    scale = spread(0)
    for g in range(1, scales.shape[0]):
        later = jax.lax.broadcasted_iota(jnp.int32, codes.shape, 0) >= g * form.group
        scale = jnp.where(later, spread(g), scale)
    for ref, plane in zip(decoded, form.decode(codes, scale, decoded[0].dtype), strict=True):
        ref[...] = plane
    plgpu.commit_smem()


def _pad(x: Any, *tiles: int) -> Any:
    """x with zeros up to multiples of these sizes, an axis each."""
    return jnp.pad(x, [(0, -size % tile) for size, tile in zip(x.shape, tiles, strict=True)])
