"""Templates about lengths, areas and volumes."""

import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import an, person, plural

# Level 3: lengths, areas and volumes, all of them integers.


def garden_fence(rng: random.Random) -> Problem:
    """The perimeter of a rectangle without its gate, times a price."""
    # Three to four steps. Trap: a perimeter has each side twice, and the gate has no fence.
    who = person(rng)
    ground = rng.choice(
        ("garden", "chicken yard", "playground", "vegetable patch", "dog run", "meadow")
    )
    # Sorted, since the longer side of a rectangle is called its length; never a square.
    width, length = sorted(rng.sample(range(6, 40), 2))
    gate, price = rng.randint(2, 4), rng.randint(2, 9)
    half = length + width
    around = 2 * half
    fence = around - gate
    return compose(
        rng,
        [
            f"{who} fences a rectangular {ground} that is {length} m long and {width} m wide,"
            f" leaving {gate} m open for a gate. The fence costs ${price} per meter. How many"
            " dollars does it cost?",
            f"A rectangular {ground} measures {length} m by {width} m. {who} puts a fence around it"
            f" except for a {gate} m entrance. At ${price} a meter, what is the price of the fence"
            " in dollars?",
        ],
        [
            [
                f"Length and width add up to {length} + {width} = {half} m.",
                f"The way around is 2 * {half} = {around} m, so the fence has {around} - {gate} ="
                f" {fence} m.",
                f"It costs {fence} * ${price} = ${fence * price}.",
            ],
            [
                f"The long sides take 2 * {length} = {2 * length} m and the short sides 2 * {width}"
                f" = {2 * width} m.",
                f"This makes {2 * length} + {2 * width} = {around} m.",
                f"Without the opening {around} - {gate} = {fence} m are left to build, at {fence} *"
                f" {price} = {fence * price} dollars.",
            ],
        ],
        fence * price,
    )


def floor_tiles(rng: random.Random) -> Problem:
    """Tiles that cover a floor, bought in boxes."""
    # Four to five steps. Trap: tiles are counted along the sides, and boxes are bought.
    who = person(rng)
    room = rng.choice(("lobby", "workshop", "terrace", "cafeteria", "dance hall", "showroom"))
    # The floor is built from rows and columns of tiles, so that no tile is cut.
    side = rng.choice((2, 2, 3))
    rows, columns = rng.choice((4, 6, 8, 9, 10)), rng.randint(3, 9)
    tiles = rows * columns
    # Boxes without a rest: rounding up is another skill than this one.
    box = rng.choice([n for n in range(2, 13) if tiles % n == 0 and tiles > n])
    price = rng.randint(6, 20)
    boxes, width, length = tiles // box, side * rows, side * columns
    return compose(
        rng,
        [
            f"The floor of a {room} is {width} feet by {length} feet. {who} covers it with square"
            f" tiles whose sides are {side} feet. A box of {box} tiles costs ${price}. How many"
            " dollars do the tiles cost?",
            f"{who} tiles a {room} that is {width} feet wide and {length} feet long. Each tile is a"
            f" square of {side} feet by {side} feet, and tiles come in boxes of {box} for ${price}."
            " Find the total price in dollars.",
        ],
        [
            [
                f"Along the sides fit {width} / {side} = {rows} and {length} / {side} = {columns}"
                f" tiles, so {rows} * {columns} = {tiles} tiles are needed.",
                f"That is {tiles} / {box} = {boxes} boxes.",
                f"They cost {boxes} * ${price} = ${boxes * price}.",
            ],
            [
                f"The floor has {width} * {length} = {width * length} square feet and a tile covers"
                f" {side} * {side} = {side * side}.",
                f"So {width * length} / {side * side} = {tiles} tiles are needed, in {tiles} /"
                f" {box} = {boxes} boxes.",
                f"The price is {boxes} * {price} = {boxes * price} dollars.",
            ],
        ],
        boxes * price,
    )


def box_cubes(rng: random.Random) -> Problem:
    """How many cubes still fit into a box."""
    # Five steps. Trap: the edges are in centimetres, and some cubes are inside already.
    thing = rng.choice(("wooden cube", "sugar cube", "magnet cube", "foam cube", "glass cube"))
    side = rng.randint(2, 5)
    a, b, c = rng.randint(3, 9), rng.randint(2, 7), rng.randint(2, 6)
    layer = a * b
    total = layer * c
    # At least three cubes still fit.
    inside = rng.randint(2, total - 3)
    many = plural(thing)
    return compose(
        rng,
        [
            f"A box is {a * side} cm long, {b * side} cm wide and {c * side} cm high. It is filled"
            f" with {many} whose edges are {side} cm. If {inside} {many} are already inside, how"
            " many more fit?",
            f"How many more {many} with {side} cm edges fit into a box of {a * side} cm by"
            f" {b * side} cm by {c * side} cm that already contains {inside} of them?",
        ],
        [
            [
                f"Along the edges fit {a * side} / {side} = {a}, {b * side} / {side} = {b} and"
                f" {c * side} / {side} = {c} cubes.",
                f"A layer has {a} * {b} = {layer} cubes, and the full box has {layer} * {c} ="
                f" {total}.",
                f"There is room for {total} - {inside} = {total - inside} more.",
            ],
            [
                f"One row holds {a * side} / {side} = {a} cubes, and a layer has {b * side} /"
                f" {side} = {b} rows, so {a} * {b} = {layer} cubes.",
                f"With {c * side} / {side} = {c} layers the box holds {layer} * {c} = {total}.",
                f"Then {total} - {inside} = {total - inside} more fit.",
            ],
        ],
        total - inside,
    )


def wire_square(rng: random.Random) -> Problem:
    """A rectangle bent into a square of the same perimeter; its area against the old one."""
    # Four to five steps. Trap: the perimeter stays, the area does not.
    who = person(rng)
    good = rng.choice(("wire", "metal strip", "rope", "chain", "cord"))
    # (side + shift) (side - shift) = side^2 - shift^2: same perimeter, and a smaller area.
    shift = rng.randint(1, 9)
    side = shift + rng.randint(4, 21)
    length, width = side + shift, side - shift
    around, old, new = 4 * side, length * width, side * side
    return compose(
        rng,
        [
            f"{who} forms a rectangle of {length} cm by {width} cm from a {good}. Then {who.they}"
            f" bends the same {good} into a square. By how many square centimeters is the area of"
            " the square larger?",
            f"A {good} that just fits around a rectangle {length} cm long and {width} cm wide is"
            " made into a square. How many square centimeters does the enclosed area gain?",
        ],
        [
            [
                f"The {good} is 2 * ({length} + {width}) = {around} cm long.",
                f"The square has sides of {around} / 4 = {side} cm and an area of {side} * {side} ="
                f" {new}.",
                f"The rectangle has {length} * {width} = {old}, so the gain is {new} - {old} ="
                f" {new - old}.",
            ],
            [
                f"Half of the way around is {length} + {width} = {length + width} cm, so a side of"
                f" the square is {length + width} / 2 = {side} cm.",
                f"The areas are {length} * {width} = {old} and {side} * {side} = {new} square"
                " centimeters.",
                f"They differ by {new} - {old} = {new - old}.",
            ],
        ],
        new - old,
    )


def roadside_trees(rng: random.Random) -> Problem:
    """Things at equal distances on both sides of a line, both ends included."""
    # Four steps. Trap: n gaps have n + 1 posts, on each of two sides.
    town = rng.choice(("A town", "The council", "A park keeper", "A school"))
    thing, verb = rng.choice(
        (("lamp", "puts up"), ("tree", "plants"), ("bench", "sets up"), ("flagpole", "puts up"))
    )
    way = rng.choice(("avenue", "path", "canal", "riverbank walk", "street"))
    step, gaps, price = (
        rng.choice((4, 5, 6, 8, 10, 12, 15, 20)),
        rng.randint(5, 20),
        rng.randint(3, 9) * 10,
    )
    # The number of gaps is drawn and the length follows, so that it divides.
    length, side = step * gaps, gaps + 1
    both = 2 * side
    return compose(
        rng,
        [
            f"{town} {verb} {plural(thing)} on both sides of {an(way)} that is {length} m long, one"
            f" every {step} m with one at each end. A {thing} costs ${price}. How many dollars are"
            " spent?",
            f"On each of the two sides of {an(way)} of {length} m there is a {thing} every {step}"
            f" m, from one end to the other, both ends included. If a {thing} costs ${price}, what"
            " do all of them cost in dollars?",
        ],
        [
            [
                f"There are {length} / {step} = {gaps} gaps on a side, so {gaps} + 1 = {side}"
                f" {plural(thing)}.",
                f"Both sides have 2 * {side} = {both}.",
                f"They cost {both} * ${price} = ${both * price}.",
            ],
            [
                f"A side is divided into {length} / {step} = {gaps} gaps and needs {gaps} + 1 ="
                f" {side} {plural(thing)}.",
                f"One side costs {side} * {price} = {side * price} dollars.",
                f"Two sides cost 2 * {side * price} = {both * price} dollars.",
            ],
        ],
        both * price,
    )
