"""Templates about distance, speed and fuel."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import count, people, person

# Level 3: way = speed * time, with two speeds. Numbers are built backwards from integer hours.


def two_leg_trip(rng: random.Random) -> Problem:
    """Two stretches at different speeds; what is left of the way."""
    # Four steps. Trap: the question is what is left of the way, not what is behind.
    who = person(rng)
    # Two different speeds: the hours of one stretch cannot be added to the other's.
    first, second = rng.sample((40, 45, 50, 60, 70, 80, 90), 2)
    h1, h2, rest = rng.randint(2, 5), rng.randint(2, 4), rng.randint(10, 95)
    a, b = first * h1, second * h2
    total = a + b + rest
    goal = rng.choice(
        ("the coast", "a mountain hut", "the border", "a music festival", "the next big city")
    )
    return compose(
        rng,
        [
            f"{who} drives to {goal}, {total} km away. After {h1} hours at {first} km per hour and"
            f" {h2} hours at {second} km per hour, how many kilometers are still left?",
            f"The road to {goal} is {total} km long. {who} travels at {first} km per hour for {h1}"
            f" hours, has a rest, and then travels at {second} km per hour for {h2} hours. How many"
            " kilometers remain?",
        ],
        [
            [
                f"The first part is {h1} * {first} = {a} km.",
                f"The second part is {h2} * {second} = {b} km.",
                f"So far {who} has covered {a} + {b} = {a + b} km.",
                f"There are {total} - {a + b} = {rest} km left.",
            ],
            [
                f"After {h1} hours, {h1} * {first} = {a} km are done and {total} - {a} ="
                f" {total - a} km remain.",
                f"The next {h2} hours add {h2} * {second} = {b} km, which leaves {total - a} - {b}"
                f" = {rest} km.",
            ],
        ],
        rest,
    )


def meeting_halfway(rng: random.Random) -> Problem:
    """Two travellers approach each other; how far one of them gets."""
    # Three steps. Trap: the gap closes at the sum of the speeds, the way is at one of them.
    one, two = people(rng, 2)
    verb, low, high = rng.choice(
        (("cycle", 10, 24), ("drive", 40, 80), ("walk", 3, 6), ("ride on horseback", 8, 15))
    )
    # Speeds of one means of travel, which may be equal.
    fast, slow = rng.randint(low, high), rng.randint(low, high)
    hours = rng.randint(2, 6)
    # The gap is built from the hours, so that dividing it by both speeds gives them back.
    both, gap, way = fast + slow, (fast + slow) * hours, fast * hours
    return compose(
        rng,
        [
            f"{one} and {two} live {gap} km apart and {verb} toward each other, starting at the"
            f" same time. {one} makes {fast} km per hour and {two} {slow} km per hour. How many"
            f" kilometers has {one} covered when they meet?",
            f"Two friends, {one} and {two}, start at the same time from towns {gap} km apart and"
            f" {verb} toward each other at {fast} km per hour and {slow} km per hour. How far, in"
            f" kilometers, is it from {one}'s town to the place where they meet?",
        ],
        [
            [
                f"Together they close {fast} + {slow} = {both} km every hour.",
                f"They meet after {gap} / {both} = {hours} hours.",
                f"In that time {one} covers {hours} * {fast} = {way} km.",
            ],
            [
                f"Each hour the gap shrinks by {fast} + {slow} = {both} km, so it is closed in"
                f" {gap} / {both} = {hours} hours.",
                f"At {fast} km per hour, {one} covers {fast} * {hours} = {way} km by then.",
            ],
        ],
        way,
    )


def catch_up(rng: random.Random) -> Problem:
    """A head start and a faster follower; where the follower draws level."""
    # Four steps. Trap: the gap closes at the difference of the speeds, the way is at the faster
    # one.
    # `head` divides the lead, so that the slower speed is an integer.
    one, two = people(rng, 2)
    gain, hours = rng.randint(2, 15), rng.randint(2, 9)
    lead = gain * hours
    head = rng.choice([h for h in (1, 2, 3, 4) if lead % h == 0 and lead // h > 2])
    slow = lead // head
    fast = slow + gain
    return compose(
        rng,
        [
            f"{one} sets off at {slow} km per hour. {count(head, 'hour')} later {two} follows on"
            f" the same road at {fast} km per hour. How many kilometers has {two} traveled when"
            f" {two.they} catches up with {one}?",
            f"{two} leaves {count(head, 'hour')} after {one} and takes the same route. {one} moves"
            f" at {slow} km per hour and {two} at {fast} km per hour. How far from the start, in"
            f" kilometers, does {two} reach {one}?",
        ],
        [
            [
                f"{one} has a lead of {head} * {slow} = {lead} km.",
                f"{two} gains {fast} - {slow} = {gain} km each hour.",
                f"Catching up takes {lead} / {gain} = {hours} hours, and in that time {two} goes"
                f" {hours} * {fast} = {hours * fast} km.",
            ],
            [
                f"When {two} starts, {one} is already {slow} * {head} = {lead} km ahead.",
                f"The gap closes by {fast} - {slow} = {gain} km per hour, so it takes {lead} /"
                f" {gain} = {hours} hours.",
                f"By then {two} has gone {fast} * {hours} = {fast * hours} km.",
            ],
        ],
        fast * hours,
    )


def fuel_cost(rng: random.Random) -> Problem:
    """There and back, the fuel it needs and its price."""
    # Three steps. Trap: there and back is twice the distance that is given.
    who = person(rng)
    vehicle, low, high = rng.choice(
        (("pickup truck", 15, 25), ("car", 25, 40), ("van", 15, 30), ("scooter", 60, 80))
    )
    economy, gallons, price = rng.randint(low, high), rng.randint(2, 12), rng.randint(3, 6)
    # The way there is half of the total, so the total is even.
    if economy * gallons % 2:
        gallons += 1
    total = economy * gallons
    leg, cost = total // 2, gallons * price
    goal = rng.choice(("the lake", "a wedding", "the harbor", "a trade fair", "the national park"))
    return compose(
        rng,
        [
            f"{who} takes {who.their} {vehicle} to {goal}, {leg} miles away, and returns by the"
            f" same road. The {vehicle} goes {economy} miles on a gallon, and a gallon costs"
            f" ${price}. How many dollars does the fuel cost?",
            f"It is {leg} miles from {who}'s house to {goal}. With a {vehicle} that does {economy}"
            f" miles per gallon and fuel at ${price} a gallon, how many dollars does a round trip"
            " cost?",
        ],
        [
            [
                f"The round trip is 2 * {leg} = {total} miles.",
                f"It needs {total} / {economy} = {gallons} gallons.",
                f"The fuel costs {gallons} * ${price} = ${cost}.",
            ],
            [
                f"There and back is {leg} + {leg} = {total} miles, which uses {total} / {economy} ="
                f" {gallons} gallons of fuel.",
                f"At ${price} a gallon this is {gallons} * {price} = {cost} dollars.",
            ],
        ],
        cost,
    )
