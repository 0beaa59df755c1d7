"""The inputs of a run's evaluations: held-out problems and targets, general text, the template."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lfl_jax.assets import readers
from lfl_jax.config import Config
from lfl_jax.data.examples import Example, interleaved
from lfl_jax.data.formatting import find_template
from lfl_jax.data.lab import examples as lab_examples
from lfl_jax.data.sources import held_out_splits, open_tested
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS
from lfl_jax.run_setup import base_model
from lfl_jax.text.chat import Template

# Held-out examples of a source that are read for an evaluation on all of them: a source may have
# millions.
MAX_HELD_OUT = 2000
# A value of config.eval.source_text, and the documents that it stands for.
LAB_TEXT, LAB_TEXTS = "lfl:lab", 512


def from_config(config: Config, *, dev: bool = False, without_few_shot: bool = False) -> Inputs:
    """Inputs from the test split, or from the dev split.

    Choices, such as that of the best checkpoint, are made on the dev split. without_few_shot: as in
    `Inputs`.
    """
    e = config.eval
    problems, target = _held_out(config, dev)
    return Inputs(
        docs=readers.with_files(dict(pair.split("=", 1) for pair in e.files)),
        problems=problems,
        target=target,
        template=_template(config),
        source_text=_source_text(config),
        shots=e.shots,
        shots_from=e.shots_from,
        # Read when a task asks for them: most runs have none.
        few_shot_examples=lambda: _first_examples(config, "train", e.base_shots),
        without_few_shot=without_few_shot,
        world=config.data.world,
        dev=dev,
    )


def after_shots(inputs: Inputs, config: Config, count: int) -> Inputs:
    """The same questions, those about the target after `count` worked training examples.

    Which ones, and in which order, is drawn by seed.data; the first of them are those of a smaller
    count.
    """
    # A source may have millions.
    pool = _first_examples(config, "train", MAX_HELD_OUT)
    order = np.random.RandomState(config.seed.data).permutation(len(pool))
    return dataclasses.replace(inputs, target_shots=count, shot_pool=[pool[i] for i in order])


def _source_text(config: Config) -> Sequence[str] | None:
    named = config.eval.source_text
    if named == LAB_TEXT:
        return lab_examples.source_texts(config.data.world, LAB_TEXTS)
    return readers.texts(Path(named)) if named else None


def _held_out(config: Config, dev: bool) -> tuple[dict[str, list[Example]], list[Example]]:
    """({split: examples}, the same interleaved), as many as the evaluations read."""
    count = _held_out_count(config, dev)
    if count is None:
        return {}, []
    splits = ("dev",) if dev else held_out_splits(config.data)
    problems = {split: _first_examples(config, split, count) for split in splits}
    return problems, interleaved(problems.values())[:count]


def _held_out_count(config: Config, dev: bool) -> int | None:
    """How many held-out examples the evaluations read; None where no evaluation reads any.

    A source without a held-out split is then no mistake.
    """
    e = config.eval
    limits = []
    for name, limit in e.items(e.every_tasks if dev else (*e.tasks, *e.base_tasks)).items():
        # A name that is unknown here is a task of the user's own, which may read them.
        if name not in TASKS or TASKS[name].reads_source:
            limits.append(limit)
    if not limits:
        return None
    return MAX_HELD_OUT if 0 in limits else max(limits)  # a limit of 0 is all


def _first_examples(config: Config, split: str, count: int) -> list[Example]:
    examples = open_tested(config.data, split, config.seed.data).examples
    return [examples[i] for i in range(min(count, len(examples)))]


def _template(config: Config) -> Template:
    """The format of training."""
    # The tokenizer is opened only for a template of its own.
    own = base_model.tokenizer(config) if config.data.template == "tokenizer" else None
    return find_template(config.data.template, own, config.data.code)
