"""Templates about fees, pay and other amounts per unit."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import person, plural

# Level 3: an amount per unit, with a limit at which the amount changes.


def monthly_plan(rng: random.Random) -> Problem:
    """A fixed fee with an allowance, and a price for each unit above it."""
    # Three steps. Trap: only the units above the allowance cost more; the fee covers the others.
    who = person(rng)
    plan, unit = rng.choice(
        (
            ("phone plan", "gigabyte"),
            ("music studio pass", "hour"),
            ("copy shop card", "color print"),
            ("bike rental pass", "ride"),
            ("laundry card", "wash"),
        )
    )
    month = rng.choice(("March", "May", "June", "October", "November"))
    fee, included, extra, rate = (
        rng.randint(9, 40),
        rng.randint(5, 20),
        rng.randint(2, 12),
        rng.randint(2, 6),
    )
    # Always beyond the allowance: below it the answer is the fee, without arithmetic.
    used, cost = included + extra, extra * rate
    return compose(
        rng,
        [
            f"A {plan} costs ${fee} a month with {included} {plural(unit)} included. Each further"
            f" {unit} costs ${rate}. In {month}, {who} uses {used} {plural(unit)}. How many dollars"
            f" does {who.they} pay for the month?",
            f"{who} has a {plan}: ${fee} a month covers the first {included} {plural(unit)}, and"
            f" every {unit} beyond that is ${rate}. What is the bill in dollars for {month}, when"
            f" {who.they} uses {used} {plural(unit)}?",
        ],
        [
            [
                f"{who} goes over by {used} - {included} = {extra} {plural(unit)}.",
                f"These cost {extra} * ${rate} = ${cost}.",
                f"The whole bill is ${fee} + ${cost} = ${fee + cost}.",
            ],
            [
                f"Beyond the {included} included {plural(unit)} there are {used} - {included} ="
                f" {extra} more, and they add {extra} * {rate} = {cost} dollars.",
                f"With the monthly fee this comes to {fee} + {cost} = {fee + cost} dollars.",
            ],
        ],
        fee + cost,
    )


def rental_comparison(rng: random.Random) -> Problem:
    """Two offers, each a fee plus an hourly rate; the difference between them."""
    # Five steps. Trap: the lower rate is not always the cheaper offer. High_fee is set so that
    # the two totals differ by `saved`, one way or the other.
    who = person(rng)
    thing = rng.choice(("boat", "van", "tandem bike", "floor sander", "projector", "bouncy castle"))
    low_rate, hours = rng.randint(3, 9), rng.randint(3, 9)
    high_rate, low_fee = low_rate + rng.randint(2, 5), rng.randint(2, 15)
    saved = rng.randint(2, 12)
    slow = low_fee + high_rate * hours
    high_fee = slow - saved - low_rate * hours
    # A dearer fee is what makes the lower rate an offer to think about.
    if high_fee <= low_fee:
        high_fee = slow + saved - low_rate * hours
    fast = high_fee + low_rate * hours
    return compose(
        rng,
        [
            f"One shop rents out a {thing} for ${low_fee} plus ${high_rate} an hour. Another asks"
            f" ${high_fee} plus ${low_rate} an hour. {who} needs it for {hours} hours. How many"
            f" dollars does {who.they} save with the cheaper offer?",
            f"{who} wants to rent a {thing} for {hours} hours. The first offer is ${low_fee} plus"
            f" ${high_rate} per hour, the second is ${high_fee} plus ${low_rate} per hour. By how"
            " many dollars do the two prices differ?",
        ],
        [
            [
                f"The first offer costs {low_fee} + {high_rate} * {hours} = {slow} dollars.",
                f"The second offer costs {high_fee} + {low_rate} * {hours} = {fast} dollars.",
                f"The difference is {max(slow, fast)} - {min(slow, fast)} = {abs(slow - fast)}"
                " dollars.",
            ],
            [
                f"For {hours} hours the hourly charges are {hours} * ${high_rate} ="
                f" ${high_rate * hours} and {hours} * ${low_rate} = ${low_rate * hours}.",
                f"With the fees, the offers cost ${high_rate * hours} + ${low_fee} = ${slow} and "
                f"${low_rate * hours} + ${high_fee} = ${fast}.",
                f"They differ by ${max(slow, fast)} - ${min(slow, fast)} = ${abs(slow - fast)}.",
            ],
        ],
        abs(slow - fast),
    )


def overtime_pay(rng: random.Random) -> Problem:
    """Normal hours at one rate and the hours beyond at double pay."""
    # Five steps. Trap: double pay is for the hours beyond the limit only.
    who = person(rng)
    job = rng.choice(
        ("a bakery", "a garage", "a call center", "a hospital", "a warehouse", "a print shop")
    )
    normal, extra, rate = rng.choice((20, 25, 30, 35, 40)), rng.randint(2, 10), rng.randint(9, 24)
    # The question names all hours; those beyond the limit are for the reader to find.
    hours, double = normal + extra, 2 * rate
    base, bonus = normal * rate, extra * double
    return compose(
        rng,
        [
            f"At {job}, {who} earns ${rate} an hour for up to {normal} hours a week and double for"
            f" every hour beyond. One week {who.they} works {hours} hours. How many dollars does"
            f" {who.they} earn?",
            f"{who} works {hours} hours in a week at {job}. The first {normal} hours pay ${rate}"
            " each, the others pay double. What is the pay for the week in dollars?",
        ],
        [
            [
                f"There are {hours} - {normal} = {extra} extra hours.",
                f"Each pays 2 * ${rate} = ${double}, together {extra} * ${double} = ${bonus}.",
                f"The other {normal} hours pay {normal} * ${rate} = ${base}.",
                f"In total {who} earns ${base} + ${bonus} = ${base + bonus}.",
            ],
            [
                f"The normal hours pay {normal} * {rate} = {base} dollars.",
                f"The {hours} - {normal} = {extra} hours beyond pay {rate} * 2 = {double} dollars"
                f" each, which is {extra} * {double} = {bonus} dollars.",
                f"The week pays {base} + {bonus} = {base + bonus} dollars.",
            ],
        ],
        base + bonus,
    )


def defect_rate(rng: random.Random) -> Problem:
    """Output of a machine over some hours without the defective pieces."""
    # Four steps. Trap: minutes and hours; `every` divides the output, so that lots are complete.
    item = rng.choice(("bolt", "bulb", "toothbrush", "zipper", "battery", "bottle cap", "spring"))
    rate, hours = rng.randint(2, 9), rng.randint(2, 8)
    output = rate * hours * 60
    every = rng.choice([n for n in (10, 12, 15, 20, 24, 30, 40, 60) if output % n == 0])
    bad_each = rng.randint(1, 4)
    lots = output // every
    # Fewer than half are defective, as a lot has at least ten pieces and at most four of them.
    bad, many = lots * bad_each, plural(item)
    fails = "is defective" if bad_each == 1 else "are defective"
    return compose(
        rng,
        [
            f"A machine makes {rate} {many} a minute and runs for {hours} hours. Of every {every}"
            f" {many}, {bad_each} {fails}. How many good {many} does it make?",
            f"In a factory, {rate} {many} leave a machine each minute, and {bad_each} out of every"
            f" {every} {fails}. How many {many} without a defect come out in {hours} hours?",
        ],
        [
            [
                f"The machine runs for {hours} * 60 = {hours * 60} minutes and makes {hours * 60} *"
                f" {rate} = {output} {many}.",
                f"That is {output} / {every} = {lots} groups of {every}, with {lots} * {bad_each} ="
                f" {bad} defective ones.",
                f"The good ones number {output} - {bad} = {output - bad}.",
            ],
            [
                f"An hour yields 60 * {rate} = {60 * rate} {many}, and {hours} hours yield {hours}"
                f" * {60 * rate} = {output}.",
                f"Of each {every}, {every} - {bad_each} = {every - bad_each} are good.",
                f"With {output} / {every} = {lots} such groups, {lots} * {every - bad_each} ="
                f" {output - bad} are good.",
            ],
        ],
        output - bad,
    )


def leaking_tank(rng: random.Random) -> Problem:
    """Filling against a loss; minutes until full."""
    # Three steps. Trap: the tank is not empty at first, and it fills by the difference only.
    tank, drain = rng.choice(
        (
            ("pond", "seep into the ground"),
            ("water tank", "drip out through a crack"),
            ("pool", "run off through a drain"),
            ("cistern", "are used by the sprinklers"),
            ("fish basin", "flow away through a filter"),
        )
    )
    net, out, minutes, start = (
        rng.randint(4, 25),
        rng.randint(2, 9),
        rng.randint(6, 40),
        rng.randint(2, 20) * 10,
    )
    # What flows in exceeds the loss by `net`, which divides what is missing.
    inflow, missing = net + out, net * minutes
    full = start + missing
    return compose(
        rng,
        [
            f"A {tank} that can hold {full} liters contains {start} liters. A hose adds {inflow}"
            f" liters a minute, while {out} liters a minute {drain}. After how many minutes is the"
            f" {tank} full?",
            f"There are {start} liters in a {tank} with room for {full}. Every minute {inflow}"
            " liters come "
            f"in and {out} liters {drain}. How many minutes does it take until the {tank} is full?",
        ],
        [
            [
                f"Each minute the water rises by {inflow} - {out} = {net} liters.",
                f"There is room for {full} - {start} = {missing} more liters.",
                f"Filling takes {missing} / {net} = {minutes} minutes.",
            ],
            [
                f"Still missing are {full} - {start} = {missing} liters.",
                f"Of {inflow} liters a minute, {inflow} - {out} = {net} stay in the {tank}, so it"
                f" is full after {missing} / {net} = {minutes} minutes.",
            ],
        ],
        minutes,
    )
