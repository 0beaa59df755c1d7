"""Frozen weights in fewer bits: a quantised weight stands in the parameter tree where an array stood.

`quant.matmul` multiplies by one, `quant.dense` gives the array back; `quant.nf4` and `quant.int8` make them.
"""

from lfl_jax.quant import int8, nf4
from lfl_jax.quant.int8 import Int8
from lfl_jax.quant.linear import Quantised, dense, dequantise, error, is_quantised, matmul, nbytes
from lfl_jax.quant.nf4 import NF4

__all__ = [
    "NF4",
    "Int8",
    "Quantised",
    "nf4",
    "int8",
    "matmul",
    "dense",
    "dequantise",
    "is_quantised",
    "nbytes",
    "error",
]
