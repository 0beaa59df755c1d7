"""Frozen weights in fewer bits: a quantised weight stands in the parameter tree where an array
stood.

`quant.matmul` multiplies by one, `quant.dense` gives the array back; `quant.hold` makes them. A
format is a module with `quantise`, `dequantise`, `matmul`, `matmul_transposed` and `specs`, and an
entry of FORMATS.
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
