"""Templates that convert between units."""

import functools
import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import cap, count, person, plural

# Level 3: two units of one quantity. Draws are filtered so that conversions are integers.


def lap_training(rng: random.Random) -> Problem:
    """Laps over several days, meters to kilometers, what is missing to a goal."""
    # Four steps. Trap: metres a lap, kilometres to the goal.
    who = person(rng)
    track, laps, days = rng.choice(
        [
            (track, laps, days)
            for track in (200, 250, 300, 400, 500)
            for laps in range(3, 16)
            for days in range(2, 8)
            # Full kilometres only.
            if track * laps * days % 1000 == 0
        ]
    )
    course, verb = rng.choice(
        (("a track", "runs"), ("a lake path", "jogs"), ("a skating rink", "skates"))
    )
    daily = track * laps
    done = daily * days // 1000
    missing = rng.randint(2, 20)
    goal = done + missing
    return compose(
        rng,
        [
            f"One lap of {course} is {track} meters. {who} {verb} {laps} laps on each of {days}"
            f" days. {cap(who.their)} goal is {goal} km. How many kilometers are still missing?",
            f"{who} wants to complete {goal} km on {course} where a lap measures {track} meters."
            f" For {days} days {who.they} {verb} {laps} laps a day. How many kilometers remain"
            " after that?",
        ],
        [
            [
                f"Each day {who} covers {laps} * {track} = {daily} meters.",
                f"In {days} days that is {days} * {daily} = {daily * days} meters, or"
                f" {daily * days} / 1000 = {done} km.",
                f"The goal is still {goal} - {done} = {missing} km away.",
            ],
            [
                f"{who} does {laps} * {days} = {laps * days} laps in all.",
                f"They measure {laps * days} * {track} = {daily * days} meters.",
                f"This is {daily * days} / 1000 = {done} km, so {goal} - {done} = {missing} km"
                " remain.",
            ],
        ],
        missing,
    )


def ribbon_pieces(rng: random.Random) -> Problem:
    """Meters to centimeters, pieces cut off, the rest shared."""
    # Four steps. Trap: metres at first, centimetres in the answer.
    who = person(rng)
    good, piece, other = rng.choice(
        (
            ("ribbon", "bow", "strips"),
            ("wire", "hook", "rings"),
            ("rope", "swing", "loops"),
            ("string", "kite tail", "bracelets"),
            ("cloth tape", "name tag", "straps"),
        )
    )
    parts, size = rng.randint(3, 8), rng.randint(6, 40)
    rest = parts * size
    n, length = rng.choice(
        # With what is left over, full metres: the first conversion has no remainder.
        [(n, cm) for n in range(2, 15) for cm in range(12, 60) if (n * cm + rest) % 100 == 0]
    )
    total = n * length + rest
    meters = total // 100
    return compose(
        rng,
        [
            f"From {count(meters, 'meter')} of {good}, {who} makes {n} {plural(piece)} that take"
            f" {length} cm each. The rest is cut into {parts} equal {other}. How many centimeters"
            f" long is each of the {other}?",
            f"{who} has {count(meters, 'meter')} of {good}. {cap(who.they)} uses {length} cm for"
            f" each of {n} {plural(piece)} and divides what is left into {parts} {other} of the"
            " same length. Find this length in centimeters.",
        ],
        [
            [
                f"The {good} is {meters} * 100 = {total} cm long.",
                f"The {plural(piece)} take {n} * {length} = {n * length} cm, which leaves {total} -"
                f" {n * length} = {rest} cm.",
                f"Each of the {parts} {other} is {rest} / {parts} = {size} cm long.",
            ],
            [
                f"For {n} {plural(piece)}, {n} * {length} = {n * length} cm are used.",
                f"Of the {meters} * 100 = {total} cm, {total} - {n * length} = {rest} cm remain.",
                f"Shared equally, this gives {rest} / {parts} = {size} cm.",
            ],
        ],
        size,
    )


@functools.cache
def _parcels() -> list[tuple[int, int, int]]:
    """Number of things, grams of the empty box and of one thing, with full kilograms in total."""
    # All combinations with full kilograms are listed once; a draw is then one of them.
    draws = [(n, grams) for n in range(3, 13) for grams in range(150, 900, 5)]
    boxes = range(100, 1200, 25)
    return [
        (n, empty, grams)
        for n, grams in draws
        for empty in boxes
        if (n * grams + empty) % 1000 == 0
    ]


def parcel_weights(rng: random.Random) -> Problem:
    """Kilograms to grams; the weight of one of several equal things in a box."""
    # Three steps. Trap: kilograms with the box, grams without it.
    who = person(rng)
    thing = rng.choice(
        ("jar of jam", "book", "can of paint", "bottle of oil", "brick", "bag of tea", "mug")
    )
    n, empty, grams = rng.choice(_parcels())
    total = n * grams + empty
    kilos, load, many = total // 1000, n * grams, plural(thing)
    return compose(
        rng,
        [
            f"A parcel with {n} equal {many} weighs {kilos} kg. The empty box weighs {empty} grams."
            f" How many grams does one {thing} weigh?",
            f"{who} packs {n} {many} of the same kind into a box of {empty} grams. On the scale"
            f" everything weighs {kilos} kg. What is the weight of a single {thing} in grams?",
        ],
        [
            [
                f"The parcel weighs {kilos} * 1000 = {total} grams.",
                f"Without the box, {total} - {empty} = {load} grams remain.",
                f"One {thing} weighs {load} / {n} = {grams} grams.",
            ],
            [
                f"In grams the whole weight is {kilos} * 1000 = {total}.",
                f"The {many} weigh {total} - {empty} = {load} grams together, so each weighs {load}"
                f" / {n} = {grams} grams.",
            ],
        ],
        grams,
    )


def bottle_filling(rng: random.Random) -> Problem:
    """Liters to milliliters, the number of bottles, and how many are still to be filled."""
    # Three steps. Trap: litres in the tank, millilitres in a bottle; some are full already.
    who = person(rng)
    liquid, tank = rng.choice(
        (
            ("apple juice", "barrel"),
            ("olive oil", "tank"),
            ("liquid soap", "drum"),
            ("cold tea", "vat"),
        )
    )
    size = rng.choice((125, 200, 250, 400, 500, 750))
    # Full bottles: the last one is not half empty.
    liters = rng.choice([n for n in range(3, 31) if n * 1000 % size == 0])
    total = liters * 1000
    bottles = total // size
    # At least two are done and two to do: both numbers are plurals.
    done = rng.randint(2, bottles - 2)
    return compose(
        rng,
        [
            f"A {tank} holds {liters} liters of {liquid}, and {who} pours all of it into bottles of"
            f" {size} ml. So far {done} bottles are full. How many more can {who.they} fill?",
            f"{who} has a {tank} with {liters} liters of {liquid} and bottles that take {size} ml"
            f" each. After {done} bottles are filled, how many more does {who.they} need to empty"
            f" the {tank}?",
        ],
        [
            [
                f"The {tank} holds {liters} * 1000 = {total} ml.",
                f"This fills {total} / {size} = {bottles} bottles.",
                f"There are {bottles} - {done} = {bottles - done} still to fill.",
            ],
            [
                f"So far {done} * {size} = {done * size} ml are in bottles.",
                f"From {liters} * 1000 = {total} ml, {total} - {done * size} ="
                f" {total - done * size} ml remain.",
                f"They need {total - done * size} / {size} = {bottles - done} bottles.",
            ],
        ],
        bottles - done,
    )
