"""Facts of a world: entities have values under relations, all drawn from one seed.

The source world has a value for each entity under each of four relations: 1024 facts that a model
cannot guess, since values are uniform and independent. The target world for instruction finetuning
adds a fifth relation, whose 256 facts are new in the same way, and a sixth, which by a rule always
has the first relation's value. The rule is trained on half of the entities and tested on the
others, where only a model that applies it to a fact that the base knows can be right. Further facts
are as many again, under a relation that a word of the languages names.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lfl_jax.data.lab import vocabulary
from lfl_jax.data.lab.vocabulary import ENTITIES, NEW_RELATION, RULE_RELATION, VALUES

# Entities by what the rule does with them. Facts that only decide something (a learning rate, a
# checkpoint) are those of "dev"; facts that are reported are all others.
ENTITIES_OF = {"train": 128, "dev": 64, "test": 64}
# The relation that the rule reads.
RULE_READS = 0
# What is drawn from a world's seed, each with a stream of its own, so that none moves another.
STREAMS = ("facts", "split", "source language", "target language", "documents", "further facts")


@dataclass(frozen=True)
class Fact:
    """The value that an entity has under a relation, as indices."""

    entity: int
    relation: int
    value: int

    @property
    def question(self) -> str:
        """Entity and relation: what a model is given."""
        return f"{vocabulary.entity(self.entity)} {vocabulary.relation(self.relation)}"

    @property
    def answer(self) -> str:
        """The value: one token."""
        return vocabulary.value(self.value)


def stream(world: int, name: str, *more: int) -> np.random.RandomState:
    """The random numbers of one of STREAMS; more: what they depend on besides the world's seed."""
    # RandomState, since its streams are the same in every version of numpy; Generator's are not.
    return np.random.RandomState([world, STREAMS.index(name), *more])


@functools.lru_cache(maxsize=8)
def values(world: int) -> Int[np.ndarray, "entities relations"]:
    """The value of every entity under every relation; by the rule, the last is RULE_READS's."""
    drawn = stream(world, "facts").randint(VALUES, size=(ENTITIES, RULE_RELATION))
    # Another function of the value, such as a permutation, was learned on the training entities
    # and on no others: 5 % of the held-out ones by LoRA and by full finetuning of lab-1m.
    return np.column_stack([drawn, drawn[:, RULE_READS]])


def split_of_entities(world: int) -> dict[str, Int[np.ndarray, " entities"]]:
    """{"train", "dev", "test": the entities of the rule's split}, without overlap."""
    order = stream(world, "split").permutation(ENTITIES)
    bounds = np.cumsum(list(ENTITIES_OF.values()))[:-1]
    parts = np.split(order, bounds)
    return {name: np.sort(part) for name, part in zip(ENTITIES_OF, parts, strict=True)}


def source_facts(world: int, splits: tuple[str, ...] = tuple(ENTITIES_OF)) -> list[Fact]:
    """What the source world knows of the entities of these splits; of all by default."""
    facts: list[Fact] = []
    for relation in range(vocabulary.SOURCE_RELATIONS):
        facts += _facts(values(world)[:, relation], world, relation, splits)
    return facts


def new_facts(world: int, splits: tuple[str, ...] = tuple(ENTITIES_OF)) -> list[Fact]:
    """The target world's new facts of the entities of these splits; of all by default."""
    return _facts(values(world)[:, NEW_RELATION], world, NEW_RELATION, splits)


def further_facts(world: int, splits: tuple[str, ...] = tuple(ENTITIES_OF)) -> list[Fact]:
    """As many new facts of a second set, under a relation of its own."""
    drawn = stream(world, "further facts").randint(VALUES, size=ENTITIES)
    return _facts(drawn, world, vocabulary.FURTHER_RELATION, splits)


def rule_facts(world: int, split: str) -> list[Fact]:
    """The rule's facts of one split: "train", "dev" or "test"."""
    return _facts(values(world)[:, RULE_RELATION], world, RULE_RELATION, (split,))


def _facts(
    by_entity: Int[np.ndarray, " entities"], world: int, relation: int, splits: tuple[str, ...]
) -> list[Fact]:
    """The facts of the entities of these splits, by the value of every entity."""
    entities = split_of_entities(world)
    chosen = np.sort(np.concatenate([entities[split] for split in splits]))
    return [Fact(int(entity), relation, int(by_entity[entity])) for entity in chosen]
