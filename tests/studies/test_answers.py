"""What a contrast may say: not more than its items prove, nor than many questions at once allow."""

import dataclasses

import numpy as np
import pytest

from lfl_jax.statistics.calibration import assumed, simulate
from lfl_jax.statistics.effects import Effect, Part, with_least_error
from lfl_jax.statistics.frontier import Arm, Axis
from lfl_jax.statistics.verdicts import Verdict, decide
from lfl_jax.studies.answers import Answer, Question, _with_holm, answer
from lfl_jax.studies.arms import Grid, Measures
from lfl_jax.studies.runs import Cell

QUESTION = Question(Measures.parse("target/acc", "source/acc"), 0.02, (("lora", "full"),))


def grids(items, forgetting=None, seeds=5):
    """Simulated arms, or of these values of forgetting."""
    arms = simulate(assumed(seeds=seeds, items=items), 0.0, np.random.default_rng(0))
    cells = tuple(Cell(float(lr), 10) for lr in range(1, 6))
    by_method = {}
    for name, arm in zip(("lora", "full"), arms, strict=True):
        y = arm.y if forgetting is None else Axis(np.full(arm.y.values.shape, forgetting))
        by_method[name] = Grid(Arm(name, arm.x, y), None, cells, tuple(range(seeds)), ())
    return by_method


def at_best_rate(by_method):
    return next(a for a in answer(QUESTION, by_method) if a.equal == "best learning rate")


def test_arms_that_forget_none_of_sixteen_items_are_not_proven_equivalent():
    decision = at_best_rate(grids(16, forgetting=0.0)).decision
    assert decision.effect.mean == 0 and decision.verdict is Verdict.UNDECIDED
    assert at_best_rate(grids(1024, forgetting=0.0)).decision.verdict is Verdict.EQUIVALENT
    # Scores that are no answers may differ by exactly nothing.
    assert at_best_rate(grids(16, forgetting=0.25)).decision.effect.se == 0


def test_the_least_error_is_that_of_no_flips_in_as_many_pairs_as_clusters():
    nothing = Effect(0.0, 0.0, 4.0, 5, 8)
    in_pairs = Part(np.zeros((5, 16)), [index // 2 for index in range(16)])
    assert with_least_error(nothing, in_pairs).se == pytest.approx(1 / 10)
    assert with_least_error(dataclasses.replace(nothing, se=0.3), in_pairs).se == 0.3


def secondary(means):
    """Contrasts with effects of these sizes, in standard errors of 0.1."""
    decisions = [decide(Effect(0.1 * mean, 0.1, 40.0, 5), 0.01) for mean in means]
    return [Answer("lora", "full", f"way {i}", one) for i, one in enumerate(decisions)]


def test_a_difference_that_many_questions_leave_open_is_undecided():
    alone = _with_holm(secondary([2.3]))[0]
    assert alone.decision.verdict is Verdict.MORE and alone.p_holm < 0.05
    first, *_ = _with_holm(secondary([2.3, 0.1, 0.2]))
    assert first.p_holm > 0.05 and first.decision.verdict is Verdict.UNDECIDED
    assert "one of 3 secondary contrasts" in first.reason
    certain, *_ = _with_holm(secondary([9.0, 0.1, 0.2]))
    assert certain.decision.verdict is Verdict.MORE and not certain.reason


def test_a_single_seed_has_no_corrected_p_value():
    assert at_best_rate(grids(64, seeds=1)).p_holm is None
