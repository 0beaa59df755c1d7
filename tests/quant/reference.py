"""NF4, its second level, and int8 in plain numpy: blocks are runs of a torch weight (out, in), read
row by row."""

import itertools
import math

import numpy as np

NEGATIVE = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
]
NEGATIVE += [-0.18477343022823334, -0.09105003625154495]
POSITIVE = [
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
]
POSITIVE += [0.5626170039176941, 0.7229568362236023, 1.0]
LEVELS = np.array([*NEGATIVE, 0.0, *POSITIVE], np.float32)
TINY = np.finfo(np.float32).tiny


def dynamic_map(max_exponent_bits=7):
    """The published loop over exponents: fewer exponent bits in use leave more for the fraction."""
    values = [0.0, 1.0]
    for i in range(max_exponent_bits):
        boundaries = np.linspace(0.1, 1, 2**i + 1)
        for low, high in itertools.pairwise(boundaries):
            magnitude = 10.0 ** (i - max_exponent_bits + 1) * (low + high) / 2
            values += [magnitude, -magnitude]
    return np.array(sorted(values), np.float32)


def nearest(x, levels):
    """Index of the closest level, the lower of two equally close."""
    return np.abs(x[..., None].astype(np.float64) - levels).argmin(-1)


def tie_distance(x, levels):
    """How far x is from the closest point halfway between two levels."""
    return np.abs(
        x[..., None].astype(np.float64) - (levels[1:].astype(np.float64) + levels[:-1]) / 2
    ).min(-1)


def blocks_of(w):
    """(O, J, 64) of a weight (I, O): the inputs of each output unit in blocks, the last filled with
    zeros."""
    rows, columns = w.shape
    full = np.zeros((columns, -(-rows // 64) * 64), np.float32)
    full[:, :rows] = w.T
    return full.reshape(columns, -1, 64)


def nf4(w):
    """(index of every level (O, J, 64), absmax (O, J), w / absmax) of one weight (I, O)."""
    blocks = blocks_of(w)
    absmax = np.maximum(np.abs(blocks).max(-1), TINY)
    scaled = blocks / absmax[..., None]
    return nearest(scaled, LEVELS), absmax, scaled


def second_level(absmax):
    """(codes (O, J), scale (S,), offset, what was rounded (O, J)) of absmax (O, J), runs of 256 in
    its own order."""
    offset = absmax.mean(dtype=np.float64).astype(np.float32)
    centred = (absmax - offset).reshape(-1)
    scale, scaled = [], np.zeros_like(centred)
    for start in range(0, centred.size, 256):
        run = centred[start : start + 256]
        scale.append(max(np.abs(run).max(), TINY))
        scaled[start : start + 256] = run / scale[-1]
    codes = nearest(scaled, dynamic_map())
    return (
        codes.reshape(absmax.shape),
        np.array(scale, np.float32),
        offset,
        scaled.reshape(absmax.shape),
    )


def restored_absmax(codes, scale, offset):
    """absmax (O, J) from its second level."""
    flat = dynamic_map()[codes.reshape(-1)] * np.repeat(scale, 256)[: codes.size] + offset
    return flat.reshape(codes.shape)


def weight(index, absmax, rows):
    """The weight (I, O) of level indices and absmax."""
    blocks = LEVELS[index] * absmax[..., None]
    return blocks.reshape(len(blocks), -1)[:, :rows].T


def unpack(codes):
    """Level indices (O, J, 64) of bytes (J * 32, O): the high nibble is the earlier row."""
    index = np.empty((2 * codes.shape[0], codes.shape[1]), np.uint8)
    index[0::2], index[1::2] = codes // 16, codes % 16
    return index.T.reshape(codes.shape[1], -1, 64)


def int8(w):
    """(codes (I, O), scale (O,), what was rounded) of one weight (I, O)."""
    scale = np.maximum(np.abs(w).max(0) / np.float32(127), TINY)
    return np.round(w / scale).astype(np.int8), scale, w / scale


def gaussian_error(block=64):
    """Relative error that NF4 makes of independent Gaussian weights, by integration.

    Given the largest |w| of a block, m, the others are Gaussians cut at m, and the largest itself
    is exact. So the squared error is (block - 1) / block times the mean over m, whose density is
    block (2 Phi(m) - 1)^(block - 1) 2 phi(m), of the mean over |x| < m of (x - m level(x / m))^2.
    """
    x = np.linspace(-1, 1, 4001)
    miss = (x - LEVELS[nearest(x, LEVELS)]) ** 2
    total = mass = 0.0
    for m in np.linspace(0.5, 6.5, 600):
        density = np.exp(-((m * x) ** 2) / 2)
        inside = math.erf(m / math.sqrt(2))
        weight_m = inside ** (block - 1) * math.exp(-(m**2) / 2)
        total += weight_m * m**2 * (miss * density).sum() / density.sum()
        mass += weight_m
    return math.sqrt((block - 1) / block * total / mass)
