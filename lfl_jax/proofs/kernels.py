"""Kernels against their plain forms, interpreted where no device here runs them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.core.types import Weight
from lfl_jax.kernels.attention.blocked import blocked
from lfl_jax.kernels.attention.reference import reference
from lfl_jax.kernels.linear_cross_entropy.reference import naive_sum, weighted_nll_sum
from lfl_jax.kernels.low_rank import low_rank_projection
from lfl_jax.kernels.low_rank.reference import Implementation
from lfl_jax.kernels.low_rank.tiles import Tiles
from lfl_jax.proofs.finding import Finding, at_most
from lfl_jax.proofs.reduced import ReducedRun

# By dtype, the bound on the relative error.
FLOATS = {"float32": 1e-5, "bfloat16": 1e-2}
# Several tiles in every axis, and no size a multiple of one.
ROWS, INPUTS, OUTPUTS, RANK = 21, 140, 130, 5
LONG = 150  # tokens of a row: more than a block of attention, and than a chunk of the loss

Arrays = list[ArrayLike]


def check(run: ReducedRun) -> Finding:
    """Values and gradients of the kernels are their plain forms', where one can run here."""
    form = run.config.model.base_dtype
    quantise = quant.FORMATS[form].quantise if form in quant.FORMATS else lambda w: w
    kernel, dtype, how = _kernel()
    given = projection_inputs(quantise, dtype)
    computed = {
        f"low-rank projection ({how})": (
            FLOATS[dtype],
            projected(kernel, *given),
            projection_formulas(*given),
        ),
        "attention in blocks": (FLOATS["float32"], *_attention()),
        "loss in chunks": (FLOATS["float32"], *_loss()),
    }
    errors = {name: (_largest(*pair), bound) for name, (bound, *pair) in computed.items()}
    # In units of its bound, since each dtype has one of its own.
    worst = max(errors, key=lambda name: errors[name][0] / errors[name][1])
    return at_most(*errors[worst], "relative", f"{', '.join(errors)}; {worst}")


def _largest(computed: Sequence[ArrayLike], wanted: Sequence[ArrayLike]) -> float:
    return max(distance(x, y) for x, y in zip(computed, wanted, strict=True))


def _kernel() -> tuple[Implementation, str, str]:
    """(the kernel of this machine, the dtype it computes in, how it runs)."""
    platform = jax.default_backend()
    if platform == "gpu":
        from lfl_jax.kernels.low_rank.pallas_gpu import PallasGPU

        return PallasGPU(tiles=Tiles(64, 64, 64)), "bfloat16", "GPU"
    from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU

    is_here = platform == "tpu"
    kernel = PallasTPU(tiles=Tiles(16, 128, 128), interpret=not is_here)
    return kernel, "float32", "TPU" if is_here else "TPU, interpreted"


def projection_inputs(quantise: Callable[[jax.Array], Weight], dtype: str) -> Arrays:
    """x, w, a, b, routing and dy."""
    rng = np.random.default_rng(0)
    sizes = {"x": (ROWS, INPUTS), "w": (INPUTS, OUTPUTS), "a": (INPUTS, RANK)}
    sizes |= {"b": (RANK, OUTPUTS), "routing": (ROWS, RANK), "dy": (ROWS, OUTPUTS)}
    values = {name: jnp.asarray(rng.normal(size=size), dtype) for name, size in sizes.items()}
    return list((values | {"w": quantise(values["w"])}).values())


def projection_formulas(
    x: ArrayLike,
    w: Weight,
    a: ArrayLike,
    b: ArrayLike,
    routing: ArrayLike | None,
    dy: ArrayLike,
) -> list[Float[np.ndarray, "..."]]:
    """y, dx, dA, dB, d routing by their formulas in float64, W dequantised."""
    x, w, a, b, dy = (np.asarray(v, np.float64) for v in (x, quant.dense(w), a, b, dy))
    g = np.ones((len(x), a.shape[1])) if routing is None else np.asarray(routing, np.float64)
    h, back = x @ a, dy @ b.T
    formulas = [x @ w + (h * g) @ b, dy @ w.T + (back * g) @ a.T, x.T @ (back * g), (h * g).T @ dy]
    return formulas if routing is None else [*formulas, h * back]


def projected(
    implementation: Implementation | str,
    x: Array,
    w: Weight,
    a: Array,
    b: Array,
    routing: Array | None,
    dy: Array,
) -> tuple[Array, ...]:
    """y and the gradients of what is differentiated, W not among it."""

    @jax.jit
    def run(w: Weight, dy: Array, *learned: Array) -> tuple[Array, ...]:
        def project(x: Array, a: Array, b: Array, *routing: Array) -> Array:
            return low_rank_projection(x, w, a, b, *routing, implementation=implementation)

        y, pull = jax.vjp(project, *learned)
        return y, *pull(dy)

    return run(w, dy, x, a, b, *(() if routing is None else (routing,)))


def distance(got: ArrayLike, want: ArrayLike) -> float:
    """||got - want|| / ||want||, or ||got|| where nothing is wanted."""
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    return float(np.linalg.norm(got - want) / (np.linalg.norm(want) or 1))


def _attention() -> tuple[Arrays, Arrays]:
    """Outputs and gradients of attention in blocks, and of its plain form."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, LONG, n, 8)), "float32") for n in (4, 2, 2))
    segments = np.sort(rng.integers(1, 4, (2, LONG)), axis=1)
    mask = np.tril(np.ones((LONG, LONG), bool)) & (segments[:, :, None] == segments[:, None])
    function = lambda form, *x: jnp.sin(form(*x, jnp.asarray(mask)))  # noqa: E731
    return _both(function, (blocked, reference), (q, k, v))


def _loss() -> tuple[Arrays, Arrays]:
    """The loss in chunks and its gradients, and with all logits at once."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, LONG, 8)), "float32")
    head = jnp.asarray(rng.normal(size=(40, 8)), "float32")
    targets = jnp.asarray(rng.integers(0, 40, (2, LONG)), "int32")
    weights = jnp.asarray(rng.random((2, LONG)) < 0.6, "float32")
    function = lambda form, *x: form(*x, targets, weights)  # noqa: E731
    return _both(function, (weighted_nll_sum, naive_sum), (hidden, head))


def _both(
    function: Callable[..., Array], forms: tuple[Callable, Callable], args: tuple[Array, ...]
) -> tuple[Arrays, Arrays]:
    """Values and gradients by every argument, with each of the two forms."""

    def of(form: Callable) -> Arrays:
        value, pull = jax.vjp(lambda *x: function(form, *x), *args)
        return [value, *pull(jnp.ones_like(value))]

    return of(forms[0]), of(forms[1])
