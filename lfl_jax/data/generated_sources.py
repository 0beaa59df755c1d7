"""Sources that need no file of yours: generated examples, and texts that came for other purposes.

Each is called with path, split, data and seed, as `sources.SOURCES` lists it. The generators are
imported when they are called: a run needs one of them.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from lfl_jax import assets
from lfl_jax.config import DataConfig
from lfl_jax.data.examples import Example, Source
from lfl_jax.errors import UserError

HASHED_EXAMPLES = 1000  # generated examples that enter a source's hash


def word_problems(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Generated grade-school word problems, `data.size` in every split, at rates `data.levels`."""
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
    # A mix of sources names the corpus that is missing wherever it is reported.
    source = generated("math_text", split, examples, seed, generator.describe(seed))
    return dataclasses.replace(source, stand_in_for="OpenWebMath")


def reasoning_gym(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Problems of a task, reasoning_gym:TASK, `data.size` of them in all splits together."""
    from lfl_jax.data import gym_problems

    if not path:
        raise UserError("config.data.source=reasoning_gym needs a task: reasoning_gym:chain_sum")
    examples = gym_problems.source(path, split, data.size, seed)
    version = gym_problems.version()
    about = f"generated problems of reasoning_gym {version}, task {path}, seed {seed}"
    return generated(f"reasoning_gym:{path}", split, examples, seed, about)


def lab_source(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The lab's source world, `data.size` facts and documents; documents alone where held out."""
    from lfl_jax.data.lab import examples

    found = examples.source_world(seed, split, data.size, data.world)
    return generated("lab_source", split, found, seed, _about_lab("source world", data))


def lab_ift(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The lab's new facts and its rule; the rule on other entities where held out."""
    from lfl_jax.data.lab import examples

    found = examples.instructions(split, data.world)
    return generated("lab_ift", split, found, seed, _about_lab("new facts and a rule", data))


def lab_new_facts(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The lab's new facts without its rule, the same in every split."""
    return _lab_facts("lab_new_facts", "new facts", split, data, seed)


def lab_further_facts(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """A second set of the lab's new facts, the same in every split."""
    return _lab_facts("lab_further_facts", "further facts", split, data, seed)


def _lab_facts(name: str, part: str, split: str, data: DataConfig, seed: int) -> Source:
    from lfl_jax.data.lab import examples

    found = examples.facts(name, split, data.world)
    return generated(name, split, found, seed, _about_lab(part, data))


def lab_cpt(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The lab's target language, `data.size` documents."""
    from lfl_jax.data.lab import examples

    found = examples.target_language(seed, split, data.size, data.world, data.shared)
    # The target that there was before there were several is described as it was.
    is_default = data.shared == examples.SHARED
    kept = "" if is_default else f", {data.shared:.0%} of its transitions the source's"
    return generated("lab_cpt", split, found, seed, _about_lab(f"target language{kept}", data))


def lab_keys(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The lab's keys with 16 random digits each, `data.size` of them in every split."""
    from lfl_jax.data.lab import keys

    pairs = keys.source(data.world, split, data.size)
    return generated("lab_keys", split, pairs, seed, _about_lab("keys with random digits", data))


def _about_lab(part: str, data: DataConfig) -> str:
    return f"synthetic: the lab's {part}, world {data.world}"


def python_source(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """The files of Python's standard library as documents."""
    from lfl_jax.data import standard_library

    examples = standard_library.documents(split)
    return _from_library("python_source", split, examples, "StarCoder-Python", "files")


def docstring_functions(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Functions of Python's standard library: signature and docstring, answered with the body."""
    from lfl_jax.data import standard_library

    examples, stand_in_for = standard_library.functions(split), "Magicoder-Evol-Instruct"
    return _from_library("docstring_functions", split, examples, stand_in_for, "functions")


def wikipedia_paragraphs(*, path: str, split: str, data: DataConfig, seed: int) -> Source:
    """Paragraphs of Wikipedia as documents, none of which source_nll reads: for replay."""
    from lfl_jax.data import wikipedia_paragraphs as paragraphs

    examples = paragraphs.documents(split)
    return Source(
        name="wikipedia_paragraphs",
        split=split,
        examples=examples,
        licence=assets.licence(paragraphs.ITEM),
        sha256=paragraphs.sha256(),
        seed=None,
        synthetic=False,
        description=f"{len(examples)} paragraphs of Wikipedia, from SQuAD 1.1",
    )


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hash of the content of examples, in order."""
    sha256 = hashlib.sha256()
    for example in examples:
        turn_texts = [text for turn in example.turns for text in turn]
        fields = (example.prompt, example.response, example.id, example.cluster)
        for text in (*fields, *turn_texts):
            # The length keeps two texts apart from the same characters divided otherwise.
            sha256.update(f"{len(text)}:{text}".encode())
    return sha256.hexdigest()


def generated(name: str, split: str, examples: Sequence[Example], seed: int, about: str) -> Source:
    """A source of examples that no file has; hashed by its first HASHED_EXAMPLES."""
    first = (examples[i] for i in range(min(len(examples), HASHED_EXAMPLES)))
    return Source(
        name=name,
        split=split,
        examples=examples,
        licence="Apache-2.0",
        sha256=examples_sha256(first),
        seed=seed,
        synthetic=True,
        description=about,
    )


def _from_library(
    name: str, split: str, examples: Sequence[Example], stand_in_for: str, unit: str
) -> Source:
    """A source out of the standard library; unit: what its examples are, in the plural."""
    from lfl_jax.data import standard_library

    return Source(
        name=name,
        split=split,
        examples=examples,
        licence=standard_library.LICENCE,
        sha256=standard_library.sha256(),
        seed=None,
        synthetic=False,
        description=standard_library.describe(stand_in_for, len(examples), unit),
        stand_in_for=stand_in_for,
    )
