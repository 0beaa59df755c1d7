"""Training in a random subspace (Li et al., arXiv 1804.08838): theta = theta_0 + P z.

theta is all adapted weights together, D numbers, and P (D, d) is random and frozen. All that trains
is z (d,), which every adapted weight shares. The d that is enough for 90 % of full finetuning's
score is the intrinsic dimension (Aghajanyan et al., arXiv 2012.13255, whose DID this is).

P is never stored: a weight's rows of it are computed from a key of its own, two integers, in
O(I O log d). They are orthogonal blocks of d' rows, d' being the power of two at or above d: three
rounds of random signs and a Hadamard transform (Yu et al., arXiv 1610.09072), of which the first d
columns are used. So the columns of P are orthonormal where d' divides the size of every adapted
weight, and have unit norm on average elsewhere. Fastfood (Le et al., ICML 2013), which the papers
use, costs as much (a permutation and a Gaussian diagonal in place of signs); its columns have unit
norm and are orthogonal on average only.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.kind import Kind, Shared
from lfl_jax.adapters.placement import Placement, gain_spec
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import Key, Weight
from lfl_jax.errors import UserError
from lfl_jax.kernels.linear.reference import matmul

# Of signs and a transform: one leaves the columns of a block alike, three are close to Gaussian.
ROUNDS = 3
# A large transform is products with Hadamard matrices of at most this size, one for each factor.
LARGEST_FACTOR = 32
# Part of the meaning of a saved adapter: another generator would be another P.
GENERATOR = "threefry2x32"


@struct.dataclass
class Subspace(Kind):
    """One weight's rows of P, as the key that they are computed from."""

    constants: ClassVar[tuple[str, ...]] = ("key", "gain")
    shared_trained: ClassVar[tuple[str, ...]] = ("subspace/z",)
    ranked: ClassVar[bool] = False
    key: Any  # (2,), uint32
    gain: Any  # (1,): 0 where a layer of the stack is not adapted
    fan_in: int = struct.field(pytree_node=False)
    fan_out: int = struct.field(pytree_node=False)
    # z times the length of the blocks' columns, after `with_shared` only
    z: Any = None  # (d,)

    @classmethod
    def specs(cls, weight: ArraySpec, placement: Placement) -> "Subspace":
        """Specs beside a stacked weight (L, I, O)."""
        layers, fan_in, fan_out = weight.shape
        key = ArraySpec((layers, 2), (weight.axes[0], "activation"), _draw_keys, jnp.uint32)
        return cls(key=key, gain=gain_spec(weight, placement), fan_in=fan_in, fan_out=fan_out)

    @classmethod
    def shared_specs(
        cls, weights: Sequence[ArraySpec], placements: Sequence[Placement]
    ) -> dict[str, ArraySpec]:
        """z, and the factor that makes columns of P unit vectors; UserError where d > D."""
        dimension = placements[0].config.subspace_dim
        pairs = zip(weights, placements, strict=True)
        # D: only the layers of a stack that are adapted
        total = sum(np.count_nonzero(p.ranks) * math.prod(w.shape[1:]) for w, p in pairs)
        if dimension > total:
            raise UserError(
                f"config.adapter.subspace_dim={dimension} is more than the {total} numbers of the"
                " adapted weights; a subspace has at most as many dimensions"
            )
        # Each of the D / d' blocks has columns of length 1.
        length = np.array([math.sqrt(block_size(dimension) / total)], np.float32)
        return {
            "z": ArraySpec((dimension,), ("activation",), initializers.zeros),
            "length": ArraySpec((1,), ("activation",), spec.Constant(length)),
        }

    def weight_shape(self) -> tuple[int, ...]:
        """As many layers as there are keys."""
        return (*self.key.shape[:-1], self.fan_in, self.fan_out)

    def with_shared(self, shared: Shared) -> "Subspace":
        """With z, scaled by the length of a block's columns."""
        return self.replace(z=shared["subspace"]["z"] * shared["subspace"]["length"])

    def change(
        self, x: Float[Array, "*N I"], y: Float[Array, "*N O"] | None, w: Weight
    ) -> Float[Array, "*N O"]:
        """dy = x dW; dW of one layer exists while it is used."""
        return matmul(x, self.delta(w).astype(x.dtype))

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        """dW in float32: this weight's rows of P z, in the order of its entries."""
        rows = rows_times(self.z, self.key, self.fan_in * self.fan_out)
        return self.gain * rows.reshape(self.fan_in, self.fan_out)

    def precompute_for_inference(self, w: Weight) -> FullDelta:
        """dW itself, which else is computed at every step of decoding."""
        return FullDelta(dw=self.delta(w), gain=jnp.ones_like(self.gain))

    def effective_size(self) -> Int[Array, ""]:
        """None of its own: z is counted once for all layers."""
        return jnp.int32(0)


def _draw_keys(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> UInt32[Array, "L 2"]:
    return jax.random.bits(key, shape, dtype)


def block_size(dimension: int) -> int:
    """d', the power of two at or above d."""
    return 1 << (dimension - 1).bit_length()


# Differentiating it needs the signs, which are as many as the weight has entries, three times: they
# are drawn again in the backward pass, and not stored for every layer.
@functools.partial(jax.checkpoint, static_argnums=2)
def rows_times(z: Float[Array, " d"], key: UInt32[Array, " 2"], rows: int) -> Float[Array, " N"]:
    """The first `rows` rows of blocks B_1, B_2, ... times z.

    B_k is the first d columns of H S3 H S2 H S1 (d', d'), with H the orthonormal Hadamard matrix
    and S diagonal with random signs, others for every block.
    """
    size = block_size(len(z))
    blocks = -(-rows // size)  # rounded up
    x = jnp.broadcast_to(jnp.pad(z, (0, size - len(z))), (blocks, size))
    for signs in random_signs(key, (ROUNDS, blocks, size)):
        x = hadamard(x * signs)
    return x.reshape(-1)[:rows]


def random_signs(key: UInt32[Array, " 2"], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """1 or -1, from the bits of random words, lowest bit first."""
    count = math.prod(shape)
    generator = jax.random.wrap_key_data(key, impl=GENERATOR)
    # a bit is enough for a sign: 32 of them for each word that is drawn
    words = jax.random.bits(generator, (-(-count // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return 1.0 - 2.0 * bits.reshape(-1)[:count].reshape(shape).astype(jnp.float32)


def hadamard(x: Float[Array, "*N S"]) -> Float[Array, "*N S"]:
    """x H / sqrt(S), with Sylvester's H (S, S); S is a power of two."""
    # Imported where it is used: scipy would take a tenth of every start.
    from scipy import linalg

    size = x.shape[-1]
    # Sylvester's matrix of a product is the Kronecker product: one small matrix for each factor.
    sides = _factors(size)
    y = x.reshape(*x.shape[:-1], *sides)
    for side in sides:
        # the first factor's axis goes, and comes back as the last
        matrix = jnp.asarray(linalg.hadamard(side), x.dtype)
        y = jnp.tensordot(y, matrix, (x.ndim - 1, 0), precision=jax.lax.Precision.HIGHEST)
    return y.reshape(x.shape) / math.sqrt(size)


def _factors(size: int) -> list[int]:
    """Powers of two, LARGEST_FACTOR at most, whose product is `size`."""
    factors = []
    while size > LARGEST_FACTOR:
        factors.append(LARGEST_FACTOR)
        size //= LARGEST_FACTOR
    return [*factors, size]
