"""The kernels as programs for a TPU and a GPU, on a machine that has neither, at Llama-2-7B's
shapes."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.nn import initializers
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

from lfl_jax import quant
from lfl_jax.core import spec
from lfl_jax.core.spec import ArraySpec
from lfl_jax.kernels.low_rank import low_rank_projection, tiles
from lfl_jax.kernels.low_rank.pallas_gpu import PallasGPU
from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU
from lfl_jax.kernels.low_rank.tiles import Tiles
from lfl_jax.quant import FORMATS

V5E, H200 = "TPU v5 lite", "NVIDIA H200"
ROWS, RANK, WIDTH, MLP = 2048, 16, 4096, 11008
WEIGHTS = {"q": (WIDTH, WIDTH), "up": (WIDTH, MLP), "down": (MLP, WIDTH)}
CASES = [("q", "dense"), ("up", "int8"), ("up", "nf4"), ("down", "dense"), ("down", "nf4")]
NEWER = pytest.mark.skipif(
    jax.__version_info__ < (0, 11),
    reason=f"lowering for a GPU that is not there needs jax 0.11, this is {jax.__version__}",
)
LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for a TPU needs libtpu (extra tpu)",
)


def operands(name, form, sharding=None):
    """Shapes of x, w, a, b, routing and dy."""
    inputs, outputs = WEIGHTS[name]
    weight = ArraySpec((inputs, outputs), ("embed", "mlp"), initializers.zeros, jnp.bfloat16)
    held = FORMATS[form].specs(weight) if form in FORMATS else weight
    sizes = ((ROWS, inputs), (inputs, RANK), (RANK, outputs), (ROWS, RANK), (ROWS, outputs))
    shaped = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # noqa: E731
    x, a, b, routing, dy = (shaped(size, jnp.bfloat16) for size in sizes)
    return (
        x,
        jax.tree.map(lambda s: shaped(s.shape, s.dtype), held, is_leaf=spec.is_spec),
        a,
        b,
        routing,
        dy,
    )


def both_passes(implementation):
    """A program: y and every gradient."""

    def run(x, w, a, b, routing, dy):
        f = lambda x, a, b, routing: low_rank_projection(  # noqa: E731
            x, w, a, b, routing, implementation=implementation
        )
        y, pull = jax.vjp(f, x, a, b, routing)
        return y, *pull(dy)

    return jax.jit(run)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_lowering_for_a_tpu(name, form):
    program = export.export(both_passes(PallasTPU(device=V5E)), platforms=["tpu"])(
        *operands(name, form)
    )
    assert program.mlir_module().count("tpu_custom_call") == 2


@NEWER
@pytest.mark.parametrize(("name", "form"), CASES)
def test_lowering_for_a_gpu(name, form):
    device = AbstractDevice(device_kind=H200, num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        program = export.export(both_passes(PallasGPU(device=H200)), platforms=["cuda"])(
            *operands(name, form)
        )
    assert program.mlir_module().count("mosaic_gpu") >= 2


@pytest.fixture(scope="module")
def v5e():
    """A sharding on one chip of a v5e, which libtpu describes without one."""
    from jax.experimental import topologies

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    assert topology.devices[0].device_kind == V5E
    return SingleDeviceSharding(topology.devices[0])


@LIBTPU
@pytest.mark.parametrize(
    ("name", "form"),
    [
        case if case == ("q", "dense") else pytest.param(*case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_compiling_for_a_v5e(v5e, name, form):
    """Both passes, by the TPU's own compiler; a quantised W is nowhere written in bfloat16 or
    float32."""
    compiled = both_passes(PallasTPU(device=V5E)).lower(*operands(name, form, v5e)).compile()
    inputs, outputs = WEIGHTS[name]
    written = [f"{dtype}[{inputs},{outputs}]" in compiled.as_text() for dtype in ("bf16", "f32")]
    assert written == [form == "dense", False]


@LIBTPU
@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_products_by_xla_write_no_dequantised_weight_on_a_v5e(v5e, form):
    """Codes become numbers on their way into a product: its temporaries are far from W in
    bfloat16."""
    x, w, *_, dy = operands("q", form, v5e)
    for product, rows in ((quant.matmul, x), (quant.matmul_transposed, dy)):
        compiled = jax.jit(product).lower(rows, w).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < WIDTH * WIDTH


@LIBTPU
@pytest.mark.slow
def test_tiles_that_overflow_vmem_do_not_compile(v5e):
    """The compiler counts what the tiles need against the limit that tiles.py plans with."""
    given, large = operands("q", "dense", v5e), Tiles(1024, 1024, 1024)
    assert tiles.vmem(tiles.Product(ROWS, WIDTH, WIDTH, RANK), large) > tiles.VMEM["TPU v4"]
    with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
        both_passes(PallasTPU(device="TPU v4", tiles=large)).lower(*given).compile()
