"""Older checkpoints lose their moments, and never anything else."""

from pathlib import Path

import pytest
from checkpoint_states import META, assert_same, save, train_state

from lfl_jax.errors import UserError
from lfl_jax.io.checkpoint import Checkpoints, abstract


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
