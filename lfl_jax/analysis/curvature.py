"""The top eigenvalue of a loss's Hessian by what trains, at step 0 or at any state of a run.

A Hessian-vector product is the derivative of the gradient along the vector (forward over reverse);
`lanczos` finds the eigenvalue by such products.

"Learning rate matters" (arXiv 2602.04998) predicts an arm's best learning rate by it, measured at
step 0 for one adapted weight at a time; here it is of all that trains together.

At LoRA's start, where B = 0, the Hessian by (A, B) is special. With W + s A B and G the gradient by
W, its blocks are

    by A and A: 0        by A and B: s G, an entry of G for every pair        by B and B: s^2 A'HA

with H the Hessian by W. The loss does not depend on A as long as B is 0, so that the matrix is
indefinite wherever G is not 0. Its top eigenvalue mixes the size of the gradient with the curvature
that A's columns see. It is a property of the parametrisation, of scale and initialisation too. That
is what a learning rate acts on; it is not the curvature of the loss by W.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfl_jax import losses
from lfl_jax.analysis.lanczos import TopEigenvalue, top_eigenvalue
from lfl_jax.core import tree
from lfl_jax.core.pytree import PyTree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Batch, Key
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig

# (what trains, what is constant, a batch) -> the batch's share of the loss. Hashable, and equal
# for equal programs: it is compiled once for all runs of a shape.
Loss = Callable[[PyTree, PyTree, Batch], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class NLL:
    """The loss of training: nll per target token, in nats, without dropout and penalties.

    Constant are the frozen half and the number of targets in all batches.
    """

    cfg: ModelConfig
    rules: Rules | None = None

    def __call__(
        self, trainable: Model, constants: tuple[Model, Float[Array, ""]], batch: Batch
    ) -> Float[Array, ""]:
        """A batch's share: all batches together are one mean over targets."""
        frozen, targets = constants
        model = tree.combine(trainable, frozen)
        nll = losses.nll_sum(model.params, model.adapter, batch, self.cfg, rules=self.rules)
        return nll / targets


def of_model(
    trainable: Model,
    frozen: Model,
    batches: Sequence[Batch],
    cfg: ModelConfig,
    rules: Rules | None = None,
    **options: float | int | bool | Key,
) -> TopEigenvalue:
    """Of the training loss over these batches (B, T) by the trainable half, which is float32.

    options: those of `lanczos.top_eigenvalue`. UserError as it has, and without target tokens.
    """
    targets = sum((batch["weights"].sum() for batch in batches), jnp.float32(0))
    if not targets > 0:
        raise UserError("the curvature of a loss without target tokens does not exist")
    # In bfloat16 a second derivative would mostly be rounding.
    loss = NLL(dataclasses.replace(cfg, compute_dtype="float32"), rules)
    batches = list(map(with_plain_attention, batches))
    return of_loss(loss, trainable, (frozen, targets), batches, **options)


def of_loss(
    loss: Loss,
    trainable: PyTree,
    constants: PyTree,
    batches: Sequence[Batch],
    **options: float | int | bool | Key,
) -> TopEigenvalue:
    """Of any loss, summed over batches; options and errors as of `of_model`."""

    def product(vector: PyTree) -> PyTree:
        parts = [_product(loss, trainable, constants, batch, vector) for batch in batches]
        return jax.tree.map(lambda *x: sum(x), *parts)

    return top_eigenvalue(product, trainable, **options)


def with_plain_attention(batch: Batch) -> Batch:
    """The batch for a loss that is differentiated twice.

    An attention kernel of an accelerator brings its own derivative, which has none itself. Branch
    ids, all of one branch, ask for a mask that only the plain form takes.
    """
    return batch | {"branch_ids": jnp.zeros_like(batch["segment_ids"])}


@partial(jax.jit, static_argnames=("loss",))
def _product(
    loss: Loss, trainable: PyTree, constants: PyTree, batch: Batch, vector: PyTree
) -> PyTree:
    """The Hessian of one batch's share times a vector."""

    def gradient(x: PyTree) -> PyTree:
        return jax.grad(loss)(x, constants, batch)

    return jax.jvp(gradient, (trainable,), (vector,))[1]
