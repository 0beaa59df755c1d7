"""Sources that need no file: generated examples, and Python's own standard library in place of
corpora.

Each is a function of (path, split, data, seed), listed in `sources.SOURCES`.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Example, Source
from lfl_jax.errors import UserError

HASHED = 1000  # generated examples that enter a source's hash


def word_problems(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Generated grade-school word problems, `data.size` in every split, levels at the rates
    `data.levels`."""
    from lfl_jax.data import word_problems as generator

    examples = generator.source(seed, split, data.size, data.levels)
    return generated("word_problems", split, examples, seed, generator.describe(seed, data.levels))


def uuid(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Random UUID pairs, `data.size` of them."""
    from lfl_jax.data import uuid_pairs as generator

    options = {"prompt": data.uuid_prompt, "hyphens": data.uuid_hyphens}
    examples = generator.source(seed, split, data.size, **options)
    return generated("uuid", split, examples, seed, generator.describe(seed))


def math_text(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The word problems as documents, `data.size` of them: for continued pretraining."""
    from lfl_jax.data import math_text as generator

    examples = generator.source(seed, split, data.size)
    made = generated("math_text", split, examples, seed, generator.describe(seed))
    return dataclasses.replace(made, stand_in_for="OpenWebMath")


def reasoning_gym(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Generated problems of a task of reasoning_gym, reasoning_gym:TASK, `data.size` of them in all
    splits."""
    from lfl_jax.data import gym_problems

    if not path:
        raise UserError("config.data.source=reasoning_gym needs a task: reasoning_gym:chain_sum")
    examples = gym_problems.source(path, split, data.size, seed)
    about = (
        f"generated problems of reasoning_gym {gym_problems.version()}, task {path}, seed {seed}"
    )
    return generated(f"reasoning_gym:{path}", split, examples, seed, about)


def python_source(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The files of Python's standard library as documents."""
    from lfl_jax.data import standard_library as library

    return _library("python_source", split, library.documents(split), "StarCoder-Python", "files")


def docstring_functions(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Functions of Python's standard library: signature and docstring, to be answered with the
    body."""
    from lfl_jax.data import standard_library as library

    return _library(
        "docstring_functions",
        split,
        library.functions(split),
        "Magicoder-Evol-Instruct",
        "functions",
    )


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hash of the content of examples, in order."""
    sha256 = hashlib.sha256()
    for e in examples:
        for text in (
            e.prompt,
            e.response,
            e.id,
            e.cluster,
            *(text for turn in e.turns for text in turn),
        ):
            sha256.update(f"{len(text)}:{text}".encode())
    return sha256.hexdigest()


def generated(name: str, split: str, examples: Sequence[Example], seed: int, about: str) -> Source:
    """A source of these examples, which no file holds."""
    sha256 = examples_sha256(examples[i] for i in range(min(len(examples), HASHED)))
    return Source(name, split, examples, "Apache-2.0", sha256, seed, True, about)


def _library(
    name: str, split: str, examples: Sequence[Example], stand_in_for: str, what: str
) -> Source:
    from lfl_jax.data import standard_library as library

    about = library.describe(stand_in_for, len(examples), what)
    return Source(
        name, split, examples, library.LICENCE, library.sha256(), None, False, about, stand_in_for
    )
