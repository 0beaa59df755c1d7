"""Where the selection table names a kernel, a model goes through it, and nothing else changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

from lfl_jax import adapters, quant
from lfl_jax.kernels.low_rank import selection
from lfl_jax.kernels.low_rank.reference import XLA
from lfl_jax.kernels.low_rank.selection import Entry, shape_class
from lfl_jax.kernels.low_rank.tiles import Tiles
from lfl_jax.models import llama

USED = []


@dataclasses.dataclass(frozen=True)
class Kernel(XLA):
    """Stands for a kernel: the plain form, noted down."""

    device: str = ""
    tiles: Tiles | None = None

    def forward(self, x, w, a, b, routing):
        USED.append(("forward", w.shape, a.shape[1]))
        return super().forward(x, w, a, b, routing)

    def backward(self, dy, w, a, b, routing):
        USED.append(("backward", w.shape, a.shape[1]))
        return super().backward(dy, w, a, b, routing)


@pytest.fixture
def table(monkeypatch):
    """Of the weights of the small model, q and down have a kernel, for two rows of 8 tokens."""

    def fill(form, rank):
        device = jax.devices()[0].device_kind
        entries = tuple(
            Entry(
                device,
                form,
                direction,
                shape_class(16, *shape, rank),
                "kernel",
                Tiles(1, 1, 1),
                1.0,
                2.0,
                "here",
            )
            for direction in ("forward", "backward")
            for shape in ((32, 32), (48, 32))
        )
        monkeypatch.setattr(selection, "committed", lambda: entries)
        monkeypatch.setitem(selection.IMPLEMENTATIONS, "kernel", Kernel)
        USED.clear()

    return fill


def results(cfg, params, adapter, routing):
    tokens = jnp.arange(16).reshape(2, 8) % cfg.vocab_size

    def loss(adapter):
        hidden, _ = llama.forward(params, adapter, tokens, cfg, routing=routing)
        return jnp.sum(jnp.sin(hidden))

    return jax.jit(jax.value_and_grad(loss))(adapter)


@pytest.mark.parametrize(
    ("form", "routed"),
    [
        ("dense", True),
        ("nf4", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("dense", False), ("nf4", True))
        ),
    ],
)
def test_a_kernel_of_the_table_is_used_and_changes_nothing(
    table, form, routed, small, small_params
):
    params = small_params
    if form == "nf4":
        hold = lambda path, x: quant.nf4.quantise(x) if x.ndim == 3 else x  # noqa: E731
        params = params | {"layers": jax.tree_util.tree_map_with_path(hold, params["layers"])}
    one, other = (adapter_for(small, small_params, "lora") for _ in range(2))
    adapter = adapters.stack(one, adapters.scale(other, 0.5)) if routed else one
    routing = adapters.route(np.array([1, -1]), 2) if routed else None
    plain = results(small, params, adapter, routing)
    table(form, 8 if routed else 4)
    through = results(small, params, adapter, routing)
    assert {shape for _, shape, _ in USED} == {(32, 32), (48, 32)} and {d for d, _, _ in USED} == {
        "forward",
        "backward",
    }
    for got, want in zip(jax.tree.leaves(through), jax.tree.leaves(plain), strict=True):
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_kinds_that_change_more_and_dropout_go_another_way(table, small, small_params):
    table("dense", 4)
    adapter = adapter_for(small, small_params, "dora")
    results(small, small_params, adapter, None)
    assert not USED
