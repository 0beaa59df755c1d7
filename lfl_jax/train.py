"""The training loop of a run, and the pure step it calls."""

import contextlib
import dataclasses
import math
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lfl_jax import adapters, notices, optim, schedules
from lfl_jax import state as states
from lfl_jax.analysis import contamination
from lfl_jax.config import Config
from lfl_jax.config import checks as config_checks
from lfl_jax.core import files, hosts
from lfl_jax.core.process import keep_freed_memory
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.data import checks
from lfl_jax.data.loader import training_batches
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.sources import open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import NonFiniteLoss
from lfl_jax.evals import inputs as evaluation_inputs
from lfl_jax.evals import scorer, suite
from lfl_jax.evals.run import Result
from lfl_jax.evals.task import Task
from lfl_jax.io import wandb_log, workdir
from lfl_jax.io.checkpoint import Checkpoints, abstract
from lfl_jax.io.interrupt import interrupts
from lfl_jax.io.lock import DirectoryLock
from lfl_jax.io.memory import peak_memory_bytes
from lfl_jax.io.metrics import METRICS_FILE, MetricsWriter
from lfl_jax.io.profile import Profiler
from lfl_jax.io.progress import progress
from lfl_jax.io.throughput import Meter
from lfl_jax.run_setup import base_model, branches, earlier_run, lengthening, starting
from lfl_jax.state import State
from lfl_jax.train_step import MODEL_INPUTS, train_step

# Compiled steps kept in one process. A program takes 25 MB and 650 memory mappings, of which Linux
# allows 65,530.
KEPT_PROGRAMS = 16


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: what to do, the directory for everything it writes, and evaluation tasks beside the
    built-in ones, which config.eval names as it names those. quiet: without progress; warnings are
    still given."""

    config: Config
    workdir: Path
    tasks: tuple[Task, ...] = ()
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of every task before and after, figures of the run, whether it reached its end.

    trained: optimizer steps of this process; 0 for a run that was at its end already.
    """

    before: dict[str, Result]
    after: dict[str, Result]
    facts: dict[str, Any]
    finished: bool
    trained: int


def run(run: Run) -> Outcome:
    """Evaluate the base, train, evaluate again. A run directory that was interrupted is resumed
    exactly.

    Raises UserError for a mistake in config, data or directory, and for a directory in which
    another process trains, NonFiniteLoss when training diverged.
    """
    with contextlib.ExitStack() as held:
        return _run(run, held)


def _run(run: Run, held: contextlib.ExitStack) -> Outcome:
    meter, config = Meter(time.monotonic()), earlier_run.remembering(run.config, run.workdir)
    base_model.check(config)
    tasks = suite.tasks_of(config, run.tasks)
    wandb_log.check(config.log.wandb)
    if config.train.branch_from:
        branches.check(config)
    starting.check(config, run.workdir)
    rules = make_rules(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    tokenizer = base_model.tokenizer(config)
    source = open_source(config.data, "train", config.seed.data)
    tokenized = TokenizedSource(source, tokenizer, config.data)
    show = not run.quiet
    if source.columns and show and jax.process_index() == 0:
        print(f"{source.name}: {source.columns}")  # noqa: T201 (which columns are used is never a guess)
    steps = total_steps(config, tokenized)
    # both may be one's own: mistakes are said before anything is loaded
    schedule = schedules.make(config.optim, steps)
    tx = optim.make(config.optim, schedule)
    for text in config_checks.warnings(config, steps, base_model.shape(config).window):
        notices.warn(text)
    look_every = config.eval.every or steps_of(config, config.eval.every_tokens)
    test = evaluation_inputs.from_config(config)
    dev = evaluation_inputs.from_config(config, dev=True)
    lock = held.enter_context(DirectoryLock(run.workdir, process_index=jax.process_index()))
    lengthening.check(run.workdir, config, steps, lambda earlier: total_steps(earlier, tokenized))
    is_new = hosts.is_first() and not (run.workdir / workdir.CONFIG_FILE).exists()
    workdir.prepare(
        run.workdir,
        config.to_json(),
        config.hash(),
        may_change=lengthening.MAY_CHANGE,
        code=config.own_files(),
        process_index=jax.process_index(),
    )
    with workdir.withdrawn_on_refusal(run.workdir, is_new):
        base = base_model.load(config, rules)
        start = starting.make(config, base, rules, run.workdir)
    if train_step._cache_size() >= KEPT_PROGRAMS:
        train_step.clear_cache()
    keep_freed_memory()  # from here on the same temporaries come and go
    model = base.model.replace(adapter=start.adapter)
    state, frozen = states.create(model, config.trainable, tx, rules, start.frozen)
    sizes, cfg = _sizes(state, start), base.cfg
    contents = [part.sha256 for part in (source, *source.parts)]
    origin = base.origin
    provenance = {"base": origin.provenance(), "data": source.provenance(), "config": config.hash()}
    # A full finetune donates the base to its first step.
    base, model = None, None
    key = (
        jax.random.key(config.seed.dropout)
        if cfg.adapter_dropout or cfg.attention_dropout
        else None
    )

    def evaluate(
        tag: str, names: tuple[str, ...], inputs: Any, adapted: bool = True
    ) -> dict[str, Result]:
        model, name = states.model(state, frozen), f"{origin.fingerprint}/{config.hash()}/{tag}"
        options = {"generate_rows": config.eval.generate_rows, "seed": config.seed.sample}
        model_scorer = scorer.build(model, cfg, tokenizer, rules, name, adapted=adapted, **options)
        evaluations = suite.Suite(config.eval, cfg.max_seq_len, tasks, show)
        return evaluations.run(names, model_scorer, inputs, run.workdir / "evals" / tag)

    hosts.require_same(
        {
            "jax": jax.__version__,
            "config": config.hash(),
            "mesh": dict(rules.mesh.shape),
            "base": origin.fingerprint,
            "data": [sha256[:12] for sha256 in contents],
            "steps": steps,
            "code": sorted(config.own_files().values()),
        }
    )
    if config.eval.decontaminate and hosts.is_first():
        contamination.write(config, source, run.workdir, tasks, show)
    before = evaluate("before", (*config.eval.tasks, *config.eval.base_tasks), test, adapted=False)
    batches = training_batches(tokenized, batch=config.train.batch, seed=config.seed.data)
    keep, best = config.checkpoint.keep, config.checkpoint.best
    saved = Checkpoints(
        run.workdir / "checkpoints",
        keep_latest=keep,
        latest_only=states.FOR_RESUME,
        best_metric=best,
    )
    with contextlib.closing(batches), saved, interrupts() as stop:
        # on a shared file system another host may see it later
        latest = hosts.agree(saved.latest_step())
        if latest is not None or config.train.branch_from:
            like = abstract(states.checkpointables(state, frozen, key))
            if latest is not None:
                found = saved.restore(latest, like, base_fingerprint=origin.fingerprint)
                earlier_run.require_same_data(found.metadata, contents, config)
            else:
                found = branches.restore(config, steps, like, origin.fingerprint)
            state, frozen = states.restored(found.state, state, frozen)
            batches.set_state(found.iterator_state())
            meter.resume(found.metadata["figures"])
            start = starting.Start({}, provenance=found.metadata.get("start"))
        step, halt, pending = int(state.step), False, None
        first = step
        places = {"tensorboard": config.log.tensorboard, "wandb": config.log.wandb}
        writer = MetricsWriter(
            run.workdir, resume_step=step or None, config=config.values(), **places
        )
        profiler = Profiler(config.log.profile, run.workdir)
        with writer, profiler, progress(steps, "train", done=step, visible=show) as advance:
            log = _Log(config, schedule, writer, advance, meter, saved)
            if step == 0:
                writer.write(0, _named("before", before))
            if step == 0 and look_every:
                # What the dev scores during training start from: the base on the same items.
                writer.write(
                    0,
                    _named(
                        "dev", evaluate("dev-000000", config.eval.every_tasks, dev, adapted=False)
                    ),
                )
            if step == 0:
                state = start.begin(state)
            # nothing else of it is needed any more
            start = starting.Start({}, provenance=start.provenance)
            while step < steps and not halt:
                batch = next(batches)
                profiler.before(step + 1)
                state, metrics = train_step(
                    state, frozen, _place(batch, config, rules), key, cfg=cfg, tx=tx, rules=rules
                )
                step += 1
                profiler.after(step, metrics)
                if pending is not None:
                    log(*pending)
                pending = (step, metrics, batch)
                look = step == steps or _every(look_every, step)
                halt = stop.requested_anywhere(ask=look)
                if look or halt or _every(config.checkpoint.every, step):
                    log(*pending)
                    pending, measured = None, {}
                    if look and not halt:
                        with meter.paused():
                            results = evaluate(f"dev-{step:06d}", config.eval.every_tasks, dev)
                        measured = suite.flat(results)
                        writer.write(step, _named("dev", results))
                    lock.check()
                    saved.save(
                        step,
                        states.checkpointables(state, frozen, key),
                        iterator_state=batches.get_state(),
                        metrics=measured,
                        metadata={
                            "base_fingerprint": origin.fingerprint,
                            "config": config.hash(),
                            "figures": meter.state(),
                            "data": contents,
                            "shape": earlier_run.shape_fields(cfg),
                            "start": start.provenance,
                        },
                    )
        halt = halt or stop.requested_anywhere(ask=True)
    if step < steps or halt:
        return Outcome(
            before, {}, {"step": step, "steps": steps}, finished=False, trained=step - first
        )
    after = evaluate("after", config.eval.tasks, test)
    _write_once(run, step, _named("after", after))
    if start.provenance:
        provenance["start"] = start.provenance
    facts = {"steps": steps} | sizes | meter.facts() | _machine() | {"provenance": provenance}
    return Outcome(before, after, facts, finished=True, trained=step - first)


@dataclasses.dataclass(frozen=True)
class _Log:
    """Reports a finished step: its numbers are checked, written and shown. Reading it waits for the
    device."""

    config: Config
    schedule: Any
    writer: MetricsWriter
    advance: Any
    meter: Meter
    saved: Checkpoints

    def __call__(self, step: int, metrics: dict[str, Any], batch: dict[str, np.ndarray]) -> None:
        values = {name: float(x) for name, x in metrics.items()}
        tokens = int((batch["segment_ids"] > 0).sum())
        rate = self.meter.tick(tokens)
        values |= {
            "lr": self.config.optim.lr * float(self.schedule(step - 1)),
            "tokens": float(tokens),
        }
        values |= {} if rate is None else {"tokens_per_s": rate}
        finite = all(map(math.isfinite, values.values()))
        if _every(self.config.log.every, step) or not finite:
            self.writer.write(step, values)
        if not finite:
            ids = np.unique(batch["example_ids"][batch["segment_ids"] > 0]).tolist()
            last = self.saved.latest_step()
            raise NonFiniteLoss(
                f"loss {values['loss']:g}, gradient norm {values['grad_norm']:g}, update norm"
                f" {values['update_norm']:g}"
                f" at step {step} (examples {', '.join(map(str, ids[:8]))}...); "
                f"last good checkpoint: {'none' if last is None else f'step {last}'}. Lower"
                " config.optim.lr, or look at"
                " these examples with inspect_data"
            )
        shown = {"loss": values["loss"]} | ({} if rate is None else {"tokens_per_s": rate})
        self.advance(1, **shown)


def _named(when: str, results: dict[str, Result]) -> dict[str, float]:
    """Scores for metrics.jsonl: "before/gsm8k" is a task's main metric,
    "before/gsm8k/exact_match_strict" each."""
    return {f"{when}/{name}": value for name, value in suite.flat(results).items()}


def _write_once(run: Run, step: int, values: dict[str, float]) -> None:
    """Scores of a step into metrics.jsonl, unless an earlier start of the finished run has written
    them."""
    if not hosts.is_first():
        return
    recorded = files.read_jsonl(run.workdir / METRICS_FILE)
    if all(any(name in record for record in recorded) for name in values):
        return
    with MetricsWriter(
        run.workdir, resume_step=step, tensorboard=run.config.log.tensorboard
    ) as writer:
        writer.write(step, values)


def total_steps(config: Config, tokenized: TokenizedSource) -> int:
    """Optimizer steps of the run: config.train's steps, or its tokens', or as many as its epochs of
    packed rows fill.

    Looks at the examples in any case, so that what is wrong with them is said before anything is
    loaded.
    """
    estimate = estimate_rows(tokenized, seed=config.seed.data, epochs=config.train.epochs)
    for text in checks.doubts(tokenized, estimate, base_model.shape(config).max_seq_len):
        notices.warn(text)
    if config.train.tokens:
        return steps_of(config, config.train.tokens)
    return config.train.steps or math.ceil(estimate.stats.rows / config.train.batch)


def steps_of(config: Config, tokens: float) -> int:
    """As many tokens, padding of rows included, in optimizer steps, at least one; 0 for none."""
    return max(1, round(tokens / (config.train.batch * config.data.seq_len))) if tokens else 0


def _every(interval: int, step: int) -> bool:
    return bool(interval) and step % interval == 0


def _sizes(state: State, start: starting.Start) -> dict[str, int]:
    """Counts of scalars: parameters of the base, trainable as stored, trainable in use (ranks
    without padding)."""
    stored = sum(x.size for x in jax.tree.leaves(state.trainable))
    used, with_padding = adapters.sizes(start.own) if start.own else (0, 0)
    padding = with_padding - used
    return {"trainable": stored - padding, "trainable_stored": stored}


def _place(batch: dict[str, np.ndarray], config: Config, rules: Rules) -> dict[str, jax.Array]:
    """A batch as (A, B, T) arrays on the mesh: A microbatches, sequences over data and fsdp.

    Every process packs the whole batch, so a run on several hosts is the run on one, and resumes on
    any number.
    """
    count = config.train.batch // (config.train.microbatch or config.train.batch)

    def put(x: np.ndarray) -> jax.Array:
        micro = x.reshape(count, -1, x.shape[-1])
        return hosts.to_devices(micro, rules.sharding(("layers", "batch", "time"), micro.shape))

    return {name: put(batch[name]) for name in MODEL_INPUTS}


def _machine() -> dict[str, Any]:
    """What the run ran on, for its results."""
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
