import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfl_jax.core import tree
from lfl_jax.errors import UserError

TREE = {"adapter": {"q": {"a": jnp.ones(2), "b": jnp.zeros(2)}}, "params": {"w": jnp.arange(3.0)}}


def test_mask_takes_the_first_pattern_that_matches_the_whole_path():
    found = tree.mask(TREE, [("adapter/.*/b", False), ("adapter/.*", True), (".*", False)])
    assert found == {"adapter": {"q": {"a": True, "b": False}}, "params": {"w": False}}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([("adapter/.*", True)], "no pattern matches 'params/w'"),
        ([("adaptor/.*", True), (".*", False)], "matches nothing"),
    ],
)
def test_mask_refuses_what_is_not_covered(patterns, message):
    with pytest.raises(UserError, match=message):
        tree.mask(TREE, patterns)


def test_split_and_combine_are_inverse_and_hold_none_elsewhere():
    keep = tree.mask(TREE, [("adapter/.*", True), (".*", False)])
    trainable, frozen = tree.split(TREE, keep)
    assert trainable["params"]["w"] is None and frozen["adapter"]["q"]["a"] is None
    again = tree.combine(trainable, frozen)
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, again, TREE))


def test_fingerprint_sees_values_places_and_paths_and_nothing_else():
    first = tree.fingerprint(TREE)
    assert first == tree.fingerprint(jax.tree.map(jnp.array, TREE))
    swapped = {"adapter": TREE["adapter"], "params": {"w": TREE["params"]["w"][::-1]}}
    renamed = {"adapter": TREE["adapter"], "params": {"v": TREE["params"]["w"]}}
    nudged = {"adapter": TREE["adapter"], "params": {"w": TREE["params"]["w"] + 1e-7}}
    assert len({first, *(tree.fingerprint(x) for x in (swapped, renamed, nudged))}) == 4


def test_unstack_takes_the_leading_axis_apart():
    first, second = tree.unstack({"w": jnp.arange(6).reshape(2, 3), "none": None}, 2)
    assert (
        first["w"].tolist() == [0, 1, 2]
        and second["w"].tolist() == [3, 4, 5]
        and first["none"] is None
    )


def test_layers_of_a_stack_are_views_that_outlive_its_donation():
    stack = {"w": jnp.arange(48.0).reshape(3, 4, 4), "offset": jnp.arange(3.0), "none": None}
    step = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    layers, held = tree.unstack(stack, 3), {"w": stack["w"]}
    assert [
        layer["w"].unsafe_buffer_pointer() - stack["w"].unsafe_buffer_pointer() for layer in layers
    ] == [0, 64, 128]
    assert [float(layer["offset"]) for layer in layers] == [0, 1, 2] and layers[0]["none"] is None
    held = step(held)
    np.testing.assert_array_equal(
        jnp.stack([layer["w"] for layer in layers]), jnp.arange(48.0).reshape(3, 4, 4)
    )
    address = held["w"].unsafe_buffer_pointer()
    views = tree.unstack(held, 3)
    jax.block_until_ready(views)
    del views
    assert step(held)["w"].unsafe_buffer_pointer() == address, "without views it is donated again"
    traced = jax.jit(lambda t: tree.unstack(t, 3)[1]["w"])({"w": jnp.ones((3, 2))})
    np.testing.assert_array_equal(traced, jnp.ones(2))


def test_a_content_hash_is_of_every_bit():
    first = tree.content_hash(TREE)
    assert first == tree.content_hash(jax.tree.map(jnp.array, TREE))
    # Below what a fingerprint sees, which is of values rounded to bfloat16.
    nudged = jax.tree.map(lambda x: jnp.nextafter(x, jnp.inf), {"a": jnp.ones(3)})
    assert tree.fingerprint(nudged) == tree.fingerprint({"a": jnp.ones(3)})
    assert tree.content_hash(nudged) != tree.content_hash({"a": jnp.ones(3)})
    for dtype in (jnp.int8, jnp.bool_, jnp.bfloat16, jnp.int32):
        ones, zeros = jnp.ones(3, dtype), jnp.zeros(3, dtype)
        assert tree.content_hash({"a": ones}) != tree.content_hash({"a": zeros}), dtype
    assert tree.content_hash({"a": jax.random.key(0)}) != tree.content_hash(
        {"a": jax.random.key(1)}
    )
