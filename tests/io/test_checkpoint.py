"""Checkpoints: exact round trips, which steps are kept, refusals that say why."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import META, Layer, adapter, assert_same, save, train_state
from jax.sharding import NamedSharding, PartitionSpec

from lfl_jax.errors import UserError
from lfl_jax.io.checkpoint import Checkpoints, abstract


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = train_state()
    state["params"]["layers"]["norm"] = jnp.ones((3, 6), jnp.bfloat16)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        assert save(checkpoints, 5, state, nll=0.5)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(None, abstract(state), base_fingerprint="cafe")
    assert_same(found.state, state)
    assert isinstance(found.state["adapter"]["layers"]["attn"]["q"], Layer)
    assert (found.step, found.metrics, found.metadata) == (5, {"nll": 0.5}, META)
    assert found.iterator_states == [{"parent": {"next_index": 5}, "counter": 6}]


def test_a_tree_of_none_alone_survives_beside_the_others(tmp_path: Path) -> None:
    state = train_state()
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state)
        assert_same(checkpoints.restore(1, abstract(state)).state, state)


def test_the_adapter_can_be_read_alone(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        found = checkpoints.restore(1, {"adapter": abstract(adapter(seed=1))})
    assert list(found.state) == ["adapter"]
    assert_same(found.state["adapter"], adapter(seed=1))


def test_restores_into_the_sharding_asked_for(tmp_path: Path) -> None:
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    x = jnp.arange(12.0).reshape(3, 4)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, {"adapter": {"x": x}})
        like = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        found = checkpoints.restore(1, {"adapter": {"x": like}})
        with pytest.raises(ValueError, match="needs shardings"):
            checkpoints.restore(1, {"adapter": {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}})
    assert found.state["adapter"]["x"].sharding == sharding


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_keeps_the_latest_and_the_best(tmp_path: Path, mode: str, best: int) -> None:
    values = {1: 0.5, 2: 0.1, 3: 0.9, 4: float("nan"), 5: 0.4, 6: 0.4}
    with Checkpoints(tmp_path, keep_latest=2, best_metric="nll", best_mode=mode) as checkpoints:
        for step, value in values.items():
            save(checkpoints, step, nll=value, other=-value * (best + 1))
    with Checkpoints(tmp_path, keep_latest=2, best_metric="nll", best_mode=mode) as checkpoints:
        assert checkpoints.steps() == [best, 5, 6]
        assert checkpoints.best_step() == best
        assert checkpoints.restore(best, abstract(train_state())).metrics["nll"] == values[best]


def test_without_a_metric_there_is_no_best(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        with Checkpoints(tmp_path, keep_latest=1, best_metric="nll") as checkpoints:
            save(checkpoints, step)
            checkpoints.wait()
            assert (checkpoints.steps(), checkpoints.best_step()) == ([step], None)


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert save(checkpoints, 1)
        assert not save(checkpoints, 1, train_state(seed=9))
        assert_same(checkpoints.restore(1, abstract(train_state())).state, train_state(seed=1))


def test_another_rank_is_named(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        with pytest.raises(UserError) as error:
            checkpoints.restore(1, abstract(train_state(rank=8)))
    assert "checkpoint has rank 4, config asks for 8" in str(error.value)
    assert "adapter/layers/attn/q/a has shape (3, 6, 4), expected (3, 6, 8)" in str(error.value)
    assert "and 3 more" in str(error.value)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "dora": jnp.ones(3)}, "adapter/dora is not in the checkpoint"),
        (lambda t: {"layers": t["layers"]}, "adapter/shared/0 is in the checkpoint only"),
        (
            lambda t: jax.tree.map(lambda x: x.astype(jnp.bfloat16), t),
            "a has dtype float32, expected bfloat16",
        ),
    ],
)
def test_another_tree_is_named(tmp_path: Path, change: object, message: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        with pytest.raises(UserError, match=message):
            checkpoints.restore(1, {"adapter": abstract(change(adapter()))})


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        with pytest.raises(UserError, match="belongs to base cafe, this run's base is beef"):
            checkpoints.restore(1, abstract(train_state()), base_fingerprint="beef")
        assert checkpoints.metadata() == META


def test_a_missing_step_or_directory_is_named(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "new") as checkpoints:
        with pytest.raises(UserError, match="no checkpoint in .*new: it has none"):
            checkpoints.restore(None, {})
        save(checkpoints, 3)
        with pytest.raises(UserError, match="no checkpoint of step 4 in .*new: it has 3"):
            checkpoints.restore(4, {})
    with pytest.raises(UserError, match="no checkpoints at .*absent"):
        Checkpoints(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()


def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints to .*file"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_looking_leaves_an_unfinished_save_alone(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    unfinished = tmp_path / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert unfinished.exists()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
        save(checkpoints, 3)
    assert not unfinished.exists()


def test_an_iterator_state_that_json_changes_is_refused(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(TypeError, match="does not survive JSON"),
    ):
        checkpoints.save(1, train_state(), iterator_state={1: (2, 3)}, metrics={}, metadata=META)


def test_a_step_that_donates_the_state_does_not_reach_the_save(tmp_path: Path) -> None:
    # Large enough (64 MB) that the background write is still going on during the first step.
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state = step({"x": jnp.zeros((16, 1 << 20)), "count": jnp.int32(0)})
    like = {"adapter": abstract(state)}
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, {"adapter": state})
        for _ in range(5):
            state = step(state)
        found = checkpoints.restore(1, like).state["adapter"]
    assert int(found["count"]) == 1 and int(state["count"]) == 6
    np.testing.assert_array_equal(found["x"], np.ones((16, 1 << 20), np.float32))


def test_the_time_of_the_write_is_not_spent_in_save(tmp_path: Path) -> None:
    state = {"adapter": {"x": jax.random.normal(jax.random.key(0), (32, 1 << 20))}}
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, {"adapter": {"x": jnp.zeros(3)}})
        checkpoints.wait()
        start = time.monotonic()
        save(checkpoints, 2, state)
        called = time.monotonic() - start
        assert not (tmp_path / "2").exists()
        checkpoints.wait()
        assert (tmp_path / "2").exists()
        assert called < time.monotonic() - start


def test_a_synchronous_save_is_finished_when_it_returns(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, asynchronous=False) as checkpoints:
        save(checkpoints, 1, {"adapter": {"x": jnp.zeros((8, 1 << 20))}})
        assert (tmp_path / "1").exists()


def test_two_leaves_of_one_path_are_refused(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="two leaves share one path"),
    ):
        save(checkpoints, 1, {"adapter": {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}})


def test_waiting_for_a_save_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from orbax.checkpoint import checkpoint_manager

    monkeypatch.setattr(checkpoint_manager, "_WAIT_FOR_PREV_SAVE_WARNING_THRESHOLD_SECS", -1.0)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_orbax_alone_can_read_what_was_written(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    from orbax.checkpoint import v1 as ocp

    with pytest.warns(UserWarning, match="Sharding info not provided"):
        loaded = ocp.load_checkpointables(tmp_path / "1")
    saved = adapter(seed=1)["layers"]["attn"]["q"].a
    np.testing.assert_array_equal(loaded["adapter"]["layers"]["attn"]["q"]["a"], saved)
    assert ocp.checkpointables_metadata(tmp_path / "1").custom_metadata["metadata"] == META
