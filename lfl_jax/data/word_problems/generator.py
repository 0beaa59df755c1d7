"""The templates by name, the splits, and the draw of one item from (seed, split, index).

Items of "train", "dev" and "test_seen" come from the same templates and never coincide, for any seeds and
sizes: the name of the template and the set of numbers in a question (fractions and multiples in words
included) are hashed to one of ten strata, and a draw is repeated until it falls into a stratum of its split.
A test item thus differs from every training item of its template in its numbers, not only in names and
wording. "test_unseen" draws from templates that no other split uses.
"""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from lfl_jax.data.examples import Drawn, Example
from lfl_jax.data.word_problems import (
    geometry,
    money,
    motion,
    portions,
    quantities,
    rates,
    ratios,
    schedules,
    series,
    units,
)
from lfl_jax.data.word_problems.problem import Problem
from lfl_jax.data.word_problems.vocabulary import FRACTION_WORDS, TIMES_WORDS
from lfl_jax.errors import UserError

TEMPLATES: dict[str, Callable[[random.Random], Problem]] = {
    "shopping_change": money.shopping_change,
    "bake_sale": money.bake_sale,
    "saving_goal": money.saving_goal,
    "sale_coupon": money.sale_coupon,
    "group_tickets": money.group_tickets,
    "spoiled_crates": money.spoiled_crates,
    "monthly_plan": rates.monthly_plan,
    "rental_comparison": rates.rental_comparison,
    "overtime_pay": rates.overtime_pay,
    "defect_rate": rates.defect_rate,
    "leaking_tank": rates.leaking_tank,
    "two_leg_trip": motion.two_leg_trip,
    "meeting_halfway": motion.meeting_halfway,
    "catch_up": motion.catch_up,
    "fuel_cost": motion.fuel_cost,
    "course_day": schedules.course_day,
    "reading_plan": schedules.reading_plan,
    "shuttle_departures": schedules.shuttle_departures,
    "printer_pauses": schedules.printer_pauses,
    "two_packers": schedules.two_packers,
    "crew_days": schedules.crew_days,
    "spend_fractions": portions.spend_fractions,
    "club_percent": portions.club_percent,
    "original_amount": portions.original_amount,
    "survey_rest": portions.survey_rest,
    "juice_ratio": ratios.juice_ratio,
    "ratio_difference": ratios.ratio_difference,
    "juice_blend": ratios.juice_blend,
    "recipe_scale": ratios.recipe_scale,
    "ages_later": quantities.ages_later,
    "ages_sum": quantities.ages_sum,
    "comparison_chain": quantities.comparison_chain,
    "make_equal": quantities.make_equal,
    "legs_and_heads": quantities.legs_and_heads,
    "two_ticket_kinds": quantities.two_ticket_kinds,
    "needed_score": series.needed_score,
    "share_leftover": series.share_leftover,
    "theatre_rows": series.theatre_rows,
    "doubling_views": series.doubling_views,
    "garden_fence": geometry.garden_fence,
    "floor_tiles": geometry.floor_tiles,
    "box_cubes": geometry.box_cubes,
    "wire_square": geometry.wire_square,
    "roadside_trees": geometry.roadside_trees,
    "lap_training": units.lap_training,
    "ribbon_pieces": units.ribbon_pieces,
    "parcel_weights": units.parcel_weights,
    "bottle_filling": units.bottle_filling,
}

HELD_OUT: tuple[str, ...] = (
    "rental_comparison",
    "catch_up",
    "original_amount",
    "two_ticket_kinds",
    "make_equal",
    "wire_square",
    "leaking_tank",
    "doubling_views",
)

SYNTHETIC = True
_TRAINING = tuple(name for name in TEMPLATES if name not in HELD_OUT)
DESCRIPTION = f"synthetic: generated word problems, {len(_TRAINING)} training templates"

_STRATA: dict[str, range] = {
    "train": range(8),
    "dev": range(8, 9),
    "test_seen": range(9, 10),
    "test_unseen": range(10),
}
_NUMBER = re.compile("|".join([r"\d+", *FRACTION_WORDS.values(), *TIMES_WORDS.values()]))
SPLITS: tuple[str, ...] = tuple(_STRATA)


def describe(seed: int) -> str:
    """The provenance line of a source drawn with this seed."""
    return f"synthetic: generated word problems, seed {seed}, {len(_TRAINING)} training templates"


def _hash(*parts: object) -> int:
    """A 64-bit hash that is the same in every process, unlike Python's own."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _stratum(template: str, question: str) -> int:
    return _hash(template, sorted(set(_NUMBER.findall(question.lower())))) % 10


def template_at(seed: int, index: int, split: str) -> str:
    """Name of the template of item `index`.

    Each block of as many indices as there are templates holds every one once, in an order of its own.
    """
    names = list(HELD_OUT if split == "test_unseen" else _TRAINING)
    block, place = divmod(index, len(names))
    random.Random(_hash("order", seed, split, block)).shuffle(names)
    return names[place]


def generate(seed: int, index: int, split: str) -> Example:
    """Item `index` of a split, a pure function of its arguments; the templates occur equally often.

    Raises UserError for a split that is none of SPLITS.
    """
    if split not in _STRATA:
        raise UserError(f"unknown split {split!r} of the word problems; expected one of {', '.join(SPLITS)}")
    name = template_at(seed, index, split)
    rng = random.Random(_hash("item", seed, split, index))
    for _ in range(1000):
        problem = TEMPLATES[name](rng)
        if _stratum(name, problem.question) in _STRATA[split]:
            return Example(problem.question, problem.solution, id=f"{split}/{index}", cluster=name)
    raise AssertionError(f"template {name} draws too few different numbers to fill the split {split}")


@dataclass(frozen=True)
class WordProblems(Drawn):
    """Items of a split."""

    def draw(self, i: int) -> Example:
        """Item i."""
        return generate(self.seed, i, self.split)


def source(seed: int, split: str, size: int) -> WordProblems:
    """A random-access source of `size` items; raises UserError for an unknown split or a negative size."""
    if split not in _STRATA:
        raise UserError(f"unknown split {split!r} of the word problems; expected one of {', '.join(SPLITS)}")
    if size < 0:
        raise UserError(f"size of the word problems must be at least 0, got {size}")
    return WordProblems(seed, split, size)
