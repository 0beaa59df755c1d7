"""A run: evaluate the base, train, evaluate again.

`run` reads from top to bottom: prepare everything that can be wrong before hours are spent, load
the base, resume, train, evaluate. The step itself is in train_step.py.
"""

import contextlib
import dataclasses
import functools
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from lfl_jax import adapters, notices, penalties
from lfl_jax import state as states
from lfl_jax.analysis import contamination
from lfl_jax.analysis.training_spectra import Spectra
from lfl_jax.config import Config
from lfl_jax.core import files, hosts
from lfl_jax.core.process import keep_freed_memory, return_freed_memory
from lfl_jax.core.sharding import Rules
from lfl_jax.core.types import Key
from lfl_jax.data.loader import training_batches
from lfl_jax.data.streams import Streams, merged, on_mesh
from lfl_jax.evals import scorer, suite
from lfl_jax.evals.run import Interrupted, Result, never
from lfl_jax.evals.task import Inputs
from lfl_jax.io.checkpoint import Checkpoints, Restored, abstract
from lfl_jax.io.interrupt import Stop, interrupts
from lfl_jax.io.lock import DirectoryLock
from lfl_jax.io.memory import peak_memory_bytes
from lfl_jax.io.metrics import MetricsWriter, warn_of_gaps
from lfl_jax.io.profile import Profiler
from lfl_jax.io.progress import progress
from lfl_jax.io.throughput import Meter
from lfl_jax.model import Model, Origin
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import base_model, branches, earlier_run
from lfl_jax.run_setup.starting import Start
from lfl_jax.state import State
from lfl_jax.train_log import Losses, StepLog, is_due, named_scores, write_once
from lfl_jax.train_setup import Run, Setup, base_tag, load, overlaps, prepare, require_same_run
from lfl_jax.train_step import train_step

# Compiled steps that one process keeps. A program takes 25 MB and 650 memory mappings, of which
# Linux allows 65,530.
MAX_PROGRAMS = 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of a run: those of every task before and after training, and figures of the training.

    A run that was stopped and saved is not finished: it has no results after, and no facts.
    step: that it reached, of `steps`. trained: optimizer steps of this process; 0 for a run that
    was at its end already. facts: "facts" of results.json.
    """

    before: dict[str, Result]
    after: dict[str, Result]
    facts: dict[str, Any]
    step: int
    steps: int
    trained: int
    finished: bool


def run(request: Run) -> Outcome:
    """Evaluate the base, train, evaluate again; an interrupted run directory is resumed bit-exact.

    Raises UserError for a mistake in config, data or directory, and for a directory in which
    another process trains; NonFiniteLoss when training diverged.
    """
    meter = Meter(time.monotonic())
    setup = prepare(request)
    config, folder, rules, steps = setup.config, setup.folder, setup.rules, setup.steps
    lock = DirectoryLock(folder, process_index=jax.process_index())
    with lock, notices.collected() as warnings:
        if hosts.is_first():
            files.remove_partial(folder)
        # The base on the mesh, split into what trains and what stays frozen.
        base, start = load(setup)
        cfg, origin = base.cfg, base.origin
        _limit_memory()
        model = base.model.replace(adapter=start.adapter)
        state, frozen = states.create(model, config.trainable, setup.tx, rules, start.frozen)
        penalty = penalties.make(config.penalty, state, rules)
        spectra = Spectra.of(config.analysis, steps, base.model.params, state.trainable.params)
        sizes = _sizes(state, start)
        key = _dropout_key(config, cfg, rules)
        # A full finetune donates the base's arrays to its first step: nothing may refer to them.
        del base, model

        # Processes that would do different things would wait for each other for ever.
        require_same_run(setup, origin.fingerprint)
        if config.eval.decontaminate and hosts.is_first():
            contamination.write(folder, functools.partial(overlaps, setup))

        evaluations = _Evaluations(setup, cfg, origin.fingerprint)
        names = (*config.eval.tasks, *config.eval.base_tasks)
        before = evaluations.run("before", names, state, frozen, setup.test, adapted=False)

        batches = training_batches(
            setup.tokenized,
            batch=config.train.batch,
            seed=config.seed.data,
            streams=Streams.here(config.data.streams, config.train, rules),
        )
        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep_latest=config.checkpoint.keep,
            latest_only=states.FOR_RESUME,
            best_metric=config.checkpoint.best,
        )
        with contextlib.closing(batches), checkpoints, interrupts() as stop:
            # Resume from this run's last checkpoint, or from the run that it branches off.
            resumed = _resume(
                setup, checkpoints, states.checkpointables(state, frozen, key), origin
            )
            adapter_provenance = start.provenance
            if resumed is not None:
                state, frozen = states.restored(resumed.state, state, frozen)
                batches.set_state(merged(resumed.iterator_states))
                meter.resume(resumed.metadata["figures"])
                adapter_provenance = resumed.metadata.get("start")
            step = first_step = int(state.step)
            scores, stopping = {}, False

            logs = {"tensorboard": config.log.tensorboard, "wandb": config.log.wandb}
            logs |= {"config": config.values(), "further": spectra.files}
            logs["wandb_group"] = config.log.wandb_group
            writer = MetricsWriter(folder, resume_step=step or None, **logs)
            profiler = Profiler(config.log.profile, folder)
            with (
                writer,
                profiler,
                progress(steps, "train", done=step, visible=setup.show) as advance,
            ):
                losses = Losses(cfg.vocab_size, _highest_loss(resumed))
                log = StepLog(config, setup.schedule, writer, advance, meter, checkpoints, losses)
                if step == 0:
                    writer.write(0, named_scores("before", before))
                    if 0 in setup.eval_steps:
                        # Scores during training are compared with the base's on the same items.
                        scores = evaluations.on_the_way(step, state, frozen, stop, log)
                        stopping = scores is None
                    state = start.begin(state)
                elif resumed is not None and not resumed.metadata.get("is_evaluated", True):
                    # It was asked to stop in that evaluation.
                    scores = evaluations.on_the_way(step, state, frozen, stop, log)
                    stopping = scores is None
                    if not stopping:
                        checkpoints.add_metrics(step, scores)
                del start, resumed  # their arrays are the state's now, which the first step donates

                pending = None
                while step < steps and not stopping:
                    batch = next(batches)
                    profiler.before(step + 1)
                    inputs = (frozen, on_mesh(batch, config.train.microbatches, rules), key)
                    state, metrics = train_step(
                        state, *inputs, cfg=cfg, tx=setup.tx, rules=rules, penalty=penalty
                    )
                    step += 1
                    profiler.after(step, metrics)

                    # Reading metrics waits for the device: those of a step are read once the next
                    # one is dispatched.
                    if pending is not None:
                        log.write(*pending)
                    pending = (step, metrics, batch)

                    is_eval_step = step == steps or step in setup.eval_steps
                    stopping = stop.requested_anywhere(ask=is_eval_step)
                    is_saved = is_eval_step or stopping or is_due(config.checkpoint.every, step)
                    if not (is_saved or spectra.is_due(step)):
                        continue

                    # Measure, evaluate, save. A loss that is not finite is raised before all that.
                    log.write(*pending)
                    pending, scores = None, {}
                    if spectra.is_due(step):
                        with meter.paused():
                            spectra.write(step, states.model(state, frozen), writer)
                    if not is_saved:
                        continue
                    if is_eval_step and not stopping:
                        scores = evaluations.on_the_way(step, state, frozen, stop, log)
                        stopping = scores is None
                    lock.check()
                    checkpoints.save(
                        step,
                        states.checkpointables(state, frozen, key),
                        iterator_state=batches.get_state(),
                        metrics=scores or {},
                        metadata={
                            "base_fingerprint": origin.fingerprint,
                            "config": config.hash(),
                            **log.state(),
                            "is_evaluated": not (is_eval_step and stopping),
                            "warnings": list(warnings),
                            "data": setup.data_sha256,
                            "shape": earlier_run.shape_fields(cfg),
                            "start": adapter_provenance,
                        },
                    )
            # The processes evaluate together, so they agree on whether one was asked to stop.
            stopping = stopping or stop.requested_anywhere(ask=True)

        trained = step - first_step
        if step < steps or stopping:
            return Outcome(before, {}, {}, step, steps, trained, finished=False)

        after = evaluations.run("after", config.eval.tasks, state, frozen, setup.test)
        write_once(folder, step, named_scores("after", after), config.log.tensorboard)
        provenance = {
            "base": origin.provenance(),
            "data": setup.source.provenance(),
            "config": config.hash(),
        }
        provenance |= {"start": adapter_provenance} if adapter_provenance else {}
        provenance |= losses.provenance()
        facts = {"steps": steps} | sizes | meter.facts() | _machine() | {"provenance": provenance}
        return Outcome(before, after, facts, step, steps, trained, finished=True)


def _limit_memory() -> None:
    """Drop what earlier runs of this process left, and keep freed memory for reuse."""
    if train_step._cache_size() >= MAX_PROGRAMS:
        # All of them: a shape has ten more, to begin and to evaluate.
        jax.clear_caches()
    return_freed_memory()
    keep_freed_memory()  # from here on the same temporaries come and go


def _dropout_key(config: Config, cfg: ModelConfig, rules: Rules) -> Key | None:
    """None where nothing is dropped, so that the step computes no random numbers."""
    if not cfg.drops:
        return None
    # On all devices: several processes cannot save an array that each has by itself.
    data = jax.random.key_data(jax.random.key(config.seed.dropout))
    return jax.random.wrap_key_data(hosts.put(data, rules.sharding(("activation",), data.shape)))


@dataclasses.dataclass(frozen=True)
class _Evaluations:
    """The evaluations of a run, each in its folder of evals/; fingerprint: the base's."""

    setup: Setup
    cfg: ModelConfig
    fingerprint: str

    def run(
        self,
        tag: str,
        names: tuple[str, ...],
        state: State,
        frozen: Model,
        inputs: Inputs,
        *,
        adapted: bool = True,
        stopped: Callable[[], bool] = never,
    ) -> dict[str, Result]:
        """Results of the tasks "name:n"; adapted=False: of the base, with routing weights of 0.

        stopped: as of `evals.run.Evaluation.run`.
        """
        setup, config = self.setup, self.setup.config
        model_tag = f"{config.hash()}/{tag}" if adapted else base_tag(config)
        # An adapter's base is the same parameters; what trained was donated, and is read again.
        reads_base = adapted and bool(jax.tree.leaves(state.trainable.params))
        base_params = functools.partial(
            base_model.untrained_params, config, setup.rules, frozen.params
        )
        model_scorer = scorer.build(
            states.model(state, frozen),
            self.cfg,
            setup.tokenized.tokenizer,
            setup.rules,
            f"{self.fingerprint}/{model_tag}",
            adapted=adapted,
            base_params=base_params if reads_base else None,
            generate_rows=config.eval.generate_rows,
            seed=config.seed.sample,
        )
        tasks = suite.Suite(config.eval, self.cfg.max_seq_len, setup.tasks, setup.show)
        # The base is the same whatever is trained on it; a tuned model is of one run.
        shared = None if adapted else setup.base_records
        folder = setup.folder / "evals" / tag
        return tasks.run(names, model_scorer, inputs, folder, shared, stopped)

    def on_the_way(
        self, step: int, state: State, frozen: Model, stop: Stop, log: StepLog
    ) -> dict[str, float] | None:
        """Scores at a step, written to the metrics; None where it was asked to stop meanwhile."""
        names, dev = self.setup.config.eval.every_tasks, self.setup.dev
        how = {"adapted": step > 0, "stopped": stop.requested_anywhere}
        stop.change_pace()
        try:
            with log.meter.paused():
                results = self.run(f"dev-{step:06d}", names, state, frozen, dev, **how)
        except Interrupted:
            return None
        finally:
            stop.change_pace()
        log.writer.write(step, named_scores("dev", results))
        return suite.flat(results)


def _resume(
    setup: Setup, checkpoints: Checkpoints, current: Mapping[str, Any], origin: Origin
) -> Restored | None:
    """The checkpoint to resume from; None for a run that begins.

    current: `states.checkpointables`, for shapes and shardings.
    """
    # On a shared file system another process may see a new checkpoint later.
    latest = hosts.agree(checkpoints.latest_step())
    if latest is not None:
        # At its end a run is evaluated alone: a study may have removed what only training needs.
        unread = states.FOR_RESUME if latest >= setup.steps else ()
        like = abstract({name: x for name, x in current.items() if name not in unread})
        restored = checkpoints.restore(latest, like, base_fingerprint=origin.fingerprint)
        earlier_run.require_same_data(restored.metadata, setup.data_sha256, setup.config)
        if hosts.is_first():
            warn_of_gaps(setup.folder, latest, restored.metadata.get("records", {}))
        # Those of evaluations that are not done again.
        for text in restored.metadata.get("warnings", ()):
            notices.warn(text)
        return dataclasses.replace(restored, state={**current, **restored.state})
    if setup.config.train.branch_from:
        return branches.restore(setup.config, setup.steps, abstract(current), origin.fingerprint)
    return None


def _highest_loss(resumed: Restored | None) -> tuple[float, int]:
    """Of the steps before a checkpoint, and its step; of earlier versions, unknown."""
    loss, step = resumed.metadata.get("highest_loss", (0.0, 0)) if resumed else (0.0, 0)
    return loss, step


def _sizes(state: State, start: Start) -> dict[str, int]:
    """Numbers of trainable scalars: in use, and as stored with the padding of ranks."""
    stored = sum(x.size for x in jax.tree.leaves(state.trainable))
    used, with_padding = adapters.sizes(start.own) if start.own else (0, 0)
    return {"trainable": stored - (with_padding - used), "trainable_stored": stored}


def _machine() -> dict[str, Any]:
    """Memory, device and versions, for the results."""
    peak, device = peak_memory_bytes(), jax.devices()[0]
    return {
        "peak_host_bytes": peak.host,
        "peak_device_bytes": peak.device,
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "optax": optax.__version__,
        },
    }
