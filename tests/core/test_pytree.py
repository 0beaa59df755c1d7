"""Classes that are nodes of trees keep apart: in tree structures, and so in what jit finds
compiled."""

import dataclasses
import importlib
import itertools
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from helpers import adapter_for

import lfl_jax
from lfl_jax import adapters
from lfl_jax.adapters import KINDS, Kind
from lfl_jax.adapters.build import bind
from lfl_jax.adapters.project import project
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.core import spec
from lfl_jax.core.pytree import NODE_TYPE, Node
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig

BOUND = 1e-4  # a layer that passes through another kind's program is 0.01 to 10 off


def registered() -> list[type]:
    """Every flax dataclass of the package; what the sandbox runs by path has none."""
    names = [
        m.name
        for m in pkgutil.walk_packages(lfl_jax.__path__, "lfl_jax.")
        if not m.name.startswith("lfl_jax.evals.sandbox.")
    ]
    modules = [importlib.import_module(name) for name in names]
    values = {v for module in modules for v in vars(module).values() if isinstance(v, type)}
    return sorted(
        (v for v in values if "_flax_dataclass" in v.__dict__), key=lambda v: v.__qualname__
    )


def structure(cls: type, first: object = 0.0) -> jax.tree_util.PyTreeDef:
    """Of an instance with a leaf in every data field and 0 in every static one; its types are not
    checked."""
    instance = object.__new__(cls)
    fields = [f.name for f in dataclasses.fields(cls) if f.name != NODE_TYPE]
    for name, value in (dict.fromkeys(fields, 0.0) | {fields[0]: first}).items():
        object.__setattr__(instance, name, value)
    return jax.tree.structure(instance)


def own_kind(change):
    """A kind as a person writes it, with flax's decorator; all that this makes have one name."""

    @struct.dataclass
    class Own(Kind):
        a: object
        gain: object

        def delta(self, w):
            return change * self.a

    return Own


def test_every_class_of_the_package_is_a_node():
    found = registered()
    assert set(KINDS.values()) <= set(found) and len(found) >= len(KINDS) + 8
    for cls in found:
        assert issubclass(cls, Node), f"{cls.__name__} must inherit from core.pytree.Node"
        assert next(f for f in dataclasses.fields(cls) if f.name == NODE_TYPE).default is cls


def test_no_two_classes_have_equal_structures():
    classes = [*registered(), own_kind(1), own_kind(2)]
    for one, other in itertools.combinations(classes, 2):
        count = [structure(cls).num_leaves for cls in (one, other)]
        even = [tuple([0.0] * (1 + max(count) - n)) for n in count]
        assert structure(one) != structure(other)
        assert structure(one, even[0]) != structure(other, even[1])
    assert all(structure(cls) == structure(cls) for cls in classes)


def test_an_own_kind_defined_twice_is_compiled_twice_and_used_from_then_on():
    traced = []

    @jax.jit
    def delta(layer, w):
        traced.append(type(layer))
        return layer.delta(w)

    for cls in (first := own_kind(1), second := own_kind(-3), first, second):
        layer = cls(jnp.ones((2, 2)), gain=jnp.ones(1))
        np.testing.assert_array_equal(delta(layer, None), layer.delta(None))
        assert layer.replace(a=0).node_type is cls and "node_type" not in repr(layer)
    assert traced == [first, second]


def test_donation_vmap_and_scan_keep_the_class():
    layer = own_kind(2)(jnp.ones((3, 2)), gain=jnp.ones((3, 1)))
    _, scanned = jax.lax.scan(lambda carry, x: (carry, x.replace(a=x.delta(None))), 0, layer)
    mapped = jax.vmap(lambda x: x.replace(a=x.delta(None)))(layer)
    donated = jax.jit(lambda x: x.replace(a=x.delta(None)), donate_argnums=0)(
        jax.tree.map(jnp.copy, layer)
    )
    for found in (scanned, mapped, donated):
        assert type(found) is type(layer) and jax.tree.structure(found) == jax.tree.structure(layer)
        np.testing.assert_array_equal(found.a, 2 * layer.a)


def at(width: int) -> tuple[ModelConfig, dict]:
    cfg = ModelConfig(
        vocab_size=8, d_model=width, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=width, d_ff=8
    )
    return cfg, jax.tree.map(lambda x: x * 4, spec.init(llama.specs(cfg), jax.random.key(0)))


compiled_project = jax.jit(
    lambda x, w, layer, shared: project(x, (Site(w, layer),), AdapterContext(shared=shared))[0]
)
compiled_double = jax.jit(lambda layer, draw: jax.tree.map(lambda x: 2 * x, layer))


def layers_at(width: int) -> dict[str, tuple[dict, dict]]:
    """{kind: (parameters, adapter)} at one weight, with ranks at which most kinds have leaves of
    equal shapes."""
    cfg, params = at(width)
    return {
        kind: (params, adapter_for(cfg, params, kind, rank=width // 2, targets=("o",)))
        for kind in KINDS
    }


def alike(made: dict[str, tuple[dict, dict]]) -> list[list[str]]:
    """Kinds whose leaves have equal shapes: those that could share a program."""
    groups: dict[tuple, list[str]] = {}
    for kind, (_, adapter) in made.items():
        groups.setdefault(tuple(x.shape for x in jax.tree.leaves(adapter["layers"])), []).append(
            kind
        )
    return [group for group in groups.values() if len(group) > 1]


def check_compiled(kind: str, params: dict, adapter: dict) -> None:
    """Start, projection and merge of one kind, compiled after all that were compiled before, and
    not compiled."""
    w, layer = params["layers"]["attn"]["o"], adapter["layers"]["attn"]["o"]
    row, width = jax.tree.map(lambda x: x[0], layer), w.shape[-1]
    if kind in ("pissa", "olora", "dora"):  # LoftQ starts from a quantised base
        started = bind(adapter, params)["layers"]["attn"]["o"]
        with jax.disable_jit():
            wanted = row.bind(w[0])
        started = jax.tree.map(lambda x: x[0], started)
        products = [x.m if kind == "dora" else x.a0 @ x.b0 for x in (started, wanted)]
        np.testing.assert_allclose(*products, rtol=0, atol=BOUND, err_msg=f"{kind} {width}")
    x = jnp.linspace(-1, 1, 2 * width).reshape(1, 2, width)
    found = compiled_project(x, w[0], row, adapter.get("shared"))
    if kind == "bottleneck":  # it has no weight change
        np.testing.assert_allclose(
            found - x @ w[0], row.change(x, x @ w[0], w[0]), rtol=0, atol=BOUND
        )
        return
    change = adapters.deltas(adapter, params)["layers"]["attn"]["o"]  # not compiled
    assert jnp.abs(change).max() > 100 * BOUND
    np.testing.assert_allclose(
        found, x @ (w + change)[0], rtol=0, atol=BOUND, err_msg=f"{kind} {width}"
    )
    merged = adapters.merge(adapter, params)["layers"]["attn"]["o"] - w
    np.testing.assert_allclose(merged, change, rtol=0, atol=BOUND, err_msg=f"{kind} {width}")


def check_pairs(made: dict[str, tuple[dict, dict]], draws: int = 8) -> None:
    """All kinds through the same jitted functions, so that each meets the programs of all before
    it.

    Two kinds that could share a program do so by a few bits of a hash, which depend on every
    argument's shape: a draw is another shape of an argument that changes nothing.
    """
    for kind, (params, adapter) in made.items():
        check_compiled(kind, params, adapter)
    for draw in range(draws):
        for kind in (kind for group in alike(made) for kind in group):
            layer = made[kind][1]["layers"]["attn"]["o"]
            found = compiled_double(layer, np.zeros(draw))
            assert type(found) is type(layer), (
                f"{kind} passed through the program of {type(found).__name__}"
            )
            jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(lambda x: 2 * x, layer))


@pytest.mark.slow
def test_compiled_pairs_of_kinds_are_what_they_are_uncompiled():
    made = layers_at(16)
    moras = sorted(kind for kind in KINDS if kind.startswith("mora"))
    assert sorted(map(sorted, alike(made))) == [
        ["full_delta", *moras],
        ["loftq", "lora"],
        ["olora", "pissa"],
    ]
    check_pairs(made)


@pytest.mark.slow
@pytest.mark.parametrize("width", range(12, 76, 2))
def test_compiled_pairs_of_kinds_are_what_they_are_uncompiled_at_many_widths(width):
    check_pairs(layers_at(width))
