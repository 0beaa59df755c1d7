"""What a run needs before its first step: everything checked, then the base and the adapter loaded.

`prepare` finds every mistake that can be found before hours are spent; `load` is the first to take
memory and to write into the run's directory.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from lfl_jax import notices, optim, penalties, schedules
from lfl_jax.analysis import contamination, training_spectra
from lfl_jax.config import Config
from lfl_jax.config import checks as config_checks
from lfl_jax.configs import base as defaults
from lfl_jax.core import hosts
from lfl_jax.core.sharding import Rules
from lfl_jax.data import checks
from lfl_jax.data.examples import Source
from lfl_jax.data.sources import open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.evals import inputs as evaluation_inputs
from lfl_jax.evals import records, suite
from lfl_jax.evals.task import Inputs, Task
from lfl_jax.evals.tasks import perplexity
from lfl_jax.io import checkpoint_checks, wandb_log, workdir
from lfl_jax.model import LoadedModel
from lfl_jax.run_setup import base_model, branches, devices, earlier_run, run_length, starting
from lfl_jax.run_setup.shared import Shared
from lfl_jax.run_setup.starting import Start
from lfl_jax.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to do: its config, the directory for everything it writes, and further tasks.

    tasks: beside the built-in ones; config.eval names them as it names those. quiet: without
    progress, but with warnings. base_records: a folder that runs share, for the evaluations of
    equal bases: the first run leaves its records there, and the others read them. shared: what else
    runs of this process have in common: the base in memory, data, and tokens.
    """

    config: Config
    workdir: Path
    tasks: tuple[Task, ...] = ()
    quiet: bool = False
    base_records: Path | None = None
    shared: Shared = dataclasses.field(default_factory=Shared)


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, checked; nothing is loaded yet."""

    config: Config
    folder: Path
    tasks: dict[str, Task]
    rules: Rules
    tokenized: TokenizedSource
    steps: int
    schedule: Schedule
    tx: optax.GradientTransformation
    test: Inputs
    dev: Inputs
    eval_steps: Collection[int]  # at which eval.every_tasks are evaluated; 0 = the base
    show: bool
    base_records: Path | None
    shared: Shared

    @property
    def source(self) -> Source:
        """The training examples."""
        return self.tokenized.source

    @property
    def data_sha256(self) -> list[str]:
        """Hashes of the training source and of the sources that it mixes."""
        return [part.sha256 for part in (self.source, *self.source.parts)]


def prepare(request: Run) -> Setup:
    """Everything that can be wrong before hours are spent, checked in the order of its cost."""
    config = earlier_run.with_recorded_code(request.config, request.workdir)
    base_model.check(config)
    penalties.check(config)
    tasks = suite.tasks_of(config, request.tasks)
    wandb_log.check(config.log.wandb)
    if config.train.branch_from:
        branches.check(config)
    starting.check(config, request.workdir)
    training_spectra.check(config, base_model.shape(config).n_layers)
    rules = devices.rules(config, base_model.shape(config), show=not request.quiet)

    tokenized, show = _tokenized(config, request.shared), not request.quiet
    source = tokenized.source
    if source.columns and show and hosts.is_first():
        # Which columns are used is never a guess.
        print(f"{source.name}: {source.columns}")  # noqa: T201
    steps = run_length.total_steps(config, tokenized)

    # Schedule and optimizer may be the user's code: what is wrong with them is raised here.
    schedule = schedules.make(config.optim, steps)
    tx = optim.make(config.optim, schedule)
    for text in config_checks.warnings(config, steps, base_model.shape(config).window):
        notices.warn(text)

    test = _inputs(config, request.shared)
    if _reads_general_text(config, tasks):
        checks.require_unseen(lambda: [text.text for text in perplexity.documents(test)], source)

    return Setup(
        config=config,
        folder=request.workdir,
        tasks=tasks,
        rules=rules,
        tokenized=tokenized,
        steps=steps,
        schedule=schedule,
        tx=tx,
        test=test,
        dev=_inputs(config, request.shared, dev=True),
        eval_steps=run_length.evaluation_steps(config, steps),
        show=show,
        base_records=request.base_records,
        shared=request.shared,
    )


def _tokenized(config: Config, shared: Shared) -> TokenizedSource:
    """The training source, with the tokens that runs on it have in common."""

    def make() -> TokenizedSource:
        source = open_source(config.data, "train", config.seed.data)
        return TokenizedSource(source, base_model.tokenizer(config, shared), config.data)

    key = (*_data_key(config), *base_model.tokenizer_key(config))
    return shared.part("tokenized source", key, make)


def _inputs(config: Config, shared: Shared, *, dev: bool = False) -> Inputs:
    key = (*_data_key(config), *base_model.tokenizer_key(config), repr(config.eval), dev)
    make = functools.partial(evaluation_inputs.from_config, config, dev=dev)
    return shared.part("inputs", key, make)


def _data_key(config: Config) -> tuple[object, ...]:
    """Everything that examples depend on; their order, which seed.data draws, is the loader's."""
    return repr(config.data), config.seed.data if config.data.seed is None else None


def overlaps(setup: Setup) -> dict[str, Any]:
    """Which evaluation items the training source contains: `contamination.find_overlaps`."""
    config = setup.config
    arguments = (config, setup.source, setup.tasks, setup.show)
    find = functools.partial(contamination.find_overlaps, *arguments)
    # Of a task its items are searched for; those of one's own may share a name.
    items = tuple((name, task.items) for name, task in setup.tasks.items())
    return setup.shared.part("overlaps", (*_data_key(config), repr(config.eval), items), find)


def _reads_general_text(config: Config, tasks: Mapping[str, Task]) -> bool:
    """Whether forgetting is measured on general text."""
    named = config.eval.items((*config.eval.tasks, *config.eval.every_tasks))
    return any(tasks[name].items is perplexity.documents for name in named if name in tasks)


def load(setup: Setup) -> tuple[LoadedModel, Start]:
    """The base and the adapter of step 0; from here on the directory is this run's."""
    config, folder, tokenized = setup.config, setup.folder, setup.tokenized
    _set_damaged_aside(folder)
    run_length.check_resumable(
        folder, config, setup.steps, lambda earlier: run_length.total_steps(earlier, tokenized)
    )
    is_new = hosts.is_first() and not (folder / workdir.CONFIG_FILE).exists()
    if hosts.agree(is_new):  # opening checkpoints is for all processes together
        earlier_run.require_own_checkpoints(folder, config)
    workdir.prepare(
        folder,
        config.to_json(),
        config.hash(),
        may_change=run_length.MAY_CHANGE,
        # A run that began before a field was added resumes: it did what the default says.
        defaults_json=Config.from_dict(defaults.base()).to_json(),
        code=config.own_files(),
        process_index=jax.process_index(),
    )
    # A run that is refused here can be started again with another config.
    with workdir.withdrawn_on_refusal(folder, is_new):
        base = base_model.load(config, setup.rules, setup.shared)
        return base, starting.make(config, base, setup.rules, folder)


def _set_damaged_aside(folder: Path) -> None:
    """Move checkpoints that are no longer what was written; UserError where none is left."""
    moved = checkpoint_checks.set_aside(folder / "checkpoints") if hosts.is_first() else []
    for text in hosts.agree(moved):
        notices.warn(text)


def require_same_run(setup: Setup, fingerprint: str) -> None:
    """UserError where this process does not do what process 0 does; `prepare` compared configs."""
    hosts.require_same(
        {
            "jax": jax.__version__,
            "base": fingerprint,
            "data": [sha256[:12] for sha256 in setup.data_sha256],
            "steps": setup.steps,
            "code": sorted(setup.config.own_files().values()),
        }
    )


def base_tag(config: Config) -> str:
    """What a base's records depend on, beside its weights and the evaluation's own settings."""
    model = dataclasses.replace(config.model, path="", tokenizer="", base_dtype="")
    # Greedy decoding draws nothing.
    seed = config.seed.sample if config.eval.temperature else None
    numerics = [repr(model), base_model.storage_dtype(config), repr(config.mesh), seed]
    return f"base/{records.digest(numerics)}"
