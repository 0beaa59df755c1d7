"""Templates about ages, comparisons and two unknown quantities."""

import random
from dataclasses import dataclass

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import (
    NUMBER_WORDS,
    TIMES_WORDS,
    cap,
    people,
    person,
    plural,
)

# Level 3: unknown amounts told by one another: small linear systems in words.


def ages_later(rng: random.Random) -> Problem:
    """One age is a multiple of the other; the sum some years later."""
    # Three steps. Trap: both people grow older.
    one, two = people(rng, 2)
    young, k, years = rng.randint(4, 16), rng.randint(2, 4), rng.randint(2, 20)
    # The multiple is of today's age and no longer holds some years later.
    old = young * k
    link = rng.choice(("neighbor", "piano teacher", "swimming coach", "chess partner"))
    total = old + young + 2 * years
    return compose(
        rng,
        [
            f"{one} is {young} years old. {cap(one.their)} {link} {two} is {TIMES_WORDS[k]} as old."
            f" What will the sum of their ages be in {years} years?",
            f"{two} is {TIMES_WORDS[k]} as old as {one}, who is {young}. What will their ages add"
            f" up to {years} years from now?",
        ],
        [
            [
                f"{two} is {k} * {young} = {old} years old.",
                f"In {years} years {one} will be {young} + {years} = {young + years} and {two} will"
                f" be {old} + {years} = {old + years}.",
                f"The sum is {young + years} + {old + years} = {total}.",
            ],
            [
                f"{two} is now {young} * {k} = {old}, so today the ages add up to {young} + {old} ="
                f" {young + old}.",
                f"Each of the two gets {years} years older, which adds 2 * {years} = {2 * years}.",
                f"Together they will be {young + old} + {2 * years} = {total}.",
            ],
        ],
        total,
    )


def ages_sum(rng: random.Random) -> Problem:
    """Sum and difference of two ages; one of them some years ago."""
    # Three steps. Trap: half of the sum without the difference is the younger one.
    one, two = people(rng, 2)
    young, gap, ago = rng.randint(9, 40), rng.randint(2, 18), rng.randint(2, 8)
    old = young + gap
    total = young + old
    return compose(
        rng,
        [
            f"{one} is {gap} years older than {two}. Their ages add up to {total}. How old was"
            f" {one} {ago} years ago?",
            f"The ages of {one} and {two} sum to {total}, and {two} is {gap} years younger than"
            f" {one}. What was {one}'s age {ago} years ago?",
        ],
        [
            [
                f"Without the {gap} extra years, the ages would sum to {total} - {gap} ="
                f" {total - gap}.",
                f"So {two} is {total - gap} / 2 = {young} and {one} is {young} + {gap} = {old}.",
                f"Back then, {one} was {old} - {ago} = {old - ago}.",
            ],
            [
                f"If {two} were as old as {one}, the sum would be {total} + {gap} = {total + gap}.",
                f"Hence {one} is {total + gap} / 2 = {old} years old.",
                f"Going back {ago} years, the age is {old} - {ago} = {old - ago}.",
            ],
        ],
        old - ago,
    )


_ITEMS = (
    "sticker",
    "marble",
    "comic book",
    "postcard",
    "seashell",
    "badge",
    "toy car",
    "fridge magnet",
    "coin",
)


def comparison_chain(rng: random.Random) -> Problem:
    """A multiple of one amount, a difference from that, and the sum of all three."""
    # Three to four steps. Trap: each amount is told by the one before it.
    one, two, three = people(rng, 3)
    many = plural(rng.choice(_ITEMS))
    a, k, fewer = rng.randint(6, 30), rng.randint(2, 5), rng.randint(3, 10)
    b = a * k
    c = b - fewer
    return compose(
        rng,
        [
            f"{one} has {a} {many}. {two} has {TIMES_WORDS[k]} as many as {one}, and {three} has"
            f" {fewer} fewer than {two}. How many {many} do the three have together?",
            f"{three} collected {fewer} fewer {many} than {two}. {two} collected {TIMES_WORDS[k]}"
            f" as many as {one}, who has {a}. Find the number of {many} that all three have in"
            " total.",
        ],
        [
            [
                f"{two} has {k} * {a} = {b} {many}.",
                f"{three} has {b} - {fewer} = {c} {many}.",
                f"Together they have {a} + {b} + {c} = {a + b + c} {many}.",
            ],
            [
                f"{one} has {a}, so {two} has {a} * {k} = {b} and {three} has {b} - {fewer} = {c}.",
                f"{one} and {two} have {a} + {b} = {a + b}.",
                f"With {three} it is {a + b} + {c} = {a + b + c}.",
            ],
        ],
        a + b + c,
    )


def make_equal(rng: random.Random) -> Problem:
    """How many to hand over so that two people have the same."""
    # Three steps. Trap: to hand over n closes a gap of 2n.
    one, two = people(rng, 2)
    many = plural(rng.choice(_ITEMS))
    start, bought, give = rng.randint(10, 50), rng.randint(4, 20), rng.randint(2, 15)
    rich = start + bought
    # Built backwards from what is given, so that the gap is even.
    poor = rich - 2 * give
    if poor < 2:
        start += 2 - poor
        rich, poor = start + bought, 2
    return compose(
        rng,
        [
            f"{one} has {start} {many} and {two} has {poor}. {one} buys {bought} more and wants"
            f" both to have the same number. How many {many} should {one} give to {two}?",
            f"{two} owns {poor} {many}. {one} owns {start} and has just found {bought} more. How"
            f" many must {one} hand to {two} so that they have equally many?",
        ],
        [
            [
                f"{one} now has {start} + {bought} = {rich} {many}.",
                f"That is {rich} - {poor} = {2 * give} more than {two}.",
                f"Half of the difference, {2 * give} / 2 = {give}, goes to {two}.",
            ],
            [
                f"After the {bought} new ones {one} has {start} + {bought} = {rich}.",
                f"Both together have {rich} + {poor} = {rich + poor}, so each should have"
                f" {rich + poor} / 2 = {(rich + poor) // 2}.",
                f"{one} gives away {rich} - {(rich + poor) // 2} = {give}.",
            ],
        ],
        give,
    )


@dataclass(frozen=True)
class _TwoKinds:
    """Two nouns that differ in how many parts one of them has."""

    opening: str
    low: str
    low_parts: int
    high: str
    high_parts: int
    part: str


# `low` has fewer parts, so that the solution's difference is positive.
_TWO_KINDS = (
    _TwoKinds("On a farm there are", "goose", 2, "goat", 4, "leg"),
    _TwoKinds("A bike shop has", "bicycle", 2, "tricycle", 3, "wheel"),
    _TwoKinds("A garage holds", "motorcycle", 2, "car", 4, "wheel"),
    _TwoKinds("A workshop builds", "stool", 3, "table", 4, "leg"),
    _TwoKinds("In a glass tank there are", "beetle", 6, "spider", 8, "leg"),
    _TwoKinds("A harbor is home to", "rowboat", 2, "canoe", 3, "seat"),
)


def legs_and_heads(rng: random.Random) -> Problem:
    """Two kinds of things told apart by a count of their parts."""
    # Four to five steps, a linear system in words: all of the first kind, then what exceeds it.
    k = rng.choice(_TWO_KINDS)
    x, y = rng.randint(3, 25), rng.randint(3, 25)
    # Both numbers are drawn and then hidden in their sums: the system always has this solution.
    heads, parts = x + y, x * k.low_parts + y * k.high_parts
    base, gap = heads * k.low_parts, k.high_parts - k.low_parts
    lows, highs, pieces = plural(k.low), plural(k.high), plural(k.part)
    return compose(
        rng,
        [
            f"{k.opening} {lows} and {highs}, {heads} in all. A {k.low} has {k.low_parts} {pieces}"
            f" and a {k.high} has {k.high_parts}. Altogether there are {parts} {pieces}. How many"
            f" {highs} are there?",
            f"{k.opening} {heads} {lows} and {highs} with {parts} {pieces} in total. Each {k.low}"
            f" has {k.low_parts} {pieces} and each {k.high} has {k.high_parts}. Find the number of"
            f" {highs}.",
        ],
        [
            [
                f"If all {heads} were {lows}, there would be {heads} * {k.low_parts} = {base}"
                f" {pieces}.",
                f"There are {parts} - {base} = {parts - base} more {pieces} than that.",
                f"Each {k.high} adds {k.high_parts} - {k.low_parts} = {gap}, so {parts - base} /"
                f" {gap} = {y} are {highs}.",
            ],
            [
                f"{cap(NUMBER_WORDS[k.low_parts])} {pieces} each would make {k.low_parts} * {heads}"
                f" = {base} {pieces}.",
                f"A {k.high} has {k.high_parts} - {k.low_parts} = {gap} more than a {k.low}.",
                f"The extra {pieces} number {parts} - {base} = {parts - base}, which means"
                f" {parts - base} / {gap} = {y} {highs}.",
            ],
        ],
        y,
    )


@dataclass(frozen=True)
class _Sale:
    """Two nouns that differ in price."""

    event: str
    low: str
    high: str


# Other nouns than in `_TWO_KINDS`: the same system is not recognised by its words.
_SALES = (
    _Sale("concert", "standing ticket", "seat ticket"),
    _Sale("raffle", "white ticket", "gold ticket"),
    _Sale("food stand", "small bowl", "large bowl"),
    _Sale("plant sale", "herb pot", "fruit bush"),
    _Sale("craft fair", "candle", "lantern"),
)


def two_ticket_kinds(rng: random.Random) -> Problem:
    """How many of the dearer kind were sold, from the number sold and the income."""
    # Four to five steps: the system of `legs_and_heads` with prices, which training never sees.
    who = person(rng)
    sale = rng.choice(_SALES)
    cheap, gap = rng.randint(2, 9), rng.randint(2, 6)
    # The dearer kind is asked for, as `legs_and_heads` asks for the one with more parts.
    dear, x, y = cheap + gap, rng.randint(5, 30), rng.randint(5, 30)
    sold, income = x + y, x * cheap + y * dear
    base, cheaps, dears = sold * cheap, plural(sale.low), plural(sale.high)
    return compose(
        rng,
        [
            f"At a {sale.event}, {who} sells {cheaps} for ${cheap} and {dears} for ${dear}."
            f" {cap(who.they)} sells {sold} of them in all and takes in ${income}. How many {dears}"
            f" does {who.they} sell?",
            f"{who} has sold {sold} {cheaps} and {dears} at a {sale.event} and counts ${income}."
            f" One {sale.low} costs ${cheap} and one {sale.high} ${dear}. How many {dears} were"
            " sold?",
        ],
        [
            [
                f"With only {cheaps}, the income would be {sold} * ${cheap} = ${base}.",
                f"It is ${income} - ${base} = ${income - base} higher.",
                f"One {sale.high} brings ${dear} - ${cheap} = ${gap} more, so there are"
                f" {income - base} / {gap} = {y} {dears}.",
            ],
            [
                f"A {sale.high} costs {dear} - {cheap} = {gap} dollars more than a {sale.low}.",
                f"At the low price, {sold} pieces give {cheap} * {sold} = {base} dollars, which is"
                f" {income} - {base} = {income - base} dollars too little.",
                f"Therefore {income - base} / {gap} = {y} {dears} were sold.",
            ],
        ],
        y,
    )
