"""The largest eigenvalue of a symmetric matrix that is known by its products with vectors.

Lanczos builds an orthonormal basis from products. In it the matrix is a small one, whose
eigenvalues (Ritz values) approach the outermost ones of the large. Reorthogonalisation is full:
every vector is made orthogonal to all before it, twice (Parlett, The Symmetric Eigenvalue Problem,
1998, section 6.9). A full basis keeps its top vectors and goes on from there (thick restart; Wu and
Simon, SIAM Journal on Matrix Analysis 22, 2000).

Vectors are trees of float32 arrays, on whatever devices they are. Letters: K vectors of the basis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lfl_jax.core.pytree import PyTree
from lfl_jax.core.types import Key
from lfl_jax.errors import UserError
from lfl_jax.io.progress import progress

# Vectors in memory, each as large as what trains. A smaller basis needs more products.
BASIS = 24
# Ritz vectors that a full basis keeps.
KEPT = 4
PRODUCTS = 120
# Of the Ritz residual, relative to the eigenvalue.
TOLERANCE = 1e-3
# What products in float32 can resolve, relative to the largest absolute eigenvalue.
RESOLUTION = 1e-5


@dataclass(frozen=True)
class TopEigenvalue:
    """The largest eigenvalue of a matrix H, as far as it is known.

    residual: ||H v - value v|| of the unit vector v that it belongs to, by a product of its own;
    some eigenvalue lies within it. lowest: the lowest Ritz value; the lowest eigenvalue is no
    higher. products: of H with a vector, as many as it took. scalars: rows of H.
    """

    value: float
    residual: float
    lowest: float
    products: int
    scalars: int
    converged: bool

    def __str__(self) -> str:
        state = "converged" if self.converged else "NOT CONVERGED"
        return (
            f"top eigenvalue {self.value:.6g}, Ritz residual {self.residual:.2g} after"
            f" {self.products} products: {state}; lowest {self.lowest:.4g}; {self.scalars} scalars"
        )


def top_eigenvalue(
    product: Callable[[PyTree], PyTree],
    like: PyTree,
    *,
    key: Key | None = None,
    tolerance: float = TOLERANCE,
    products: int = PRODUCTS,
    basis: int = BASIS,
    show_progress: bool = False,
) -> TopEigenvalue:
    """The largest (not the largest absolute) eigenvalue of the matrix whose products these are.

    like: a tree with a vector's shapes. key: of the random vector to start from. At most `products`
    are made, and one for the residual: `converged` says whether that was enough. UserError for
    vectors without scalars, a basis that is too small, and products that are not finite.
    """
    scalars = sum(x.size for x in jax.tree.leaves(like))
    if not scalars:
        raise UserError("there is nothing that trains, so that there is no eigenvalue")
    if basis <= KEPT + 1:
        raise UserError(f"a basis of {basis} vectors; expected more than {KEPT + 1}")

    space = _Krylov.begin(_random(like, jax.random.key(0) if key is None else key), basis)
    with progress(products, "curvature", visible=show_progress) as advance:
        for _ in range(products):
            space.restart_if_full()
            space.add(product(space.next))
            ritz = space.ritz()
            advance(1, eigenvalue=ritz.value, residual=ritz.residual)
            # Half of it, so that rounding does not decide whether the last product confirms it. A
            # basis of the whole space has all eigenvalues.
            if ritz.residual <= 0.5 * ritz.limit(tolerance) or space.size == scalars:
                break
    return _confirmed(product, space, ritz, tolerance)


def _confirmed(
    product: Callable[[PyTree], PyTree], space: "_Krylov", ritz: "_Ritz", tolerance: float
) -> TopEigenvalue:
    """The result, with the residual of the vector itself and not that of the recurrence."""
    vector = space.vector(ritz)
    image = product(vector)
    value = float(_dot(vector, image))
    residual = float(_norm(jax.tree.map(lambda h, v: h - value * v, image, vector)))
    return TopEigenvalue(
        value,
        residual,
        ritz.lowest,
        space.products + 1,
        sum(x.size for x in jax.tree.leaves(vector)),
        residual <= ritz.limit(tolerance),
    )


class _Ritz(NamedTuple):
    """The top Ritz pair: its value, its residual, its vector's coordinates in the basis.

    lowest: Ritz value. scale: the largest absolute one.
    """

    value: float
    residual: float
    coordinates: Float[np.ndarray, " K"]
    lowest: float
    scale: float

    def limit(self, tolerance: float) -> float:
        """The residual up to which the eigenvalue counts as known."""
        return max(tolerance * abs(self.value), RESOLUTION * self.scale)


@dataclass
class _Krylov:
    """An orthonormal basis that grows, and the matrix H in it.

    vectors: V, stacked, 0 where there is none yet. projected: V'HV of the first `size`. next: the
    unit vector to be multiplied next. rest: the length of what the last product had outside of V.
    """

    vectors: PyTree
    projected: Float[np.ndarray, "K K"]
    next: PyTree
    size: int = 0
    products: int = 0
    rest: float = 0.0

    @classmethod
    def begin(cls, start: PyTree, capacity: int) -> "_Krylov":
        """With room for `capacity` vectors."""
        vectors = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), jnp.float32), start)
        return cls(vectors, np.zeros((capacity, capacity)), start)

    def add(self, image: PyTree) -> None:
        """Take `next` into the basis, given its product with H; UserError for NaN and infinity."""
        self.vectors = _put(self.vectors, self.size, self.next)
        self.size += 1
        self.products += 1
        coordinates, rest, length = _orthogonalise(self.vectors, image)
        column, self.rest = np.asarray(coordinates, np.float64)[: self.size], float(length)
        if not np.all(np.isfinite([*column, self.rest])):
            raise UserError("a Hessian-vector product is not finite: the loss is not, or nearly so")

        last = self.size - 1
        self.projected[: self.size, last] = self.projected[last, : self.size] = column
        # Where nothing is left the basis holds all that H leads to, and no product follows.
        self.next = jax.tree.map(lambda x: x / max(self.rest, 1e-30), rest)

    def ritz(self) -> _Ritz:
        """The top Ritz pair of the basis."""
        values, coordinates = np.linalg.eigh(self.projected[: self.size, : self.size])
        top, scale = coordinates[:, -1], float(np.abs(values).max())
        # H V = V (V'HV) + rest next e', so that only the last coordinate leads out of the basis.
        residual = self.rest * abs(float(top[-1]))
        return _Ritz(float(values[-1]), residual, top, float(values[0]), scale)

    def vector(self, ritz: _Ritz) -> PyTree:
        """A Ritz vector, of length 1."""
        combined = jax.tree.map(lambda x: x[0], self._combined(ritz.coordinates[:, None]))
        length = _norm(combined)
        return jax.tree.map(lambda x: x / length, combined)

    def restart_if_full(self) -> None:
        """Of a full basis, keep the top Ritz vectors; `next` is orthogonal to them already."""
        if self.size < len(self.projected):
            return
        values, coordinates = np.linalg.eigh(self.projected)
        self.vectors = self._combined(coordinates[:, -KEPT:])
        self.projected = np.zeros_like(self.projected)
        self.projected[:KEPT, :KEPT] = np.diag(values[-KEPT:])
        self.size = KEPT

    def _combined(self, coordinates: Float[np.ndarray, "K N"]) -> PyTree:
        """Vectors with these coordinates in the basis, its other places 0."""
        rows = np.zeros((len(self.projected),) * 2, np.float32)
        rows[: coordinates.shape[1], : len(coordinates)] = coordinates.T
        return jax.tree.map(lambda x: jnp.tensordot(rows, x, axes=1), self.vectors)


@jax.jit
def _put(vectors: PyTree, index: int | Array, vector: PyTree) -> PyTree:
    return jax.tree.map(lambda rows, x: rows.at[index].set(x), vectors, vector)


@jax.jit
def _orthogonalise(
    vectors: PyTree, image: PyTree
) -> tuple[Float[Array, " K"], PyTree, Float[Array, ""]]:
    """(coordinates in the basis, what is orthogonal to all of it, the length of that)."""
    first, rest = _without(vectors, image)
    # What rounding left of the basis in the rest is taken away once more.
    second, rest = _without(vectors, rest)
    return first + second, rest, _norm(rest)


def _without(vectors: PyTree, x: PyTree) -> tuple[Float[Array, " K"], PyTree]:
    def coordinates_of(rows: Float[Array, "K *shape"], leaf: Array) -> Float[Array, " K"]:
        return rows.reshape(len(rows), -1) @ leaf.ravel()

    coordinates = sum(jax.tree.leaves(jax.tree.map(coordinates_of, vectors, x)))
    rest = jax.tree.map(
        lambda rows, leaf: leaf - jnp.tensordot(coordinates, rows, axes=1), vectors, x
    )
    return coordinates, rest


def _random(like: PyTree, key: Key) -> PyTree:
    """A random direction, of length 1."""
    leaves, structure = jax.tree.flatten(like)
    pairs = zip(leaves, jax.random.split(key, len(leaves)), strict=True)
    drawn = [jax.random.normal(leaf_key, x.shape, jnp.float32) for x, leaf_key in pairs]
    vector = jax.tree.unflatten(structure, drawn)
    length = _norm(vector)
    return jax.tree.map(lambda x: x / length, vector)


def _dot(x: PyTree, y: PyTree) -> Float[Array, ""]:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y)))


def _norm(x: PyTree) -> Float[Array, ""]:
    return jnp.sqrt(_dot(x, x))
