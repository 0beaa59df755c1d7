"""Templates about averages, remainders and sequences."""

import itertools
import operator
import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import cap, person, plural

# Level 3: several terms that follow a rule: averages, remainders, sums and powers.


def needed_score(rng: random.Random) -> Problem:
    """The last value that brings an average to a goal."""
    # Three steps. Trap: an average of four is a sum of four. The last score is raised until the
    # average is an integer.
    who = person(rng)
    what, unit, low, high = rng.choice(
        (
            ("math tests", "points", 60, 95),
            ("bowling games", "pins", 90, 160),
            ("dance contests", "points", 40, 90),
        )
    )
    a, b, c = (rng.randint(low, high) for _ in range(3))
    total = a + b + c
    last = rng.randint(low, high)
    last += -(total + last) % 4
    goal = (total + last) // 4
    return compose(
        rng,
        [
            f"In three {what}, {who} gets {a}, {b} and {c} {unit}. How many {unit} does {who.they}"
            f" need in the fourth to reach an average of {goal}?",
            f"{who} wants an average of {goal} {unit} over four {what}. The first three gave {a},"
            f" {b} and {c}. What must the last one give?",
        ],
        [
            [
                f"An average of {goal} over four means 4 * {goal} = {4 * goal} {unit} in total.",
                f"So far there are {a} + {b} + {c} = {total}.",
                f"The fourth must give {4 * goal} - {total} = {last} {unit}.",
            ],
            [
                f"{who} has {a} + {b} = {a + b} after two, and {a + b} + {c} = {total} after"
                " three.",
                f"The four together need {goal} * 4 = {4 * goal}.",
                f"The missing part is {4 * goal} - {total} = {last}.",
            ],
        ],
        last,
    )


_PACKS = (
    ("egg", "carton"),
    ("candle", "box"),
    ("apple", "bag"),
    ("soap bar", "gift set"),
    ("cupcake", "tray"),
)


def share_leftover(rng: random.Random) -> Problem:
    """Equal packing with a remainder, and what the full packs are worth."""
    # Four steps. Trap: only full packs have the pack's price; single items cost a dollar.
    who = person(rng)
    item, pack = rng.choice(_PACKS)
    size, packs, price = rng.randint(4, 12), rng.randint(4, 15), rng.randint(2, 6)
    # At least two are left over, so that the story can speak of them in the plural.
    rest = rng.randint(2, size - 1)
    total, used, income = size * packs + rest, size * packs, packs * price
    many = plural(item)
    return compose(
        rng,
        [
            f"{who} has {total} {many}. {cap(who.they)} puts {size} into each {pack}, sells the"
            f" full {plural(pack)} at ${price} each and every leftover {item} for $1. How many"
            f" dollars does {who.they} get?",
            f"A {pack} holds {size} {many} and costs ${price} when full. {who} has {total} {many},"
            f" fills as many {plural(pack)} as possible and sells the remaining {many} singly for"
            " $1. What is the income in dollars if everything is sold?",
        ],
        [
            [
                f"{total} divided by {size} is {packs} and a remainder: {packs} {plural(pack)} hold"
                f" {packs} * {size} = {used} {many}.",
                f"Left over are {total} - {used} = {rest}, worth {rest} * $1 = ${rest}.",
                f"The {plural(pack)} bring {packs} * ${price} = ${income}, so all together"
                f" ${income} + ${rest} = ${income + rest}.",
            ],
            [
                f"Since {size} * {packs} = {used} is the largest multiple of {size} up to {total},"
                f" there are {packs} full {plural(pack)} and {total} - {used} = {rest} single"
                f" {many}.",
                f"The income is {packs} * {price} = {income} dollars plus {rest} dollars, and"
                f" {income} + {rest} = {income + rest}.",
            ],
        ],
        income + rest,
    )


# The solution writes out every row; more than five would be a list, not a calculation.
_LATER = ("second", "third", "fourth", "fifth")


def theatre_rows(rng: random.Random) -> Problem:
    """The sum of a short arithmetic sequence."""
    # Up to five steps. Trap: the last row has n - 1 increases, not n.
    setting, row, unit = rng.choice(
        (
            ("a small theater", "row", "seat"),
            ("a stack of logs", "layer", "log"),
            ("a pyramid of cans", "layer", "can"),
            ("a flower bed", "row", "tulip"),
            ("a marching band", "row", "musician"),
        )
    )
    first, step, n = rng.randint(4, 40), rng.randint(2, 9), rng.randint(3, 5)
    terms = range(first, first + n * step, step)
    last, many = terms[-1], plural(unit)
    # Gauss's pairs are the second way to the same sum.
    pairs = f"({first} + {last}) * {n} / 2"
    return compose(
        rng,
        [
            f"In {setting}, the first {row} has {first} {many}, and each {row} after it has {step}"
            f" more than the one before. How many {many} are there in {n} {plural(row)}?",
            f"The {n} {plural(row)} of {setting} grow steadily: the first has {first} {many} "
            f"and every next one {step} more. Find the total number of {many}.",
        ],
        [
            [
                *(
                    f"The {nth} {row} has {t - step} + {step} = {t} {many}."
                    for nth, t in zip(_LATER, terms[1:], strict=False)
                ),
                f"In total there are {' + '.join(map(str, terms))} = {sum(terms)} {many}.",
            ],
            [
                f"From the first to the last {row} there are {n} - 1 = {n - 1} increases, so"
                f" {n - 1} * {step} = {(n - 1) * step} more {many}.",
                f"The last {row} has {first} + {(n - 1) * step} = {last} {many}.",
                f"The first and the last, times the number of {plural(row)}, and halved: {pairs} ="
                f" {sum(terms)} {many}.",
            ],
        ],
        sum(terms),
    )


_GROWS = {2: "doubles", 3: "triples"}


def doubling_views(rng: random.Random) -> Problem:
    """Repeated doubling or tripling, then the gap to a goal."""
    # Up to four steps. Trap: a factor every day is a power, not a product with the days.
    who = person(rng)
    thing, unit = rng.choice(
        (
            ("video", "view"),
            ("song", "listener"),
            ("petition", "signature"),
            ("recipe blog", "reader"),
            ("puzzle app", "user"),
        )
    )
    # Factors of at most 27: mental arithmetic, and far from `k * days` all the same.
    k, days = rng.choice(((2, 3), (2, 4), (3, 2), (3, 3)))
    start = rng.randint(5, 40)
    values = list(itertools.accumulate([k] * days, operator.mul, initial=start))
    # The goal lies above the last value: no answer is negative.
    missing = rng.randint(2, 30) * 5
    goal, many = values[-1] + missing, plural(unit)
    return compose(
        rng,
        [
            f"{who}'s {thing} starts with {start} {many}, and the number {_GROWS[k]} every day. How"
            f" many {many} short of {goal} is it after {days} days?",
            f"A {thing} has {start} {many} today. Each day the number {_GROWS[k]}. After {days}"
            f" days, how many more {many} does it need to reach {goal}?",
        ],
        [
            [
                *(
                    f"After the {nth} day it is {v // k} * {k} = {v}."
                    for nth, v in zip(("first", *_LATER), values[1:], strict=False)
                ),
                f"The gap to {goal} is {goal} - {values[-1]} = {missing}.",
            ],
            [
                f"In {days} days the number grows by a factor of {' * '.join([str(k)] * days)} ="
                f" {k**days}.",
                f"It becomes {start} * {k**days} = {values[-1]}.",
                f"Then {goal} - {values[-1]} = {missing} {many} are missing.",
            ],
        ],
        missing,
    )
