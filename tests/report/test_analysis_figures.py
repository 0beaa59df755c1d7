"""The figures and tables of an analysis: that they say what was measured, each beside its null."""

import numpy as np
import pytest
from rich.console import Console

from lfl_jax.analysis.subspaces import random_similarity
from lfl_jax.report.analysis.measured import Analysis, Pair, Weight
from lfl_jax.report.analysis.settings import Settings, matches

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")

from lfl_jax.report.analysis import figures as drawing
from lfl_jax.report.analysis import page, parquet, tables, terminal

LAYERS, SIZE = 3, 16
EPSILONS = (0.3, 0.5, 0.9)


def weight(label, layer, module, scale=1.0, **fields):
    s = scale * np.linspace(1, 0.1, SIZE)
    values = {
        "frobenius": float(np.linalg.norm(s)), "relative_norm": 0.1, "k90": 4.0 + layer,
        "k90_null": 8.0, "effective_rank": 5.0, "effective_rank_null": 9.0, "stable_rank": 2.0,
        "stable_rank_null": 4.0, "intruders": 2, "intruders_null": 1, "cosine_floor": 0.4,
    }  # fmt: skip
    cosines = np.array([0.2, 0.45, *[0.95] * 8])
    known = {"cosines": cosines, "random_cosines": np.sqrt(cosines)} | fields
    path = f"layers/{'attn' if module == 'q' else 'mlp'}/{module}"
    return Weight(label, 10.0, path, layer, (SIZE, SIZE), None, values, s, s[::-1].copy(), **known)


@pytest.fixture(scope="module")
def analysis():
    weights, pairs = [], []
    for label in ("step 1", "step 2"):
        for layer in range(LAYERS):
            for module in ("q", "up"):
                weights.append(
                    weight(label, layer, module, base_s=np.ones(SIZE), tuned_s=np.ones(SIZE))
                )
                shared = np.full((3, 3), 0.5)
                pairs += [Pair(f"layers/attn/{module}", layer, (SIZE, SIZE), shared, shared)]
    return Analysis(
        "run", "base", tuple(weights), ("step 1", "step 2"), flags=("a reservation",),
        notes=("a note",), compared="other", pairs=tuple(pairs[: 2 * LAYERS]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def figures(analysis):
    return {figure.name: figure for figure in drawing.draw(analysis)}


def lines(figure, panel=0):
    """{label: y} of a panel's lines."""
    drawn = figure.page.axes[panel].get_lines()
    return {line.get_label(): np.asarray(line.get_ydata()) for line in drawn}


def test_every_figure_is_drawn_with_its_null_and_its_reservations(figures):
    assert list(figures) == list(drawing.FIGURES)
    for figure in figures.values():
        texts = [text.get_text() for text in figure.page.findobj(lambda x: hasattr(x, "get_text"))]
        assert "a reservation" in texts and figure.data.rows
        assert "random" in figure.caption
    k90 = lines(figures["k90"])
    np.testing.assert_array_equal(k90["step 2"], [4, 5, 6])
    np.testing.assert_array_equal(k90["random"], [8, 8, 8])
    spectrum = lines(figures["spectrum"])
    norm = np.linalg.norm(np.linspace(1, 0.1, SIZE))
    np.testing.assert_allclose(spectrum["dW"], np.linspace(1, 0.1, SIZE) / norm)


def test_what_was_not_measured_is_not_drawn(analysis):
    bare = [weight("x", 0, "q", cosines=None, random_cosines=None)]
    names = [figure.name for figure in drawing.draw(Analysis("run", "base", tuple(bare), ("x",)))]
    assert names == ["spectrum", "k90", "effective_rank"]


def test_intruders_are_counted_for_every_epsilon_and_k(analysis):
    table = tables.intruders(analysis, EPSILONS)
    counts = {(row[0], row[1]): row[2:] for row in table.rows}
    assert counts["dW", 0.3] == (6, 6, 6, 6)
    assert counts["dW", 0.5] == (6, 12, 12, 12)
    assert counts["random", 0.5] == (6, 6, 6, 6)


def test_two_runs_share_what_they_share_beside_random_directions(analysis):
    rows = {(row[0], row[1]): row[2:] for row in tables.pairs(analysis).rows}
    null = random_similarity(SIZE, 2, 2).mean
    assert rows["q", 2] == (0.5, null, 0.5, null)
    assert (("q", 3) in rows) and (("q", 5) not in rows)


def test_the_printed_table_has_means_over_layers_and_sums_of_counts(analysis, capsys):
    terminal.show(analysis, Console(width=terminal.WIDE))
    printed = capsys.readouterr().out
    (row,) = (line for line in printed.splitlines() if line.startswith("q "))
    assert "5 (8)" in row and "6 (3)" in row and f"{SIZE}x{SIZE}" in row
    assert "a note" in printed and "a reservation" in printed and "step 1" in printed
    rows = {row[0]: row for row in tables.main(analysis).rows}
    assert rows["all"][2] == 2 * LAYERS and rows["q"][2] == LAYERS


def test_the_page_stands_alone(analysis, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    # One figure is enough of a page; the files of all would take seconds.
    monkeypatch.setattr(drawing, "FIGURES", {"k90": drawing.FIGURES["k90"]})
    written = page.write(analysis, "python -m lfl_jax.analyze --run=x", tmp_path)
    text = written.read_text()
    assert "a reservation" in text and "a note" in text and "<script" not in text
    assert {"index.html", "weights.parquet", "figures", "tables"} == {
        path.name for path in tmp_path.iterdir()
    }
    first = (tmp_path / parquet.FILE).read_bytes()
    parquet.write(analysis, tmp_path / parquet.FILE)
    assert (tmp_path / parquet.FILE).read_bytes() == first


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("q", True), ("attn/q", True), ("layers/attn/.*", True), ("layers/3/attn/q", True),
     ("k|q", True), ("layers/2/attn/q", False), ("up", False), ("attn", False)],
)  # fmt: skip
def test_a_weight_is_named_in_several_ways(pattern, expected):
    assert matches(pattern, "layers/attn/q", 3) is expected


def test_a_large_base_is_decomposed_only_where_that_is_asked_for():
    assert Settings().decomposes((64, 4096)) and not Settings().decomposes((4096, 4096))
    assert Settings(decomposes_base=True).decomposes((4096, 4096))
    assert not Settings(has_base=False, decomposes_base=True).decomposes((64, 64))
