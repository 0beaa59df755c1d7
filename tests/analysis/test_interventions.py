"""Interventions: exact at their ends, right in between, one compiled program per curve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, quantised

from lfl_jax import adapters, notices
from lfl_jax.adapters.adapter_tree import named_layers
from lfl_jax.analysis import intruders, weight_changes
from lfl_jax.analysis.interventions import INTERVENTIONS, truncated, without
from lfl_jax.analysis.intruder_scaling import (
    in_random_directions,
    intruder_components,
    read_components,
    with_intruders_scaled,
    with_random_directions_scaled,
    write_components,
)
from lfl_jax.core import tree
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.models import llama

TARGETS = ("q", "v", "down")
# A change that is not of low rank, as that of parameters is not either: proven once.
KINDS = ("none", "lora", pytest.param("dora", marks=pytest.mark.slow))
TOKENS = jnp.arange(12)[None]
FORWARD = jax.jit(llama.forward, static_argnums=3)


@pytest.fixture(scope="module")
def base(small_params):
    return Model(params=small_params, adapter={})


@pytest.fixture(scope="module", params=KINDS)
def tuned(request, small, small_params):
    """A model tuned from the base: an adapter, or the whole of its parameters."""
    return tuned_model(request.param, small, small_params)


def tuned_model(kind, cfg, params, targets=()):
    """An adapter of a kind; or trained parameters, without targets all of them."""
    if kind != "none":
        adapter = adapter_for(cfg, params, kind, targets=targets or TARGETS)
        return Model(params=params, adapter=adapter)
    keys = iter(jax.random.split(jax.random.key(3), 99))

    def move(path, x):
        trains = not targets or tree.name(path).split("/")[-1] in (*targets, "attn_norm")
        return x + 0.03 * jax.random.normal(next(keys), x.shape) if trains else x

    return Model(params=jax.tree_util.tree_map_with_path(move, params), adapter={})


def hidden(model, cfg):
    return np.asarray(FORWARD(model.params, model.adapter, TOKENS, cfg)[0])


def weights(model):
    """{path: the merged weight (L, I, O)} in float64."""
    params = adapters.merge(model.adapter, model.params) if model.adapter else model.params
    leaves = {path: path.split("/")[1:] for path in weight_changes.PATHS}
    return {p: np.asarray(params["layers"][a][b], np.float64) for p, (a, b) in leaves.items()}


def test_the_tuned_model_itself_at_the_neutral_value(base, tuned, small):
    for apply in (with_intruders_scaled, with_random_directions_scaled):
        same = apply(base, tuned, 1.0).model
        assert np.array_equal(hidden(same, small), hidden(tuned, small))
        other = apply(base, tuned, 0.0).model
        assert not np.array_equal(hidden(other, small), hidden(tuned, small))


@pytest.mark.parametrize("rank", [1, 3])
def test_truncation_is_the_best_approximation_of_its_rank(base, tuned, rank):
    altered, facts = truncated(base, tuned, rank)
    before, after, found = weights(base), weights(tuned), weights(altered)
    lost = total = 0.0
    for path, w in before.items():
        u, s, vt = np.linalg.svd(after[path] - w, full_matrices=False)
        wanted = w + (u[:, :, :rank] * s[:, None, :rank]) @ vt[:, :rank]
        np.testing.assert_allclose(found[path], wanted, atol=2e-5)
        lost, total = lost + np.sum(s[:, rank:] ** 2), total + np.sum(s**2)
    assert facts["relative_error"] == pytest.approx(np.sqrt(lost / total), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_at_full_rank_is_the_model_within_the_error_it_says(kind, base, small):
    tuned = tuned_model(kind, small, base.params, ("q", "o"))
    altered, facts = truncated(base, tuned, 32)
    assert facts["relative_error"] < 3e-6
    before, after = weights(base), weights(tuned)
    difference = [w - after[path] for path, w in weights(altered).items()]
    change = [after[path] - before[path] for path in after]
    off, size = (np.sqrt(sum(np.sum(x**2) for x in xs)) for xs in (difference, change))
    # Merging rounds W + dW once more.
    assert off <= facts["relative_error"] * size + 1e-6 * np.sqrt(small.n_layers)
    np.testing.assert_allclose(hidden(altered, small), hidden(tuned, small), atol=3e-4)
    for norm in ("attn_norm", "mlp_norm"):
        assert np.array_equal(altered.params["layers"][norm], tuned.params["layers"][norm])


def test_intruders_are_scaled_and_nothing_else(base, tuned, small):
    before, after = weights(base), weights(tuned)
    found, facts = with_intruders_scaled(base, tuned, 0.25, top_k=6)
    removed = with_intruders_scaled(base, tuned, 0.0, top_k=6).model
    count = 0
    for path, w in weights(found).items():
        for layer in range(small.n_layers):
            change = after[path][layer] - before[path][layer]
            if not change.any():
                assert np.array_equal(w[layer], before[path][layer])
                continue
            own = intruders.directions(before[path][layer], change, 6)
            chosen = own.is_intruder()
            part = (own.v[:, chosen] * own.s[chosen]) @ own.u[:, chosen].T
            np.testing.assert_allclose(w[layer], after[path][layer] - 0.75 * part, atol=2e-5)
            count += chosen.sum()
            # What is left has no intruder among the directions that were large enough to be one.
            left = np.linalg.svd(weights(removed)[path][layer])[1]
            kept = np.delete(np.linalg.svd(after[path][layer])[1], np.flatnonzero(chosen))
            np.testing.assert_allclose(left[: len(kept)], kept, atol=1e-4)
    assert facts == {"intruders": count} and count > 0


def test_components_are_read_as_they_were_written(base, tuned, tmp_path):
    components = intruder_components(base, tuned)
    write_components(components, tmp_path / "intruders.npz")
    again = dict(named_layers(read_components(tmp_path / "intruders.npz")))
    assert again.keys() == dict(named_layers(components)).keys() and again
    for path, layer in named_layers(components):
        assert all(map(np.array_equal, jax.tree.leaves(layer), jax.tree.leaves(again[path])))


def test_random_directions_are_as_many_and_as_large(base, tuned):
    components = intruder_components(base, tuned, top_k=6)
    drawn = [in_random_directions(components, seed) for seed in (0, 0, 1)]
    for (path, own), *others in zip(*map(named_layers, (components, *drawn)), strict=True):
        (_, first), (_, again), (_, other) = others
        assert np.array_equal(first.scale, own.scale) and np.array_equal(first.a, again.a)
        assert not np.array_equal(first.a, other.a), path
        for x in (first.a, first.b.swapaxes(1, 2)):
            gram = np.einsum("lik,lij->lkj", x, x)
            np.testing.assert_allclose(gram, [np.eye(6)] * len(gram), atol=1e-5)
    size = lambda x: float(adapters.truncate(x, base.params, 1)[1])  # noqa: E731
    assert size(drawn[0]) == pytest.approx(size(components), abs=1e-3)


@pytest.mark.parametrize("part", ["q", "attn", "layers/1", "layers/2/mlp/down", "layers"])
def test_without_a_part_it_is_the_base_there_and_the_tuned_model_elsewhere(base, tuned, part):
    altered, facts = without(base, tuned, part)
    before, after, found = weights(base), weights(tuned), weights(altered)
    for path, w in found.items():
        for layer, row in enumerate(w):
            name = path.replace("layers/", f"layers/{layer}/")
            is_in = f"/{part}/" in f"/{name}/"
            wanted = before[path] if is_in else after[path]
            assert np.array_equal(row, wanted[layer]), name
    assert facts["weights"] > 0


def test_without_every_layer_an_adapted_model_is_the_base(base, tuned, small):
    altered = without(base, tuned, "layers").model
    if tuned.adapter:
        assert np.array_equal(hidden(altered, small), hidden(base, small))
        return
    # Other parameters trained, too: of those, any can be named.
    assert not np.array_equal(hidden(altered, small), hidden(base, small))
    rest = without(base, without(base, altered, "embed").model, "final_norm").model
    assert np.array_equal(hidden(rest, small), hidden(base, small))


VALUES = {
    "scales": (-0.5, 0.0, 0.5, 1.5),
    "truncate": (1, 2, 16),
    "intruders": (0.0, 0.5, 1.5),
    "random_directions": (0.0, 0.5, 1.5),
    "without": ("q", "attn", "layers/0"),
}


def test_the_models_of_a_curve_have_one_structure(base, tuned):
    """With `test_a_curve_is_one_compiled_program`: what jax compiles a program for."""
    # What a prompt alters is no model.
    assert VALUES.keys() == INTERVENTIONS.keys() - {"shots"}
    for name, values in VALUES.items():
        models = [INTERVENTIONS[name].of(base, tuned, value).model for value in values]
        leaves, structures = zip(*map(jax.tree.flatten, models), strict=True)
        forms = {tuple((x.shape, str(x.dtype), x.weak_type) for x in model) for model in leaves}
        assert len({*structures}) == len(forms) == 1, name
        assert len({tuple(np.asarray(x).tobytes() for x in model) for model in leaves}) == len(
            values
        )


def test_a_curve_is_one_compiled_program(base, small):
    tuned = tuned_model("lora", small, base.params)
    forward = jax.jit(lambda m: llama.forward(m.params, m.adapter, TOKENS, small)[0])
    outputs = [forward(truncated(base, tuned, rank).model) for rank in (1, 2, 3)]
    assert forward._cache_size() == 1
    assert len({np.asarray(x).tobytes() for x in outputs}) == 3


@pytest.mark.slow
def test_over_a_quantised_base_the_change_is_of_what_it_is_dequantised_to(small, small_params):
    params = quantised(small, small_params)
    base = Model(params=params, adapter={})
    tuned = Model(params=params, adapter=adapter_for(small, small_params, targets=("q",)))
    for name in ("truncate", "intruders", "without"):
        altered = INTERVENTIONS[name].of(base, tuned, VALUES[name][0]).model
        assert altered.adapter["layers"]["attn"]["q"] is not None
        pairs = zip(jax.tree.leaves(altered.params), jax.tree.leaves(params), strict=True)
        assert all(x is y for x, y in pairs), name
    dense = adapters.merge(None, params, "float32")
    dense_base = Model(params=dense, adapter={})
    (found, wanted) = (
        dict(named_layers(intruder_components(b, b.replace(adapter=tuned.adapter))))
        for b in (base, dense_base)
    )
    np.testing.assert_array_equal(found["layers/attn/q"].scale, wanted["layers/attn/q"].scale)


def test_a_zero_change_is_said(base, small, small_params):
    fresh = adapter_for(small, small_params, targets=("q",), trained=False)
    for tuned in (base, Model(params=small_params, adapter=fresh)):
        with notices.collected() as said:
            assert truncated(base, tuned, 1)[1] == {"relative_error": 0.0}
            altered, facts = with_intruders_scaled(base, tuned, 0.0)
        assert facts == {"intruders": 0.0} and len(said) == 2
        assert "the change is zero" in said[0] and "no intruders" in said[1]
        assert np.array_equal(hidden(altered, small), hidden(base, small))
    with pytest.raises(UserError, match=r"without q: nothing changed there; .* it is zero"):
        without(base, base, "q")


def test_mistakes(base, tuned, small, small_params):
    with pytest.raises(UserError, match=r"rank 17 does not fit .*; expected 1 to 16"):
        truncated(base, tuned, 17)
    with pytest.raises(UserError, match="without gate_proj: nothing changed there; the change is"):
        without(base, tuned, "gate_proj")
    both = Model(
        params=small_params | {"layers": jax.tree.map(lambda x: x + 1, small_params["layers"])},
        adapter=adapter_for(small, small_params, targets=("q",)),
    )
    with pytest.raises(UserError, match="layers/attn/q trained and has an adapter, too"):
        truncated(base, both, 1)
    infinite = adapter_for(small, small_params, targets=("q",))
    layer = infinite["layers"]["attn"]["q"]
    layers = {"attn": {"q": layer.replace(b=layer.b.at[1].set(jnp.nan))}}
    broken = Model(params=small_params, adapter={"layers": layers})
    for apply, value in ((truncated, 1), (with_intruders_scaled, 0.0)):
        with pytest.raises(UserError, match="layers/1/attn/q: its change has values that are not"):
            apply(base, broken, value)
