"""The evaluations of a run: a model on all its tasks, with progress, on one process or many."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lfl_jax import notices
from lfl_jax.config import Config
from lfl_jax.core import hosts
from lfl_jax.evals.run import Result, Sampling, Settings, evaluate
from lfl_jax.evals.task import Inputs, Model, Task
from lfl_jax.evals.tasks import TASKS, check_tasks, find, named
from lfl_jax.io.metrics import progress
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.tokenizers import Tokenizer


def run(
    config: Config,
    model: Model,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    inputs: Inputs,
    names: tuple[str, ...],
    folder: Path,
    tasks: Mapping[str, Task] = TASKS,
    show_progress: bool = True,
) -> dict[str, Result]:
    """Results of these evaluations ("name:n"), records in `folder`; finished ones are read back,
    not run again.

    tasks: what the names mean, `tasks.named` where there are tasks of one's own.
    """
    shapes = settings(config, cfg)
    results = {}
    for name, limit in config.eval.items(names).items():
        task = find(name, tasks)
        if why := task.meaningless(inputs):
            notices.warn(f"evaluation {task.name} is left out: {why}")
            continue
        with _bar(f"{folder.name} {task.name}", show_progress) as show:
            results[task.name] = evaluate(
                task,
                limit,
                model,
                tokenizer,
                inputs,
                shapes,
                folder,
                progress=show,
                agree=hosts.agree,
                writer=hosts.is_first(),
            )
    return results


def tasks_of(config: Config, own: Sequence[Task] = (), *, training: bool = True) -> dict[str, Task]:
    """What the names in config.eval mean; own: tasks beside the built-in ones and those of files.

    training: with the evaluations during training. Raises UserError for a task that is unknown, may
    not run, or cannot run here, before hours are spent.
    """
    e = config.eval
    names = (*e.tasks, *e.base_tasks, *(e.every_tasks if training else ()))
    tasks = named(e, names, own)
    check_tasks(e.items(names), tasks)
    return tasks


def settings(config: Config, cfg: ModelConfig) -> Settings:
    """Shapes and limits, from config.eval and the model's context."""
    e = config.eval
    return Settings(
        rows=e.rows,
        length=e.seq_len,
        generate_rows=e.generate_rows,
        max_new_tokens=e.max_new_tokens,
        window=cfg.max_seq_len,
        pick="spread",
        sampling=Sampling(e.samples, e.temperature, e.top_p, e.allow_weak_sandbox),
    )


def flat(results: dict[str, Result]) -> dict[str, float]:
    """{"task": its first metric, "task/metric": each} as plain numbers, for metrics.jsonl and the
    best checkpoint."""
    found = {}
    for task, result in results.items():
        found[task] = result.main.estimate.mean
        found |= {f"{task}/{name}": estimate.mean for name, estimate in result.metrics.items()}
    return found


@contextlib.contextmanager
def _bar(name: str, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar that appears when its total is known; finished evaluations show none."""
    with contextlib.ExitStack() as stack:
        advance = None

        def show(task: str, done: int, total: int) -> None:
            nonlocal advance
            if advance is None:
                advance = stack.enter_context(progress(total, name, shown=shown))
            else:
                advance(1)

        yield show
