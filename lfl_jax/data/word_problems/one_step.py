"""Level 1: one addition, subtraction or product of small numbers; the answer is the bare
equation."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import cap, person, plural, small_things


# Level 1 is what a small model learns first: one operation, numbers up to 21, no unit to convert
# and no number that is not needed. Wordings of one template ask for the same equation. There is no
# trap but the choice of the operation: "more" is a sum in `exceeds_by` and a difference in
# `how_many_more`.
# The solution is the equation alone: at this level there is no sentence to learn.
def _sum(rng: random.Random, a: int, b: int, *questions: str) -> Problem:
    return compose(rng, questions, [[f"{a} + {b} = {a + b}"]], a + b)


def _difference(rng: random.Random, a: int, b: int, *questions: str) -> Problem:
    return compose(rng, questions, [[f"{a} - {b} = {a - b}"]], a - b)


def _product(rng: random.Random, a: int, b: int, *questions: str) -> Problem:
    return compose(rng, questions, [[f"{a} * {b} = {a * b}"]], a * b)


# From 2 on: a 1 would need singular nouns.
def _small(rng: random.Random) -> tuple[int, int]:
    return rng.randint(2, 20), rng.randint(2, 20)


# Differences are positive: drawn without replacement, and sorted.
def _larger_first(rng: random.Random) -> tuple[int, int]:
    less, more = sorted(rng.sample(range(2, 22), 2))
    return more, less


def gets_more(rng: random.Random) -> Problem:
    """A sum of what is there and what is added."""
    who, items, (a, b) = person(rng), small_things(rng), _small(rng)
    return _sum(
        rng,
        a,
        b,
        f"{who} has {a} {items} and gets {b} more. How many {items} does {who} have now?",
        f"{who} has {a} {items}. A friend brings {b} more. How many {items} are there now?",
    )


def two_places(rng: random.Random) -> Problem:
    """A sum over two places."""
    items, (a, b) = small_things(rng), _small(rng)
    first, second = rng.sample(("box", "bag", "drawer", "basket", "jar", "tin"), 2)
    return _sum(
        rng,
        a,
        b,
        f"There are {a} {items} in the {first} and {b} in the {second}. How many {items} are"
        " there in total?",
        f"The {first} contains {a} {items} and the {second} contains {b}. How many {items} is"
        " that altogether?",
    )


def two_days(rng: random.Random) -> Problem:
    """A sum over two days."""
    who, items, (a, b) = person(rng), small_things(rng), _small(rng)
    verb = rng.choice(("finds", "buys", "collects", "counts"))
    return _sum(
        rng,
        a,
        b,
        f"{who} {verb} {a} {items} on Monday and {b} on Tuesday. How many {items} is that in"
        " total?",
        f"On Monday {who} {verb} {a} {items}, on Tuesday {b}. How many {items} is that on both"
        " days?",
    )


def exceeds_by(rng: random.Random) -> Problem:
    """A quantity that exceeds another one by a number."""
    who, items, (a, b) = person(rng), small_things(rng), _small(rng)
    return _sum(
        rng,
        a,
        b,
        f"A shop sells {a} {items} in the morning and {b} more than that in the afternoon. "
        f"How many {items} does it sell in the afternoon?",
        f"{who} wants {b} more {items} than last year, when it was {a}. How many {items} does"
        f" {who} want?",
    )


def gives_away(rng: random.Random) -> Problem:
    """A difference: what is left."""
    who, items, (a, b) = person(rng), small_things(rng), _larger_first(rng)
    return _difference(
        rng,
        a,
        b,
        f"{who} had {a} {items} and gave away {b}. How many {items} are left?",
        f"{who} had {a} {items} but lost {b} of them. How many {items} does {who} still have?",
    )


def some_used(rng: random.Random) -> Problem:
    """A difference: what remains of a stock."""
    items, (a, b) = small_things(rng), _larger_first(rng)
    where = rng.choice(("shop", "school", "club", "library"))
    return _difference(
        rng,
        a,
        b,
        f"There were {a} {items} in the {where}. Then {b} were taken. How many {items} remain?",
        f"A {where} had {a} {items} and {b} were sold. How many {items} does the {where} still"
        " have?",
    )


def how_many_more(rng: random.Random) -> Problem:
    """A difference between two people."""
    who, items, (a, b) = person(rng), small_things(rng), _larger_first(rng)
    return _difference(
        rng,
        a,
        b,
        f"{who} has {a} {items} and a friend has {b}. How many more {items} does {who} have?",
        f"{who} has {a} {items}, and a neighbor has {b}. By how many {items} is {who} ahead?",
    )


def still_needed(rng: random.Random) -> Problem:
    """A difference to a goal."""
    who, items, (a, b) = person(rng), small_things(rng), _larger_first(rng)
    return _difference(
        rng,
        a,
        b,
        f"{who} needs {a} {items} and has {b}. How many {items} are missing?",
        f"{who} wants {a} {items} but only has {b}. How many more {items} does {who} need?",
    )


def boxes_of(rng: random.Random) -> Problem:
    """A product of packs and what is in one."""
    who, items, a, b = person(rng), small_things(rng), rng.randint(2, 9), rng.randint(2, 9)
    pack = rng.choice(("boxes", "bags", "packs", "rows"))
    return _product(
        rng,
        a,
        b,
        f"{who} has {a} {pack} with {b} {items} in each. How many {items} does {who} have?",
        f"There are {a} {pack} of {items}, and each has {b}. How many {items} are there in total?",
    )


def each_costs(rng: random.Random) -> Problem:
    """A product of a number and a price."""
    who, items, a, b = person(rng), small_things(rng), rng.randint(2, 9), rng.randint(2, 9)
    return _product(
        rng,
        a,
        b,
        f"{who} buys {a} {items} for ${b} each. How many dollars does {who} pay?",
        f"{cap(items)} cost ${b} apiece. {who} takes {a}. How many dollars is that?",
    )


# From here on, templates that training never sees (`generator.HELD_OUT`): the same operations with
# other verbs and nouns.
def more_arrive(rng: random.Random) -> Problem:
    """A sum of those who are there and those who come."""
    (a, b), where = _small(rng), rng.choice(("bus", "train", "hall", "park", "pool"))
    return _sum(
        rng,
        a,
        b,
        f"{a} people are in the {where}. {b} more arrive. How many people are in the {where} now?",
        f"In the {where} there are {a} people, and {b} more join them. How many people is that?",
    )


def days_of_work(rng: random.Random) -> Problem:
    """A product of days and what is done on each."""
    who, items, a, b = person(rng), small_things(rng), rng.randint(2, 9), rng.randint(2, 9)
    return _product(
        rng,
        a,
        b,
        f"Every day {who} draws {b} {items}. How many {items} does {who} draw in {a} days?",
        f"{who} draws {b} {items} a day for {a} days. How many {items} is that?",
    )


def fly_away(rng: random.Random) -> Problem:
    """A difference: animals that leave."""
    animals, (a, b) = (
        plural(rng.choice(("bird", "duck", "bee", "pigeon", "moth"))),
        _larger_first(rng),
    )
    return _difference(
        rng,
        a,
        b,
        f"{a} {animals} sit by the pond and {b} fly away. How many {animals} stay?",
        f"Of {a} {animals} by the pond, {b} leave. How many {animals} are still there?",
    )


def pages_left(rng: random.Random) -> Problem:
    """A difference: the part of a task that is still to be done."""
    who, (a, b) = person(rng), _larger_first(rng)
    what = rng.choice(("page", "line", "poem", "letter", "story"))
    return _difference(
        rng,
        a,
        b,
        f"{who} has to read {a} {plural(what)} and has read {b}. How many {plural(what)} are left"
        " to read?",
        f"Of {a} {plural(what)}, {who} has already read {b}. How many {plural(what)} are not read"
        " yet?",
    )
