"""Level 2: two operations on small numbers; the answer is the two bare equations."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import cap, person, small_things


# Level 2 joins two operations of level 1: the second one needs the result of the first, so that a
# model that answers after one equation is wrong. Traps: a number that stands for a result ("b more
# than that" in `both_together`), and an order of sentences that is not that of the equations.
def gets_and_gives(rng: random.Random) -> Problem:
    """A sum, then a difference."""
    who, items = person(rng), small_things(rng)
    a, b = rng.randint(3, 20), rng.randint(2, 20)
    total = a + b
    # Nobody gives away more than there is: all numbers stay positive.
    c = rng.randint(2, total - 1)
    return compose(
        rng,
        [
            f"{who} has {a} {items}, gets {b} more and gives away {c}. How many {items} are left?",
            f"{who} finds {a} {items} and then {b} more, but loses {c}. How many {items} does"
            f" {who} have?",
        ],
        [[f"{a} + {b} = {total}", f"{total} - {c} = {total - c}"]],
        total - c,
    )


def gives_and_gets(rng: random.Random) -> Problem:
    """A difference, then a sum."""
    who, items = person(rng), small_things(rng)
    b, a = sorted(rng.sample(range(2, 22), 2))
    c, left = rng.randint(2, 20), a - b
    return compose(
        rng,
        [
            f"{who} has {a} {items}, sells {b} and buys {c} new ones. How many {items} does {who}"
            " have now?",
            f"Of {a} {items}, {who} gives away {b}. Then {who} gets {c} new ones. How many"
            f" {items} is that?",
        ],
        [[f"{a} - {b} = {left}", f"{left} + {c} = {left + c}"]],
        left + c,
    )


def three_places(rng: random.Random) -> Problem:
    """A sum of three numbers."""
    items, places = (
        small_things(rng),
        rng.sample(("box", "bag", "drawer", "basket", "jar", "tin"), 3),
    )
    a, b, c = (rng.randint(2, 20) for _ in range(3))
    return compose(
        rng,
        [
            f"There are {a} {items} in the {places[0]}, {b} in the {places[1]} and {c} in the"
            f" {places[2]}. How many {items} are there in total?",
            f"The {places[0]} contains {a} {items}, the {places[1]} {b} and the {places[2]} {c}. "
            f"How many {items} is that altogether?",
        ],
        [[f"{a} + {b} = {a + b}", f"{a + b} + {c} = {a + b + c}"]],
        a + b + c,
    )


def two_gifts(rng: random.Random) -> Problem:
    """Two differences."""
    who, items = person(rng), small_things(rng)
    a = rng.randint(8, 30)
    # Enough remains for the second gift, and something after it.
    b = rng.randint(2, a - 4)
    c = rng.randint(2, a - b - 1)
    return compose(
        rng,
        [
            f"{who} has {a} {items} and gives {b} to a friend and {c} to a neighbor. How many"
            f" {items} are left?",
            f"From a pile of {a} {items}, {who} takes {b} and later {c}. How many {items} remain"
            " in the pile?",
        ],
        [[f"{a} - {b} = {a - b}", f"{a - b} - {c} = {a - b - c}"]],
        a - b - c,
    )


def boxes_and_more(rng: random.Random) -> Problem:
    """A product, then a sum."""
    who, items, pack = person(rng), small_things(rng), rng.choice(("boxes", "bags", "packs"))
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)
    return compose(
        rng,
        [
            f"{who} has {a} {pack} with {b} {items} in each, and {c} more {items}. "
            f"How many {items} does {who} have?",
            f"There are {a} {pack} of {b} {items} and {c} loose ones. How many {items} are there"
            " in total?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"]],
        a * b + c,
    )


def boxes_and_less(rng: random.Random) -> Problem:
    """A product, then a difference."""
    who, items, pack = person(rng), small_things(rng), rng.choice(("boxes", "bags", "packs"))
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(2, a * b - 1)
    return compose(
        rng,
        [
            f"{who} buys {a} {pack} with {b} {items} in each and gives away {c}. How many {items}"
            " are left?",
            f"There are {a} {pack} of {b} {items}, but {c} are broken. How many {items} are not"
            " broken?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} - {c} = {a * b - c}"]],
        a * b - c,
    )


def change_from(rng: random.Random) -> Problem:
    """A product of a number and a price, then change."""
    who, items = person(rng), small_things(rng)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    cost = a * b
    # Any larger note will do: the change has to be computed, not guessed from the note.
    bill = rng.choice([note for note in (20, 50, 100) if note > cost])
    return compose(
        rng,
        [
            f"{who} buys {a} {items} for ${b} each and pays with ${bill}. How many dollars come"
            " back?",
            f"{cap(items)} cost ${b} apiece. {who} has ${bill} and buys {a}. How many dollars are"
            " left?",
        ],
        [[f"{a} * {b} = {cost}", f"{bill} - {cost} = {bill - cost}"]],
        bill - cost,
    )


def both_together(rng: random.Random) -> Problem:
    """One has more than the other; both together."""
    who, items = person(rng), small_things(rng)
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    return compose(
        rng,
        [
            f"{who} has {a} {items} and a friend has {b} more than that. How many {items} do they"
            " have together?",
            f"A shop sells {a} {items} in the morning and {b} more than that in the afternoon. "
            f"How many {items} does it sell that day?",
        ],
        [[f"{a} + {b} = {a + b}", f"{a} + {a + b} = {a + a + b}"]],
        a + a + b,
    )


# From here on, templates that training never sees (`generator.HELD_OUT`): the same pairs of
# operations with other verbs and nouns.
def bus_stop(rng: random.Random) -> Problem:
    """A difference, then a sum: who leaves and who arrives."""
    where = rng.choice(("bus", "train", "ferry", "tram"))
    b, a = sorted(rng.sample(range(2, 22), 2))
    c, left = rng.randint(2, 20), a - b
    return compose(
        rng,
        [
            f"{a} people are on the {where}. {b} get off and {c} get on. How many people are on the"
            f" {where} now?",
            f"Of {a} people on the {where}, {b} leave. Then {c} others join. How many people is"
            " that?",
        ],
        [[f"{a} - {b} = {left}", f"{left} + {c} = {left + c}"]],
        left + c,
    )


def team_points(rng: random.Random) -> Problem:
    """A sum of three rounds."""
    who, what = person(rng), rng.choice(("points", "goals", "laps", "stars"))
    a, b, c = (rng.randint(2, 20) for _ in range(3))
    return compose(
        rng,
        [
            f"{who} gets {a} {what} in the first round, {b} in the next and {c} in the last. "
            f"How many {what} is that in total?",
            f"In the rounds of a contest {who} earns {a}, {b} and {c} {what}. How many {what} does"
            f" {who} have?",
        ],
        [[f"{a} + {b} = {a + b}", f"{a + b} + {c} = {a + b + c}"]],
        a + b + c,
    )


def tables_and_guests(rng: random.Random) -> Problem:
    """A product of tables and seats, less the guests."""
    a, b = rng.randint(2, 9), rng.randint(3, 9)
    c = rng.randint(2, a * b - 1)
    return compose(
        rng,
        [
            f"A room has {a} tables with {b} seats at each. {c} seats are taken. How many seats are"
            " free?",
            f"At each of {a} tables there are {b} seats, and {c} guests sit down. How many seats"
            " stay empty?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} - {c} = {a * b - c}"]],
        a * b - c,
    )


def weekly_and_start(rng: random.Random) -> Problem:
    """A product of weeks and savings, on top of a start."""
    who = person(rng)
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)
    return compose(
        rng,
        [
            f"{who} saves ${b} a week for {a} weeks and had ${c} before. How many dollars does"
            f" {who} have now?",
            f"Each week {who} earns ${b}. After {a} weeks of this, how many dollars does {who} have"
            f" with the ${c} from before?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"]],
        a * b + c,
    )
