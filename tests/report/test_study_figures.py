"""The figures of a study: what is drawn, and that it says what its table says."""

import dataclasses
import shutil

import numpy as np
import pytest
from planted_grids import findings as planted
from planted_grids import grid
from planted_study import MEASURES, RATES, SEEDS, answer, write_study

from lfl_jax.studies import predictors
from lfl_jax.studies.arms import Measure, Measures

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")

from matplotlib.collections import PathCollection
from matplotlib.figure import Figure as Canvas

from lfl_jax.report.study import figures as drawing
from lfl_jax.report.study.figures import labels, style
from lfl_jax.report.study.figures.frontier import _follow_the_lines

WITH_DIVERGENCE = Measures(MEASURES.learning, MEASURES.forgetting, Measure("kl", "score"))
FLAG = "training source is synthetic: its scores are not the paper's"


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    place = write_study(tmp_path_factory.mktemp("study") / "s", penalty=0.08, divergence=True)
    return answer(place, measures=WITH_DIVERGENCE)


@pytest.fixture(scope="module")
def figures(findings):
    return {figure.name: figure for figure in drawing.draw(findings, [FLAG])}


def canvas_texts(canvas):
    return [text.get_text() for text in canvas.findobj(match=lambda a: hasattr(a, "get_text"))]


def legend_labels(figure):
    (legend,) = figure.page.legends
    return [text.get_text() for text in legend.get_texts()]


def test_every_figure_is_drawn_where_there_is_something_to_draw(figures, tmp_path_factory):
    names = ["frontier", "published", "learning_rates", "contrasts"]
    names += ["divergence", "explained", "flips"]
    assert list(figures) == names
    plain = answer(write_study(tmp_path_factory.mktemp("plain") / "s", seeds=1))
    assert [figure.name for figure in drawing.draw(plain)].count("divergence") == 0


def test_flags_stand_in_every_file(figures):
    for name, figure in figures.items():
        # The paper's values have none of the study's reservations.
        assert (FLAG in " ".join(canvas_texts(figure.page))) == (name != "published")
    assert FLAG in figures["frontier"].svg()
    # In a column the text takes several lines.
    column = figures["frontier"]._painted(style.COLUMN, 3.0)
    assert FLAG in " ".join(canvas_texts(column)).replace("\n", " ")
    without = dataclasses.replace(figures["frontier"], flags=())
    assert "synthetic" not in without.svg()


def test_the_noise_floor_is_a_band_of_two_standard_deviations(findings, figures):
    sd = findings.noise_floor.forgetting
    pooled = np.sqrt(np.mean([noise.forgetting**2 for noise in findings.noise.values()]))
    assert sd == pytest.approx(pooled) and sd > 0
    for name, panel in (("frontier", 0), ("learning_rates", 1), ("divergence", 0)):
        axes = figures[name].page.axes[panel]
        (band,) = [patch for patch in axes.patches if patch.get_label() == style.NOISE_LABEL]
        assert band.get_y() == pytest.approx(-2 * sd)
        assert band.get_height() == pytest.approx(4 * sd)
        assert style.NOISE_LABEL in legend_labels(figures[name])


def test_one_seed_has_no_noise_floor(tmp_path):
    single = answer(write_study(tmp_path / "s", seeds=1))
    assert np.isnan(single.noise_floor.forgetting)
    for figure in drawing.draw(single):
        assert style.NOISE_LABEL not in (legend_labels(figure) if figure.page.legends else [])


def test_a_best_rate_at_the_edge_is_ringed(tmp_path):
    place = write_study(tmp_path / "s")
    lines = (place / "runs.csv").read_text().splitlines()
    # Without LoRA's highest rates, the best one left is the last.
    cut = [line for line in lines if not line.startswith(("lora,0.003,", "lora,0.01,"))]
    (place / "runs.csv").write_text("\n".join(cut) + "\n")
    drawn = {figure.name: figure for figure in drawing.draw(answer(place))}
    assert "best at an edge" in legend_labels(drawn["learning_rates"])
    (ring,) = drawn["learning_rates"].page.axes[0].findobj(PathCollection)
    assert ring.get_offsets()[0][0] == pytest.approx(1e-3)


def test_no_best_rate_at_the_edge_no_ring(figures):
    assert "best at an edge" not in legend_labels(figures["learning_rates"])


def test_lengths_are_lines_of_their_own(tmp_path):
    place = write_study(tmp_path / "s", seeds=2)
    text = (place / "runs.csv").read_text()
    # Every run has a file of its own.
    for file in place.glob("*-*.csv"):
        shutil.copy(file, place / f"short-{file.name}")
    short = text.replace(",160,", ",80,short-").splitlines()[1:]
    (place / "runs.csv").write_text(text + "\n".join(short) + "\n")
    drawn = {figure.name: figure for figure in drawing.draw(answer(place))}
    lines = drawn["learning_rates"].page.axes[0].containers
    assert len(lines) == 4
    assert {len(container.lines[0].get_xdata()) for container in lines} == {len(RATES)}
    assert {container.lines[0].get_linestyle() for container in lines} == {"-", "--"}


def test_the_divergence_s_share_is_of_each_seed(findings, figures):
    explained = findings.predictors[predictors.DIVERGENCE]
    far = np.hstack([grid.divergence.values.mean(axis=2) for grid in findings.grids.values()])
    forgotten = np.hstack([grid.arm.y.values.mean(axis=2) for grid in findings.grids.values()])
    shares = []
    for x, y in zip(np.log(far), forgotten, strict=True):
        residual = y - np.polyval(np.polyfit(x, y, 2), x)
        shares.append(1 - residual @ residual / np.sum((y - y.mean()) ** 2))
    assert explained.r2.mean == pytest.approx(np.mean(shares))
    assert explained.r2.seeds == SEEDS
    # It was planted as all there is to forgetting.
    assert explained.r2.mean > 0.8 > findings.predictors[predictors.METHOD].r2.mean
    (label,) = [text for text in legend_labels(figures["divergence"]) if "R²" in text]
    assert f"{explained.r2.mean:.2f}" in label


def test_a_fit_with_as_many_coefficients_as_runs_is_none(findings):
    grid = findings.grids["lora"]
    few = dataclasses.replace(
        grid,
        arm=dataclasses.replace(
            grid.arm,
            x=dataclasses.replace(grid.arm.x, values=grid.arm.x.values[:, :2]),
            y=dataclasses.replace(grid.arm.y, values=grid.arm.y.values[:, :2]),
        ),
        divergence=None,
        cells=grid.cells[:2],
    )
    # Four runs: three coefficients of a parabola would nearly do, two means do not.
    assert set(predictors.explain({"lora": few, "full": few})) == {predictors.METHOD}


def test_flips_are_those_of_the_runs_less_chance(findings, figures):
    rates = findings.flips["source/score"]["full"]
    grid = findings.grids["full"]
    # An item that was right and is wrong has lost 1.
    lost = (grid.arm.y.values > 0).mean(axis=2)
    gained = (grid.arm.y.values < 0).mean(axis=2)
    np.testing.assert_allclose(rates.lost, lost)
    np.testing.assert_allclose(rates.gained, gained)
    # A CSV file says nothing of chance.
    assert not rates.by_chance.any()
    assert list(findings.flips) == ["source/score"]
    assert len(figures["flips"].data.rows) == 2 * len(RATES) * SEEDS


def test_chance_is_taken_off_and_never_below_zero():
    from lfl_jax.studies.flips import FlipRates

    rates = FlipRates(np.array([[0.3, 0.1]]), np.array([[0.25, 0.3]]), np.array([[0.25, 0.25]]))
    np.testing.assert_allclose(rates.forgotten, [[0.05, 0.0]])
    np.testing.assert_allclose(rates.learned, [[0.0, 0.05]])


def test_a_label_covers_no_point_and_no_label(figures):
    canvas = figures["frontier"].page
    canvas.draw_without_rendering()
    (axes,) = canvas.axes
    renderer = canvas.canvas.get_renderer() if hasattr(canvas.canvas, "get_renderer") else None
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) >= 6
    rows = figures["frontier"].data.rows
    points = axes.transData.transform([(row[4], row[5]) for row in rows])
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_label_without_room_is_left_out():
    inside = labels.Box(0, 0, 40, 20)
    anchor = np.array([20.0, 10.0])
    assert labels._free(anchor, 60.0, np.zeros((0, 2)), [], inside) is None
    assert labels._free(anchor, 10.0, np.zeros((0, 2)), [], inside) is not None
    everywhere = np.array([(x, y) for x in range(0, 41, 2) for y in range(0, 21, 2)], float)
    assert labels._free(anchor, 10.0, everywhere, [], inside) is None


def test_methods_differ_in_colour_or_marker():
    names = [f"m{i}" for i in range(20)]
    assert len(set(style.looks(names).values())) == len(names)


@pytest.mark.parametrize("count", [1, 2, 5, 11, 14])
def test_a_legend_fits_its_canvas(count):
    lengths = [4 + 2 * (i % 5) for i in range(count)]
    columns = style._columns(lengths, style.COLUMN * style.POINTS)
    assert 1 <= columns <= count
    widest = sum(max(part) + 7 for part in np.array_split(lengths, columns))
    assert columns == 1 or widest * style.CHARACTER * style.LEGEND <= style.COLUMN * style.POINTS


def test_a_long_legend_makes_the_canvas_higher(tmp_path, figures):
    methods = ("full", *(f"a_rather_long_name_{i}" for i in range(6)))
    findings = answer(
        write_study(tmp_path / "s", methods=methods, seeds=2), contrasts=(methods[:2],)
    )
    frontier = drawing.draw(findings)[0]
    assert frontier._painted(style.COLUMN, 3.0).get_figheight() > 3.5
    assert frontier.page.get_figwidth() == style.WIDE


def test_a_collapsed_cell_does_not_flatten_the_frontiers():
    """It is an arrow at the top; where no cell is far beyond the lines, the axis holds all."""
    assert following([0.1, 0.2, 0.3, 0.4, 0.5]).get_ylim() == (-1, 0.51)
    axes = following([0.1, 0.2, 0.3, 0.4, 9.0])
    assert axes.get_ylim()[1] == pytest.approx(1.3 * 0.4, abs=0.03)
    (arrow,) = axes.lines
    assert arrow.get_xdata() == pytest.approx([0.3], abs=0.03)
    assert arrow.get_color() == style.looks(("lora", "full"))["full"].colour


def following(forgotten):
    """The axes of LoRA and of full finetuning that forgets so, after they follow the lines."""
    learned = np.array([0.2, 0.4, 0.6, 0.8, 0.3])
    lora = grid("lora", learned, [0.1, 0.2, 0.3, 0.4, 0.5])
    axes = Canvas().subplots()
    axes.set_ylim(-1, 1.02 * max(forgotten))
    _follow_the_lines(axes, planted(lora, grid("full", learned, forgotten)))
    return axes
