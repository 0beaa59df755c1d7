"""Names, nouns and number words that the templates share, with the little grammar they need."""

import random
from dataclasses import dataclass
from fractions import Fraction

# As many names of each kind: whom a problem is about says nothing about its answer.
_SHE_NAMES = """
Amara Beatriz Carla Daniela Edith Farah Greta Hana Ingrid Jomana Keiko Leonie Marisol Nadia Odile
Petra Quinn Rosa Selma Tamsin Uma Vera Wanda Ximena Yara Zofia Aylin Brigit Chiara Dorothea Elif
Fatou
"""
_HE_NAMES = """
Anton Bilal Casper Dmitri Emil Felipe Gideon Hugo Idris Joaquin Kofi Leif Mateo Nikolai Otto Pavel
Rafael Stefan Tariq Umar Viktor Walter Yusuf Zane Arvid Bruno Cedric Diego Enzo Farid Goran Henrik
"""
_SHE, _HE = _SHE_NAMES.split(), _HE_NAMES.split()
# Plurals that `plural` cannot derive, of nouns that some template uses.
_IRREGULAR = {"child": "children", "loaf": "loaves", "goose": "geese"}

# Written out, fractions and multiples count as numbers when splits are told apart (`generator`).
FRACTION_WORDS = {
    Fraction(1, 2): "half",
    Fraction(1, 3): "one third",
    Fraction(2, 3): "two thirds",
    Fraction(1, 4): "one quarter",
    Fraction(3, 4): "three quarters",
    Fraction(1, 5): "one fifth",
    Fraction(2, 5): "two fifths",
    Fraction(3, 5): "three fifths",
    Fraction(1, 6): "one sixth",
}
TIMES_WORDS = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
_SMALL_THINGS = [
    "apple",
    "shell",
    "coin",
    "stamp",
    "marble",
    "book",
    "pen",
    "egg",
    "sticker",
    "button",
    "card",
    "key",
]
# Only numbers of parts in `quantities`; they begin a sentence, where a digit would look wrong.
NUMBER_WORDS = {2: "two", 3: "three", 6: "six"}


@dataclass(frozen=True)
class Person:
    """Someone in a story; formatting a Person gives the name."""

    name: str
    they: str
    their: str

    def __str__(self) -> str:
        return self.name


def people(rng: random.Random, number: int) -> list[Person]:
    """Different people in random order."""
    names = rng.sample(_SHE + _HE, number)
    return [
        Person(name, "she", "her") if name in _SHE else Person(name, "he", "his") for name in names
    ]


def person(rng: random.Random) -> Person:
    """One person."""
    return people(rng, 1)[0]


def cap(text: str) -> str:
    """The text with its first letter in upper case, the rest unchanged."""
    return text[0].upper() + text[1:]


def plural(noun: str) -> str:
    """The plural of an English noun; in a phrase such as "jar of honey" the first word changes."""
    head, *rest = noun.split(" of ", 1)
    if rest:
        return f"{plural(head)} of {rest[0]}"
    stem, last = noun[: noun.rfind(" ") + 1], noun[noun.rfind(" ") + 1 :]
    if last in _IRREGULAR:
        return stem + _IRREGULAR[last]
    # The rules of spelling, in the order in which they apply.
    if last.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if last.endswith("y") and last[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def small_things(rng: random.Random) -> str:
    """A plural of things that people have a few of."""
    return plural(rng.choice(_SMALL_THINGS))


def count(number: int, noun: str) -> str:
    """The number with its noun: "1 apple", "3 apples"."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def an(noun: str) -> str:
    """The noun with its indefinite article, chosen by the first letter."""
    # By letter and not by sound: no noun here is like "hour" or "unicorn".
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def share(amount: int, part: Fraction) -> str:
    """The arithmetic that takes a fraction of an amount: "60 / 3" or "60 / 5 * 2"."""
    # Divided first, so that every intermediate result is an integer.
    divided = f"{amount} / {part.denominator}"
    return divided if part.numerator == 1 else f"{divided} * {part.numerator}"


def clock(hour: int) -> str:
    """A full hour of the day, 0 to 23, on a 12-hour clock: "9:00 am"."""
    # Hours 0 and 12 are both written 12.
    return f"{(hour - 1) % 12 + 1}:00 {'am' if hour < 12 else 'pm'}"
