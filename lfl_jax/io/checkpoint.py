"""Checkpoints of a run, through orbax: written in the background, checked before a restore."""

import contextlib
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax

from lfl_jax.core import files, hosts
from lfl_jax.core.tree import content_hash
from lfl_jax.core.types import PyTree
from lfl_jax.errors import MAKE_ROOM, UserError, full
from lfl_jax.io import checkpoint_checks, checkpoint_errors, checkpoint_removal
from lfl_jax.io import checkpoint_trees as trees
from lfl_jax.io.checkpoint_checks import Damaged

if TYPE_CHECKING:
    from orbax.checkpoint.v1.training import Checkpointer

# A position in the data, as grain's get_state returns it: any JSON value.
Json: TypeAlias = dict | list | str | int | float | bool | None

REMOVAL_TRIES = 30  # a tenth of a second apart


@dataclass(frozen=True)
class Restored:
    """One checkpoint: the requested trees, and the data position of every process that wrote it."""

    step: int
    state: dict[str, PyTree]
    iterator_states: list[Json]
    metrics: dict[str, float]
    metadata: dict[str, Any]


def abstract(state: PyTree) -> PyTree:
    """Shapes, dtypes and shardings of live arrays, for `Checkpoints.restore`; None stays None."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


class Checkpoints:
    """The checkpoints under one directory, `directory/<step>/<name>`, each readable by orbax alone.

    A context manager: leaving it waits for the save in flight, and re-raises what went wrong in it.
    Every process of a run opens it and calls `save` and `restore` together. A step appears under
    its final name only when all of it is written, so whatever ends the process, the last finished
    step loads.

    `keep_latest` steps remain, and the one with the best `best_metric`. Where that is not among the
    latest it remains for evaluation and export only, without the trees named in `latest_only`.
    `read_only` is for reading a run that may still be training: it creates nothing and leaves the
    other process's unfinished save alone.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_latest: int = 1,
        latest_only: Sequence[str] = (),
        best_metric: str | None = None,
        best_mode: Literal["min", "max"] = "min",
        asynchronous: bool = True,
        read_only: bool = False,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._keep_latest, self._latest_only = keep_latest, () if read_only else tuple(latest_only)
        self._best_metric, self._sign = best_metric, {"min": -1.0, "max": 1.0}[best_mode]
        self._asynchronous = asynchronous
        if read_only and not self._directory.is_dir():
            raise UserError(
                f"no checkpoints at {self._directory}: pass the --workdir of a trained run"
            )
        self._checkpointer = self._open(read_only)
        self._in_flight: Any = None  # orbax's response to the save that is being written
        self._step_in_flight, self._failed, self._hook = 0, False, sys.excepthook

    def _open(self, read_only: bool) -> "Checkpointer":
        from orbax.checkpoint import v1 as ocp

        preservation = ocp.training.preservation_policies
        policies = [preservation.LatestN(self._keep_latest)]
        if self._best_metric is not None:
            policies += [
                preservation.BestN(
                    get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
                )
            ]
        context = ocp.Context()
        # Compressing float32 saves a tenth of the disk and costs four times the processor time of
        # writing it.
        context.array.saving.use_compression = False
        logging.getLogger("absl").addFilter(checkpoint_errors.is_news)
        checkpoint_errors.ask_tensorstore_nothing()
        try:
            with checkpoint_errors.naming_damage(self._directory):
                return ocp.training.Checkpointer(
                    self._directory,
                    context=context,
                    preservation_policy=preservation.AnyPreservationPolicy(policies),
                    cleanup_tmp_directories=not read_only,
                )
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write checkpoints to {self._directory}: {reason}") from error

    def _score(self, metrics: Mapping[str, float] | None) -> float:
        value = (metrics or {}).get(self._best_metric or "")
        return -math.inf if value is None else self._sign * value

    # -- which steps there are

    def steps(self) -> list[int]:
        """Steps that can be restored, ascending; one still being written counts."""
        return [checkpoint.step for checkpoint in self._listed()]

    def _listed(self) -> Sequence[Any]:
        """Orbax's list of steps, with what it reads of each."""
        with checkpoint_errors.naming_damage(self._directory):
            return self._checkpointer.checkpoints

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def steps_with(self, names: Sequence[str]) -> list[int]:
        """Steps with all of these trees, ascending; one still being written does not count."""

        def has_all(step: int) -> bool:
            return all(self._folder(step, name).is_dir() for name in names)

        return [step for step in self.steps() if has_all(step)]

    def best_step(self) -> int | None:
        """The step with the best `best_metric`, the later of equals; None when no step has it."""
        scores = [
            (self._score(checkpoint.metrics), checkpoint.step) for checkpoint in self._listed()
        ]
        score, step = max(scores, default=(-math.inf, 0))
        return step if score > -math.inf else None

    def _folder(self, step: int, name: str = "") -> Path:
        """Of a checkpoint, or of one of its trees."""
        return self._directory / str(step) / name

    def _existing(self, step: int | None) -> int:
        """The step, or the latest one; UserError when there is no such checkpoint."""
        self.wait()
        steps = self.steps()
        if not steps or step not in (None, *steps):
            missing = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise UserError(
                f"{missing} in {self._directory}: it has {', '.join(map(str, steps)) or 'none'}"
            )
        return steps[-1] if step is None else step

    # -- saving

    def save(
        self,
        step: int,
        state: Mapping[str, PyTree],
        *,
        iterator_state: Json,
        metrics: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> bool:
        """Start saving named trees of arrays; False, and nothing is done, when the step exists.

        The arrays may be donated as soon as this returns. None leaves are left out, and trees
        without arrays too. iterator_state may differ by process; it and metadata are stored as
        JSON. Metrics that are not finite are left out, so they never win "best". Waits for the save
        before this one.
        """
        if step in self.steps():
            return False
        self.wait()
        self._thin()

        arrays = {name: trees.nested(tree) for name, tree in state.items()}
        about = {
            "iterator_states": _gather(iterator_state),
            "metadata": dict(metadata),
            "arrays": {name: content_hash(tree) for name, tree in trees.non_empty(arrays).items()},
        }
        self._step_in_flight = step
        with self._naming_this_save():
            checkpoint_errors.require_room(
                self._directory, sum(x.nbytes for x in jax.tree.leaves(arrays))
            )
            # force: when to save is the loop's decision, not that of orbax's own policy.
            self._in_flight = self._checkpointer.save_checkpointables_async(
                step,
                trees.non_empty(arrays),
                force=True,
                metrics=trees.finite(metrics),
                custom_metadata=about,
            )
        if not self._asynchronous:
            self.wait()
        return True

    def add_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give a step of this directory the metrics that it was saved without. Collective."""
        self.wait()
        folder, best = self._folder(step), self.best_step()
        if hosts.is_first() and folder.is_dir():
            with checkpoint_checks.changing(folder):
                # Where orbax has them, which looks for nothing else.
                files.write_json(folder / "metrics" / "metrics", trees.finite(metrics))
        hosts.agree(None)
        self._checkpointer.reload()
        # As a save does, which removes the one that was the best.
        if best not in (None, self.best_step(), *self.steps()[-self._keep_latest :]):
            self._checkpointer.delete(best)

    def _thin(self) -> None:
        """Remove `latest_only` from checkpoints that are no longer among the latest.

        All checkpoints are complete when it is called.
        """
        if self._latest_only and jax.process_index() == 0:
            older = self.steps()[: -self._keep_latest]
            checkpoint_removal.remove_trees(self._directory, self._latest_only, older)

    @contextlib.contextmanager
    def _naming_this_save(self) -> Iterator[None]:
        """Inside, a file system that takes no more is a UserError with the step.

        tensorstore reports a full disk with an exception of its own, which is no OSError.
        """
        try:
            yield
        except Exception as error:
            self._failed = True
            reason = full(error) or (error.strerror if isinstance(error, OSError) else None)
            if reason is None:
                raise
            raise UserError(
                f"cannot write checkpoint of step {self._step_in_flight} to {self._directory}:"
                f" {reason}; {MAKE_ROOM}"
            ) from None

    def wait(self) -> None:
        """Block until the save in flight is finished, and raise what went wrong in it."""
        # Only its result() ends the thread and the event loop (three descriptors) that orbax makes
        # for each save.
        saving, self._in_flight = self._in_flight, None
        with self._naming_this_save():
            if saving is not None:
                saving.result()
            self._checkpointer.wait()
            if saving is not None and hosts.is_first():
                checkpoint_checks.write(self._folder(self._step_in_flight))

    # -- restoring

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """The metadata that `save` stored, of the latest step by default."""
        step = self._existing(step)
        return self._described(step, ()).custom_metadata["metadata"]

    def _described(self, step: int, names: Iterable[str]) -> Any:
        """Orbax's metadata of a step whose files were looked at; Damaged where it has lost some.

        names: of the trees that will be read.
        """
        checkpoint_checks.verify(self._folder(step), names)
        saved = self._checkpointer.checkpointables_metadata(step)
        # Orbax has an empty answer where it cannot read its own file.
        if not {"metadata", "iterator_states"} <= (saved.custom_metadata or {}).keys():
            raise Damaged(f"checkpoint {self._folder(step)} is damaged: it has no metadata")
        return saved

    def restore(
        self, step: int | None, like: Mapping[str, PyTree], *, base_fingerprint: str | None = None
    ) -> Restored:
        """Load the trees named in `like` into exactly that form: ShapeDtypeStruct with shardings.

        None is the latest step. A tree that `like` does not name is not read. UserError when there
        is no such step, when it belongs to another base (metadata["base_fingerprint"]), or when
        paths, shapes or dtypes differ from the saved ones; the message names them. Damaged, which
        is one, when files or arrays are not what `save` wrote.
        """
        step = self._existing(step)
        name = f"checkpoint {self._folder(step)}"
        saved = self._described(step, like)
        metadata = saved.custom_metadata["metadata"]
        if base_fingerprint is not None and metadata["base_fingerprint"] != base_fingerprint:
            raise UserError(
                f"{name} belongs to base {metadata['base_fingerprint']}, this run's base is"
                f" {base_fingerprint}: load the base it was trained on, or use another --workdir"
            )
        expected = {tree: trees.nested(leaves) for tree, leaves in like.items()}
        with_arrays = trees.non_empty(expected)
        self._require(step, [tree for tree in with_arrays if tree not in saved.metadata])
        trees.compare(saved.metadata, expected, name)

        # Asked for nothing, orbax would load everything.
        loaded = self._checkpointer.load_checkpointables(step, with_arrays) if with_arrays else {}
        for tree, written in saved.custom_metadata.get("arrays", {}).items():
            if tree in loaded and content_hash(loaded[tree]) != written:
                raise Damaged(f"{name} is damaged: the arrays of {tree} are not what was written")
        return Restored(
            step,
            {tree: trees.unnested(loaded.get(tree, {}), form) for tree, form in like.items()},
            saved.custom_metadata["iterator_states"],
            dict(saved.metrics or {}),
            metadata,
        )

    def _require(self, step: int, missing: Sequence[str]) -> None:
        """UserError for a checkpoint that has lost trees: it remains as the best, not to resume."""
        if missing:
            resumable = ", ".join(map(str, self.steps_with(missing))) or "none"
            raise UserError(
                f"checkpoint {self._folder(step)} holds no {' and no '.join(missing)}: it can be"
                f" evaluated and exported, not resumed; steps that can be resumed: {resumable}"
                " (config.checkpoint.keep says how many)"
            )

    # -- closing

    def close(self) -> None:
        """Wait, then release orbax's threads; without it an exit abandons the save in flight.

        What a failed save wrote is removed. It has been reported already, and orbax would raise it
        once more.
        """
        try:
            # After the wait the last step is complete, so older ones may lose trees for it.
            if not self._failed:
                self.wait()
                self._thin()
        finally:
            with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                self._checkpointer.close()
            if self._failed:
                self._remove_partial()

    def _remove_partial(self) -> None:
        """Remove what a failed save wrote, while its threads may still be writing for a moment."""
        for _ in range(REMOVAL_TRIES):
            partial = list(self._directory.glob("*.orbax-checkpoint-tmp"))
            if not partial:
                return
            for folder in partial:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.1)

    def __enter__(self) -> "Checkpoints":
        self._hook, sys.excepthook = sys.excepthook, checkpoint_errors.report_unless_loop_closed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        finally:
            sys.excepthook = self._hook


def _gather(state: Json) -> list[Json]:
    """Every process's iterator state, in process order: readers of slices have different ones."""
    if json.loads(json.dumps(state)) != state:
        raise TypeError(f"the iterator state does not survive JSON: {state}")
    return hosts.gather(state)
