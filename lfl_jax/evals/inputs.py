"""What a run's config gives its evaluations to read: held-out problems, held-out targets, general
text."""

from pathlib import Path

from lfl_jax.assets import readers
from lfl_jax.config import Config
from lfl_jax.data.examples import Example, Source, interleaved
from lfl_jax.data.formatting import find_template
from lfl_jax.data.sources import held_out_splits, open_source
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS
from lfl_jax.run_setup import base_model
from lfl_jax.text.chat import Template

MOST = 2000  # held-out examples of a source, for an evaluation that asks for all


def from_config(config: Config, *, dev: bool = False, without_few_shot: bool = False) -> Inputs:
    """Inputs from the test split, or from the dev split, on which choices such as the best
    checkpoint are made.

    without_few_shot: items without the examples that stand before them.
    """
    most = _most(config, dev)
    splits = () if most is None else ("dev",) if dev else held_out_splits(config.data)
    problems = {
        split: _first(open_source(config.data, split, config.seed.data), most or 0)
        for split in splits
    }
    return Inputs(
        problems=problems,
        target=interleaved(problems.values())[:most],
        template=_template(config),
        docs=readers.with_files(dict(pair.split("=", 1) for pair in config.eval.files)),
        source_text=readers.texts(Path(config.eval.source_text))
        if config.eval.source_text
        else None,
        few_shot_examples=lambda: _first(
            open_source(config.data, "train", config.seed.data), config.eval.base_shots
        ),
        shots=config.eval.shots,
        shots_from=config.eval.shots_from,
        without_few_shot=without_few_shot,
    )


def _template(config: Config) -> Template:
    """The format of training; a tokenizer is read for its own only."""
    own = base_model.tokenizer(config) if config.data.template == "tokenizer" else None
    return find_template(config.data.template, own, config.data.code)


def _most(config: Config, dev: bool) -> int | None:
    """Held-out examples to read, for the evaluations that read some; None where none does, so that
    none are needed."""
    e = config.eval
    tasks = e.items(e.every_tasks if dev else (*e.tasks, *e.base_tasks))
    # What is not known here is somebody's own task, which may read them.
    limits = [
        limit for name, limit in tasks.items() if name not in TASKS or TASKS[name].reads_source
    ]
    return None if not limits else MOST if 0 in limits else max(limits)


def _first(source: Source, most: int) -> list[Example]:
    return [source.examples[i] for i in range(min(most, len(source.examples)))]
