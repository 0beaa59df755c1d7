"""Templates about ratios, mixtures and scaling."""

import functools
import random
from math import gcd

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import cap, count, people, person, plural

# Level 3: proportions. Totals are multiples of the sum of the ratio.


def juice_ratio(rng: random.Random) -> Problem:
    """Parts of a mixture from its total, then the cost of one part."""
    # Four steps. Trap: a ratio is of parts; their sum is one batch.
    who = person(rng)
    drink, strong, weak, unit = rng.choice(
        (
            ("punch", "syrup", "water", "cup"),
            ("lemonade", "lemon juice", "water", "glass"),
            ("sky-blue paint", "blue paint", "white paint", "liter"),
            ("trail mix", "nuts", "raisins", "scoop"),
            ("potting mix", "compost", "sand", "bucket"),
        )
    )
    a = rng.randint(2, 5)
    # Two different terms, so that it matters which of them is asked for.
    b = rng.choice(sorted(set(range(2, 8)) - {a}))
    batches, price = rng.randint(2, 9), rng.randint(2, 5)
    total, need = (a + b) * batches, a * batches
    units = plural(unit)
    return compose(
        rng,
        [
            f"To make {drink}, {who} mixes {a} {units} of {strong} with every {b} {units} of"
            f" {weak}. {cap(who.they)} needs {total} {units} of the mixture. If {strong} costs"
            f" ${price} a {unit}, how many dollars does {who.they} spend on it?",
            f"{cap(drink)} is made from {a} parts {strong} and {b} parts {weak}. {who} prepares"
            f" {total} {units} of it. One {unit} of {strong} costs ${price}. What does the {strong}"
            " cost in dollars?",
        ],
        [
            [
                f"One batch is {a} + {b} = {a + b} {units}.",
                f"{who} makes {total} / {a + b} = {batches} batches.",
                f"They contain {batches} * {a} = {need} {units} of {strong}, which cost {need} *"
                f" ${price} = ${need * price}.",
            ],
            [
                f"There are {a} + {b} = {a + b} parts, so each part is {total} / {a + b} ="
                f" {batches} {units}.",
                f"The {strong} takes {a} * {batches} = {need} {units}.",
                f"Its price is {need} * {price} = {need * price} dollars.",
            ],
        ],
        need * price,
    )


def ratio_difference(rng: random.Random) -> Problem:
    """A total shared in a ratio; how much more the larger share is."""
    # Three to four steps. Trap: the total is shared by the sum of the ratio, not by its larger
    # term.
    one, two = people(rng, 2)
    small, big = rng.choice(
        # In lowest terms, as ratios are stated.
        [(a, b) for a in range(1, 6) for b in range(a + 1, 10) if gcd(a, b) == 1]
    )
    unit = rng.randint(3, 25)
    total = (small + big) * unit
    bundle, thing = rng.choice(
        (("prize", "dollar"), ("bag", "bead"), ("roll", "ticket"), ("box", "nail"))
    )
    what = plural(thing)
    extra = big - small
    return compose(
        rng,
        [
            f"{one} and {two} divide a {bundle} of {total} {what} in the ratio {small}:{big}. How"
            f" many more {what} does {two} get than {one}?",
            f"For every {count(small, thing)} that {one} gets, {two} gets {big}. Together they"
            f" receive {total} {what}. By how many {what} is {two}'s share larger?",
        ],
        [
            [
                f"There are {small} + {big} = {small + big} shares of {total} / {small + big} ="
                f" {unit} {what} each.",
                f"{one} gets {small} * {unit} = {small * unit} and {two} gets {big} * {unit} ="
                f" {big * unit}.",
                f"The difference is {big * unit} - {small * unit} = {extra * unit} {what}.",
            ],
            [
                f"The total has {small} + {big} = {small + big} equal parts, so a part is {total} /"
                f" {small + big} = {unit} {what}.",
                f"{two} has {big} - {small} = {extra} more of them than {one}, which is {extra} *"
                f" {unit} = {extra * unit} {what}.",
            ],
        ],
        extra * unit,
    )


@functools.cache
def _blends() -> list[tuple[int, int, int, int]]:
    """Amounts and percentages (x, p, y, q) of two mixtures that give integers throughout."""
    # Each mixture and the blend have integer amounts and percentages.
    kinds = [(x, p) for x in range(2, 31) for p in range(10, 100, 5) if x * p % 100 == 0]
    pairs = [(x, p, y, q) for x, p in kinds for y, q in kinds if p != q]
    return [(x, p, y, q) for x, p, y, q in pairs if (x * p + y * q) % (x + y) == 0]


def juice_blend(rng: random.Random) -> Problem:
    """The percentage of a substance after pouring two mixtures together."""
    # Five steps. Trap: percentages do not add up and do not average; amounts do.
    who = person(rng)
    x, p, y, q = rng.choice(_blends())
    room, drink, pure = rng.choice(
        (
            ("kitchen", "fruit drink", "juice"),
            ("lab", "salt solution", "salt"),
            ("workshop", "cleaner", "vinegar"),
        )
    )
    first, second = x * p // 100, y * q // 100
    strength = (x * p + y * q) // (x + y)
    return compose(
        rng,
        [
            f"In the {room}, {who} pours {x} kg of a {drink} that is {p}% {pure} into {y} kg of a"
            f" {drink} that is {q}% {pure}. What percent of the mixture is {pure}?",
            f"{who} blends two kinds of {drink}: {x} kg with {p}% {pure} and {y} kg with {q}%"
            f" {pure}. Find the percentage of {pure} in the blend.",
        ],
        [
            [
                f"The first contains {x} * {p} / 100 = {first} kg of {pure}, the second {y} * {q} /"
                f" 100 = {second} kg.",
                f"Together there are {first} + {second} = {first + second} kg of {pure} in {x} +"
                f" {y} = {x + y} kg.",
                f"That is {first + second} / {x + y} * 100 = {strength} percent.",
            ],
            [
                f"The mixture weighs {x} + {y} = {x + y} kg.",
                f"Its {pure} weighs {x} * {p} / 100 = {first} kg plus {y} * {q} / 100 = {second}"
                f" kg, so {first} + {second} = {first + second} kg.",
                f"The share is {first + second} * 100 / {x + y} = {strength} percent.",
            ],
        ],
        strength,
    )


def recipe_scale(rng: random.Random) -> Problem:
    """A recipe scaled to more people, minus what is in stock."""
    # Three steps. Trap: the recipe is for fewer people, and some is in stock already.
    who = person(rng)
    dish, food, unit, per = rng.choice(
        (
            ("pancakes", "flour", "grams", rng.randint(3, 9) * 10),
            ("risotto", "rice", "grams", rng.randint(6, 11) * 10),
            ("pumpkin soup", "broth", "ml", rng.randint(15, 30) * 10),
            ("curry", "lentils", "grams", rng.randint(5, 12) * 10),
            ("lasagna", "tomato sauce", "ml", rng.randint(8, 15) * 10),
        )
    )
    serves = rng.randint(2, 6)
    guests = serves + rng.randint(2, 10)
    total = per * guests
    # Less than half of what is needed: some must always be bought.
    have = rng.randint(1, total // 20 - 1) * 10
    base = per * serves
    return compose(
        rng,
        [
            f"A recipe for {dish} uses {base} {unit} of {food} for {serves} people. {who} is"
            f" cooking for {guests} people and has {have} {unit} of {food} at home. How many more"
            f" {unit} does {who.they} need?",
            f"{who} makes {dish} for {guests} guests. The cookbook says {base} {unit} of {food} are"
            f" enough for {serves}. With {have} {unit} already in the cupboard, how many {unit}"
            f" must {who.they} buy?",
        ],
        [
            [
                f"Each person needs {base} / {serves} = {per} {unit}.",
                f"For {guests} people that is {guests} * {per} = {total} {unit}.",
                f"{who} still needs {total} - {have} = {total - have} {unit}.",
            ],
            [
                f"One serving takes {base} / {serves} = {per} {unit} of {food}, so {guests}"
                f" servings take {per} * {guests} = {total} {unit}.",
                f"With {have} {unit} in stock, {total} - {have} = {total - have} {unit} are"
                " missing.",
            ],
        ],
        total - have,
    )
