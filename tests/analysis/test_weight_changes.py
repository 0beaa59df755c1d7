"""WeightChange: dW and W of every weight, from models and from folders, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for, quantised

from lfl_jax import adapters
from lfl_jax.analysis import weight_changes
from lfl_jax.core import spec
from lfl_jax.errors import UserError
from lfl_jax.io import hf
from lfl_jax.model import Model
from lfl_jax.models import llama

LOW_RANK = ("lora", "vera")
DENSE = ("dora", "lora+ia3")
# compiled for half a minute; what they add is their own delta, which tests/adapters checks
MORE_LOW_RANK = ("pissa", "olora", "lora+lora")
MORE_DENSE = ("ia3", "mora", "full_delta", "lora+dora")
TARGETS = ("q", "v", "down")


def changes_of(base, params, adapter=None):
    found = weight_changes.of_model(base, Model(params=params, adapter=adapter or {}))
    return {change.name: change for change in found}


def with_leaf(params, part, module, function):
    """The parameters with one weight replaced."""
    layers = params["layers"]
    stack = function(layers[part][module])
    return params | {"layers": layers | {part: layers[part] | {module: stack}}}


@pytest.mark.parametrize(
    "kind",
    [
        *LOW_RANK,
        *DENSE,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE_LOW_RANK + MORE_DENSE),
    ],
)
def test_an_adapters_change_is_its_delta(kind, small, small_params):
    adapter = adapter_for(small, small_params, kind, targets=TARGETS)
    deltas = adapters.deltas(adapter, small_params)["layers"]
    changes = changes_of(small_params, small_params, adapter)
    assert len(changes) == 7 * small.n_layers
    for change in changes.values():
        _, part, module = change.path.split("/")
        w = np.asarray(small_params["layers"][part][module][change.layer])
        np.testing.assert_array_equal(change.base(), w)
        assert change.shape == w.shape and change.stored_as == "float32"
        if module in TARGETS:
            wanted = np.asarray(deltas[part][module][change.layer])
            np.testing.assert_allclose(change.dense(), wanted, atol=1e-5)
            assert (change.factors is not None) == (
                kind in LOW_RANK + MORE_LOW_RANK
            ) and not change.is_zero()
        else:
            assert change.is_zero() and change.factors[0].shape == (w.shape[0], 0)
            assert change.dense().shape == w.shape and not change.dense().any()


def test_weights_come_layer_by_layer(small_params):
    names = list(changes_of(small_params, small_params))
    assert names[:3] == ["layers/0/attn/q", "layers/0/attn/k", "layers/0/attn/v"]
    assert names[7] == "layers/1/attn/q" and names[-1] == "layers/2/mlp/down"


def test_parameters_that_trained_and_an_adapter_add_up(small, small_params):
    tuned = with_leaf(small_params, "attn", "q", lambda x: x + 0.01)
    adapter = adapter_for(small, small_params, targets=("q", "k"))
    deltas = adapters.deltas(adapter, tuned)["layers"]["attn"]
    changes = changes_of(small_params, tuned, adapter)
    q, k = changes["layers/1/attn/q"], changes["layers/1/attn/k"]
    assert q.factors is None and k.factors is not None
    np.testing.assert_allclose(q.dense(), np.asarray(deltas["q"][1]) + 0.01, atol=1e-6)
    np.testing.assert_allclose(k.dense(), np.asarray(deltas["k"][1]), atol=1e-6)
    np.testing.assert_array_equal(q.base(), small_params["layers"]["attn"]["q"][1])


def test_a_half_precision_model_is_upcast_before_the_difference(small_params):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small_params)
    moved = with_leaf(half, "mlp", "up", lambda x: x * 1.25)
    change = changes_of(half, moved)["layers/0/mlp/up"]
    w, after = (np.asarray(p["layers"]["mlp"]["up"][0]).astype(np.float64) for p in (half, moved))
    np.testing.assert_array_equal(change.dense(), after - w)
    assert change.dense().dtype == change.base().dtype == np.float32
    assert change.stored_as == "bfloat16"


def test_a_fresh_adapter_is_a_zero_change(small, small_params):
    adapter = adapter_for(small, small_params, trained=False, targets=("q",))
    change = changes_of(small_params, small_params, adapter)["layers/0/attn/q"]
    assert change.is_zero() and change.factors[0].shape[1] == 4


def test_a_quantised_base_against_itself_and_against_the_original(small, small_params):
    held = quantised(small, small_params)
    adapter = adapter_for(small, small_params, targets=("q",))
    against_itself = changes_of(held, held, adapter)["layers/0/attn/q"]
    against_original = changes_of(small_params, held, adapter)["layers/0/attn/q"]
    assert against_itself.factors is not None and against_original.factors is None
    lost = against_original.dense() - against_itself.dense()
    rounding = against_itself.base() - against_original.base()
    assert np.abs(rounding).max() > 0.01
    np.testing.assert_allclose(lost, rounding, atol=1e-6)


def test_other_parameters_that_changed_are_named(small_params):
    norm = small_params["layers"]["attn_norm"] * 2
    tuned = small_params | {"layers": small_params["layers"] | {"attn_norm": norm}}
    tuned = with_leaf(tuned, "attn", "q", lambda x: x * 2) | {"head": small_params["embed"] + 1}
    model = Model(params=tuned, adapter={})
    assert set(weight_changes.others_of_model(small_params, model)) == {"head", "layers/attn_norm"}
    assert weight_changes.others_of_model(small_params, model.replace(params=small_params)) == ()


def test_what_is_not_finite_is_named(small, small_params):
    tuned = with_leaf(small_params, "mlp", "up", lambda x: x.at[1, 0, 0].set(jnp.inf))
    change = changes_of(small_params, tuned)["layers/1/mlp/up"]
    with pytest.raises(UserError, match=r"^layers/1/mlp/up: its change has values that are not"):
        change.dense()
    with pytest.raises(UserError, match=r"^layers/1/mlp/up: its base has values that are not"):
        changes_of(tuned, tuned)["layers/1/mlp/up"].base()
    adapter = adapter_for(small, small_params, targets=("q",))
    layer = adapter["layers"]["attn"]["q"]
    adapter["layers"]["attn"]["q"] = layer.replace(b=layer.b.at[2, 0, 2].set(np.nan))
    with pytest.raises(UserError, match="^layers/2/attn/q: "):
        changes_of(small_params, small_params, adapter)


def test_other_models_are_refused(small, small_params):
    longer = small_params | {"embed": jnp.zeros((97, small.d_model))}
    with pytest.raises(UserError, match="vocabulary of 96 tokens, the tuned model one of 97"):
        changes_of(small_params, longer)
    wider = with_leaf(small_params, "attn", "q", lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 1))))
    with pytest.raises(UserError, match="layers/attn/q is"):
        changes_of(small_params, wider)
    adapter = adapter_for(small, small_params, targets=("q",))
    with pytest.raises(UserError, match="of a weight .*; it was trained over another model"):
        changes_of(wider, wider, adapter)
    with pytest.raises(UserError, match="not linear"):
        changes_of(small_params, small_params, adapter_for(small, small_params, "bottleneck"))
    dora = adapter_for(small, small_params, "dora", targets=("q",))
    doubled = with_leaf(small_params, "attn", "q", lambda x: 2 * x)
    with pytest.raises(UserError, match="trained over other weights"):
        changes_of(doubled, doubled, dora)


@pytest.fixture
def folders(tmp_path, small, small_params):
    """A base and a tuned model on disk, in bfloat16."""
    tuned = with_leaf(small_params, "attn", "k", lambda x: x + 0.25)
    tuned = tuned | {"final_norm": tuned["final_norm"] * 2}
    for name, params in (("base", small_params), ("tuned", tuned)):
        hf.save(tmp_path / name, params, small)
    return tmp_path / "base", tmp_path / "tuned", tuned


def test_folders_give_what_the_models_give(folders, small_params):
    base, tuned, tuned_params = folders
    half = [jax.tree.map(lambda x: x.astype(jnp.bfloat16), p) for p in (small_params, tuned_params)]
    wanted = changes_of(*half)
    changes = {change.name: change for change in weight_changes.of_folders(base, tuned)}
    assert list(changes) == list(wanted)
    for name, change in changes.items():
        np.testing.assert_array_equal(change.dense(), wanted[name].dense())
        np.testing.assert_array_equal(change.base(), wanted[name].base())
        assert change.shape == wanted[name].shape and change.stored_as == "bfloat16"
        assert change.is_zero() == ("attn/k" not in name)
    assert weight_changes.others_of_folders(base, tuned) == ("final_norm",)


def test_folders_of_other_models_are_refused(folders, tmp_path, small, small_params):
    base, _, _ = folders
    longer = small_params | {"embed": jnp.zeros((97, small.d_model))}
    hf.save(tmp_path / "longer", longer, dataclasses.replace(small, vocab_size=97))
    with pytest.raises(UserError, match="vocabulary of 96 tokens, the tuned model one of 97"):
        weight_changes.of_folders(base, tmp_path / "longer")
    fewer = small_params | {"layers": jax.tree.map(lambda x: x[:2], small_params["layers"])}
    hf.save(tmp_path / "fewer", fewer, dataclasses.replace(small, n_layers=2))
    with pytest.raises(UserError, match="has 3 layers"):
        weight_changes.of_folders(base, tmp_path / "fewer")
    with pytest.raises(UserError, match=r"config\.json"):
        weight_changes.of_folders(base, tmp_path / "missing")


def test_shapes_are_enough_for_an_adapter_of_low_rank(small, small_params):
    """A base of 27 GB need not be read to know what an adapter of it changes."""
    adapter = adapter_for(small, small_params, targets=("q",))
    shapes = spec.abstract(llama.specs(small))
    changes = list(weight_changes.of_model(shapes, Model(params=shapes, adapter=adapter)))
    assert not changes[0].is_zero() and changes[1].is_zero()
    with pytest.raises(UserError, match="needs the base's weights"):
        changes[0].base()


def test_only_chosen_weights_are_read(small_params):
    tuned = with_leaf(small_params, "attn", "k", lambda x: x * 2)
    model = Model(params=tuned, adapter={})
    chosen = weight_changes.of_model(small_params, model, lambda name: name == "layers/1/attn/k")
    assert [change.name for change in chosen] == ["layers/1/attn/k"]
