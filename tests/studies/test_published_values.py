"""The paper's values beside a study's, and scores that are a mean over tasks."""

import dataclasses

import numpy as np
import pytest
from planted_grids import findings, grid

from lfl_jax.analysis import forgetting
from lfl_jax.assets.published import published
from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Metric
from lfl_jax.studies import composite
from lfl_jax.studies import grid as study_grid
from lfl_jax.studies import published as values
from lfl_jax.studies.arms import Measure, Measures, item_values
from lfl_jax.studies.records.scores import Scores

OURS = Measures(Measure("target_nll", "nll"), Measure("source_nll", "nll"))
PAPERS = Measures(Measure("gsm8k", "exact_match_strict"), Measure("mean_of_three", "acc"))


HARNESS = tuple(forgetting.HARNESS.items())


def scores(right, tasks=HARNESS):
    """Of 4, 8 and 12 items; right: how many of each task."""
    measured = {}
    for index, (task, name) in enumerate(tasks):
        metric = Metric(name, "x", name, section="forgetting", chance=0.25 + 0.25 * (index == 2))
        items = range(4 * (index + 1))
        records = [{"id": i, "cluster": i // 2, "x": float(i < right[index])} for i in items]
        measured[task] = {name: metric.measure(records)[0]}
    return Scores("m", measured)


def test_a_mean_of_tasks_is_the_plain_mean_of_their_accuracies():
    before, after = scores((4, 4, 6)), scores((2, 6, 6))
    mean = composite.with_means(before).tasks["mean_of_three"]["acc"]
    wanted = forgetting.measure(before.tasks, after.tasks)
    assert mean.estimate.mean == pytest.approx((1 + 0.5 + 0.5) / 3) == wanted.before.mean
    assert mean.estimate.n == 24 and mean.estimate.clusters == 12
    assert mean.chance == pytest.approx(1 / 3) == wanted.chance
    # By item it is the same mean, and so is its change.
    pair = [composite.with_means(one) for one in (before, after)]
    items = [item_values(pair[0], one, Measure("mean_of_three", "acc")) for one in pair]
    assert (items[1] - items[0]).mean() == pytest.approx(wanted.change.mean)


def test_a_mean_needs_all_of_its_tasks():
    two = scores((4, 4, 6), HARNESS[:2])
    assert composite.with_means(two) is two


def test_a_study_of_a_mean_has_to_evaluate_its_tasks():
    from lfl_jax.configs.studies import smoke

    given = smoke.get_config().to_dict()
    given["forgetting"] = "mean_of_three/acc"
    with pytest.raises(UserError, match="add hellaswag and arc_challenge and winogrande to"):
        study_grid.expand(study_grid.read(given))


def test_the_paper_s_values_are_those_of_the_file():
    sweeps = {(one.setting, one.method): one for one in values.sweeps()}
    assert len(sweeps) == 16
    full = sweeps["maths, instruction finetuning", "full"]
    file = published("v2")
    assert full.learned == tuple(file["math_ift"]["gsm8k"]["full"]) and full.unit == "epochs"
    assert full.forgotten[0] == pytest.approx(0.671 - 0.598)
    assert values.base_learning("code_cpt") == 0.138


def test_what_is_comparable_and_why_not():
    assert values.comparable(OURS) == []
    assert "learned is target_nll and not gsm8k" in values.why_not(OURS)
    assert "forgotten is source_nll and not the mean of three" in values.why_not(OURS)
    settings = {sweep.setting for sweep in values.comparable(PAPERS)}
    assert settings == {"maths, continued pretraining", "maths, instruction finetuning"}
    assert "this study's measures" in values.why_not(PAPERS)
    half = dataclasses.replace(PAPERS, forgetting=OURS.forgetting)
    assert values.comparable(half) == [] and "learned is" not in values.why_not(half)


def test_the_layer_is_drawn_where_the_axes_are_the_paper_s():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    from lfl_jax.report.study.figures.frontier import _draw_published
    from lfl_jax.report.study.figures.published import published as draw

    planted = findings(*(grid(name, (0.2, 0.3), (0.1, 0.2), (1e-4, 1e-3)) for name in "ab"))
    figure = draw(planted)
    panels = figure.page.axes
    assert len(panels) == 4 and len(figure.data.rows) == 2 * 4 * (8 + 5) + 4
    assert all(line.get_markerfacecolor() == "none" for line in panels[0].lines[:4])
    assert "not drawn on this study's axes" in figure.caption
    axes = panels[0]
    before = len(axes.lines)
    _draw_published(axes, values.comparable(PAPERS))
    added = axes.lines[before:]
    assert len(added) == 8 and all(line.get_markerfacecolor() == "none" for line in added)
    assert added[-1].get_label() == "paper: full, maths, instruction finetuning"
    np.testing.assert_allclose(added[-1].get_xdata(), published("v2")["math_ift"]["gsm8k"]["full"])
