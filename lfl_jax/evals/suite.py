"""The evaluations of a run: a model on all its tasks, with progress, on one process or many."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lfl_jax.config import Config
from lfl_jax.core import hosts
from lfl_jax.evals.base import Inputs, Model
from lfl_jax.evals.run import Result, Sampling, Settings, check_tasks, evaluate
from lfl_jax.io.metrics import progress
from lfl_jax.models.config import ModelConfig
from lfl_jax.text.tokenizers import Tokenizer


def run(
    config: Config,
    model: Model,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    inputs: Inputs,
    tasks: tuple[str, ...],
    folder: Path,
) -> dict[str, Result]:
    """Results of config's tasks ("name:n"), records in `folder`; finished ones are read back, not run again."""
    e, shapes = config.eval, settings(config, cfg)
    results = {}
    for task, limit in e.items(tasks).items():
        with _bar(f"{folder.name} {task}") as show:
            made = evaluate(
                {task: limit},
                model,
                tokenizer,
                inputs,
                shapes,
                folder,
                progress=show,
                agree=hosts.agree,
                writer=hosts.is_first(),
            )
        results |= made
    return results


def check(config: Config) -> None:
    """Raise UserError for a task of config.eval that is unknown or cannot run here, before hours are spent."""
    e = config.eval
    check_tasks(e.items((*e.tasks, *e.base_tasks, *e.every_tasks)))


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
    """{"task": its first metric, "task/metric": each} as plain numbers, for metrics.jsonl and the best checkpoint."""
    found = {}
    for task, result in results.items():
        found[task] = next(iter(result.metrics.values())).mean
        found |= {f"{task}/{name}": estimate.mean for name, estimate in result.metrics.items()}
    return found


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar that appears when its total is known; finished evaluations show none."""
    with contextlib.ExitStack() as stack:
        advance = None

        def show(task: str, done: int, total: int) -> None:
            nonlocal advance
            if advance is None:
                advance = stack.enter_context(progress(total, name))
            else:
                advance(1)

        yield show
