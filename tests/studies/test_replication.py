"""Each half of the seeds answers for itself; agreement needs two verdicts."""

import dataclasses

import numpy as np
import pytest

from lfl_jax.report.study import replication as report
from lfl_jax.statistics.calibration import assumed, simulate
from lfl_jax.statistics.frontier import Axis
from lfl_jax.studies.answers import Question
from lfl_jax.studies.arms import Grid, Measures
from lfl_jax.studies.replication import Agreement, of_seeds, replicate
from lfl_jax.studies.runs import Cell

QUESTION = Question(Measures.parse("target/acc", "source/acc"), 0.03, (("first", "second"),))


def grids(planted, seeds=10, shift=None):
    """Of simulated arms; shift: added to the first's forgetting, by seed."""
    arms = simulate(assumed(seeds=seeds), planted, np.random.default_rng(0))
    if shift is not None:
        values = arms[0].y.values + np.asarray(shift)[:, None, None]
        arms = dataclasses.replace(arms[0], y=Axis(values)), arms[1]
    cells = tuple(Cell(float(lr), 10) for lr in range(1, 6))
    return {arm.name: Grid(arm, None, cells, tuple(range(seeds)), ()) for arm in arms}


def test_halves_of_the_seeds_find_the_same_large_gap():
    primary, *_ = replicate(QUESTION, grids(0.2))
    assert primary.agreement is Agreement.AGREE
    assert primary.seeds == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    assert {one.decision.effect.seeds for one in primary.answers} == {5}


def test_halves_that_say_the_opposite_contradict():
    primary, *_ = replicate(QUESTION, grids(0.0, shift=[0.3] * 5 + [-0.3] * 5))
    assert primary.agreement is Agreement.CONTRADICT


@pytest.mark.parametrize("shift", [[0.2] * 5 + [0.2, -0.3, 0.4, -0.2, 0.1]])
def test_an_undecided_half_leaves_it_undecided(shift):
    primary, *_ = replicate(QUESTION, grids(0.0, shift=shift))
    assert primary.agreement is Agreement.UNDECIDED


def test_a_question_that_a_half_cannot_answer_is_undecided():
    primary, *_ = replicate(QUESTION, grids(0.2))
    first, second = primary.answers
    unanswered = dataclasses.replace(first, decision=None, reason="no range")
    assert dataclasses.replace(primary, answers=(unanswered, second)).agreement == "undecided"


def test_a_half_is_the_study_of_its_seeds():
    grid = grids(0.1)["first"]
    half = of_seeds(grid, range(5, 10))
    assert half.seeds == (5, 6, 7, 8, 9)
    np.testing.assert_array_equal(half.arm.y.values, grid.arm.y.values[5:])


def test_few_seeds_have_no_halves():
    assert replicate(QUESTION, grids(0.2, seeds=9)) == []
    assert not report.tables(QUESTION, grids(0.2, seeds=9))


def test_the_report_s_table_has_a_row_per_contrast():
    (table,) = report.tables(QUESTION, grids(0.2))
    assert "seeds 0, 1, 2, 3, 4 alone" in table.caption
    assert [row[2] for row in table.rows] == ["learning", "best learning rate"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][3] == "more" and table.rows[0][-1] == "agree"
