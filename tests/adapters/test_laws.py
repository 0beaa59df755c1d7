"""The laws of adapters, for every kind and a mix of kinds, with fresh and with trained-looking factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from hypothesis import given, settings
from hypothesis import strategies as st

from lfl_jax import adapters
from lfl_jax.adapters import Mix
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file
from lfl_jax.models import llama

NONLINEAR = "lora+bottleneck"
STARTED = ("pissa", "olora")  # fresh, they are the base but for rounding
LINEAR = ("lora", "dora", "vera", "ia3", "mora", "full_delta", "lora+dora", *STARTED)
KINDS = (*LINEAR, NONLINEAR)
BOUND = 3e-5  # on hidden values up to 4: a full-rank change of 0.1 at every weight makes rounding grow
TOKENS = jnp.arange(22).reshape(2, 11) % 96


def run(params, adapter, cfg, **options):
    return llama.forward(params, adapter, TOKENS, cfg, **options)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_is_the_base(kind, small, small_params):
    fresh = adapter_for(small, small_params, kind, trained=False)
    difference = float(jnp.abs(run(small_params, fresh, small) - run(small_params, None, small)).max())
    print(f"fresh = base, {kind}: max difference {difference:.1e}")
    assert difference == 0 or (kind in STARTED and difference < BOUND)
    trained = adapter_for(small, small_params, kind)
    assert jnp.abs(run(small_params, trained, small) - run(small_params, None, small)).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_gate_zero_is_the_base_to_the_last_bit(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind)
    gate = jnp.zeros((2, kind.count("+") + 1))
    assert jnp.array_equal(run(small_params, adapter, small, gate=gate), run(small_params, None, small))
    np.testing.assert_allclose(
        run(small_params, adapter, small, gate=gate + 1), run(small_params, adapter, small), rtol=0, atol=1e-5
    )


def test_one_hot_routing_is_separate_runs_to_the_last_bit(small, small_params):
    first, second = adapter_for(small, small_params, "lora"), adapter_for(small, small_params, "dora", seed=5)
    mixed = adapters.add(first, second)
    routed = run(small_params, mixed, small, gate=jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    assert jnp.array_equal(routed[0], run(small_params, mixed, small, gate=jnp.array([[1.0, 0.0]] * 2))[0])
    np.testing.assert_allclose(routed[0], run(small_params, first, small)[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(routed[1], run(small_params, second, small)[1], rtol=0, atol=2e-5)


def test_routing_per_token_is_routing_of_its_segment(small, small_params):
    mixed = adapters.add(adapter_for(small, small_params), adapter_for(small, small_params, "dora", seed=5))
    segments = jnp.array([[1] * 5 + [2] * 6] * 2)
    gate = jax.nn.one_hot(segments - 1, 2)
    positions = jnp.array([[*range(5), *range(6)]] * 2)
    packed = run(small_params, mixed, small, gate=gate, segment_ids=segments, positions=positions)
    alone = llama.forward(small_params, mixed, TOKENS[:, 5:], small, gate=jnp.array([[0.0, 1.0]] * 2))[0]
    np.testing.assert_allclose(packed[:, 5:], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", LINEAR)
def test_merging_is_projecting(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind)
    before = jax.tree.map(np.array, small_params)
    merged = run(adapters.merge(adapter, small_params), None, small)
    difference = float(jnp.abs(merged - run(small_params, adapter, small)).max())
    print(f"merge = project, {kind}: max difference {difference:.1e}, bound 5e-5")
    assert difference < 5e-5
    assert jax.tree.all(jax.tree.map(np.array_equal, before, small_params)), "unmerging is keeping the originals"


@pytest.mark.parametrize("kind", LINEAR)
def test_an_adapter_and_its_negation_are_the_base(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind)
    nothing = adapters.add(adapter, adapters.negate(adapter))
    difference = float(jnp.abs(run(small_params, nothing, small) - run(small_params, None, small)).max())
    print(f"a + (-a) = base, {kind}: max difference {difference:.1e}, bound 1e-5")
    assert difference < 1e-5


@pytest.mark.parametrize("kind", LINEAR)
def test_weight_one_order_and_files_keep_the_change(kind, small, small_params, tmp_path):
    """The rows of docs/adapters.md that no other test here has, with trained-looking factors of one weight."""
    first = adapter_for(small, small_params, kind, targets=("down",))
    second, third = adapter_for(small, small_params, "lora", seed=5, targets=("down",)), adapters.scale(first, -0.5)
    dw = lambda adapter: adapters.deltas(adapter, small_params)["layers"]["mlp"]["down"]  # noqa: E731
    one = adapters.scale(first, 1.0)
    assert jax.tree.structure(one) == jax.tree.structure(first)
    jax.tree.map(np.testing.assert_array_equal, one, first)
    add = adapters.add
    np.testing.assert_allclose(dw(add(first, second)), dw(first) + dw(second), rtol=0, atol=1e-6)
    np.testing.assert_allclose(dw(add(first, second)), dw(add(second, first)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        dw(add(add(first, second), third)), dw(add(first, add(second, third))), rtol=0, atol=1e-6
    )
    adapter_file.save(tmp_path / "a.safetensors", first)
    loaded = adapter_file.load(tmp_path / "a.safetensors", small_params)
    assert jax.tree.structure(loaded) == jax.tree.structure(first)
    jax.tree.map(np.testing.assert_array_equal, loaded, first)


@settings(max_examples=6, deadline=None)
@given(
    kind=st.sampled_from(LINEAR), rank=st.integers(1, 5), factor=st.floats(-2, 2), seed=st.integers(0, 99),
    targets=st.sets(st.sampled_from(("q", "k", "v", "o", "gate", "up", "down")), min_size=1),
)  # fmt: skip
def test_scaling_scales_the_weight_change(kind, rank, factor, seed, targets, small, small_params):
    adapter = adapter_for(small, small_params, kind, rank=rank, seed=seed, targets=tuple(sorted(targets)))
    scaled = adapters.deltas(adapters.scale(adapter, factor), small_params)
    plain = adapters.deltas(adapter, small_params)
    for x, y in zip(jax.tree.leaves(scaled), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(x, factor * y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_scanned_unstacked_and_recomputed_layers_agree(kind, small, small_params):
    import dataclasses

    adapter = adapter_for(small, small_params, kind)
    loop = small_params | {"layers": tree.unstack(small_params["layers"], 3)}
    unstacked = run(loop, adapter | {"layers": tree.unstack(adapter["layers"], 3)}, small)
    scanned = run(small_params, adapter, small)
    np.testing.assert_allclose(unstacked, scanned, rtol=0, atol=BOUND)
    for remat in ("selective", "full"):
        again = run(small_params, adapter, dataclasses.replace(small, remat=remat))
        np.testing.assert_allclose(again, scanned, rtol=0, atol=BOUND)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora+dora"])
def test_padded_ranks_and_unadapted_layers_stay_untouched(kind, small, small_params):
    pattern = ((r"layers/1/.*", 2), (r"layers/2/attn/q", 3))
    adapter = adapter_for(small, small_params, kind, rank=4, rank_pattern=pattern, targets=("q", "layers/0/mlp/up"))
    ones = jnp.ones(TOKENS.shape)

    def loss(adapter):
        return jnp.sum(run(small_params, adapter, small) * ones[..., None])

    grads = jax.grad(loss)(adapter)["layers"]
    members = lambda layer: layer.layers if isinstance(layer, Mix) else (layer,)  # noqa: E731
    for q, up in zip(members(grads["attn"]["q"]), members(grads["mlp"]["up"]), strict=True):
        assert (q.a[1, :, 2:] == 0).all() and (q.b[1, 2:] == 0).all() and (q.b[2, 3:] == 0).all()
        assert (q.b[1, :2] != 0).any() and (q.b[2, 2] != 0).any()
        assert (up.a[1:] == 0).all() and (up.b[1:] == 0).all() and (up.b[0] != 0).any()
    assert grads["attn"]["k"] is None


def test_sizes_count_used_and_stored(small, small_params):
    adapter = adapter_for(small, small_params, "lora", rank=4, rank_pattern=((r"layers/1/.*", 2),), targets=("q",))
    assert adapters.sizes(adapter) == ((4 + 2 + 4) * (32 + 32), 3 * 4 * (32 + 32))
    dora = adapter_for(small, small_params, "dora", rank=4, targets=("layers/0/attn/q",))
    assert adapters.sizes(dora) == (4 * 64 + 32, 3 * (4 * 64 + 32))


def test_a_bottleneck_cannot_be_merged(small, small_params):
    with pytest.raises(UserError, match="not linear"):
        adapters.merge(adapter_for(small, small_params, NONLINEAR), small_params)


@pytest.mark.parametrize("kind", ["ia3", "mora", "full_delta", "bottleneck"])
def test_unadapted_layers_of_a_stack_stay_untouched(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind, targets=("layers/1/attn/o",))

    def loss(adapter):
        return jnp.sum(run(small_params, adapter, small) ** 2)

    grads = jax.grad(loss)(adapter)["layers"]["attn"]["o"]
    for name, grad in zip(tree.paths(grads), jax.tree.leaves(grads), strict=True):
        if name != "gain":
            assert (grad[jnp.array([0, 2])] == 0).all() and (grad[1] != 0).any(), name
