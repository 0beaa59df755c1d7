"""Checkpoints of a run, through orbax: written in the background, compared with the config before a
restore."""

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import numpy as np

from lfl_jax.core import hosts
from lfl_jax.core.tree import items
from lfl_jax.errors import MAKE_ROOM, UserError, full

SHOWN_DIFFERENCES = 3
REMOVALS = 30
OVERHEAD = 1.05  # a checkpoint's files over its arrays
# Orbax's warnings after it waited a second for a save, even for the last of a run, and after a save
# that failed.
NOISE = ("Waiting for previous save", "Skipping merge of OCDBT checkpoints")


@dataclass(frozen=True)
class Restored:
    """One checkpoint: the trees that were asked for, and the data position of every process that
    wrote it."""

    step: int
    state: dict[str, Any]
    iterator_states: list[Any]
    metrics: dict[str, float]
    metadata: dict[str, Any]

    def iterator_state(self) -> Any:
        """This process's data position; UserError when processes that read slices were of another
        number."""
        if all(state == self.iterator_states[0] for state in self.iterator_states):
            return self.iterator_states[0]
        wrote, now = len(self.iterator_states), jax.process_count()
        if wrote != now:
            raise UserError(
                f"the checkpoint of step {self.step} was written by {wrote} processes, this run has"
                f" {now}: "
                f"its position in the data cannot be carried over; resume with {wrote} processes"
            )
        return self.iterator_states[jax.process_index()]


def abstract(state: Any) -> Any:
    """Shapes, dtypes and shardings of live arrays, as `Checkpoints.restore` takes them; None leaves
    stay None."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


class Checkpoints:
    """The checkpoints under one directory, `directory/<step>/<name>`, each readable by orbax alone.

    A context manager: leaving it waits for the save in flight, and re-raises what went wrong in it.
    Every process of a run opens it and calls `save` and `restore` together. A step appears under
    its final name only when all of it is written, so whatever ends the process, the last finished
    step loads. keep_latest steps are kept, and the one with the best `best_metric`; where that is
    not among the latest, it is there to be evaluated and exported, and loses the trees named in
    `latest_only`. `read_only` is for looking at a run that may still be
    training: it creates nothing and leaves the other process's unfinished save alone.
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
        self._checkpointer = self._open(keep_latest, read_only)
        self._in_flight: Any = None
        self._step_in_flight, self._failed, self._hook = 0, False, sys.excepthook

    def _open(self, keep_latest: int, read_only: bool) -> Any:
        from orbax.checkpoint import v1 as ocp

        keep = ocp.training.preservation_policies
        policies = [keep.LatestN(keep_latest)]
        if self._best_metric is not None:
            policies += [
                keep.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False)
            ]
        context = ocp.Context()
        # Compressing float32 saves a tenth of the disk and costs four times the processor time of
        # writing it.
        context.array.saving.use_compression = False
        logging.getLogger("absl").addFilter(_is_news)
        try:
            return ocp.training.Checkpointer(
                self._directory,
                context=context,
                preservation_policy=keep.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=not read_only,
            )
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write checkpoints to {self._directory}: {reason}") from error

    def _score(self, metrics: Mapping[str, float] | None) -> float:
        value = (metrics or {}).get(self._best_metric or "")
        return -math.inf if value is None else self._sign * value

    def steps(self) -> list[int]:
        """Steps that can be restored, ascending; one still being written counts."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def steps_with(self, names: Sequence[str]) -> list[int]:
        """Steps whose checkpoints hold all of these trees, ascending; one still being written does
        not count."""
        return [
            step for step in self.steps() if all(self._item(step, name).is_dir() for name in names)
        ]

    def _item(self, step: int, name: str) -> Path:
        return self._directory / str(step) / name

    def best_step(self) -> int | None:
        """The step with the best `best_metric`, the later of equals; None when no checkpoint has
        the metric."""
        scored = [
            (self._score(found.metrics), found.step) for found in self._checkpointer.checkpoints
        ]
        score, step = max(scored, default=(-math.inf, 0))
        return step if score > -math.inf else None

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        iterator_state: Any,
        metrics: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> bool:
        """Start saving named trees of arrays; False, and nothing is done, when this step is already
        there.

        The arrays may be donated as soon as this returns. None leaves are left out, and trees
        without arrays too. iterator_state (any JSON value, as grain's get_state gives; it may
        differ by process) and metadata are stored as JSON. Metrics that are not finite are left
        out, so they never win "best". Waits for the save before this one.
        """
        if step in self.steps():
            return False
        self.wait()
        self._thin()
        trees = {name: _nested(tree) for name, tree in state.items()}
        numbers = {name: float(value) for name, value in metrics.items()}
        positions = _gather(iterator_state)
        self._step_in_flight = step
        with self._one_line():
            _require_room(self._directory, sum(x.nbytes for x in jax.tree.leaves(trees)))
            self._in_flight = self._checkpointer.save_checkpointables_async(
                step,
                {name: tree for name, tree in trees.items() if tree},
                force=True,
                metrics={name: value for name, value in numbers.items() if math.isfinite(value)},
                custom_metadata={"iterator_states": positions, "metadata": dict(metadata)},
            )
        if not self._asynchronous:
            self.wait()
        return True

    def _thin(self) -> None:
        """Remove `latest_only` from checkpoints that are no longer among the latest; all that are
        there are whole.

        A tree leaves its checkpoint in one rename and is removed elsewhere: whatever ends the
        process in between, each tree is there completely or not at all. What such an end leaves
        behind is removed by the next call.
        """
        if not self._latest_only or jax.process_index() != 0:
            return
        elsewhere = self._directory.with_name(f".{self._directory.name}.removed")
        for step in self.steps()[: -self._keep_latest]:
            for item in (self._item(step, name) for name in self._latest_only):
                if item.is_dir():
                    elsewhere.mkdir(exist_ok=True)
                    item.rename(elsewhere / f"{step}.{item.name}.{time.time_ns()}")
        if elsewhere.exists():
            shutil.rmtree(elsewhere, ignore_errors=True)

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """A place that takes no more is the user's to mend; what tensorstore says about it is not
        an OSError."""
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

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """What `save` was given as metadata; of the latest step by default."""
        return self._found(self._existing(step)).custom_metadata["metadata"]

    def restore(
        self, step: int | None, like: Mapping[str, Any], *, base_fingerprint: str | None = None
    ) -> Restored:
        """Load the trees named in `like`, of ShapeDtypeStruct with shardings, into exactly that
        form.

        None is the latest step. A tree that `like` does not name is not read. UserError when there
        is no such step, when it belongs to another base (metadata["base_fingerprint"]), or when
        paths, shapes or dtypes differ from the saved ones; the message names them.
        """
        step = self._existing(step)
        found = self._found(step)
        metadata = found.custom_metadata["metadata"]
        if base_fingerprint is not None and metadata["base_fingerprint"] != base_fingerprint:
            raise UserError(
                f"checkpoint {self._directory / str(step)} belongs to base"
                f" {metadata['base_fingerprint']}, "
                f"this run's base is {base_fingerprint}: load the base it was trained on, or use"
                " another --workdir"
            )
        wanted = {name: _nested(tree) for name, tree in like.items()}
        self._require(
            step, [name for name, tree in wanted.items() if tree and name not in found.metadata]
        )
        _compare(found.metadata, wanted, f"checkpoint {self._directory / str(step)}")
        asked = {name: tree for name, tree in wanted.items() if tree}
        # Asked for nothing, orbax would load everything.
        loaded = self._checkpointer.load_checkpointables(step, asked) if asked else {}
        state = {name: _unnested(loaded.get(name, {}), tree) for name, tree in like.items()}
        states = found.custom_metadata["iterator_states"]
        return Restored(step, state, states, dict(found.metrics or {}), metadata)

    def _require(self, step: int, missing: Sequence[str]) -> None:
        """UserError for a checkpoint that has lost trees: it was kept as the best, not to
        resume."""
        if missing:
            whole = ", ".join(map(str, self.steps_with(missing))) or "none"
            raise UserError(
                f"checkpoint {self._directory / str(step)} holds no {' and no '.join(missing)}: it"
                " can be evaluated and"
                f" exported, not resumed; steps that can be resumed: {whole}"
                " (config.checkpoint.keep says how many)"
            )

    def _existing(self, step: int | None) -> int:
        self.wait()
        steps = self.steps()
        if not steps or step not in (None, *steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise UserError(
                f"{wanted} in {self._directory}: it has {', '.join(map(str, steps)) or 'none'}"
            )
        return steps[-1] if step is None else step

    def _found(self, step: int) -> Any:
        return self._checkpointer.checkpointables_metadata(step)

    def wait(self) -> None:
        """Block until the save in flight is finished, and raise what went wrong in it."""
        # Only its result() ends the thread and the event loop (three descriptors) that orbax makes
        # for each save.
        saving, self._in_flight = self._in_flight, None
        with self._one_line():
            if saving is not None:
                saving.result()
            self._checkpointer.wait()

    def close(self) -> None:
        """Wait, then release orbax's threads; an interpreter that exits without it abandons the
        save in flight.

        What a failed save wrote is removed. It has been reported already, and orbax would raise it
        once more.
        """
        try:
            if not self._failed:
                self.wait()
                self._thin()
        finally:
            with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                self._checkpointer.close()
            if self._failed:
                self._remove_partial()

    def _remove_partial(self) -> None:
        """Remove what a failed save wrote; for a moment its other threads may go on writing
        there."""
        for _ in range(REMOVALS):
            partial = list(self._directory.glob("*.orbax-checkpoint-tmp"))
            if not partial:
                return
            for folder in partial:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.1)

    def __enter__(self) -> "Checkpoints":
        self._hook, sys.excepthook = sys.excepthook, _report_unless_loop_closed
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


def _require_room(directory: Path, size: int) -> None:
    """OSError when a checkpoint cannot fit: failing here is quieter than in orbax's threads, and
    leaves no partial one.

    Quotas are not in the file system's figures; some systems have none at all.
    """
    found = os.statvfs(directory)
    if found.f_blocks and found.f_bavail * found.f_frsize < size * OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _report_unless_loop_closed(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What tensorstore's threads cannot tell orbax any more, once a save has failed, is no news."""
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of orbax's is worth a place across the bar. A save that fails is logged by
    each of its threads with all of its traceback, and then raised.
    """
    raised = record.exc_info is not None and "orbax" in record.pathname
    return not raised and not any(words in record.getMessage() for words in NOISE)


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by slash path; a tree that is one bare array has the path "value"."""
    leaves = items(tree)
    flat = {path or "value": leaf for path, leaf in leaves}
    if len(flat) != len(leaves):
        raise ValueError("two leaves share one path")
    return flat


def _nested(tree: Any) -> dict[str, Any]:
    """The leaves in plain dicts: what is on disk depends on no class of ours, and None leaves need
    no place."""
    nested: dict[str, Any] = {}
    for path, leaf in _flat(tree).items():
        *parents, last = path.split("/")
        node = nested
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return nested


def _unnested(nested: dict[str, Any], like: Any) -> Any:
    leaves = _flat(nested)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in _flat(like)])


def _gather(state: Any) -> list[Any]:
    """Every process's iterator state, in process order: readers of slices have different ones."""
    text = json.dumps(state)
    if json.loads(text) != state:
        raise TypeError(f"the iterator state does not survive JSON: {state}")
    return hosts.gather(state)


def _compare(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """UserError when the saved trees are not what the config asks for: orbax's own message would
    mislead."""
    theirs = {
        path: (leaf.shape, leaf.dtype)
        for path, leaf in _flat({n: saved.get(n) for n in wanted}).items()
    }
    ours = {path: _stored(leaf) for path, leaf in _flat(wanted).items()}
    differences = [path for path in ours | theirs if ours.get(path) != theirs.get(path)]
    if not differences:
        return
    first = [
        _difference(path, theirs.get(path), ours.get(path))
        for path in differences[:SHOWN_DIFFERENCES]
    ]
    more = len(differences) - len(first)
    raise UserError(
        f"{where} does not fit this config: {_ranks(differences, theirs, ours)}{'; '.join(first)}"
        f"{f'; and {more} more' if more else ''}\nuse the config it was made with, or another"
        " --workdir"
    )


def _stored(leaf: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype on disk: a typed random key is its words there."""
    if leaf.sharding is None:
        raise ValueError(f"restore needs shardings: {leaf} has none")
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return tuple(leaf.shape), np.dtype(leaf.dtype)


def _difference(path: str, theirs: Any, ours: Any) -> str:
    if theirs is None:
        return f"{path} is not in the checkpoint"
    if ours is None:
        return f"{path} is in the checkpoint only"
    (shape, dtype), (our_shape, our_dtype) = theirs, ours
    if shape != our_shape:
        return f"{path} has shape {shape}, expected {our_shape}"
    return f"{path} has dtype {dtype}, expected {our_dtype}"


def _ranks(differences: list[str], theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The usual cause in one phrase: the last axis of a low-rank factor A, (..., I, R), differs."""
    for path in differences:
        if path.startswith("adapter/") and path.endswith("/a") and path in theirs and path in ours:
            (*inputs, rank), (*our_inputs, our_rank) = theirs[path][0], ours[path][0]
            if inputs == our_inputs and rank != our_rank:
                return f"checkpoint has rank {rank}, config asks for {our_rank}: "
    return ""
