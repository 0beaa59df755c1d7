"""What stays on disk of a run that finished, by the study's field `checkpoints`.

The optimizer's moments are twice as large as what trained, and only further training reads them.
The weights alone are enough to evaluate other tasks, to scale or to analyse the change, to export
it, and to start another run from it (adapter.path).
"""

from collections.abc import Callable
from pathlib import Path

from lfl_jax.io import checkpoint_removal

FOLDER = "checkpoints"  # of a run directory


def _everything(checkpoints: Path) -> None:
    pass


def _weights(checkpoints: Path) -> None:
    checkpoint_removal.remove_trees(checkpoints, _for_resume())


def _for_resume() -> tuple[str, ...]:
    # A mistake in a study, which reads RETENTIONS, is said before jax is imported.
    from lfl_jax import state as states

    return states.FOR_RESUME


def _nothing(checkpoints: Path) -> None:
    checkpoint_removal.remove(checkpoints, [checkpoints])


# value of the field -> what removes the rest from the checkpoints that the run's own config kept
RETENTIONS: dict[str, Callable[[Path], None]] = {
    "all": _everything,
    "weights": _weights,
    "none": _nothing,
}


def keep(folder: Path, retention: str) -> None:
    """Remove what the study does not keep of a finished run; nothing where that was done.

    A process may be killed at any time inside: what remains is then removed by the next call.
    """
    RETENTIONS[retention](folder / FOLDER)


def holds(folder: Path, retention: str) -> bool:
    """Whether a finished run still has what a study with this field keeps."""
    from lfl_jax.run_setup import run_length

    last = run_length.last_checkpoint(folder)
    if retention == "none" or not last:
        return retention == "none"
    trees = _for_resume() if retention == "all" else ()
    return all((folder / FOLDER / str(last) / tree).is_dir() for tree in trees)
