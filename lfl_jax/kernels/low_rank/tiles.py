"""Tile sizes of the kernels as pure functions of shape, format, dtype and device kind.

Sizes are those of the product as the kernel runs it: N rows, a contracted axis (`depth`) and an
output axis (`cols`). Whichever of the two is I counts stored rows, I/2 for NF4.
"""

import dataclasses
import itertools
import math

# elements of a register's last axis on a TPU; on a Hopper GPU tiles of 64 and 128 fill a warp group
LANES = 128
MIB = 2**20
# of a TPU tile's axes: the compiler unrolls a tile, and takes minutes for larger ones
LARGEST = 1024

# On-chip memory a kernel may plan with, in bytes; an unknown device gets the least.
VMEM = {
    "TPU v4": 16 * MIB,
    "TPU v5 lite": 112 * MIB,
    "TPU v5": 56 * MIB,
    "TPU v6 lite": 112 * MIB,
    "TPU7x": 56 * MIB,
}
VMEM_LEAST = 14 * MIB
SMEM = {"NVIDIA A100": 164 * 1024}
SMEM_LEAST = 227 * 1024  # Hopper, and data-centre Blackwell

# FLOP/s of bf16 products and byte/s of device memory: only their quotient matters for the choice.
RATES = {
    "TPU v5 lite": (197e12, 0.82e12),
    "TPU v5": (459e12, 2.77e12),
    "TPU v6 lite": (918e12, 1.64e12),
}
RATES_OTHERWISE = (275e12, 1.2e12)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A grid step computes rows x cols of the output from rows x depth and depth x cols."""

    rows: int
    cols: int
    depth: int
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class Product:
    """x (in_planes, N, depth) W -> (out_planes, N, cols) with R ranks beside it.

    bytes_x, bytes_w: of an element of x and of W.
    """

    rows: int
    cols: int
    depth: int
    rank: int
    in_planes: int = 1
    out_planes: int = 1
    bytes_x: int = 2
    bytes_w: int = 2


def tpu(p: Product, device: str = "") -> Tiles:
    """The best of `shortlist_tpu`."""
    return shortlist_tpu(p, device)[0]


def shortlist_tpu(p: Product, device: str = "") -> list[Tiles]:
    """The tiles that fit VMEM, by modelled time; ties go to fewer grid steps."""
    # an unknown device gets tiles that fit every known one
    budget = VMEM.get(device, VMEM_LEAST)
    fitting = [t for t in _candidates(p) if vmem(p, t) <= budget]
    return sorted(fitting, key=lambda t: (seconds(p, t, device), _steps(p, t)))


def vmem(p: Product, t: Tiles) -> int:
    """Bytes of VMEM: two buffers of every block that moves, accumulators, and a decoded tile."""
    rank = _up(p.rank, LANES)

    # x and W; A and B; y, the routing and the residual x A
    moving = p.in_planes * t.rows * t.depth * p.bytes_x + t.depth * t.cols * p.bytes_w
    moving += rank * (p.in_planes * t.depth + p.out_planes * t.cols) * p.bytes_x
    moving += p.out_planes * t.rows * t.cols * p.bytes_x + 2 * t.rows * rank * p.bytes_x

    accumulators = 4 * t.rows * (p.out_planes * t.cols + rank)
    product = 4 * t.rows * t.cols  # of one step, before it is added
    planes = p.in_planes * p.out_planes
    # a quantised tile is decoded by way of an index and a level, 4 bytes each
    decoded = 0 if p.bytes_w >= p.bytes_x else t.depth * t.cols * planes * (4 + 4 + p.bytes_x)
    return t.stages * moving + accumulators + product + decoded


def _candidates(p: Product) -> list[Tiles]:
    # 16 rows of bfloat16 fill a register of a TPU
    rows = [r for r in (16, 32, 64, 128, 256, 512) if r < 2 * p.rows] or [16]
    wide = [_fit(p.cols, c) for c in (128, 256, 512)] + _divisors(p.cols)
    deep = [_fit(p.depth, d) for d in (128, 256, 512)] + _divisors(p.depth)
    return [Tiles(*sizes) for sizes in sorted(set(itertools.product(rows, wide, deep)))]


def _divisors(size: int) -> list[int]:
    """Tiles up to LARGEST that divide an axis.

    Of other tiles the last one is partly empty: computed in vain, and masked if contracted.
    """
    return [d for d in range(LANES, min(size, LARGEST) + 1, LANES) if size % d == 0]


def _fit(size: int, tile: int) -> int:
    """The tile, or the whole axis where it is no larger."""
    return size if size <= tile else tile


def _up(size: int, unit: int) -> int:
    return math.ceil(size / unit) * unit


def _steps(p: Product, t: Tiles) -> int:
    return math.ceil(p.rows / t.rows) * math.ceil(p.cols / t.cols) * math.ceil(p.depth / t.depth)


def seconds(p: Product, t: Tiles, device: str) -> float:
    """A roofline model of the kernel's time, with 0.35 us a grid step.

    W is read once per row tile, x once per column tile, and edges are computed in full.
    """
    flops, bandwidth = RATES.get(device, RATES_OTHERWISE)
    rows, cols, depth = _up(p.rows, t.rows), _up(p.cols, t.cols), _up(p.depth, t.depth)
    # FLOP, and bytes of W, x and y
    work = 2 * p.in_planes * p.out_planes * rows * cols * depth
    moved = rows // t.rows * cols * depth * p.bytes_w
    moved += p.bytes_x * rows * (cols // t.cols * depth * p.in_planes + p.out_planes * cols)
    # masking the edge of the contracted axis takes time of its own
    masked = 1.05 if depth != p.depth else 1.0
    return max(masked * work / flops, moved / bandwidth) + 0.35e-6 * _steps(p, t)


def gpu(p: Product, device: str = "") -> Tiles:
    """The first of `shortlist_gpu`."""
    return shortlist_gpu(p, device)[0]


def shortlist_gpu(p: Product, device: str = "") -> list[Tiles]:
    """The tiles that fit shared memory and divide the weight, larger ones and more stages first.

    A warp group holds the accumulators in registers, 128 x 128 float32 at most; decoding a tile
    takes as many again.
    """
    budget = SMEM.get(device, SMEM_LEAST)
    # a warp group multiplies 64 rows at a time
    rows = [r for r in (128, 64) if r == 64 or p.rows > 64]
    # decoding needs registers beside the accumulators: narrower tiles
    quantised = p.bytes_w < p.bytes_x
    cols = [c for c in (128, 64) if c == 64 or (p.cols % c == 0 and not quantised)]
    choices = [Tiles(r, c, 64, stages) for r in rows for c in cols for stages in (4, 3, 2)]
    return [t for t in choices if smem(p, t) <= budget]


def smem(p: Product, t: Tiles) -> int:
    """Bytes of shared memory: the larger of the two pipelines', the decoded W, the output tile.

    The pipelines, over the contracted axis and over the ranks, run one after the other.
    """
    # the tile of ranks is 64 wide, in two stages
    stage = p.in_planes * t.rows * t.depth * p.bytes_x + t.depth * t.cols * p.bytes_w
    ranks = 2 * 64 * (t.rows + p.out_planes * t.cols) * p.bytes_x
    quantised = p.bytes_w < p.bytes_x
    decoded = p.in_planes * p.out_planes * t.depth * t.cols * p.bytes_x if quantised else 0
    scales = t.stages * 4 * max(t.cols, t.depth) * 2 if quantised else 0
    return max(t.stages * stage + scales, ranks) + decoded + t.rows * t.cols * p.bytes_x
