"""Tiles of every Llama-2 product: they fit the chip, are shapes its compiler takes, and waste
little."""

import itertools
import math

import pytest

from lfl_jax.kernels.low_rank import tiles
from lfl_jax.kernels.low_rank.tiles import Product, Tiles

WIDTHS = {"7b": (4096, 11008), "13b": (5120, 13824), "70b": (8192, 28672)}
WEIGHTS = [pair for d, f in WIDTHS.values() for pair in ((d, d), (d, f), (f, d))]
FORMATS = {"dense": (1, 2), "int8": (1, 1), "nf4": (2, 1)}  # planes, bytes of a stored element


def products(rows, rank):
    """Both passes of every weight in every format."""
    for (inputs, outputs), (planes, size) in itertools.product(WEIGHTS, FORMATS.values()):
        stored = inputs // planes
        yield Product(rows, outputs, stored, rank, in_planes=planes, bytes_w=size)
        yield Product(rows, stored, outputs, rank, out_planes=planes, bytes_w=size)


@pytest.mark.parametrize("device", [*tiles.VMEM, "TPU v99"])
@pytest.mark.parametrize(("rows", "rank"), [(1, 16), (512, 16), (8191, 250)])
def test_on_a_tpu(device, rows, rank):
    for p in products(rows, rank):
        t = tiles.tpu(p, device)
        assert tiles.vmem(p, t) <= tiles.VMEM.get(device, tiles.VMEM_LEAST)
        for tile, size in ((t.cols, p.cols), (t.depth, p.depth)):
            assert tile % tiles.LANES == 0 or tile == size
        assert t.rows % 16 == 0 and t.rows < 2 * max(rows, 16)
        computed = math.prod(
            math.ceil(size / tile) * tile for size, tile in ((p.cols, t.cols), (p.depth, t.depth))
        )
        assert rows <= 512 or computed <= 1.06 * p.cols * p.depth, (
            "edges, where the products take the time"
        )


def test_an_axis_of_43_lanes_squared_is_covered():
    """11008 = 2^8 · 43 and its half have no large power of two; tiles of both leave little over."""
    for p in (
        Product(8192, 4096, 11008, 16),
        Product(8192, 4096, 5504, 16, in_planes=2, bytes_w=1),
    ):
        depth = tiles.tpu(p, "TPU v5 lite").depth
        assert depth >= 256 and math.ceil(p.depth / depth) * depth <= 1.03 * p.depth


def test_more_memory_is_never_slower():
    for p in products(8192, 64):
        less, more = (
            tiles.seconds(p, tiles.tpu(p, device), "TPU v6 lite")
            for device in ("TPU v4", "TPU v6 lite")
        )
        assert more <= less


def test_blocks_that_move_lie_in_memory_once_a_stage():
    p = Product(512, 4096, 4096, 16)
    two, three = (tiles.vmem(p, Tiles(128, 256, 256, stages)) for stages in (2, 3))
    # x, W, y; A, B, h, routing
    wide, narrow = 128 * 256 + 256 * 256 + 128 * 256, tiles.LANES * (256 + 256 + 128 + 128)
    assert three - two == 2 * (wide + narrow)


def test_a_small_weight_is_one_tile():
    assert tiles.tpu(Product(20, 96, 48, 4), "TPU v4") == Tiles(32, 96, 48)


@pytest.mark.parametrize("device", ["NVIDIA H200", "NVIDIA A100"])
@pytest.mark.parametrize(("rows", "rank"), [(1, 16), (64, 64), (8192, 256)])
def test_on_a_gpu(device, rows, rank):
    for p in products(rows, rank):
        t = tiles.gpu(p, device)
        assert tiles.smem(p, t) <= tiles.SMEM.get(device, tiles.SMEM_LEAST)
        assert p.cols % t.cols == p.depth % t.depth == 0, "no copy of a Llama-2 weight"
        assert t.rows % 64 == t.cols % 64 == t.depth % 64 == 0 and t.stages >= 2


def test_on_a_gpu_a_weight_that_wide_tiles_do_not_divide_takes_narrow_ones():
    for cols, tile in ((256, 128), (192, 64)):
        assert (
            max(t.cols for t in tiles.shortlist_gpu(Product(512, cols, 512, 16), "NVIDIA H200"))
            == tile
        )
