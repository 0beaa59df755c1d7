"""The test run checks shapes and types of every function of the package; it never needs a device
but the CPU."""

import os
import signal

# In a background job of a shell Ctrl-C is ignored, here and in every process begun here: tests of
# signals need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time is compilation: without LLVM's optimizations half of it is saved, and matrix
# products are no slower.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("lfl_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

from lfl_jax.core import spec  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402

SMALL = ModelConfig(
    vocab_size=96,
    d_model=32,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    head_dim=8,
    d_ff=48,
    tied=True,
    max_seq_len=128,
)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs of a finished module are dropped: thousands in one process end in a crash
    of the compiler."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    """A three-layer Llama with grouped queries and tied embeddings."""
    return SMALL


@pytest.fixture(scope="session")
def small_params() -> dict:
    """Its parameters, larger than at initialisation so that every part matters."""
    params = spec.init(llama.specs(SMALL), jax.random.key(0))
    return jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, params)
