"""Templates about fractions and percentages of a whole."""

import random
from fractions import Fraction

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import (
    FRACTION_WORDS,
    cap,
    people,
    person,
    plural,
    share,
)

# Level 3: fractions and percentages. Totals are drawn so that every share is an integer.


def spend_fractions(rng: random.Random) -> Problem:
    """A fraction of the whole, then a fraction of the remainder."""
    # Four steps. Trap: the second fraction is of what is left, not of the whole.
    who = person(rng)
    one, two = rng.sample(list(FRACTION_WORDS), 2)
    # A multiple of both denominators, and what is left is one of the second: both are integers.
    money = rng.randint(2, 8) * one.denominator * two.denominator * rng.choice((1, 2, 3))
    first = int(money * one)
    left = money - first
    second = int(left * two)
    end = left - second
    a, b = rng.sample(
        ("books", "a concert", "shoes", "a train ticket", "a present", "groceries", "paint"), 2
    )
    return compose(
        rng,
        [
            f"{who} has ${money}. {cap(who.they)} spends {FRACTION_WORDS[one]} of it on {a} and"
            f" then {FRACTION_WORDS[two]} of what is left on {b}. How many dollars does {who.they}"
            " have now?",
            f"Out of ${money}, {who} uses {FRACTION_WORDS[one]} for {a}. Of the remaining money"
            f" {who.they} uses {FRACTION_WORDS[two]} for {b}. How many dollars remain?",
        ],
        [
            [
                f"{who} spends {share(money, one)} = {first} dollars on {a}.",
                f"That leaves {money} - {first} = {left} dollars.",
                f"For {b} it is {share(left, two)} = {second} dollars.",
                f"In the end {left} - {second} = {end} dollars remain.",
            ],
            [
                f"The money for {a} is {share(money, one)} = {first} dollars, so {money} - {first}"
                f" = {left} dollars are left.",
                f"Of these, {share(left, two)} = {second} dollars go to {b}, and {left} - {second}"
                f" = {end} dollars are kept.",
            ],
        ],
        end,
    )


_SIMPLE_FRACTIONS = [part for part in FRACTION_WORDS if part.denominator <= 5]
# One part of n is given away; with more parts, to undo it takes two ideas at once.
_UNIT_FRACTIONS = [part for part in FRACTION_WORDS if part.numerator == 1]
_PERCENTS = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80)


def club_percent(rng: random.Random) -> Problem:
    """A percentage of a whole, then a fraction of that part, and the others in it."""
    # Three steps. Trap: the fraction is of the active members, not of all.
    group, member = rng.choice(
        (("school", "student"), ("company", "employee"), ("sports club", "member"))
    )
    activity, special = rng.choice(
        (
            ("play an instrument", "the violin"),
            ("learn a language", "Spanish"),
            ("do a winter sport", "ski jumping"),
        )
    )
    percent = rng.choice(_PERCENTS)
    part = rng.choice(_SIMPLE_FRACTIONS)
    total = rng.choice(
        [
            n
            for n in range(40, 620, 20)
            if n * percent % 100 == 0 and n * percent // 100 % part.denominator == 0
        ]
    )
    active = total * percent // 100
    subset = int(active * part)
    rest = active - subset
    many = plural(member)
    return compose(
        rng,
        [
            f"Of the {total} {many} at a {group}, {percent}% {activity}."
            f" {cap(FRACTION_WORDS[part])} of "
            f"those have picked {special}. How many {many} {activity} other than {special}?",
            f"A {group} has {total} {many}, and {percent}% of them {activity}. Among these, "
            f"{FRACTION_WORDS[part]} picked {special}. How many {many} picked something else?",
        ],
        [
            [
                f"{total} * {percent} / 100 = {active} {many} {activity}.",
                f"Of these, {share(active, part)} = {subset} picked {special}.",
                f"The other {active} - {subset} = {rest} picked something else.",
            ],
            [
                f"The number of {many} who {activity} is {total} * {percent} / 100 = {active}.",
                f"For {special} we count {share(active, part)} = {subset}.",
                f"That leaves {active} - {subset} = {rest} {many}.",
            ],
        ],
        rest,
    )


def original_amount(rng: random.Random) -> Problem:
    """Backwards from what is left to what there was."""
    # Three steps, backwards. Trap: n - 1 of n parts are left, so what is
    # left is divided by n - 1.
    who, friend = people(rng, 2)
    item = rng.choice(
        ("sticker", "marble", "stamp", "postcard", "seashell", "trading card", "button")
    )
    part = rng.choice(_UNIT_FRACTIONS)
    unit, lost = rng.randint(6, 25), rng.randint(2, 15)
    parts = part.denominator - 1
    after = unit * parts
    # At least two remain after the loss: the story goes on with them in the plural.
    lost = min(lost, after - 2)
    left, start = after - lost, unit * part.denominator
    many = plural(item)
    undo = [
        f"They are {part.denominator} - 1 = {parts} of {part.denominator} equal parts, so one part"
        f" is {after} / {parts} = {unit}.",
        f"At first there were {unit} * {part.denominator} = {start} {many}.",
    ]
    # After half is given away the other half is left: dividing by one part would be odd.
    if parts == 1:
        undo = [f"This is the other half, so at first there were {after} * 2 = {start} {many}."]
    return compose(
        rng,
        [
            f"{who} gives {FRACTION_WORDS[part]} of {who.their} {many} to {friend} and then loses"
            f" {lost} of the others. Now {who.they} has {left}. How many {many} did {who} have in"
            " the beginning?",
            f"After giving away {FRACTION_WORDS[part]} of {who.their} {many}, {who} sold {lost}"
            f" more and was left with {left}. How many {many} did {who.they} own at first?",
        ],
        [
            [f"Before the last step {who} had {left} + {lost} = {after} {many}.", *undo],
            [f"Adding back the {lost} gives {lost} + {left} = {after} {many}.", *undo],
        ],
        start,
    )


def _survey_totals(percent: int, part: Fraction) -> list[int]:
    """Numbers of people of which both shares are integers."""
    return [n for n in range(40, 600, 20) if n * percent % 100 == 0 and n % part.denominator == 0]


def survey_rest(rng: random.Random) -> Problem:
    """A fraction and a percentage of one whole; the remaining part against the first."""
    # Four steps. Trap: the fraction and the percentage are of one whole, and the rest is compared.
    resort, who = rng.choice(
        (
            ("ski resort", "visitor"),
            ("hotel", "guest"),
            ("holiday village", "family"),
            ("camp", "child"),
        )
    )
    a, b, c = rng.sample(
        ("a hike", "a boat tour", "a cooking class", "a film", "a puppet show", "a quiz night"), 3
    )
    part = rng.choice(
        (Fraction(1, 2), Fraction(1, 4), Fraction(1, 5), Fraction(2, 5), Fraction(1, 3))
    )
    percent = rng.choice((10, 15, 20, 25, 30, 40))
    # At most 40 % and one half: a third part always remains.
    total = rng.choice(_survey_totals(percent, part))
    first, second = int(total * part), total * percent // 100
    used, many = first + second, plural(who)
    return compose(
        rng,
        [
            f"A {resort} asks {total} {many} what they would like to do."
            f" {cap(FRACTION_WORDS[part])} of them choose {a}, {percent}% choose {b}, and the rest"
            f" choose {c}. How many choose {c}?",
            f"There are {total} {many}. {cap(FRACTION_WORDS[part])} of them sign up for {a},"
            f" {percent}% of all {total} sign up for {b}, and the others for {c}. How many {many}"
            f" sign up for {c}?",
        ],
        [
            [
                f"{cap(a)} is the choice of {share(total, part)} = {first} {many}.",
                f"{cap(b)} is the choice of {total} * {percent} / 100 = {second}.",
                f"Together these are {first} + {second} = {used}, so {total} - {used} ="
                f" {total - used} choose {c}.",
            ],
            [
                f"First take away {share(total, part)} = {first}, which leaves {total} - {first} = "
                f"{total - first} {many}.",
                f"Then take away {total} * {percent} / 100 = {second}, which leaves {total - first}"
                f" - {second} = {total - used}.",
            ],
        ],
        total - used,
    )
