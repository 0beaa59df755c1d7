"""Templates about buying, selling and saving."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import an, cap, count, person, plural

# Level 3: prices are per piece and questions about totals; two to six steps, told in sentences.

# The goods of one shop a row, with their usual prices: what is bought together is sold together.
_GOODS = (
    (
        ("notebook", 3),
        ("marker", 2),
        ("folder", 4),
        ("sketch pad", 6),
        ("pencil case", 7),
        ("glue stick", 2),
    ),
    (
        ("melon", 4),
        ("pineapple", 5),
        ("lettuce", 2),
        ("cabbage", 3),
        ("jar of honey", 8),
        ("loaf of bread", 3),
    ),
    (
        ("tulip bulb", 2),
        ("rose bush", 9),
        ("flower pot", 4),
        ("bag of soil", 6),
        ("watering can", 8),
    ),
    (
        ("puzzle", 9),
        ("yo-yo", 3),
        ("toy truck", 7),
        ("kite", 8),
        ("bouncy ball", 2),
        ("card game", 6),
    ),
)


def shopping_change(rng: random.Random) -> Problem:
    """Two products of a sum, then change from a banknote."""
    # Four steps. Trap: the change is asked for, not the cost; the note always exceeds it.
    who = person(rng)
    (first, p), (second, q) = rng.sample(rng.choice(_GOODS), 2)
    # A price is near the usual one: it has to be read, and cannot be memorised with the noun.
    p, q = p + rng.randint(0, 3), q + rng.randint(0, 3)
    m, n = rng.randint(2, 7), rng.randint(2, 7)
    cost, other = m * p, n * q
    total = cost + other
    # The smallest note that leaves some change.
    bill = next(note for note in (20, 50, 100, 200) if note > total + 1)
    return compose(
        rng,
        [
            f"{who} buys {count(m, first)} at ${p} each and {count(n, second)} at ${q} each. "
            f"{cap(who.they)} pays with ${bill}. How many dollars of change does {who.they} get?",
            f"In a shop, {plural(first)} cost ${p} apiece and {plural(second)} cost ${q} apiece."
            f" {who} takes {count(m, first)} and {count(n, second)} and hands over ${bill}. How"
            " many dollars come back?",
            f"{who} has ${bill}. How many dollars are left after {who.they} buys {count(m, first)}"
            f" for ${p} each and {count(n, second)} for ${q} each?",
        ],
        [
            [
                f"The {plural(first)} cost {m} * ${p} = ${cost}.",
                f"The {plural(second)} cost {n} * ${q} = ${other}.",
                f"Together that is ${cost} + ${other} = ${total}.",
                f"What remains is ${bill} - ${total} = ${bill - total}.",
            ],
            [
                f"{who} spends {m} * {p} = {cost} dollars on {plural(first)} and {n} * {q} ="
                f" {other} dollars on {plural(second)}.",
                f"That makes {cost} + {other} = {total} dollars, so {who.they} keeps {bill} -"
                f" {total} = {bill - total} dollars.",
            ],
        ],
        bill - total,
    )


def bake_sale(rng: random.Random) -> Problem:
    """Revenue of trays of baked goods minus the cost of ingredients."""
    # Three steps. Trap: income is not profit; the ingredients are a cost of all trays together.
    who = person(rng)
    treat = rng.choice(("muffin", "cookie", "scone", "brownie", "pretzel", "cinnamon roll"))
    event = rng.choice(("school fair", "street market", "club picnic", "harvest festival"))
    trays, per_tray, price = rng.randint(2, 9), rng.choice((6, 8, 9, 10, 12, 15)), rng.randint(2, 4)
    baked = trays * per_tray
    income = baked * price
    # A profit of at least 5 dollars: no answer is negative, and none is 0.
    spent = rng.randint(8, min(45, income - 5))
    return compose(
        rng,
        [
            f"{who} bakes {trays} trays of {per_tray} {plural(treat)} for the {event} and spends"
            f" ${spent} on ingredients. Every {treat} sells for ${price}. What is the profit in"
            " dollars?",
            f"For the {event}, {who} fills {trays} trays with {per_tray} {plural(treat)} each. The"
            f" ingredients cost ${spent}, and all {plural(treat)} are sold at ${price} each. How"
            f" many dollars does {who.they} earn after paying for the ingredients?",
        ],
        [
            [
                f"{who} makes {trays} * {per_tray} = {baked} {plural(treat)}.",
                f"They sell for {baked} * ${price} = ${income}.",
                f"The profit is ${income} - ${spent} = ${income - spent}.",
            ],
            [
                f"One tray brings in {per_tray} * {price} = {per_tray * price} dollars.",
                f"All {trays} trays bring in {trays} * {per_tray * price} = {income} dollars.",
                f"Without the cost of the ingredients, {income} - {spent} = {income - spent}"
                " dollars are left.",
            ],
        ],
        income - spent,
    )


def saving_goal(rng: random.Random) -> Problem:
    """Weeks until a goal is reached from what is kept each week."""
    # Three steps, of which two give what the last one divides. Trap: earnings are not savings.
    who = person(rng)
    thing = rng.choice(
        ("bicycle", "guitar", "tent", "camera", "telescope", "skateboard", "sewing machine")
    )
    job = rng.choice(
        ("walking dogs", "tutoring", "mowing lawns", "delivering papers", "babysitting")
    )
    weekly, spent, weeks, start = (
        rng.randint(4, 15),
        rng.randint(3, 12),
        rng.randint(4, 15),
        rng.randint(10, 60),
    )
    # Drawn backwards from the answer, so that the division has no remainder.
    earned, missing = weekly + spent, weekly * weeks
    goal = start + missing
    return compose(
        rng,
        [
            f"{who} wants {an(thing)} that costs ${goal} and already has ${start}. Each week"
            f" {who.they} earns ${earned} by {job} and spends ${spent} of it. After how many weeks"
            f" can {who.they} buy the {thing}?",
            f"{cap(an(thing))} costs ${goal}. {who} has saved ${start} so far. Every week"
            f" {who.they} makes ${earned} {job} but uses ${spent} for lunches. How many weeks does"
            f" {who.they} need to save the rest?",
        ],
        [
            [
                f"{who} still needs ${goal} - ${start} = ${missing}.",
                f"Each week {who.they} keeps ${earned} - ${spent} = ${weekly}.",
                f"That takes {missing} / {weekly} = {weeks} weeks.",
            ],
            [
                f"A week adds {earned} - {spent} = {weekly} dollars to the savings.",
                f"The missing amount is {goal} - {start} = {missing} dollars, which is {missing} /"
                f" {weekly} = {weeks} weeks of saving.",
            ],
        ],
        weeks,
    )


def sale_coupon(rng: random.Random) -> Problem:
    """A percentage off the price, then a fixed amount off."""
    # Three steps. Trap: the order; the coupon is off the sale price and no percentage.
    who = person(rng)
    thing = rng.choice(
        (
            "winter coat",
            "desk lamp",
            "backpack",
            "blender",
            "office chair",
            "rain jacket",
            "suitcase",
        )
    )
    percent = rng.choice((10, 20, 25, 30, 40, 50, 60))
    # A quarter of a multiple of 20 is an integer, and so are tenths of a multiple of 10.
    price = rng.randint(3, 16) * (20 if percent == 25 else 10)
    cut = price * percent // 100
    sale = price - cut
    # Something is left to pay.
    coupon = rng.randint(2, min(15, sale - 2))
    return compose(
        rng,
        [
            f"{cap(an(thing))} normally costs ${price}. Today it is {percent}% off, and {who} has a"
            f" coupon for another ${coupon} off the sale price. How many dollars does {who.they}"
            " pay?",
            f"{who} finds {an(thing)} marked ${price}. The shop takes {percent}% off the marked"
            f" price and then ${coupon} more for members. As a member, how many dollars does"
            f" {who.they} pay?",
        ],
        [
            [
                f"The discount is {price} * {percent} / 100 = {cut} dollars.",
                f"The sale price is ${price} - ${cut} = ${sale}.",
                f"After taking off ${coupon} more, {who} pays ${sale} - ${coupon} ="
                f" ${sale - coupon}.",
            ],
            [
                f"With {percent}% off, 100 - {percent} = {100 - percent} percent of the price"
                " remains.",
                f"That is {price} * {100 - percent} / 100 = {sale} dollars.",
                f"Taking off ${coupon} more leaves {sale} - {coupon} = {sale - coupon} dollars.",
            ],
        ],
        sale - coupon,
    )


def group_tickets(rng: random.Random) -> Problem:
    """Adults at full price, children at half, minus a voucher."""
    # Five steps. Trap: the child's price is given only as half of the adult's.
    venue = rng.choice(
        ("aquarium", "castle", "planetarium", "zoo", "science museum", "water park", "wax museum")
    )
    child, adults, children = rng.randint(3, 12), rng.randint(2, 6), rng.randint(2, 9)
    # The child's price is drawn, as half of the adult's is then an integer.
    adult = 2 * child
    grown, small = adults * adult, children * child
    total = grown + small
    voucher = rng.choice((5, 8, 10, 12))
    return compose(
        rng,
        [
            f"A ticket to the {venue} costs ${adult} for an adult and half as much for a child. A"
            f" group of {adults} adults and {children} children uses a voucher worth ${voucher}."
            " How many dollars does the group pay?",
            f"At the {venue}, children pay half of the ${adult} adult price. A group of {adults}"
            f" adults and {children} children gets ${voucher} off the total. Find what the group"
            " pays in dollars.",
        ],
        [
            [
                f"A child ticket costs ${adult} / 2 = ${child}.",
                f"The adults cost {adults} * ${adult} = ${grown} and the children cost {children} *"
                f" ${child} = ${small}.",
                f"That is ${grown} + ${small} = ${total}, and with the voucher ${total} -"
                f" ${voucher} = ${total - voucher}.",
            ],
            [
                f"Each child pays {adult} / 2 = {child} dollars, so all children pay {children} *"
                f" {child} = {small} dollars.",
                f"The adults pay {adults} * {adult} = {grown} dollars.",
                f"The total is {small} + {grown} = {total} dollars.",
                f"After the reduction they pay {total} - {voucher} = {total - voucher} dollars.",
            ],
        ],
        total - voucher,
    )


def spoiled_crates(rng: random.Random) -> Problem:
    """Goods bought by the crate, some lost, the rest sold one by one."""
    # Four steps. Trap: all crates are paid for, but only the good fruit is sold.
    who = person(rng)
    item = rng.choice(("melon", "mango", "peach", "coconut", "avocado", "pomegranate", "papaya"))
    crates, size, price, lost = (
        rng.randint(3, 8),
        rng.choice((10, 12, 15, 20, 24)),
        rng.randint(2, 4),
        rng.randint(2, 9),
    )
    bought, good = crates * size, crates * size - lost
    income = good * price
    # A profit of at least 5 dollars, and no price that gives the answer away.
    paid = rng.randint(income // 3, income - 5)
    return compose(
        rng,
        [
            f"{who} pays ${paid} for {crates} crates with {size} {plural(item)} in each. In the end"
            f" {lost} of the {plural(item)} spoil, and the others sell for ${price} each. How many"
            " dollars of profit is that?",
            f"A stall owner buys {crates} crates of {size} {plural(item)} for ${paid} altogether."
            f" After throwing away {lost} bad ones, the owner sells the rest at ${price} each. What"
            " is the profit in dollars?",
        ],
        [
            [
                f"The crates hold {crates} * {size} = {bought} {plural(item)}.",
                f"Of these, {bought} - {lost} = {good} can be sold.",
                f"They bring in {good} * ${price} = ${income}, so the profit is ${income} - ${paid}"
                f" = ${income - paid}.",
            ],
            [
                f"There are {crates} * {size} = {bought} {plural(item)}, and {bought} - {lost} ="
                f" {good} {plural(item)} remain for sale.",
                f"The sales come to {good} * {price} = {income} dollars.",
                f"Subtracting the cost gives {income} - {paid} = {income - paid} dollars.",
            ],
        ],
        income - paid,
    )
