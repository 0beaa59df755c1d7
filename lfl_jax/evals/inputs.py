"""What a run's config gives its evaluations to read: held-out problems, held-out targets, general text."""

import itertools
from pathlib import Path

from lfl_jax.assets import readers
from lfl_jax.config import Config
from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import find_template
from lfl_jax.data.sources import Source, held_out_splits, open_source
from lfl_jax.evals.base import Inputs

MOST = 2000  # held-out examples of a source, for an evaluation that asks for all


def from_config(config: Config, *, dev: bool = False, alone: bool = False) -> Inputs:
    """Inputs from the test split, or from the dev split, on which choices such as the best checkpoint are made.

    alone: of items without the examples before them.
    """
    splits, most = ("dev",) if dev else held_out_splits(config.data), _most(config)
    problems = {split: _first(open_source(config.data, split, config.seed.data), most) for split in splits}
    in_turns = itertools.zip_longest(*problems.values())
    return Inputs(
        problems=problems,
        target=[example for row in in_turns for example in row if example is not None][:most],
        template=find_template(config.data.template),
        docs=readers.with_files(dict(pair.split("=", 1) for pair in config.eval.files)),
        source_text=readers.texts(Path(config.eval.source_text)) if config.eval.source_text else None,
        worked=lambda: _first(open_source(config.data, "train", config.seed.data), config.eval.base_shots),
        shots=config.eval.shots,
        shots_from=config.eval.shots_from,
        alone=alone,
    )


def _most(config: Config) -> int:
    limits = [
        *config.eval.items(config.eval.tasks).values(),
        *config.eval.items(config.eval.base_tasks).values(),
        *config.eval.items(config.eval.every_tasks).values(),
    ]
    return MOST if 0 in limits else max(limits, default=0)


def _first(source: Source, most: int) -> list[Example]:
    return [source.examples[i] for i in range(min(most, len(source.examples)))]
