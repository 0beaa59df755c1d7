"""Every implementation of the low-rank projection against the formulas in float64: values,
gradients, residuals."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from lfl_jax import quant
from lfl_jax.errors import UserError
from lfl_jax.kernels.low_rank import low_rank_projection, projection
from lfl_jax.kernels.low_rank.pallas_gpu import PallasGPU
from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU
from lfl_jax.kernels.low_rank.reference import XLA, Implementations
from lfl_jax.kernels.low_rank.tiles import Tiles
from lfl_jax.proofs.kernels import FLOATS, distance, projected, projection_formulas

INTERPRETER = getattr(plgpu, "InterpretGPUParams", None)
ON_GPU = pytest.mark.skipif(
    INTERPRETER is None,
    reason=f"the GPU kernel is interpreted by jax 0.11 or newer, this is {jax.__version__}",
)

# By name, an implementation with several tiles in every axis.
IMPLEMENTATIONS = {
    "xla": lambda: XLA(),
    "pallas_tpu": lambda: PallasTPU(tiles=Tiles(16, 128, 128), interpret=True),
    "pallas_gpu": lambda: PallasGPU(tiles=Tiles(64, 64, 64), interpret=INTERPRETER()),
}
CASES = [
    pytest.param(name, dtype, marks=ON_GPU if name == "pallas_gpu" else ())
    for name, dtypes in {"xla": FLOATS, "pallas_tpu": FLOATS, "pallas_gpu": ("bfloat16",)}.items()
    for dtype in dtypes
]
ONE_DTYPE = [
    case for case in CASES if case.values[0] == "pallas_gpu" or case.values[1] == "float32"
]
FORMATS = {
    "dense": lambda w: w,
    "int8": quant.int8.quantise,
    "nf4": quant.nf4.quantise,
}
# No size is a multiple of its tile, of 8 or of 64; NF4 stores I as 160 rows of two.
ROWS, INPUTS, OUTPUTS, RANK = 69, 300, 260, 5


def routing_of(kind, rng):
    """A routing (N, R) as adapters use it."""
    one_hot = np.zeros((ROWS, RANK))
    one_hot[np.arange(ROWS), rng.integers(0, RANK, ROWS)] = 1
    made = {
        "random": rng.normal(size=(ROWS, RANK)),
        "zeros": np.zeros((ROWS, RANK)),
        "one-hot": one_hot,
        "none": None,
    }
    return made[kind]


def inputs(form, dtype, routing, seed):
    """x, w, a, b, routing and dy."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    x, w, a, b = (
        normal(ROWS, INPUTS),
        normal(INPUTS, OUTPUTS),
        normal(INPUTS, RANK),
        normal(RANK, OUTPUTS),
    )
    routing = routing_of(routing, rng)
    return (
        x,
        FORMATS[form](w),
        a,
        b,
        None if routing is None else jnp.asarray(routing, dtype),
        normal(ROWS, OUTPUTS),
    )


class TestImplementation:
    def check(self, name, dtype, form, routing):
        # a case has the same numbers whichever cases ran before it
        seed = zlib.crc32(f"{name} {dtype} {form} {routing}".encode())
        given = inputs(form, dtype, routing, seed)
        found, formulas = projected(IMPLEMENTATIONS[name](), *given), projection_formulas(*given)
        assert len(found) == len(formulas) == (4 if routing == "none" else 5)
        for part, got, want in zip(
            ("y", "dx", "dA", "dB", "d routing"), found, formulas, strict=False
        ):
            assert got.dtype == dtype and got.shape == want.shape
            assert distance(got, want) < FLOATS[dtype], f"{part} of {form}, routing {routing}"

    @pytest.mark.parametrize(("name", "dtype"), CASES)
    @pytest.mark.parametrize("form", FORMATS)
    def test_values_and_gradients_are_the_formulas(self, name, dtype, form):
        self.check(name, dtype, form, "random")

    @pytest.mark.parametrize(("name", "dtype"), ONE_DTYPE)
    @pytest.mark.parametrize("routing", ["none", "zeros", "one-hot"])
    def test_gates(self, name, dtype, routing):
        self.check(name, dtype, "dense", routing)

    @pytest.mark.parametrize(("name", "dtype"), ONE_DTYPE)
    def test_what_is_kept_for_the_backward_pass(self, name, dtype):
        """x A, and nothing of W's size but W."""
        x, w, a, b, routing, _ = inputs("nf4", dtype, "random", 0)
        f = lambda *v: low_rank_projection(v[0], w, *v[1:], implementation=IMPLEMENTATIONS[name]())  # noqa: E731
        named = jax.checkpoint(f, policy=jax.checkpoint_policies.save_only_these_names("shrink"))
        # the interpreter's effects cannot be recomputed
        for run in (f,) if name == "pallas_gpu" else (f, named):
            kept = [
                leaf.shape
                for leaf in jax.tree.leaves(jax.vjp(run, x, a, b, routing)[1])
                if leaf.dtype == dtype
            ]
            assert (INPUTS, OUTPUTS) not in kept
            assert kept.count((ROWS, RANK)) == 2, "the routing and x A"


def test_a_gradient_of_the_weight_is_computed_for_nobody():
    x, w, a, b, routing, _ = inputs("dense", "float32", "random", 0)
    loss = lambda x, w, a, b: jnp.sum(  # noqa: E731
        low_rank_projection(x, w, a, b, routing, implementation="xla") ** 2
    )
    program = lambda wrt: jax.jit(jax.grad(loss, wrt)).lower(x, w, a, b).compile().as_text()  # noqa: E731
    assert f"f32[{INPUTS},{OUTPUTS}]{{1,0}} dot(" not in program((0, 2, 3))
    assert f"f32[{INPUTS},{OUTPUTS}]{{1,0}} dot(" in program((0, 1, 2, 3)), (
        "the text that is looked for"
    )
    y, pull = jax.vjp(lambda w: low_rank_projection(x, w, a, b, routing, implementation="xla"), w)
    dy = np.asarray(y, np.float64)
    assert distance(pull(y)[0], np.asarray(x, np.float64).T @ dy) < 1e-5


class Half:
    """An implementation that says which pass it was asked for."""

    def __init__(self, asked):
        self.forward = lambda *given: asked.append("forward") or XLA().forward(*given)
        self.backward = lambda *given: asked.append("backward") or XLA().backward(*given)


def test_each_pass_has_an_implementation_of_its_own():
    x, w, a, b, routing, dy = inputs("dense", "float32", "random", 0)
    one, other = [], []
    jax.vjp(
        lambda x: low_rank_projection(x, w, a, b, routing, implementation=(Half(one), Half(other))),
        x,
    )[1](dy)
    assert (one, other) == (["forward"], ["backward"])


def test_the_table_is_asked_for_these_rows_and_ranks(monkeypatch):
    x, w, a, b, *_ = inputs("dense", "float32", "none", 0)
    asked = []
    monkeypatch.setattr(
        projection, "choose", lambda *given: asked.append(given) or Implementations(XLA(), XLA())
    )
    low_rank_projection(x, w, a, b)
    ((weight, *sizes),) = asked
    assert weight is w and sizes == [ROWS, RANK]


def test_the_interpreter_hands_out_poisoned_buffers():
    """What a kernel does not write is NaN, so that the tests above would see it."""
    untouched = pl.pallas_call(
        lambda y: None, out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32), interpret=True
    )
    assert jnp.isnan(untouched()).all()


@ON_GPU
def test_the_gpu_interpreter_hands_out_poisoned_buffers():
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    assert jnp.isnan(plgpu.kernel(lambda y: None, out_type=shape, interpret=INTERPRETER())()).all()


@pytest.mark.slow
def test_the_tpu_simulator_agrees():
    """The interpreter that models a TPU's memory finds no read of what was not written either."""
    given = inputs("nf4", "float32", "random", 1)
    simulated = PallasTPU(
        tiles=Tiles(32, 128, 128), interpret=pltpu.InterpretParams(uninitialized_memory="nan")
    )
    for got, want in zip(projected(simulated, *given), projection_formulas(*given), strict=True):
        assert distance(got, want) < 1e-5


def test_the_gpu_kernel_refuses_float32():
    given = inputs("dense", "float32", "random", 0)
    with pytest.raises(UserError, match="pallas_gpu multiplies bfloat16, not float32"):
        projected("pallas_gpu", *given)


def test_what_does_not_fit_is_refused():
    x, w, a, b, routing, _ = inputs("dense", "float32", "random", 0)
    with pytest.raises(UserError, match=r"W \(299, 260\), A \(300, 5\)"):
        low_rank_projection(x, w[1:], a, b, routing)
    with pytest.raises(UserError, match="'triton' is not one of xla, pallas_tpu, pallas_gpu"):
        low_rank_projection(x, w, a, b, routing, implementation="triton")
