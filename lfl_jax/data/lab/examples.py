"""What the lab's sources train on: questions with one-token answers, and documents.

- lab_source: the source world. Twelve of its 1024 facts, in turn, and then a document of the source
  language. Held out is text, of which there is always more.
- lab_ift: the 256 new facts, then the rule on its training entities. Held out is the rule on other
  entities ("dev", "test").
- lab_new_facts: the 256 new facts alone. lab_further_facts: 256 others about the same entities. For
  tasks that are learned one after another, and measured by recall: all splits are the same.
- lab_cpt: documents of the target language.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lfl_jax.data.examples import Drawn, Example
from lfl_jax.data.lab import vocabulary, world
from lfl_jax.data.lab.language import SHARED, Language
from lfl_jax.data.lab.world import Fact
from lfl_jax.data.splits import check

# Of the rows 60 % are facts: one has 4 input tokens, a document 31.
FACTS_PER_DOCUMENT = 12


@dataclass(frozen=True)
class Documents(Drawn):
    """Documents of a language."""

    language: Language

    def draw(self, i: int) -> Example:
        """Document i."""
        return document(self.language, self.split, self.seed, i)


@dataclass(frozen=True)
class FactsAndText(Drawn):
    """The source world: facts over and over, and fresh text between them."""

    language: Language

    def draw(self, i: int) -> Example:
        """Example i: of every 13, twelve facts and a document."""
        block, index = divmod(i, FACTS_PER_DOCUMENT + 1)
        if index == FACTS_PER_DOCUMENT:
            return document(self.language, self.split, self.seed, block)
        # Consecutive numbers, so that every fact has had its turn before one comes again.
        facts = _source_facts(self.language.world)
        fact = facts[(block * FACTS_PER_DOCUMENT + index) % len(facts)]
        return example(fact, f"{self.split}/{i}")


# Read once per world, not once per example.
_source_facts = functools.lru_cache(maxsize=8)(world.source_facts)


def example(fact: Fact, name: str) -> Example:
    """A fact as an example; all facts about an entity are one cluster."""
    return Example(fact.question, fact.answer, id=name, cluster=vocabulary.entity(fact.entity))


def document(language: Language, split: str, seed: int, i: int) -> Example:
    """Document i of a split as an example."""
    name = f"{language.name}/{split}/{i}"
    return Example("", language.document(split, seed, i), id=name, cluster=name)


def source_world(seed: int, split: str, size: int, world_seed: int) -> Sequence[Example]:
    """`size` examples of the source world; of a held-out split, documents alone."""
    check(split, "lab_source")
    language = Language(world_seed, "source")
    kind = FactsAndText if split == "train" else Documents
    return kind(seed, split, size, language)


def instructions(split: str, world_seed: int) -> list[Example]:
    """All examples of the target world for instruction finetuning: 256 facts and the rule."""
    check(split, "lab_ift")
    # Facts that are not trained could only be guessed: what is held out of them is nothing.
    facts = world.new_facts(world_seed) if split == "train" else []
    facts += world.rule_facts(world_seed, split)
    return [example(fact, fact.question) for fact in facts]


def facts(name: str, split: str, world_seed: int) -> list[Example]:
    """All facts of FACT_SETS[name], in every split."""
    check(split, name)
    return [example(fact, fact.question) for fact in FACT_SETS[name](world_seed)]


FACT_SETS: dict[str, Callable[[int], list[Fact]]] = {
    "lab_new_facts": world.new_facts,
    "lab_further_facts": world.further_facts,
}


def target_language(
    seed: int, split: str, size: int, world_seed: int, shared: float = SHARED
) -> Documents:
    """`size` documents of the target language that shares so many transitions with the source's."""
    check(split, "lab_cpt")
    return Documents(seed, split, size, Language(world_seed, "target", shared))


# Once per process: every run of a study reads them twice, for choices and for tests.
@functools.lru_cache(maxsize=8)
def source_texts(world_seed: int, count: int) -> tuple[str, ...]:
    """The first held-out documents of the source language: general text, which the base knows."""
    language = Language(world_seed, "source")
    # "test" has the same documents whatever the seed of the training text.
    return tuple(language.document("test", 0, i) for i in range(count))
