"""Damaged checkpoints: noticed before anything reads their arrays, and the older one is used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import pytest
from checkpoint_states import assert_same, save, train_state

from lfl_jax.io import checkpoint_checks
from lfl_jax.io.checkpoint import Checkpoints, abstract
from lfl_jax.io.checkpoint_checks import Damaged


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(directory, keep_latest=2) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    return directory


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_every_damaged_file_of_a_step_is_noticed(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    step = tmp_path / "checkpoints" / "2"
    files = [path.relative_to(whole / "2") for path in (whole / "2").rglob("*") if path.is_file()]
    assert len(files) > 15
    for file in files:
        shutil.rmtree(step, ignore_errors=True)
        shutil.copytree(whole / "2", step)
        damage(step / file)
        if damage is Path.unlink and file.name == checkpoint_checks.FILE:
            continue  # as after a kill between the two
        with pytest.raises(Damaged, match="is damaged"):
            checkpoint_checks.set_aside(step.parent)


def test_the_older_step_is_restored_and_the_damaged_one_kept(whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "checkpoints")
    flip(directory / "2" / checkpoint_checks.METADATA)
    (line,) = checkpoint_checks.set_aside(directory)
    assert "2 is damaged: _CHECKPOINT_METADATA is not what was written" in line
    (aside,) = (tmp_path / "checkpoints.damaged").iterdir()
    assert str(aside) in line and (aside / "adapter").is_dir()
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(None, abstract(train_state()))
    assert restored.step == 1
    assert_same(restored.state, train_state(seed=1))
    assert checkpoint_checks.set_aside(directory) == []


def test_an_empty_step_is_set_aside(whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "checkpoints")
    (directory / "3").mkdir()
    assert "3 is damaged: it has no metadata" in checkpoint_checks.set_aside(directory)[0]


def test_a_reader_is_told_in_a_line(whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "checkpoints")
    flip(directory / "2" / checkpoint_checks.METADATA)
    with pytest.raises(Damaged, match="is damaged"), Checkpoints(directory) as checkpoints:
        checkpoints.restore(2, abstract(train_state()))


def test_trees_that_older_steps_lose_are_no_damage(whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "checkpoints")
    shutil.rmtree(directory / "1" / "optimizer")
    assert checkpoint_checks.set_aside(directory) == []


def test_a_changed_bit_of_a_large_array_is_noticed_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of files above the limit the list has the size alone.
    monkeypatch.setattr(checkpoint_checks, "LARGE", 0)
    state = {"adapter": {"a": jnp.arange(2**20, dtype=jnp.float32)}}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        save(checkpoints, 1, state)
    flip(max((tmp_path / "checkpoints").rglob("*"), key=lambda path: path.stat().st_size))
    assert checkpoint_checks.set_aside(tmp_path / "checkpoints") == []
    with (
        pytest.raises(Damaged, match="arrays of adapter are not what was written"),
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
    ):
        checkpoints.restore(1, abstract(state))
