"""The evaluations that a run's config names, with progress, on one process or many."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfl_jax import notices
from lfl_jax.config import Config, EvalConfig
from lfl_jax.core import hosts
from lfl_jax.evals.run import Evaluation, Result, never
from lfl_jax.evals.settings import Sampling, Settings
from lfl_jax.evals.task import Inputs, Scorer, Task
from lfl_jax.evals.tasks import check_tasks, find, named
from lfl_jax.io.progress import progress


@dataclass(frozen=True)
class Suite:
    """Evaluations with the settings of a run.

    window: the model's context length. tasks: what names mean, `tasks_of` where there are tasks
    beside the built-in ones.
    """

    config: EvalConfig
    window: int
    tasks: Mapping[str, Task]
    show_progress: bool = True

    def run(
        self,
        names: tuple[str, ...],
        scorer: Scorer,
        inputs: Inputs,
        folder: Path,
        shared: Path | None = None,
        stopped: Callable[[], bool] = never,
    ) -> dict[str, Result]:
        """Results of these evaluations ("name:n"), with records in `folder`.

        shared, stopped: as in `Evaluation.run`.

        Finished evaluations are read back, not run again. A task whose scores would mean nothing is
        skipped with a warning.
        """
        shapes = settings(self.config, self.window)
        results: dict[str, Result] = {}
        for name, limit in self.config.items(names).items():
            task = find(name, self.tasks)
            if why := task.skip_reason(inputs):
                notices.warn(f"evaluation {task.name} is left out: {why}")
                continue

            # One process writes the records; the others compute the same batches beside it.
            evaluation = Evaluation(task, scorer, inputs, shapes, limit)
            with _bar(f"{folder.name} {task.name}", self.show_progress) as advance:
                results[task.name] = evaluation.run(
                    folder,
                    progress=advance,
                    agree=hosts.agree,
                    writer=hosts.is_first(),
                    shared=shared,
                    stopped=stopped,
                )
        return results


def tasks_of(config: Config, own: Sequence[Task] = (), *, training: bool = True) -> dict[str, Task]:
    """{name: task} of config.eval, before hours are spent.

    own: tasks beside the built-in ones and those of files. training: with the evaluations during
    training. Raises UserError for a task that is unknown, may not run, or cannot run here.
    """
    e = config.eval
    # An evaluation of a finished run needs nothing of what its training evaluated.
    names = (*e.tasks, *e.base_tasks, *(e.every_tasks if training else ()))
    tasks = named(e, names, own)
    check_tasks(e.items(names), tasks)
    return tasks


def settings(config: EvalConfig, window: int) -> Settings:
    """Shapes and limits, for a model with a context of `window` tokens."""
    return Settings(
        rows=config.rows,
        length=config.seq_len,
        generate_rows=config.generate_rows,
        max_new_tokens=config.max_new_tokens,
        window=window,
        pick="spread",  # a limited evaluation should represent the whole set
        sampling=Sampling(
            config.samples, config.temperature, config.top_p, config.allow_weak_sandbox
        ),
    )


def flat(results: Mapping[str, Result]) -> dict[str, float]:
    """{"task": main metric, "task/metric": every metric}, for metrics.jsonl and checkpoints."""
    scores = {}
    for task, result in results.items():
        # The name that config.checkpoint.best gives: a task stands for its main metric.
        scores[task] = result.main.estimate.mean
        scores |= {f"{task}/{name}": estimate.mean for name, estimate in result.metrics.items()}
    return scores


@contextlib.contextmanager
def _bar(name: str, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar that appears when its total is known: none for finished evaluations."""
    # The number of batches is known only after planning, inside the evaluation.
    with contextlib.ExitStack() as stack:
        advance = None

        def show(task: str, done: int, total: int) -> None:
            nonlocal advance
            # The first call, with 0 done, only says how many there are.
            if advance is None:
                advance = stack.enter_context(progress(total, name, visible=shown))
            else:
                advance(1)

        yield show
