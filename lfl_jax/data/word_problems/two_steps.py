"""Level 2: two operations on small numbers; the answer is the two bare equations."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import cap, person, small_things


def gets_and_gives(rng: random.Random) -> Problem:
    """A sum, then a difference."""
    who, things = person(rng), small_things(rng)
    a, b = rng.randint(3, 20), rng.randint(2, 20)
    total = a + b
    c = rng.randint(2, total - 1)
    return compose(
        rng,
        [
            f"{who} has {a} {things}, gets {b} more and gives away {c}. How many {things} are"
            " left?",
            f"{who} finds {a} {things} and then {b} more, but loses {c}. How many {things} does"
            f" {who} have?",
        ],
        [[f"{a} + {b} = {total}", f"{total} - {c} = {total - c}"]],
        total - c,
    )


def gives_and_gets(rng: random.Random) -> Problem:
    """A difference, then a sum."""
    who, things = person(rng), small_things(rng)
    b, a = sorted(rng.sample(range(2, 22), 2))
    c, left = rng.randint(2, 20), a - b
    return compose(
        rng,
        [
            f"{who} has {a} {things}, sells {b} and buys {c} new ones. How many {things} does {who}"
            " have now?",
            f"Of {a} {things}, {who} gives away {b}. Then {who} gets {c} new ones. How many"
            f" {things} is that?",
        ],
        [[f"{a} - {b} = {left}", f"{left} + {c} = {left + c}"]],
        left + c,
    )


def three_places(rng: random.Random) -> Problem:
    """A sum of three numbers."""
    things, places = (
        small_things(rng),
        rng.sample(("box", "bag", "drawer", "basket", "jar", "tin"), 3),
    )
    a, b, c = (rng.randint(2, 20) for _ in range(3))
    return compose(
        rng,
        [
            f"There are {a} {things} in the {places[0]}, {b} in the {places[1]} and {c} in the "
            f"{places[2]}. "
            f"How many {things} are there in total?",
            f"The {places[0]} contains {a} {things}, the {places[1]} {b} and the {places[2]} {c}. "
            f"How many {things} is that altogether?",
        ],
        [[f"{a} + {b} = {a + b}", f"{a + b} + {c} = {a + b + c}"]],
        a + b + c,
    )


def two_gifts(rng: random.Random) -> Problem:
    """Two differences."""
    who, things = person(rng), small_things(rng)
    a = rng.randint(8, 30)
    b = rng.randint(2, a - 4)
    c = rng.randint(2, a - b - 1)
    return compose(
        rng,
        [
            f"{who} has {a} {things} and gives {b} to a friend and {c} to a neighbor. How many"
            f" {things} are left?",
            f"From a pile of {a} {things}, {who} takes {b} and later {c}. How many {things} remain"
            " in the pile?",
        ],
        [[f"{a} - {b} = {a - b}", f"{a - b} - {c} = {a - b - c}"]],
        a - b - c,
    )


def boxes_and_more(rng: random.Random) -> Problem:
    """A product, then a sum."""
    who, things, pack = person(rng), small_things(rng), rng.choice(("boxes", "bags", "packs"))
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 20)
    return compose(
        rng,
        [
            f"{who} has {a} {pack} with {b} {things} in each, and {c} more {things}. "
            f"How many {things} does {who} have?",
            f"There are {a} {pack} of {b} {things} and {c} loose ones. How many {things} are there"
            " in total?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"]],
        a * b + c,
    )


def boxes_and_less(rng: random.Random) -> Problem:
    """A product, then a difference."""
    who, things, pack = person(rng), small_things(rng), rng.choice(("boxes", "bags", "packs"))
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(2, a * b - 1)
    return compose(
        rng,
        [
            f"{who} buys {a} {pack} with {b} {things} in each and gives away {c}. How many {things}"
            " are left?",
            f"There are {a} {pack} of {b} {things}, but {c} are broken. How many {things} are not"
            " broken?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} - {c} = {a * b - c}"]],
        a * b - c,
    )


def change_from(rng: random.Random) -> Problem:
    """A product of a number and a price, then change."""
    who, things = person(rng), small_things(rng)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    cost = a * b
    bill = rng.choice([note for note in (20, 50, 100) if note > cost])
    return compose(
        rng,
        [
            f"{who} buys {a} {things} for ${b} each and pays with ${bill}. How many dollars come"
            " back?",
            f"{cap(things)} cost ${b} apiece. {who} has ${bill} and buys {a}. How many dollars are"
            " left?",
        ],
        [[f"{a} * {b} = {cost}", f"{bill} - {cost} = {bill - cost}"]],
        bill - cost,
    )


def both_together(rng: random.Random) -> Problem:
    """One has more than the other; both together."""
    who, things = person(rng), small_things(rng)
    a, b = rng.randint(2, 20), rng.randint(2, 20)
    return compose(
        rng,
        [
            f"{who} has {a} {things} and a friend has {b} more than that. How many {things} do they"
            " have together?",
            f"A shop sells {a} {things} in the morning and {b} more than that in the afternoon. "
            f"How many {things} does it sell that day?",
        ],
        [[f"{a} + {b} = {a + b}", f"{a} + {a + b} = {a + a + b}"]],
        a + a + b,
    )


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
            f"Each week {who} earns ${b}. After {a} weeks of this, how many dollars does {who} "
            "have with the "
            f"${c} from before?",
        ],
        [[f"{a} * {b} = {a * b}", f"{a * b} + {c} = {a * b + c}"]],
        a * b + c,
    )
