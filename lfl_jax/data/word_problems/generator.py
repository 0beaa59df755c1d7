"""The templates of each level by name, the splits, and the draw of one item from (seed, split,
index).

The levels are a ladder: one step with small numbers, two steps, and two to six steps told in
sentences. Items of "train", "dev" and "test_seen" come from the same templates and never coincide,
for any seeds and
sizes: the name of the template and the set of numbers in a question (fractions and multiples in
words included) are hashed to one of ten strata, and a draw is repeated until it falls into a
stratum of its split. A test item thus differs from every training item of its template in its
numbers, not only in names and wording. "test_unseen" draws from templates that no other split uses.
"""

import hashlib
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lfl_jax.data.examples import Drawn, Example
from lfl_jax.data.mixes import Rounds
from lfl_jax.data.word_problems import (
    geometry,
    money,
    motion,
    one_step,
    portions,
    quantities,
    rates,
    ratios,
    schedules,
    series,
    two_steps,
    units,
)
from lfl_jax.data.word_problems.problem import Problem
from lfl_jax.data.word_problems.vocabulary import FRACTION_WORDS, TIMES_WORDS
from lfl_jax.errors import UserError

Template = Callable[[random.Random], Problem]
TEMPLATES: dict[int, dict[str, Template]] = {
    1: {
        "gets_more": one_step.gets_more,
        "two_places": one_step.two_places,
        "two_days": one_step.two_days,
        "exceeds_by": one_step.exceeds_by,
        "gives_away": one_step.gives_away,
        "some_used": one_step.some_used,
        "how_many_more": one_step.how_many_more,
        "still_needed": one_step.still_needed,
        "boxes_of": one_step.boxes_of,
        "each_costs": one_step.each_costs,
        "more_arrive": one_step.more_arrive,
        "days_of_work": one_step.days_of_work,
        "fly_away": one_step.fly_away,
        "pages_left": one_step.pages_left,
    },
    2: {
        "gets_and_gives": two_steps.gets_and_gives,
        "gives_and_gets": two_steps.gives_and_gets,
        "three_places": two_steps.three_places,
        "two_gifts": two_steps.two_gifts,
        "boxes_and_more": two_steps.boxes_and_more,
        "boxes_and_less": two_steps.boxes_and_less,
        "change_from": two_steps.change_from,
        "both_together": two_steps.both_together,
        "bus_stop": two_steps.bus_stop,
        "team_points": two_steps.team_points,
        "tables_and_guests": two_steps.tables_and_guests,
        "weekly_and_start": two_steps.weekly_and_start,
    },
    3: {
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
    },
}

HELD_OUT: dict[int, tuple[str, ...]] = {
    1: ("more_arrive", "days_of_work", "fly_away", "pages_left"),
    2: ("bus_stop", "team_points", "tables_and_guests", "weekly_and_start"),
    3: (
        "rental_comparison",
        "catch_up",
        "original_amount",
        "two_ticket_kinds",
        "make_equal",
        "wire_square",
        "leaking_tank",
        "doubling_views",
    ),
}

# Of sum(levels) items, how many are of level 1, 2 and 3. Small models need the lower ones:
# configs/math_ift.py's learns level 1 and answers nothing of level 3.
Levels = tuple[int, int, int]
TOP: Levels = (0, 0, 1)  # level 3 alone
# What a source of this module says of itself in a run's records.
SYNTHETIC = True


def _training_templates(level: int) -> tuple[str, ...]:
    return tuple(name for name in TEMPLATES[level] if name not in HELD_OUT[level])


_TRAINING = {level: _training_templates(level) for level in TEMPLATES}

# Strata of the hash of (template, numbers). Unseen templates share no item with others: they need
# no strata of their own.
_STRATA: dict[str, range] = {
    "train": range(8),
    "dev": range(8, 9),
    "test_seen": range(9, 10),
    "test_unseen": range(10),
}
# A number in words counts, too: "twice 12" and "three times 12" are different items.
_NUMBER = re.compile("|".join([r"\d+", *FRACTION_WORDS.values(), *TIMES_WORDS.values()]))
SPLITS: tuple[str, ...] = tuple(_STRATA)


def describe(seed: int, levels: Levels) -> str:
    """The provenance line of a source drawn with this seed at these rates."""
    templates = sum(len(_TRAINING[level]) for level in TEMPLATES if levels[level - 1])
    rates = ":".join(map(str, levels))
    return (
        f"synthetic: generated word problems, seed {seed}, levels 1:2:3 as {rates}, {templates}"
        " training templates"
    )


def _hash(*parts: object) -> int:
    """A 64-bit hash that is the same in every process, unlike Python's own."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _stratum(template: str, question: str) -> int:
    # As a set: another order of the same numbers, or one of them twice, is still the same item.
    return _hash(template, sorted(set(_NUMBER.findall(question.lower())))) % 10


def template_at(seed: int, index: int, split: str, level: int) -> str:
    """Name of the template of item `index` of a level.

    Each block of as many indices as there are templates holds every one once, in an order of its
    own.
    """
    # An order of its own for every block, by a hash: random access without drawing those before.
    names = list(HELD_OUT[level] if split == "test_unseen" else _TRAINING[level])
    block, position = divmod(index, len(names))
    # Without the level, whose templates are shuffled by the same key, but from lists of their own.
    random.Random(_hash("order", seed, split, block)).shuffle(names)
    return names[position]


@lru_cache
def _rounds(levels: Levels) -> Rounds:
    return Rounds.make(levels, seed=0, draws=sys.maxsize)


def generate(seed: int, index: int, split: str, levels: Levels) -> Example:
    """Item `index` of a split, a pure function of its arguments.

    The templates of a level occur equally often. Every sum(levels) items in a row hold each level
    as often as `levels` says; its `group` names the level. Raises UserError for a split that is
    none of SPLITS.
    """
    _check(split)
    level_index, number = _rounds(levels)[index]
    level = level_index + 1
    name = template_at(seed, number, split, level)
    # Drawn again until the numbers fall into a stratum of this split: train has 8 in 10.
    rng = random.Random(_hash("item", seed, split, number))
    for _ in range(1000):
        problem = TEMPLATES[level][name](rng)
        # The question alone is hashed: two wordings of a solution are one item.
        if _stratum(name, problem.question) in _STRATA[split]:
            return Example(
                problem.question, problem.solution, f"{split}/{index}", name, f"level_{level}"
            )
    raise AssertionError(
        f"template {name} draws too few different numbers to fill the split {split}"
    )


def _check(split: str) -> None:
    if split not in _STRATA:
        raise UserError(
            f"unknown split {split!r} of the word problems; expected one of {', '.join(SPLITS)}"
        )


@dataclass(frozen=True)
class WordProblems(Drawn):
    """Items of a split."""

    levels: Levels

    def draw(self, i: int) -> Example:
        """Item i."""
        return generate(self.seed, i, self.split, self.levels)


def source(seed: int, split: str, size: int, levels: Levels) -> WordProblems:
    """A source of `size` items; UserError for an unknown split or a negative size."""
    _check(split)
    if size < 0:
        raise UserError(f"size of the word problems must be at least 0, got {size}")
    return WordProblems(seed, split, size, levels)
