"""Evaluations during training, and how much each metric can tell."""

import dataclasses
import functools
import math

import numpy as np
import pytest
from planted_grids import MEASURES, findings, grid

from lfl_jax.evals.metrics import Metric
from lfl_jax.studies import along, quality
from lfl_jax.studies.arms import Measure
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.runs import Run

ITEMS = 40
ACCURACY = Metric("score", "score", "score", section="forgetting", chance=0.25)
LOSS = Metric("nll", "score", "loss", percent=False, interval="mean", higher_is_better=False)


def measured(metric, mean):
    """Items of which this share is right, or a loss of this much each."""
    right = round(mean * ITEMS)
    values = [float(i < right) if metric is ACCURACY else mean for i in range(ITEMS)]
    records = [{"id": str(i), "cluster": str(i), "score": v} for i, v in enumerate(values)]
    return metric.measure(records)[0]


@functools.cache
def scores(learned, source, name="run"):
    tasks = {
        "target": {"nll": measured(LOSS, 2.0 - learned)},
        "source": {"score": measured(ACCURACY, source)},
    }
    return Scores(name, tasks)


LEARNING, FORGETTING = Measure("target", "nll"), Measure("source", "score")
DECLARED = dataclasses.replace(MEASURES, learning=LEARNING, forgetting=FORGETTING)
STEPS = (0, 10, 50, 100)


def runs_and_grids(forgotten=0.2, spread=0.0, steps=STEPS, methods=("lora", "full")):
    """Two rates a method, of which the second learns more; along: straight to the end."""
    runs, grids = [], {}
    for method in methods:
        one = grid(method, (0.3, 0.6), (0.1, forgotten), (1e-4, 1e-3))
        grids[method] = one
        for index, cell in enumerate(one.cells):
            for seed in one.seeds:
                learned = (0.3, 0.6)[index] + spread * (seed - 2)
                end = scores(learned, 0.9 - forgotten * (index + 1) / 2)
                by_step = {
                    step: scores(learned * step / 100, 0.9 - forgotten * step / 100)
                    for step in steps
                }
                runs.append(Run(method, cell.lr, seed, cell.step, end, along=by_step))
    return runs, grids


def test_what_was_learned_and_forgotten_since_the_base():
    runs, grids = runs_and_grids()
    courses = along.courses(runs, grids, DECLARED)
    assert (courses.learning, courses.forgetting) == (LEARNING, FORGETTING)
    course = courses.by_method["lora"]
    # At the cell where the method learned most. A falling loss is learned.
    assert course.cell.lr == 1e-3 and course.steps.tolist() == list(STEPS)
    np.testing.assert_allclose(course.learned[0], [0, 0.06, 0.3, 0.6], atol=1e-9)
    np.testing.assert_allclose(course.forgotten[3], [0, 0.025, 0.1, 0.2], atol=0.013)


def test_steps_are_those_of_every_seed():
    runs, grids = runs_and_grids()
    short = {step: runs[-1].along[step] for step in (0, 100)}
    runs[-1] = dataclasses.replace(runs[-1], along=short)
    courses = along.courses(runs, grids, DECLARED)
    assert courses.by_method["full"].steps.tolist() == [0, 100]
    assert courses.by_method["lora"].steps.tolist() == list(STEPS)


def test_without_the_base_there_is_no_course():
    assert along.courses(*runs_and_grids(steps=(10, 100)), DECLARED) is None
    assert along.courses(*runs_and_grids(steps=()), DECLARED) is None


def test_a_measure_that_was_not_evaluated_then_is_replaced_by_one_of_its_kind():
    declared = dataclasses.replace(DECLARED, learning=Measure("other", "acc"))
    courses = along.courses(*runs_and_grids(), declared)
    assert courses.learning == LEARNING
    # Nothing of what could be forgotten was evaluated.
    runs, grids = runs_and_grids()
    without = [
        dataclasses.replace(
            run,
            along={s: Scores("x", {"target": one.tasks["target"]}) for s, one in run.along.items()},
        )
        for run in runs
    ]
    assert along.courses(without, grids, DECLARED) is None


def test_signal_and_noise_are_relative_to_the_mean():
    runs, grids = runs_and_grids(spread=0.01)
    base = scores(0, 0.9, "base")
    by_measure = {one.measure: one for one in quality.assess(base, runs, grids)}
    loss = by_measure[LEARNING]
    mean = 2 - 0.45
    assert loss.signal == pytest.approx(0.3 / mean)
    assert loss.noise == pytest.approx(0.01 * math.sqrt(2.5) / mean)
    assert loss.ratio == pytest.approx(0.3 / (0.01 * math.sqrt(2.5)))
    assert loss.labels == ()


def test_noise_of_the_last_checkpoints_is_of_a_schedule_s_end():
    runs, grids = runs_and_grids(steps=(0, 10, 80, 100))
    base = scores(0, 0.9)
    by_measure = {one.measure: one for one in quality.assess(base, runs, grids)}
    # The last two checkpoints of a run differ by a fifth of what it learned.
    of_run = np.array([0.3, 0.6]) * 0.2 / math.sqrt(2)
    wanted = math.sqrt(np.mean(of_run**2)) / (2 - 0.45)
    assert by_measure[LEARNING].checkpoint_noise == pytest.approx(wanted)
    runs, grids = runs_and_grids()
    assert math.isnan(quality.assess(base, runs, grids)[0].checkpoint_noise)


def test_labels():
    # Differences of a tenth of the noise say nothing.
    runs, grids = runs_and_grids(forgotten=0.0, spread=0.5)
    guessing = quality.assess(scores(0, 0.3), runs, grids)
    by_measure = {one.measure: one for one in guessing}
    assert by_measure[FORGETTING].labels == (quality.NO_HEADROOM,)
    assert by_measure[LEARNING].labels == (quality.TOO_NOISY,)
    # A target task that begins at chance has all the room there is.
    learning = dataclasses.replace(
        by_measure[FORGETTING].base,
        metric=dataclasses.replace(by_measure[FORGETTING].base.metric, section="learning"),
    )
    assert dataclasses.replace(by_measure[FORGETTING], base=learning).labels == ()


def test_an_axis_names_what_to_know_of_its_measure():
    runs, grids = runs_and_grids(forgotten=0.0)
    found = dataclasses.replace(
        findings(*grids.values()), runs=tuple(runs), base=scores(0, 0.3), grids=grids
    )
    assert found.label(FORGETTING) == "source/score (no headroom)"
    assert found.label(LEARNING) == "target/nll"
    # Of a loss, less is more.
    question = dataclasses.replace(found.question, measures=DECLARED)
    assert dataclasses.replace(found, question=question).learning_label == "–target/nll"


def test_the_figure_of_the_way(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    from lfl_jax.report.study.figures.along import along as draw

    runs, grids = runs_and_grids()
    planted = findings(*grids.values())
    assert draw(dataclasses.replace(planted, runs=())) is None
    question = dataclasses.replace(planted.question, measures=DECLARED)
    full = dataclasses.replace(planted, runs=tuple(runs), base=scores(0, 0.9), question=question)
    figure = draw(full)
    above, _ = figure.page.axes
    hollow, end = above.lines[:2]
    assert hollow.get_markerfacecolor() == "none" and len(hollow.get_xdata()) == len(STEPS)
    assert end.get_markerfacecolor() != "none" and end.get_xdata().tolist() == [100]
    assert "lora, 0.001" in [text.get_text() for text in figure.page.legends[0].get_texts()]
    assert len(figure.data.rows) == 2 * 5 * len(STEPS)
