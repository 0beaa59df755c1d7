"""Frozen weights in fewer bits: in the parameter tree, a quantised weight replaces an array.

`quant.matmul` multiplies by one, `quant.dense` returns the array; `quant.hold` quantises. A format
is a module with `quantise`, `dequantise`, `matmul`, `matmul_transposed` and `specs`, and an entry
of FORMATS.
"""

from lfl_jax.quant import int8, nf4
from lfl_jax.quant.int8 import Int8
from lfl_jax.quant.linear import (
    FORMATS,
    Quantised,
    dense,
    dequantise,
    error,
    hold,
    is_quantised,
    matmul,
    matmul_transposed,
    nbytes,
    require_dense,
)
from lfl_jax.quant.nf4 import NF4

__all__ = [
    "FORMATS",
    "NF4",
    "Int8",
    "Quantised",
    "nf4",
    "int8",
    "matmul",
    "matmul_transposed",
    "dense",
    "dequantise",
    "is_quantised",
    "nbytes",
    "error",
    "hold",
    "require_dense",
]
