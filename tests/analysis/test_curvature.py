"""The top Hessian eigenvalue by Lanczos against a dense Hessian: of a tiny model, LoRA and full.

python -m pytest -m slow tests/analysis/test_curvature.py      1 minute
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import adapter_for, packed
from jax.flatten_util import ravel_pytree

from lfl_jax import state
from lfl_jax.analysis import curvature
from lfl_jax.core import spec, tree
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

TINY = ModelConfig(
    vocab_size=8,
    d_model=6,
    n_layers=1,
    n_heads=1,
    n_kv_heads=1,
    head_dim=6,
    d_ff=6,
    tied=True,
    max_seq_len=16,
)
# Of different numbers of targets: a mean over batches is not the mean of their means.
LENGTHS = ([[5, 7], [12, 2]], [[3, 2], [4, 1]])
# Of which the tests build the whole Hessian.
TRAINABLE = {
    "lora": ("adapter/.*",),
    "full": ("params/layers/.*", "params/final_norm"),
}


@pytest.fixture(scope="module")
def batches():
    rows = [packed(lengths, 16, TINY.vocab_size, seed=i) for i, lengths in enumerate(LENGTHS)]
    return [{name: jnp.asarray(x) for name, x in batch.items()} for batch in rows]


@pytest.fixture(scope="module")
def params():
    drawn = spec.init(llama.specs(TINY), jax.random.key(0))
    # Weights and embedding, so that every part matters; norms, which are stacked, stay 1.
    return jax.tree.map(lambda x: x * 20 if x.std() > 0 else x, drawn)


def halves(params, kind, trained=False):
    """(what trains, the frozen half): an adapter of rank 2 on q and down, or all of the layer."""
    targets = ("q", "down")
    options = {"rank": 2, "targets": targets, "trained": trained}
    adapter = adapter_for(TINY, params, "lora", **options) if kind == "lora" else {}
    model = Model(params=params, adapter=adapter)
    current, frozen = state.create(model, TRAINABLE[kind], optax.sgd(0.1))
    return current.trainable, frozen


def plain_loss(trainable, frozen, batches):
    """The mean nll as it is written down, of whole logits."""
    model, total, targets = tree.combine(trainable, frozen), 0.0, 0.0
    for batch in batches:
        names = ("positions", "segment_ids")
        where = {name: batch[name] for name in names}
        hidden, _ = llama.forward(model.params, model.adapter, batch["tokens"], TINY, **where)
        log_p = jax.nn.log_softmax(llama.logits(model.params, hidden))
        nll = -jnp.take_along_axis(log_p, batch["targets"][..., None], axis=-1)[..., 0]
        total, targets = total + jnp.sum(nll * batch["weights"]), targets + batch["weights"].sum()
    return total / targets


def dense(trainable, frozen, batches):
    """The whole Hessian in float64, and where each leaf's scalars are in it."""
    flat, unravel = ravel_pytree(trainable)
    hessian = jax.jit(jax.hessian(lambda x: plain_loss(unravel(x), frozen, batches)))(flat)
    at, start = {}, 0
    for path, x in tree.items(trainable):
        at[path] = slice(start, start + x.size)
        start += x.size
    return np.asarray(hessian, np.float64), at


@pytest.fixture(scope="module")
def full_hessian(params, batches):
    return dense(*halves(params, "full"), batches)


@pytest.fixture(scope="module")
def lora_hessian(params, batches):
    return dense(*halves(params, "lora"), batches)


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_it_is_the_largest_eigenvalue_of_the_dense_hessian(kind, params, batches, request):
    hessian, _ = request.getfixturevalue(f"{kind}_hessian")
    eigenvalues = np.linalg.eigh(hessian)[0]
    top = curvature.of_model(*halves(params, kind), batches, TINY, tolerance=1e-4)
    assert top.converged and top.scalars == len(hessian)
    np.testing.assert_allclose(top.value, eigenvalues[-1], rtol=1e-4)
    assert eigenvalues[0] * 1.0001 <= top.lowest < 0


@pytest.mark.slow
def test_a_small_basis_that_starts_again_gets_there_too(params, batches, full_hessian):
    top = curvature.of_model(*halves(params, "full"), batches, TINY, basis=6, tolerance=1e-4)
    assert top.converged and top.products > 8
    np.testing.assert_allclose(top.value, np.linalg.eigvalsh(full_hessian[0])[-1], rtol=1e-4)


def test_it_says_so_where_it_has_not_converged(params, batches):
    top = curvature.of_model(*halves(params, "lora"), batches, TINY, products=2)
    assert not top.converged and top.residual > 1e-3 * abs(top.value)
    assert "NOT CONVERGED" in str(top) and top.products == 3


@pytest.mark.slow
def test_the_hessian_at_lora_s_start_is_special(params, lora_hessian, full_hessian):
    """With B = 0: nothing by A and A, the gradient by A and B, A'HA by B and B."""
    hessian, at = lora_hessian
    full, full_at = full_hessian
    trainable, frozen = halves(params, "lora")
    layer = tree.combine(trainable, frozen).adapter["layers"]["attn"]["q"]
    a, scale = np.asarray(layer.a[0], np.float64), float(layer.scale[0, 0])
    d, r = a.shape

    of_a, of_b = (at[f"adapter/layers/attn/q/{name}"] for name in "ab")
    assert np.abs(hessian[of_a, of_a]).max() < 1e-6 < np.abs(hessian[of_a, of_b]).max()

    q = full_at["params/layers/attn/q"]
    by_w = full[q, q].reshape(d, d, d, d)
    by_b = scale**2 * np.einsum("ir,iojp,js->rosp", a, by_w, a).reshape(r * d, r * d)
    np.testing.assert_allclose(hessian[of_b, of_b], by_b, atol=1e-5 * np.abs(by_b).max() + 1e-7)
    lowest, highest = np.linalg.eigvalsh(hessian)[[0, -1]]
    assert lowest < 0 < highest, "indefinite, as long as there is a gradient"


@pytest.mark.slow
def test_at_any_other_state(params, batches):
    """Of trained factors: the loss along the eigenvector bends by the eigenvalue."""
    trainable, frozen = halves(params, "lora", trained=True)
    hessian, _ = dense(trainable, frozen, batches)
    values, vectors = np.linalg.eigh(hessian)
    top = curvature.of_model(trainable, frozen, batches, TINY)
    np.testing.assert_allclose(top.value, values[-1], rtol=1e-3)

    flat, unravel = ravel_pytree(trainable)
    direction = jnp.asarray(vectors[:, -1], jnp.float32)
    loss = jax.jit(lambda x: plain_loss(unravel(x), frozen, batches))
    step = 0.05
    down, here, up = (float(loss(flat + t * step * direction)) for t in (-1, 0, 1))
    np.testing.assert_allclose((up - 2 * here + down) / step**2, top.value, rtol=0.05)


@pytest.mark.slow
def test_it_is_computed_in_float32(params, batches):
    half = dataclasses.replace(TINY, compute_dtype="bfloat16")
    trainable, frozen = halves(params, "lora")
    got, want = (curvature.of_model(trainable, frozen, batches, cfg) for cfg in (half, TINY))
    assert got == want


def quadratic(x, constants, batch):
    return 0.5 * x @ constants @ x * batch["weights"].sum()


@pytest.mark.parametrize("size", [1, 40])
def test_a_quadratic_s_eigenvalue(size):
    """Of a planted spectrum whose lowest eigenvalue is the largest in size."""
    rng = np.random.default_rng(size)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    spectrum = np.r_[2.0, np.linspace(1.5, -3.0, size - 1)]
    matrix = jnp.asarray((basis * spectrum) @ basis.T, jnp.float32)
    half = {"weights": jnp.full(2, 0.25)}
    top = curvature.of_loss(quadratic, jnp.zeros(size), matrix, [half, half], tolerance=1e-5)
    np.testing.assert_allclose(top.value, 2.0, rtol=1e-5)
    assert top.converged and top.residual < 1e-4


def test_a_flat_loss_has_eigenvalue_zero():
    flat = curvature.of_loss(quadratic, jnp.ones(5), jnp.zeros((5, 5)), [{"weights": jnp.ones(1)}])
    assert flat.value == flat.residual == 0 and flat.converged


def test_what_cannot_be_measured_is_refused(params, batches):
    trainable, frozen = halves(params, "lora")
    nothing = jax.tree.map(lambda _: None, trainable)
    with pytest.raises(UserError, match="nothing that trains"):
        curvature.of_model(nothing, frozen, batches, TINY)
    unweighted = [batch | {"weights": 0 * batch["weights"]} for batch in batches]
    with pytest.raises(UserError, match="without target tokens"):
        curvature.of_model(trainable, frozen, unweighted, TINY)
    with pytest.raises(UserError, match="basis of 5"):
        curvature.of_model(trainable, frozen, batches, TINY, basis=5)
    infinite = jnp.full((2, 2), jnp.inf)
    with pytest.raises(UserError, match="not finite"):
        curvature.of_loss(quadratic, jnp.ones(2), infinite, [{"weights": jnp.ones(1)}])
