"""A weight whose transpose is stored: an output unit a row, as an embedding is."""

from typing import Any

import numpy as np
from flax import struct

from lfl_jax.core.pytree import Node


@struct.dataclass
class Transposed(Node):
    """A weight (I, O) held as rows (O, I), which a CPU multiplies few tokens by faster."""

    rows: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, O), as an array of the weight has it."""
        return self.rows.shape[::-1]

    @property
    def dtype(self) -> np.dtype:
        """That of the rows."""
        return self.rows.dtype
