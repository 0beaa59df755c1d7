"""Parameters that come along with an adapter (PEFT's modules_to_save) survive load -> save, or
saving is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for

import lfl_jax
from lfl_jax import adapters
from lfl_jax.core import tree
from lfl_jax.errors import UserError


def untied(params):
    return params | {"head": params["embed"] * 0.5}


@pytest.fixture(scope="module")
def theirs(small, small_params, tmp_path_factory):
    """(a folder with LoRA at q and its own head, the base, the adapter)."""
    base, folder = untied(small_params), tmp_path_factory.mktemp("peft") / "theirs"
    adapter = adapter_for(small, base, rank=2, targets=("q",))
    lfl_jax.save_adapter(folder, adapter, base, replaced={"head": base["head"] * 1.5})
    return folder, base, adapter


def modules_to_save(folder):
    return json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]


def test_a_head_survives_load_and_save(theirs, tmp_path):
    folder, base, _ = theirs
    params, adapter = lfl_jax.load_adapter(folder, base)
    lfl_jax.save_adapter(tmp_path / "ours", adapter, params)
    again, found = lfl_jax.load_adapter(tmp_path / "ours", base)
    assert modules_to_save(tmp_path / "ours") == ["lm_head"]
    assert np.array_equal(again["head"], base["head"] * 1.5) and jax.tree.all(
        jax.tree.map(np.array_equal, adapter, found)
    )


def test_a_head_that_would_be_lost_is_refused(theirs, tmp_path):
    folder, base, _ = theirs
    params, adapter = lfl_jax.load_adapter(folder, base)
    with pytest.raises(
        UserError, match="its own head, which would be lost.*those that load_adapter returned"
    ):
        lfl_jax.save_adapter(tmp_path / "ours", adapter, base)
    with pytest.raises(UserError, match="holds no parameters such as head; use a folder"):
        lfl_jax.save_adapter(tmp_path / "ours.safetensors", adapter, params)
    more = params | {"final_norm": params["final_norm"] + 1}
    with pytest.raises(
        UserError, match="besides the adapter's own head differ from its base's; give base="
    ):
        lfl_jax.save_adapter(tmp_path / "ours", adapter, more)
    assert not list(tmp_path.iterdir())
    lfl_jax.save_adapter(tmp_path / "ours", adapter, more, base=base)
    assert modules_to_save(tmp_path / "ours") == ["lm_head", "model.norm"]


@pytest.mark.parametrize(
    "change",
    [
        lambda a, p: adapters.scale(a, 0.5),
        lambda a, p: adapters.fuse(adapters.add(a, a)),
        lambda a, p: adapters.truncate(a, p, 1)[0],
        lambda a, p: adapters.ties([a, a], p, jnp.ones(2), 0.5),
        lambda a, p: adapters.bind(a, p),
    ],
    ids=["scale", "add", "truncate", "ties", "bind"],
)
def test_the_algebra_does_not_forget_it(change, theirs, tmp_path):
    folder, base, _ = theirs
    params, adapter = lfl_jax.load_adapter(folder, base)
    changed = change(adapter, params)
    with pytest.raises(UserError, match="would be lost"):
        lfl_jax.save_adapter(tmp_path / "ours", changed, base)


def test_adapters_with_different_parameters_of_their_own_need_the_base(small, theirs, tmp_path):
    folder, base, plain = theirs
    lfl_jax.save_adapter(
        tmp_path / "norm", plain, base, replaced={"final_norm": base["final_norm"] + 1}
    )
    (params, one), (_, other) = (
        lfl_jax.load_adapter(place, base) for place in (folder, tmp_path / "norm")
    )
    both = adapters.fuse(adapters.add(one, other))
    with pytest.raises(UserError, match="own head, final_norm differ from its base's; give base="):
        lfl_jax.save_adapter(tmp_path / "ours", both, params)
    lfl_jax.save_adapter(tmp_path / "ours", both, params, base=base)
    assert modules_to_save(tmp_path / "ours") == ["lm_head"]


def test_what_trained_beside_an_adapter_is_what_differs_from_the_base(
    small, small_params, tmp_path
):
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    copies = jax.tree.map(lambda x: x + 0, small_params)
    trained = copies | {"final_norm": copies["final_norm"] * 1.5}
    lfl_jax.save_adapter(tmp_path / "ours", adapter, trained, base=small_params)
    assert modules_to_save(tmp_path / "ours") == ["model.norm"]
    params, _ = lfl_jax.load_adapter(tmp_path / "ours", small_params)
    assert tree.fingerprint(params) == tree.fingerprint(trained)


@pytest.mark.parametrize("tie", [False, True], ids=["embedding alone", "tied in PEFT"])
def test_a_tied_base_keeps_the_head_that_its_adapter_had(tie, small, small_params, tmp_path):
    """An embedding trained as a copy leaves the head as it was; saved again, it still does."""
    adapter = adapter_for(small, small_params, rank=2, targets=("q",))
    own = {"embed": small_params["embed"] + 1} | ({} if tie else {"head": small_params["embed"]})
    lfl_jax.save_adapter(tmp_path / "theirs", adapter, small_params, replaced=own)
    params, found = lfl_jax.load_adapter(tmp_path / "theirs", small_params)
    lfl_jax.save_adapter(tmp_path / "ours", found, params)
    again, _ = lfl_jax.load_adapter(tmp_path / "ours", small_params)
    assert tree.fingerprint(again) == tree.fingerprint(params) and ("head" in again) is not tie
