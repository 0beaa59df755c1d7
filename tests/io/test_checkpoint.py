"""Checkpoints: exact round trips, which steps are kept, refusals that say why, and being killed."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from lfl_jax.errors import UserError
from lfl_jax.io.checkpoint import Checkpoints, abstract

META = {"base_fingerprint": "cafe", "config_hash": "0123"}


@struct.dataclass
class Layer:
    a: jax.Array
    b: jax.Array | None
    scale: jax.Array


def float32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def adapter(rank: int = 4, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(3, 6, rank)), random.normal(size=(3, rank, 6))
    layer = Layer(a=float32(a), b=float32(b), scale=float32(np.full((3, rank), 2.0)))
    return {"layers": {"attn": {"q": layer, "k": None}}, "shared": (float32(np.arange(3)), None)}


def train_state(rank: int = 4, seed: int = 0) -> dict:
    tree = adapter(rank, seed)
    return {
        "adapter": tree,
        "params": {"embed": None, "layers": {"norm": None}},
        "optimizer": (adapter(rank, seed + 100), jnp.int32(7)),
        "rng": jax.random.key(seed),
    }


def save(checkpoints: Checkpoints, step: int, state: dict | None = None, **metrics: float) -> bool:
    state = train_state(seed=step) if state is None else state
    position = {"parent": {"next_index": step}, "counter": 6}
    return checkpoints.save(step, state, iterator_state=position, metrics=metrics, metadata=META)


def assert_same(left: object, right: object) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


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
    assert found.iterator_state() == {"parent": {"next_index": 5}, "counter": 6}


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


def test_a_changed_number_of_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        found = checkpoints.restore(1, {})
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    assert found.iterator_state() == found.iterator_states[0], (
        "the position of all, whatever their number"
    )
    slices = dataclasses.replace(found, iterator_states=[{"step": 1}, {"step": 2}])
    with pytest.raises(UserError, match="written by 2 processes, this run has 3"):
        slices.iterator_state()


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


def descriptors_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def saved(checkpoints: Checkpoints, steps: range) -> tuple[int, int]:
    """Descriptors and threads after small saves at these steps."""
    for step in steps:
        save(checkpoints, step, {"adapter": {"x": jnp.ones(3)}}, nll=1.0 / step)
    checkpoints.wait()
    return descriptors_and_threads()


# A save in flight has a few threads of its own; what leaks is counted once a save.
SLACK = 12


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counted in Linux's /proc")
@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_saves_leave_no_descriptors_and_threads_behind(tmp_path: Path, count: int) -> None:
    with Checkpoints(tmp_path, best_metric="nll") as checkpoints:
        first = saved(checkpoints, range(1, 6))
        last = saved(checkpoints, range(6, 6 + count))
    assert all(now <= before + SLACK for now, before in zip(last, first, strict=True)), (
        first,
        last,
    )


WRITER = """
import sys
import jax, jax.numpy as jnp
from lfl_jax.io.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep_latest=2) as checkpoints:
    for step in range(1, 10_000):
        tree = {f"x{i}": jnp.full((64, 1 << 10), step) for i in range(4)}
        state = {"adapter": tree, "optimizer": (jnp.int32(step),)}
        checkpoints.save(step, state, iterator_state={"step": step}, metrics={}, metadata={})
        print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.035])
def test_killed_while_saving_the_last_finished_step_loads(tmp_path: Path, delay: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    while (started := int(writer.stdout.readline())) < 5:
        pass
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    started = max([started, *map(int, writer.stdout.read().split())])
    writer.wait()
    writer.stdout.close()
    here = SingleDeviceSharding(jax.devices()[0])
    x = jax.ShapeDtypeStruct((64, 1 << 10), jnp.int32, sharding=here)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=here)
    like = {"adapter": {f"x{i}": x for i in range(4)}, "optimizer": (count,)}
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        found = checkpoints.restore(None, like)
        # save waits for the one before it, so at most the last started one is lost.
        assert found.step >= started - 1
        for leaf in jax.tree.leaves(found.state):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, found.step))
        assert found.iterator_state() == {"step": found.step}
        save(checkpoints, found.step + 1, found.state)
        checkpoints.wait()
        assert sorted(tmp_path.iterdir()) == [
            tmp_path / str(step) for step in (found.step, found.step + 1)
        ]


def test_orbax_alone_can_read_what_was_written(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    from orbax.checkpoint import v1 as ocp

    with pytest.warns(UserWarning, match="Sharding info not provided"):
        loaded = ocp.load_checkpointables(tmp_path / "1")
    saved = adapter(seed=1)["layers"]["attn"]["q"].a
    np.testing.assert_array_equal(loaded["adapter"]["layers"]["attn"]["q"]["a"], saved)
    assert ocp.checkpointables_metadata(tmp_path / "1").custom_metadata["metadata"] == META


FILLED = """
import sys
from pathlib import Path
import jax.numpy as jnp
from lfl_jax.errors import UserError
from lfl_jax.io import checkpoint
from lfl_jax.io.checkpoint import Checkpoints, abstract
folder, checkpoint.OVERHEAD = Path(sys.argv[1]), float(sys.argv[2])

def state(step):
    return {"adapter": {"x": jnp.full((64, 1 << 10), step)}, "optimizer": (jnp.int32(step),)}

def save(checkpoints, step):
    checkpoints.save(step, state(step), iterator_state={"step": step}, metrics={}, metadata={})

(folder / "filler").write_bytes(bytes(1 << 20))
try:
    with Checkpoints(folder / "checkpoints", keep_latest=9) as checkpoints:
        for step in range(1, 10):
            save(checkpoints, step)
except UserError as error:
    print(error)
print(sorted(path.name for path in (folder / "checkpoints").iterdir()))
(folder / "filler").unlink()
with Checkpoints(folder / "checkpoints", keep_latest=9) as checkpoints:
    last = checkpoints.latest_step()
    assert int(checkpoints.restore(last, abstract(state(0))).state["optimizer"][0]) == last
    save(checkpoints, last + 1)
    checkpoints.wait()
    print(checkpoints.steps())
"""


def on_a_small_disk(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python on an empty file system of 2 MB, mounted for this process alone."""
    mounted = f'mount -t tmpfs -o size=2m tmpfs {folder} && exec "$@"'
    inside = [
        "unshare",
        "-m",
        "bash",
        "-c",
        mounted,
        "bash",
        sys.executable,
        "-c",
        program,
        str(folder),
    ]
    done = subprocess.run([*inside, *arguments], capture_output=True, text=True, env=os.environ)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("only root mounts a small file system")
    return done


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount namespace")
@pytest.mark.parametrize(
    "overhead", ["1.05", "0"], ids=["noticed before", "noticed by orbax, as with a quota"]
)
def test_a_full_disk_is_one_line_and_leaves_whole_steps_only(tmp_path: Path, overhead: str) -> None:
    done = on_a_small_disk(tmp_path, FILLED, overhead)
    assert done.returncode == 0, done.stderr
    message, left, after = done.stdout.splitlines()
    steps = json.loads(left.replace("'", '"'))
    failed = len(steps) + 1
    expected = f"cannot write checkpoint of step {failed} to {tmp_path}/checkpoints: No space left on device"
    assert message == f"{expected}; make room, then the same command resumes"
    assert steps == [str(step) for step in range(1, failed)] and failed > 1, (
        "nothing half-written stays"
    )
    assert json.loads(after) == list(range(1, failed + 1))
    assert done.stderr == ""


def thinned(folder: Path, losses: list[float], keep: int = 1) -> None:
    """Checkpoints of steps 1, 2, ...; all but the latest without their optimizer."""
    options = {"keep_latest": keep, "latest_only": ("optimizer",), "best_metric": "nll"}
    with Checkpoints(folder, **options) as checkpoints:
        for step, loss in enumerate(losses, 1):
            save(checkpoints, step, nll=loss)


def test_the_best_checkpoint_loses_its_moments_once_it_is_no_longer_the_latest(
    tmp_path: Path,
) -> None:
    thinned(tmp_path / "c", [3.0, 1.0, 2.0, 4.0])
    state = train_state()
    with Checkpoints(tmp_path / "c", best_metric="nll", read_only=True) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == ([2, 4], 2)
        assert checkpoints.steps_with(("optimizer",)) == [4]
        assert_same(checkpoints.restore(4, abstract(state)).state, train_state(seed=4))
        best = {name: tree for name, tree in state.items() if name != "optimizer"}
        found = checkpoints.restore(2, abstract(best))
        assert_same(found.state["adapter"], train_state(seed=2)["adapter"])
        assert (found.metrics, found.metadata) == ({"nll": 1.0}, META)
        with pytest.raises(
            UserError, match="c/2 holds no optimizer: .* not resumed; steps that can be resumed: 4"
        ):
            checkpoints.restore(2, abstract(state))
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "what was removed is gone"


def test_the_latest_that_were_asked_for_keep_their_moments(tmp_path: Path) -> None:
    thinned(tmp_path / "c", [1.0, 3.0, 2.0, 4.0], keep=2)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert (checkpoints.steps(), checkpoints.steps_with(("optimizer",))) == ([1, 3, 4], [3, 4])


def test_a_process_that_ends_while_moments_are_removed_leaves_whole_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lfl_jax.io.checkpoint.shutil.rmtree", killed)
        thinned(tmp_path / "c", [1.0, 2.0, 3.0])
    assert (tmp_path / ".c.removed").exists()
    options = {"latest_only": ("optimizer",), "best_metric": "nll"}
    with Checkpoints(tmp_path / "c", **options) as checkpoints:
        assert (checkpoints.steps(), checkpoints.steps_with(("optimizer",))) == ([1, 2], [2])
        assert_same(checkpoints.restore(None, abstract(train_state())).state, train_state(seed=2))
        save(checkpoints, 3, nll=4.0)
    assert not (tmp_path / ".c.removed").exists()
