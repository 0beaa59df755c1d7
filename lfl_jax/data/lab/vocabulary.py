"""The words of the lab: a token each, the same in every world."""

# Enough facts for a model of a million parameters to hold them in minutes, and to lose some.
ENTITIES = 256
# The source world has the first four relations; the other two are the target world's.
SOURCE_RELATIONS = 4
NEW_RELATION = 4
RULE_RELATION = 5
RELATIONS = 6
# Of the further facts, named by a word of the languages. The base has seen neither of the last two
# relations, which are therefore one direction to it (cosine 0.99): a method that leaves embeddings
# as they are could not tell facts under one from facts under the other.
FURTHER_RELATION = 6
VALUES = 64
WORDS = 128

# Their ids are 0 to 3, the order in which a word-level tokenizer takes them.
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


def entity(i: int) -> str:
    """The name of entity i."""
    return f"e{i:03}"


def relation(i: int) -> str:
    """The name of relation i."""
    return f"r{i}" if i < RELATIONS else word(i - RELATIONS)


def value(i: int) -> str:
    """The name of value i."""
    return f"v{i:02}"


def word(i: int) -> str:
    """Word i of the languages."""
    return f"w{i:03}"


def all_words() -> tuple[str, ...]:
    """Every word, in the order of their ids after the special tokens."""
    return (
        *map(entity, range(ENTITIES)),
        *map(relation, range(RELATIONS)),
        *map(value, range(VALUES)),
        *map(word, range(WORDS)),
    )
