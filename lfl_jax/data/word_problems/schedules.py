"""Templates about timetables and shared work."""

import functools
import itertools
import random

from lfl_jax.data.word_problems.problem import Problem, compose
from lfl_jax.data.word_problems.vocabulary import (
    an,
    cap,
    clock,
    count,
    people,
    person,
    plural,
)

# Level 3: time that passes. Most traps are fence posts: intervals against their ends.


def course_day(rng: random.Random) -> Problem:
    """Sessions with breaks between them; minutes from start to end."""
    # Five steps. Trap: n parts have n - 1 breaks between them.
    n, length, pause = rng.randint(3, 7), rng.choice((25, 30, 35, 40, 45, 50)), rng.randint(5, 15)
    lunch = rng.choice((30, 40, 45, 60))
    event, part = rng.choice(
        (
            ("workshop", "session"),
            ("training day", "lesson"),
            ("chess event", "game"),
            ("conference", "talk"),
        )
    )
    # Lunch follows the last part, so it replaces no break between two parts.
    work, pauses = n * length, (n - 1) * pause
    total = work + pauses + lunch
    return compose(
        rng,
        [
            f"A {event} has {n} {plural(part)} of {length} minutes each. Between one {part} and the"
            f" next there are {pause} minutes of break, and a lunch of {lunch} minutes follows the"
            " last one. How many minutes does everything take?",
            f"At a {event}, {n} {plural(part)} last {length} minutes each, with {pause} "
            f"minutes of rest between neighboring {plural(part)}. At the end all share a"
            f" {lunch}-minute "
            f"lunch. How many minutes pass from the start of the first {part} to the end of lunch?",
        ],
        [
            [
                f"The {plural(part)} take {n} * {length} = {work} minutes.",
                f"There are {n} - 1 = {n - 1} breaks, which take {n - 1} * {pause} = {pauses}"
                " minutes.",
                f"With lunch it is {work} + {pauses} + {lunch} = {total} minutes.",
            ],
            [
                f"Between {n} {plural(part)} there are {n} - 1 = {n - 1} breaks.",
                f"Breaks add {n - 1} * {pause} = {pauses} minutes to the {n} * {length} = {work}"
                f" minutes of {plural(part)}: {work} + {pauses} = {work + pauses} minutes.",
                f"Lunch makes it {work + pauses} + {lunch} = {total} minutes.",
            ],
        ],
        total,
    )


_TASKS = (
    ("reads", "novel", "page"),
    ("translates", "report", "page"),
    ("learns", "vocabulary list", "word"),
    ("copies", "song book", "verse"),
    ("scans", "archive", "card"),
)


def reading_plan(rng: random.Random) -> Problem:
    """A rate for some days, then another rate until the work is done."""
    # Four steps. Trap: two rates, of which the second one lasts until the work is done.
    who = person(rng)
    verb, thing, unit = rng.choice(_TASKS)
    first, days, second, later = (
        rng.randint(8, 30),
        rng.randint(3, 9),
        rng.randint(9, 40),
        rng.randint(2, 9),
    )
    # Equal rates would make it one division, without the change.
    if first == second:
        second += 5
    # Each rate times its days, so that the rest divides by the second rate.
    done, rest = first * days, second * later
    total = done + rest
    many = plural(unit)
    return compose(
        rng,
        [
            f"{who} {verb} {an(thing)} with {total} {many}. For the first {days} days {who.they}"
            f" does {first} {many} a day, and from then on {second} {many} a day. How many days"
            " does it take altogether?",
            f"{cap(an(thing))} has {total} {many}. {who} {verb} {first} {many} per day for {days}"
            f" days and then switches to {second} {many} per day. After how many days in total is"
            f" {who.they} finished?",
        ],
        [
            [
                f"In the first {days} days {who} finishes {days} * {first} = {done} {many}.",
                f"This leaves {total} - {done} = {rest} {many}.",
                f"They take {rest} / {second} = {later} more days, so {days} + {later} ="
                f" {days + later} days in total.",
            ],
            [
                f"First {first} * {days} = {done} {many} get done, and {total} - {done} = {rest}"
                f" {many} remain.",
                f"At {second} a day the rest needs {rest} / {second} = {later} days.",
                f"The whole time is {days} + {later} = {days + later} days.",
            ],
        ],
        days + later,
    )


def shuttle_departures(rng: random.Random) -> Problem:
    """Departures at a fixed interval, both ends included, times the seats of one."""
    # Four steps. Trap: n intervals have n + 1 departures, both ends included.
    vehicle = rng.choice(
        ("shuttle bus", "cable car", "ferry", "tram", "tour boat", "mountain train")
    )
    start, hours, interval = rng.randint(6, 10), rng.randint(2, 8), rng.choice((10, 12, 15, 20, 30))
    seats = rng.randint(6, 24)
    minutes = 60 * hours
    # Every interval in the list divides an hour.
    gaps = minutes // interval
    trips = gaps + 1
    first, last = clock(start), clock(start + hours)
    return compose(
        rng,
        [
            f"A {vehicle} with {seats} seats leaves every {interval} minutes. The first one departs"
            f" at {first} and the last one at {last}. How many people can travel if every seat is"
            " taken?",
            f"From {first} until {last}, both included, a {vehicle} departs every {interval}"
            f" minutes. Each departure has room for {seats} people. How many people at most can"
            " travel in this time?",
        ],
        [
            [
                f"From {first} to {last} there are {hours} * 60 = {minutes} minutes.",
                f"That is {minutes} / {interval} = {gaps} intervals, so {gaps} + 1 = {trips}"
                " departures.",
                f"They carry {trips} * {seats} = {trips * seats} people.",
            ],
            [
                f"From the first to the last departure it is {hours} hours, or {hours} * 60 ="
                f" {minutes} minutes.",
                f"After the first departure there are {minutes} / {interval} = {gaps} more, {gaps}"
                f" + 1 = {trips} in all.",
                f"With {seats} people each, {trips} * {seats} = {trips * seats} people can travel.",
            ],
        ],
        trips * seats,
    )


_MACHINES = (
    ("printer", "prints", "poster"),
    ("oven", "bakes", "flatbread"),
    ("press", "stamps", "medal"),
    ("laser cutter", "cuts", "puzzle piece"),
    ("sewing robot", "sews", "pillowcase"),
)


def printer_pauses(rng: random.Random) -> Problem:
    """Work in equal batches with a pause between batches."""
    # Five steps. Trap: no pause follows the last batch.
    machine, verb, unit = rng.choice(_MACHINES)
    rate, length, batches, pause = (
        rng.randint(2, 9),
        rng.randint(3, 12),
        rng.randint(3, 8),
        rng.randint(2, 9),
    )
    batch = rate * length
    # Only full batches: the last pause is the one to leave out, not a part of one.
    total, work, idle = batch * batches, length * batches, pause * (batches - 1)
    many = plural(unit)
    return compose(
        rng,
        [
            f"{cap(an(machine))} {verb} {rate} {many} a minute. After every {batch} {many} it has"
            f" to cool for {pause} minutes. How many minutes after the start are {total} {many}"
            " ready?",
            f"{cap(an(machine))} makes {rate} {many} per minute but needs {pause} minutes of rest"
            f" between one batch of {batch} and the next. How many minutes does an order of {total}"
            f" {many} take?",
        ],
        [
            [
                f"Without pauses it takes {total} / {rate} = {work} minutes.",
                f"There are {total} / {batch} = {batches} batches and {batches} - 1 = {batches - 1}"
                " pauses between them.",
                f"The pauses last {batches - 1} * {pause} = {idle} minutes, so the time is {work} +"
                f" {idle} = {work + idle} minutes.",
            ],
            [
                f"A batch takes {batch} / {rate} = {length} minutes, and there are {total} /"
                f" {batch} = {batches} batches: {batches} * {length} = {work} minutes.",
                f"Between the batches are {batches} - 1 = {batches - 1} pauses, {batches - 1} *"
                f" {pause} = {idle} minutes.",
                f"Altogether it takes {work} + {idle} = {work + idle} minutes.",
            ],
        ],
        work + idle,
    )


def two_packers(rng: random.Random) -> Problem:
    """One worker alone for a while, then two together until the job is done."""
    # Five steps. Trap: the second worker joins later, and the first one goes on.
    one, two = people(rng, 2)
    verb, item = rng.choice(
        (
            ("packs", "parcel"),
            ("folds", "leaflet"),
            ("paints", "fence board"),
            ("labels", "bottle"),
            ("wraps", "gift"),
        )
    )
    a, b, alone, both = rng.randint(6, 25), rng.randint(6, 25), rng.randint(2, 4), rng.randint(2, 7)
    # The rest is what both do in full hours.
    done, rest = a * alone, (a + b) * both
    total, many = done + rest, plural(item)
    return compose(
        rng,
        [
            f"{one} {verb} {a} {many} an hour and {two} {verb} {b} an hour. There are {total}"
            f" {many} to do. {one} works alone for {alone} hours, then {two} joins. How many hours"
            f" after {one}'s start is everything done?",
            f"A job of {total} {many} is waiting. {one} {verb} {a} per hour and works alone for the"
            f" first {alone} hours. Then {two}, who {verb} {b} per hour, helps until the end. How"
            " many hours does the job last?",
        ],
        [
            [
                f"Alone, {one} does {alone} * {a} = {done} {many}, which leaves {total} - {done} ="
                f" {rest}.",
                f"Together they do {a} + {b} = {a + b} an hour, so they need {rest} / {a + b} ="
                f" {both} hours.",
                f"The whole job takes {alone} + {both} = {alone + both} hours.",
            ],
            [
                f"In the first {alone} hours {a} * {alone} = {done} {many} get done.",
                f"The remaining {total} - {done} = {rest} are shared.",
                f"Together they do {a} + {b} = {a + b} per hour and finish in {rest} / {a + b} ="
                f" {both} hours.",
                f"That makes {alone} + {both} = {alone + both} hours.",
            ],
        ],
        alone + both,
    )


_CREWS = (
    ("painter", "paint a school"),
    ("gardener", "replant a park"),
    ("mason", "build a wall"),
    ("roofer", "cover a hall"),
    ("picker", "harvest an orchard"),
    ("programmer", "finish an app"),
)


@functools.cache
def _crew_sizes() -> list[tuple[int, int, int]]:
    """Workers, days of work that remain, and workers who join, with an integer of days after."""
    # The larger team needs an integer of days, and more than one.
    draws = itertools.product(range(2, 10), range(3, 16), range(1, 9))
    return [(a, b, c) for a, b, c in draws if a * b % (a + c) == 0 and a * b > a + c]


def crew_days(rng: random.Random) -> Problem:
    """More workers join part-way; worker-days stay the same."""
    # Five steps. Trap: the work is counted in days of one worker; more workers need fewer days.
    worker, job = rng.choice(_CREWS)
    few, later, more = rng.choice(_crew_sizes())
    first = rng.randint(2, 9)
    days, crew, effort, many = first + later, few + more, few * later, plural(worker)
    # Exact, by the choice of `_crew_sizes`.
    rest = effort // crew
    return compose(
        rng,
        [
            f"{few} {many} would need {days} days to {job}. After {first} days"
            f" {count(more, 'more ' + worker)} of the same speed {'joins' if more == 1 else 'join'}"
            " them. How many days does the whole job take?",
            f"It would take a team of {few} {many} {days} days to {job}. They work alone for"
            f" {first} days, and then {more} further {worker if more == 1 else many} of equal skill"
            f" {'helps' if more == 1 else 'help'} until the end. How many days pass in total?",
        ],
        [
            [
                f"After {first} days, {days} - {first} = {later} days of work for {few} {many}"
                " remain.",
                f"One {worker} alone would need {later} * {few} = {effort} days for it.",
                f"Now there are {few} + {more} = {crew} {many}, who need {effort} / {crew} = {rest}"
                " days.",
                f"The whole job takes {first} + {rest} = {first + rest} days.",
            ],
            [
                f"The rest is {days} - {first} = {later} days for {few} {many}, or {few} * {later}"
                f" = {effort} days for one.",
                f"The larger team has {few} + {more} = {crew} {many} and finishes in {effort} /"
                f" {crew} = {rest} days.",
                f"In total {first} + {rest} = {first + rest} days pass.",
            ],
        ],
        first + rest,
    )
